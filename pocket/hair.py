"""Hair: one shape behind the body, one over the forehead, for each style."""

from collections.abc import Callable, Sequence

from pocket.canvas import Colour, Painter, Point, darker, lighter, mirrored

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
At = Callable[[Sequence[Point]], list[Point]]  # from head units to pixels
CAP = (226, 84, 80)


def paint_back_hair(painter: Painter, style: str, colour: Colour, at: At) -> None:
    """What falls behind the neck and over nothing: drawn before the body."""
    shade = darker(colour, 0.18)
    match style:
        case "long":
            half = ((0, -1.05), (0.66, -0.86), (0.96, -0.2), (0.98, 0.5), (1.0, 1.25), (0.5, 1.5), (0, 1.5))
            painter.blob(at(mirrored(half)), shade)
        case "wavy":
            half = (
                (0, -1.1),
                (0.74, -0.9),
                (1.04, -0.3),
                (0.94, 0.1),
                (1.12, 0.5),
                (0.98, 0.86),
                (0.6, 1.15),
                (0, 1.2),
            )
            painter.blob(at(mirrored(half)), shade)
        case "bob":
            half = ((0, -1.05), (0.7, -0.84), (0.98, -0.2), (1.0, 0.4), (0.84, 0.76), (0.4, 0.8), (0, 0.8))
            painter.blob(at(mirrored(half)), shade)
        case "pigtails":
            for side in (-1, 1):
                tail = ((0.86, -0.2), (1.22, -0.22), (1.38, 0.2), (1.2, 0.66), (0.98, 0.4))
                painter.blob(at([(side * x, y) for x, y in tail]), colour)
                painter.ellipse(*at([(side * 0.95, -0.08)])[0], 3.4, 3.4, (240, 110, 140))


def paint_front_hair(painter: Painter, style: str, colour: Colour, at: At) -> None:
    """What lies on the head: drawn over the face."""
    shine = lighter(colour, 0.22)
    match style:
        case "short":
            _crown(
                painter,
                colour,
                at,
                [(0.78, -0.12), (0.68, -0.46), (0.3, -0.58), (-0.3, -0.56), (-0.68, -0.44), (-0.78, -0.12)],
            )
            _streak(painter, shine, at, [(-0.42, -0.86), (-0.12, -0.94), (0.2, -0.92)])
        case "swept":
            _crown(
                painter,
                colour,
                at,
                [
                    (0.78, -0.1),
                    (0.70, -0.5),
                    (0.34, -0.66),
                    (-0.1, -0.42),
                    (-0.5, -0.36),
                    (-0.7, -0.46),
                    (-0.79, -0.1),
                ],
                lift=0.12,
            )
            _streak(painter, shine, at, [(0.42, -0.86), (0.05, -0.84), (-0.34, -0.66)])
        case "curly":
            _curls(
                painter,
                colour,
                at,
                ((0, -0.98), (0.34, -0.94), (0.62, -0.76), (0.78, -0.46), (0.3, -0.7), (0, -0.74)),
                0.25,
            )
        case "bald":
            for side in (-1, 1):
                fringe = ((0.70, -0.3), (0.86, -0.28), (0.9, 0.04), (0.78, 0.1))
                painter.blob(at([(side * x, y) for x, y in fringe]), colour)
        case "long":
            _crown(
                painter,
                colour,
                at,
                [
                    (0.86, 0.55),
                    (0.70, 0.1),
                    (0.62, -0.34),
                    (0.05, -0.72),
                    (-0.58, -0.36),
                    (-0.70, 0.1),
                    (-0.86, 0.55),
                ],
            )
            _streak(painter, shine, at, [(-0.62, -0.62), (-0.4, -0.8), (-0.16, -0.88)])
        case "wavy":
            _curls(
                painter,
                colour,
                at,
                ((0.1, -0.94), (0.46, -0.86), (0.74, -0.62), (0.88, -0.28), (0.92, 0.06), (0.28, -0.72)),
                0.24,
            )
        case "bob":
            _crown(
                painter,
                colour,
                at,
                [
                    (0.90, 0.5),
                    (0.72, 0.28),
                    (0.66, -0.32),
                    (0.2, -0.42),
                    (-0.3, -0.42),
                    (-0.66, -0.32),
                    (-0.72, 0.28),
                    (-0.90, 0.5),
                ],
            )
            _streak(painter, shine, at, [(-0.56, -0.66), (-0.26, -0.82), (0.1, -0.84)])
        case "bun":
            painter.ellipse(*at([(0, -1.14)])[0], *_radii(at, 0.34, 0.30), darker(colour, 0.12))
            painter.ellipse(*at([(-0.03, -1.17)])[0], *_radii(at, 0.30, 0.26), colour)
            _crown(
                painter,
                colour,
                at,
                [
                    (0.79, -0.05),
                    (0.68, -0.42),
                    (0.34, -0.64),
                    (0, -0.7),
                    (-0.34, -0.64),
                    (-0.68, -0.42),
                    (-0.79, -0.05),
                ],
            )
        case "tuft":
            _crown(
                painter,
                colour,
                at,
                [
                    (0.86, -0.16),
                    (0.72, -0.5),
                    (0.36, -0.48),
                    (0.12, -0.6),
                    (-0.2, -0.46),
                    (-0.7, -0.5),
                    (-0.86, -0.16),
                ],
            )
            painter.blob(
                at([(-0.22, -0.86), (-0.06, -1.2), (0.14, -1.3), (0.1, -1.12), (0.3, -1.14), (0.22, -0.86)]),
                colour,
            )
        case "pigtails":
            _crown(
                painter,
                colour,
                at,
                [(0.90, -0.06), (0.70, -0.44), (0.06, -0.72), (-0.66, -0.46), (-0.90, -0.06)],
            )
            _streak(painter, shine, at, [(-0.58, -0.62), (-0.34, -0.76), (-0.1, -0.8)])
        case "bowl":
            _crown(
                painter,
                colour,
                at,
                [
                    (0.96, 0.05),
                    (0.80, 0.0),
                    (0.74, -0.34),
                    (0.3, -0.3),
                    (-0.3, -0.3),
                    (-0.74, -0.34),
                    (-0.80, 0.0),
                    (-0.96, 0.05),
                ],
                lift=0.06,
            )
            _streak(painter, shine, at, [(-0.6, -0.6), (-0.3, -0.78), (0.06, -0.8)])
        case _:
            _crown(
                painter, colour, at, [(0.88, -0.02), (0.78, -0.42), (0, -0.5), (-0.78, -0.42), (-0.88, -0.02)]
            )
            _crown(painter, CAP, at, [(0.9, -0.44), (0.4, -0.52), (-0.4, -0.52), (-0.9, -0.44)], lift=0.1)
            painter.blob(
                at([(0.1, -0.52), (0.6, -0.62), (1.16, -0.46), (1.2, -0.36), (0.7, -0.4), (0.1, -0.4)]),
                darker(CAP, 0.2),
            )
            painter.ellipse(*at([(0, -1.06)])[0], 2, 2, lighter(CAP, 0.4))


def _crown(painter: Painter, colour: Colour, at: At, hairline: Sequence[Point], lift: float = 0.04) -> None:
    """The top of the head down to a hairline given from right to left."""
    right, left = hairline[0], hairline[-1]
    top = -1.0 - lift
    dome = [(-0.88, -0.5), (-0.56, top * 0.88), (0, top), (0.56, top * 0.88), (0.88, -0.5)]
    outer = [(left[0] * 1.04, left[1]), *dome, (right[0] * 1.04, right[1])]
    painter.blob(at([*outer, *hairline]), colour)


def _curls(painter: Painter, colour: Colour, at: At, right_half: Sequence[Point], radius: float) -> None:
    for x, y in right_half:
        for side in (-1, 1):
            painter.ellipse(*at([(side * x, y)])[0], *_radii(at, radius, radius), colour)


def _streak(painter: Painter, colour: Colour, at: At, points: Sequence[Point]) -> None:
    painter.line(at(points), colour, 2.2)


def _radii(at: At, rx: float, ry: float) -> Point:
    (x0, y0), (x1, y1) = at([(0, 0), (rx, ry)])
    return x1 - x0, y1 - y0
