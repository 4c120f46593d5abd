"""Brows, eyes and mouth: the parts of a face that move, drawn for all frames at once."""

import numpy as np

from pocket.canvas import Colour, band, blend, darker, disc, mix
from pocket.person import EYE_HEIGHT, Person

INSIDE = (92, 26, 40)
TEETH = (252, 250, 244)
TONGUE = (226, 108, 116)
INK = (52, 40, 48)


def draw_eyes(
    frames: np.ndarray,
    person: Person,
    x: np.ndarray,
    y: np.ndarray,
    blink: np.ndarray,
    raised: np.ndarray,
    gaze: float,
) -> None:
    """Eyes and brows on float32 [3, F, h, w]; x, y [F, h, w] are head units, blink and raised [F] go 0..1."""
    s, kind = person.size, person.kind
    big = 1.15 if kind == "child" else 1.0
    ex, rx, ry = 0.335, 0.145 * big * s, 0.165 * big * s
    side = np.sign(x)
    dx, dy = (np.abs(x) - ex) * s, (y - EYE_HEIGHT[kind]) * s
    shut = blink[:, None, None]
    lid = -ry * 0.9 + shut * ry * 1.75 + 0.05 * dx**2 * (1 - shut) * 0.4
    white = disc(dx, dy, rx, ry)
    blend(frames, mix(person.skin, INK, 0.22), np.clip(disc(dx, dy, rx + 1.1, ry + 1.1) - white, 0, 1) * 0.55)
    seen = white * np.clip(dy - lid + 0.5, 0, 1)
    blend(frames, mix(person.skin, INK, 0.12), white)
    blend(frames, (255, 254, 250), seen)
    px = dx - gaze * side * 1.3  # both look the same way although x is folded
    iris = 0.105 * big * s
    blend(frames, person.iris, disc(px, dy, iris, iris * 1.05) * seen)
    blend(frames, (24, 18, 24), disc(px, dy, iris * 0.55, iris * 0.6) * seen)
    spark = disc(px + side * iris * 0.36, dy + iris * 0.4, iris * 0.34, iris * 0.34)
    blend(frames, (255, 255, 255), spark * seen)
    lash = 1.5 if kind == "woman" else 1.0
    line = band(dy, lid - lash, lid + 0.35) * disc(dx, dy, rx + 1.0, ry + 1.4)
    blend(frames, INK, line)
    if kind == "woman":
        flick = band(dy, lid - 0.2 - (dx - rx * 0.6) * 0.8, lid + 1.1 - (dx - rx * 0.6) * 0.6)
        blend(frames, INK, flick * np.clip(dx - rx * 0.7, 0, 1) * np.clip(rx + 2.6 - dx, 0, 1))
    lift = (raised * 0.07 * s)[:, None, None]
    thick = {"man": 3.1, "woman": 1.9, "child": 1.9}[kind] * s / 42
    arch = -ry - 0.145 * s + 0.035 * (dx + 1) ** 2 - lift
    ends = np.clip(rx * 1.15 - np.abs(dx) + 0.5, 0, 1)
    blend(frames, darker(person.hair_colour, 0.25), band(dy, arch - thick / 2, arch + thick / 2) * ends)
    if person.glasses:
        ring = np.abs(np.sqrt((dx / 1.06) ** 2 + dy**2) - ry * 1.42)
        bridge = band(dy, -1.6 + 0 * dx, -0.2 + 0 * dx) * np.clip(-ry * 1.42 - dx, 0, 1)
        blend(frames, (60, 56, 78), np.maximum(np.clip(1.25 - ring, 0, 1), bridge))


def draw_mouth(frames: np.ndarray, person: Person, x: np.ndarray, y: np.ndarray, shapes: np.ndarray) -> None:
    """The mouth on float32 [3, F, h, w]; x, y [F, h, 2w] are pixels from its middle, twice as fine across.

    Curves bound lips, teeth and tongue: edges are exact down a column, and averaging pairs smooths across.
    """
    s = person.size
    opening, width, rounding, teeth, tongue = (column[:, None, None] for column in shapes.T)
    half = s * (0.255 + 0.145 * width) * (1 - 0.40 * rounding)
    gap = s * 0.40 * opening
    u = np.clip(x / half, -1, 1)
    rim = np.sqrt(1 - u * u)
    inside = np.clip((half - np.abs(x)) * 1.5, 0, 1)
    smile = 0.085 * s * (1 - rounding) * (0.5 - u * u)
    curve = rim ** (1.25 - 0.35 * rounding)
    top = smile - 0.30 * gap * curve
    bottom = smile + 0.70 * gap * curve
    full = {"man": 0.9, "woman": 1.45, "child": 0.9}[person.kind] * s / 42
    pout = full * (1 + 0.7 * rounding)
    lips = mix(person.skin, (204, 52, 74), 0.62 if person.kind == "woman" else 0.34)
    lip_top = top - (0.5 + 1.3 * pout) * rim * (1 - 0.14 * np.exp(-((u * 5) ** 2)))
    lip_bottom = bottom + (0.5 + 1.9 * pout) * rim
    _fill(frames, lips, band(y, lip_top, lip_bottom) * inside)
    crease = np.maximum(1.25 * rim**0.5 - (bottom - top), 0) / 2
    cavity = band(y, top - crease, bottom + crease) * inside
    _fill(frames, mix(INSIDE, darker(lips, 0.55), 0.2), cavity)
    tongue_top = np.maximum(bottom - (0.16 + 0.34 * tongue) * gap * rim, top + 0.3 * (bottom - top))
    _fill(frames, TONGUE, band(y, tongue_top, bottom) * inside * np.clip(1.35 - np.abs(u) * 1.5, 0, 1))
    edge = np.minimum(top + (0.05 + 0.07 * teeth) * s * np.minimum(teeth * 2, 1), bottom)
    _fill(
        frames,
        TEETH,
        band(y, top, edge) * inside * np.clip((0.93 - np.abs(u)) * 8, 0, 1) * np.minimum(teeth * 2, 1),
    )


def _fill(frames: np.ndarray, colour: Colour, coverage: np.ndarray) -> None:
    blend(frames, colour, (coverage[..., 0::2] + coverage[..., 1::2]) / 2)
