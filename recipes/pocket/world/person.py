"""Cartoon people: the choices that make one, and the parts that do not move on their own.

Coordinates are in units of half a head, from the middle of the face; x to the right, y down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.pocket.world.canvas import Colour, Painter, Point, darker, lighter, mirrored, mix

Points = tuple[Point, ...]
At = Callable[[Sequence[Point]], list[Point]]  # from head units to pixels

HAIR_COLOURS: dict[str, Colour] = {
    "black": (48, 42, 52),
    "brown": (112, 70, 44),
    "blond": (238, 196, 100),
    "ginger": (208, 104, 52),
    "grey": (186, 184, 188),
}
STYLES = {
    "man": ("short", "swept", "curly", "bald"),
    "woman": ("long", "bob", "bun", "wavy"),
    "child": ("tuft", "pigtails", "bowl", "cap"),
}
CAP = (226, 84, 80)
RIBBON = (240, 110, 140)

CURLS = {  # the right half of the middles
    "curly": ((0, -0.98), (0.34, -0.94), (0.62, -0.76), (0.78, -0.46), (0.3, -0.7), (0, -0.74)),
    "wavy": ((0.1, -0.94), (0.46, -0.86), (0.74, -0.62), (0.88, -0.28), (0.92, 0.06), (0.28, -0.72)),
}
CURL_RADIUS = 0.245
BEHIND = {  # the right half of what falls behind the neck
    "long": ((0, -1.05), (0.66, -0.86), (0.96, -0.2), (0.98, 0.5), (1.0, 1.25), (0.5, 1.5), (0, 1.5)),
    "bob": ((0, -1.05), (0.7, -0.84), (0.98, -0.2), (1.0, 0.4), (0.84, 0.76), (0.4, 0.8), (0, 0.8)),
    "wavy": (
        *((0, -1.1), (0.74, -0.9), (1.04, -0.3), (0.94, 0.1)),
        *((1.12, 0.5), (0.98, 0.86), (0.6, 1.15), (0, 1.2)),
    ),
}
PIGTAIL = ((0.86, -0.2), (1.22, -0.22), (1.38, 0.2), (1.2, 0.66), (0.98, 0.4))
FRINGE = ((0.70, -0.3), (0.86, -0.28), (0.9, 0.04), (0.78, 0.1))  # what a bald man keeps
TUFT = ((-0.22, -0.86), (-0.06, -1.2), (0.14, -1.3), (0.1, -1.12), (0.3, -1.14), (0.22, -0.86))
VISOR = ((0.1, -0.52), (0.6, -0.62), (1.16, -0.46), (1.2, -0.36), (0.7, -0.4), (0.1, -0.4))

SKINS: tuple[Colour, ...] = (
    (255, 222, 194),
    (246, 200, 162),
    (222, 168, 124),
    (178, 120, 82),
    (130, 86, 62),
)
CLOTHES: dict[str, Colour] = {
    "red": (222, 78, 76),
    "orange": (240, 144, 62),
    "yellow": (248, 204, 80),
    "green": (86, 170, 104),
    "blue": (74, 130, 206),
    "purple": (146, 98, 196),
    "white": (246, 244, 240),
}
GARMENTS = ("T-shirt", "striped sweater", "hoodie", "shirt with a collar")
CORD = (250, 246, 238)
IRISES: tuple[Colour, ...] = ((92, 62, 44), (70, 112, 160), (84, 128, 78), (60, 48, 44))
HEADS: dict[str, tuple[Point, ...]] = {
    "man": ((0, -1.0), (0.52, -0.88), (0.79, -0.42), (0.79, 0.12), (0.70, 0.56), (0.42, 0.90), (0, 1.02)),
    "woman": ((0, -1.0), (0.52, -0.86), (0.77, -0.42), (0.76, 0.10), (0.61, 0.56), (0.30, 0.88), (0, 0.99)),
    "child": ((0, -0.96), (0.58, -0.80), (0.88, -0.30), (0.89, 0.18), (0.72, 0.62), (0.38, 0.87), (0, 0.94)),
}
EYE_HEIGHT = {"man": -0.06, "woman": -0.04, "child": 0.08}
MOUTH_HEIGHT = {"man": 0.50, "woman": 0.50, "child": 0.53}
HEAD_BOX = 1.5  # half the side of the head's own picture, with room for hair


@dataclass(frozen=True)
class Crown:
    """The top of the head down to a hairline, given from right to left, with a streak of shine."""

    hairline: Points
    streak: Points = ()
    lift: float = 0.04  # above the skull


CROWNS = {
    "short": Crown(
        ((0.78, -0.12), (0.68, -0.46), (0.3, -0.58), (-0.3, -0.56), (-0.68, -0.44), (-0.78, -0.12)),
        ((-0.42, -0.86), (-0.12, -0.94), (0.2, -0.92)),
    ),
    "swept": Crown(
        (
            *((0.78, -0.1), (0.70, -0.5), (0.34, -0.66), (-0.1, -0.42)),
            *((-0.5, -0.36), (-0.7, -0.46), (-0.79, -0.1)),
        ),
        ((0.42, -0.86), (0.05, -0.84), (-0.34, -0.66)),
        0.12,
    ),
    "long": Crown(
        (
            *((0.86, 0.55), (0.70, 0.1), (0.62, -0.34), (0.05, -0.72)),
            *((-0.58, -0.36), (-0.70, 0.1), (-0.86, 0.55)),
        ),
        ((-0.62, -0.62), (-0.4, -0.8), (-0.16, -0.88)),
    ),
    "bob": Crown(
        (
            *((0.90, 0.5), (0.72, 0.28), (0.66, -0.32), (0.2, -0.42)),
            *((-0.3, -0.42), (-0.66, -0.32), (-0.72, 0.28), (-0.90, 0.5)),
        ),
        ((-0.56, -0.66), (-0.26, -0.82), (0.1, -0.84)),
    ),
    "bun": Crown(
        (
            *((0.79, -0.05), (0.68, -0.42), (0.34, -0.64), (0, -0.7)),
            *((-0.34, -0.64), (-0.68, -0.42), (-0.79, -0.05)),
        ),
    ),
    "tuft": Crown(
        (
            *((0.86, -0.16), (0.72, -0.5), (0.36, -0.48), (0.12, -0.6)),
            *((-0.2, -0.46), (-0.7, -0.5), (-0.86, -0.16)),
        ),
    ),
    "pigtails": Crown(
        ((0.90, -0.06), (0.70, -0.44), (0.06, -0.72), (-0.66, -0.46), (-0.90, -0.06)),
        ((-0.58, -0.62), (-0.34, -0.76), (-0.1, -0.8)),
    ),
    "bowl": Crown(
        (
            *((0.96, 0.05), (0.80, 0.0), (0.74, -0.34), (0.3, -0.3)),
            *((-0.3, -0.3), (-0.74, -0.34), (-0.80, 0.0), (-0.96, 0.05)),
        ),
        ((-0.6, -0.6), (-0.3, -0.78), (0.06, -0.8)),
        0.06,
    ),
    "cap": Crown(((0.88, -0.02), (0.78, -0.42), (0, -0.5), (-0.78, -0.42), (-0.88, -0.02))),
}
CAP_CROWN = Crown(((0.9, -0.44), (0.4, -0.52), (-0.4, -0.52), (-0.9, -0.44)), lift=0.1)


def paint_back_hair(painter: Painter, style: str, colour: Colour, at: At) -> None:
    """Paint the hair behind the neck, before the body."""
    if style in BEHIND:
        painter.blob(at(mirrored(BEHIND[style])), darker(colour, 0.18))
    elif style == "pigtails":
        for side in (-1, 1):
            painter.blob(at([(side * x, y) for x, y in PIGTAIL]), colour)
            painter.ellipse(*at([(side * 0.95, -0.08)])[0], 3.4, 3.4, RIBBON)


def paint_front_hair(painter: Painter, style: str, colour: Colour, at: At) -> None:
    """Paint the hair on the head, over the face."""
    if style == "bun":
        _paint_ball(painter, darker(colour, 0.12), at, (0, -1.14), (0.34, 0.30))
        _paint_ball(painter, colour, at, (-0.03, -1.17), (0.30, 0.26))
    if style in CROWNS:
        _paint_crown(painter, colour, at, CROWNS[style])
    for x, y in CURLS.get(style, ()):
        for side in (-1, 1):
            _paint_ball(painter, colour, at, (side * x, y), (CURL_RADIUS, CURL_RADIUS))
    if style == "bald":
        for side in (-1, 1):
            painter.blob(at([(side * x, y) for x, y in FRINGE]), colour)
    elif style == "tuft":
        painter.blob(at(TUFT), colour)
    elif style == "cap":
        _paint_crown(painter, CAP, at, CAP_CROWN)
        painter.blob(at(VISOR), darker(CAP, 0.2))
        painter.ellipse(*at([(0, -1.06)])[0], 2, 2, lighter(CAP, 0.4))


def _paint_crown(painter: Painter, colour: Colour, at: At, crown: Crown) -> None:
    (right, right_end), (left, left_end) = crown.hairline[0], crown.hairline[-1]
    top = -1.0 - crown.lift
    dome = ((-0.88, -0.5), (-0.56, top * 0.88), (0, top), (0.56, top * 0.88), (0.88, -0.5))
    painter.blob(at([(left * 1.04, left_end), *dome, (right * 1.04, right_end), *crown.hairline]), colour)
    if crown.streak:
        painter.line(at(crown.streak), lighter(colour, 0.22), 2.2)


def _paint_ball(painter: Painter, colour: Colour, at: At, middle: Point, radii: Point) -> None:
    (x0, y0), (x1, y1), centre = at([(0, 0), radii, middle])
    painter.ellipse(*centre, x1 - x0, y1 - y0, colour)


@dataclass(frozen=True)
class Person:
    kind: str  # man, woman, child
    skin: Colour
    hair: str
    style: str
    clothes: str
    garment: str
    iris: Colour
    glasses: bool
    beard: str  # "", "beard" or "moustache"
    size: float  # pixels of half a head

    @property
    def hair_colour(self) -> Colour:
        return HAIR_COLOURS[self.hair]

    @property
    def clothes_colour(self) -> Colour:
        return CLOTHES[self.clothes]


def choose_person(rng: np.random.Generator, kind: str) -> Person:
    hair = list(HAIR_COLOURS)[int(rng.integers(len(HAIR_COLOURS) - (kind == "child")))]  # grey comes last
    return Person(
        kind=kind,
        skin=SKINS[int(rng.integers(len(SKINS)))],
        hair=hair,
        style=STYLES[kind][int(rng.integers(len(STYLES[kind])))],
        clothes=list(CLOTHES)[int(rng.integers(len(CLOTHES)))],
        garment=GARMENTS[int(rng.integers(len(GARMENTS)))],
        iris=IRISES[int(rng.integers(len(IRISES)))],
        glasses=bool(rng.random() < 0.25),
        beard=("", "", "", "beard", "moustache")[int(rng.integers(5))] if kind == "man" else "",
        size=float(rng.uniform(40, 45) if kind != "child" else rng.uniform(36, 40)),
    )


def paint_body(painter: Painter, person: Person, x: float, y: float) -> None:
    """Hair behind, neck and shoulders, for a head whose middle is at (x, y)."""
    s = person.size

    def at(points: tuple[Point, ...] | list[Point]) -> list[Point]:
        return [(x + s * px, y + s * py) for px, py in points]

    paint_back_hair(painter, person.style, person.hair_colour, at)
    broad = {"man": 1.55, "woman": 1.22, "child": 1.12}[person.kind]
    colour = person.clothes_colour
    shoulders = ((0, 0.98), (0.42, 1.06), (broad * 0.78, 1.24), (broad, 1.55), (broad * 1.08, 2.2), (0, 2.2))
    painter.blob(at(mirrored(shoulders)), colour)
    if person.garment == "striped sweater":
        pale = lighter(colour, 0.55) if person.clothes != "white" else (120, 150, 190)
        for top in (1.36, 1.66):
            edge = broad * (0.93 if top < 1.5 else 1.03)
            painter.polygon(at([(-edge, top), (edge, top), (edge, top + 0.14), (-edge, top + 0.14)]), pale)
    neck = 0.36 if person.kind == "man" else 0.29
    shade = darker(person.skin, 0.16)
    if person.garment == "hoodie":
        painter.blob(
            at(mirrored(((0, 0.98), (0.62, 0.96), (0.74, 1.2), (0.36, 1.5), (0, 1.56)))), darker(colour, 0.16)
        )
        for side in (-1, 1):
            painter.line(at([(side * 0.2, 1.42), (side * 0.22, 1.75)]), CORD, 1.6)
    painter.blob(at(mirrored(((0, 0.6), (neck, 0.7), (neck, 1.05), (neck * 1.15, 1.2), (0, 1.36)))), shade)
    if person.garment == "shirt with a collar":
        for side in (-1, 1):
            wing = [
                (side * 0.02, 1.42),
                (side * neck * 1.1, 1.02),
                (side * (neck + 0.26), 1.16),
                (side * 0.36, 1.5),
            ]
            painter.polygon(at(wing), lighter(colour, 0.35))
        painter.ellipse(x, y + s * 1.62, 1.2, 1.2, lighter(colour, 0.6))
    elif person.garment != "hoodie":
        arc = [(-neck * 1.15, 1.18), (-neck * 0.7, 1.31), (0, 1.37), (neck * 0.7, 1.31), (neck * 1.15, 1.18)]
        painter.line(at(arc), darker(colour, 0.18), 2)


def paint_head(person: Person) -> Painter:
    """The head alone, without brows, eyes and mouth, in the middle of its own square picture."""
    s = person.size
    side = round(2 * HEAD_BOX * s)
    painter = Painter(side, side)
    middle = side / 2

    def at(points: tuple[Point, ...] | list[Point]) -> list[Point]:
        return [(middle + s * px, middle + s * py) for px, py in points]

    skin, eyes = person.skin, EYE_HEIGHT[person.kind]
    outline = HEADS[person.kind]
    ear = outline[3][0]
    for side_sign in (-1, 1):
        painter.ellipse(middle + side_sign * s * ear, middle + s * (eyes + 0.16), 0.15 * s, 0.2 * s, skin)
        inner = middle + side_sign * s * (ear + 0.02)
        painter.ellipse(inner, middle + s * (eyes + 0.17), 0.08 * s, 0.12 * s, darker(skin, 0.14))
    painter.blob(at(mirrored(outline)), darker(skin, 0.10))
    painter.blob(at([(px * 0.985 - 0.025, py * 0.985 - 0.03) for px, py in mirrored(outline)]), skin)
    blush = mix(skin, (240, 104, 96), 0.24)
    for side_sign in (-1, 1):
        painter.ellipse(middle + side_sign * s * 0.5, middle + s * (eyes + 0.38), 0.15 * s, 0.10 * s, blush)
    if person.beard == "beard":
        _paint_beard(painter, person, at)
    if person.beard == "moustache":
        whiskers = ((0, 0.28), (0.2, 0.25), (0.38, 0.36), (0.2, 0.385), (0, 0.36))
        painter.blob(at(mirrored(whiskers)), person.hair_colour)
    nose = eyes + (0.27 if person.kind != "child" else 0.22)
    painter.ellipse(middle + 0.01 * s, middle + s * nose, 0.105 * s, 0.08 * s, darker(skin, 0.13))
    painter.ellipse(
        middle - 0.005 * s, middle + s * (nose - 0.02), 0.095 * s, 0.075 * s, mix(skin, blush, 0.5)
    )
    paint_front_hair(painter, person.style, person.hair_colour, at)
    return painter


def _paint_beard(painter: Painter, person: Person, at: At) -> None:
    outer = ((0.80, 0.02), (0.80, 0.25), (0.71, 0.60), (0.43, 0.95), (0, 1.08))
    inner = ((0, 0.30), (0.28, 0.28), (0.50, 0.34), (0.68, 0.12))
    half = [*inner, *outer]
    painter.polygon(
        at(half + [(-px, py) for px, py in reversed(half)]), mix(person.hair_colour, person.skin, 0.12)
    )
