"""Hair: one shape behind the body, one over the forehead, for each style.

Points are in head units: half a head is 1, the middle of the face the origin, x to the right, y down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pocket.canvas import Colour, Painter, Point, darker, lighter, mirrored

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
CAP_CROWN = Crown(((0.9, -0.44), (0.4, -0.52), (-0.4, -0.52), (-0.9, -0.44)), lift=0.1)
VISOR = ((0.1, -0.52), (0.6, -0.62), (1.16, -0.46), (1.2, -0.36), (0.7, -0.4), (0.1, -0.4))


def paint_back_hair(painter: Painter, style: str, colour: Colour, at: At) -> None:
    """What falls behind the neck: drawn before the body."""
    if style in BEHIND:
        painter.blob(at(mirrored(BEHIND[style])), darker(colour, 0.18))
    elif style == "pigtails":
        for side in (-1, 1):
            painter.blob(at([(side * x, y) for x, y in PIGTAIL]), colour)
            painter.ellipse(*at([(side * 0.95, -0.08)])[0], 3.4, 3.4, RIBBON)


def paint_front_hair(painter: Painter, style: str, colour: Colour, at: At) -> None:
    """What lies on the head: drawn over the face."""
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
