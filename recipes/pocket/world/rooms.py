"""Walls, floors and what hangs on them: the quiet part of every picture."""

import numpy as np

from recipes.pocket.world.canvas import Colour, Painter, darker, glow, grid, lighter, mix
from recipes.pocket.world.clip import HEIGHT, WIDTH

WALLS: dict[str, Colour] = {
    "cream": (246, 232, 204),
    "mint green": (190, 226, 206),
    "sky blue": (178, 214, 238),
    "peach": (250, 208, 180),
    "lavender": (212, 200, 238),
    "pink": (246, 200, 212),
    "pale grey": (214, 218, 222),
    "lemon yellow": (250, 236, 160),
}
FLOORS: dict[str, Colour] = {
    "oak": (214, 166, 112),
    "dark wood": (142, 98, 72),
    "slate": (126, 136, 148),
    "white tile": (226, 228, 226),
    "terracotta": (208, 126, 92),
}
DECOR = ("window", "picture", "shelf", "plant", "clock", "bunting")
WHITE = (252, 250, 244)
WOOD = (176, 122, 80)
LEAF = (88, 158, 96)


def light(picture: np.ndarray) -> None:
    """Soft light from the upper left, and gently darker corners; in place on float32 [3, H, W]."""
    y, x = grid(HEIGHT, WIDTH)
    lamp = glow(x - 60, y - 10, 200, 170)
    picture *= 0.90 + 0.13 * lamp
    np.clip(picture, 0, 255, out=picture)


def paint_decor(painter: Painter, rng: np.random.Generator, name: str, x: float, y: float) -> None:
    """One piece around (x, y), about 40 pixels wide."""
    {
        "window": _window,
        "picture": _picture,
        "shelf": _shelf,
        "plant": _plant,
        "clock": _clock,
        "bunting": _bunting,
    }[name](painter, rng, x, y)


def paint_floor(painter: Painter, name: str, horizon: float) -> None:
    """A floor from the horizon down, with lines that suit it, and a skirting board."""
    colour = FLOORS[name]
    line = darker(colour, 0.13)
    painter.rectangle(0, horizon, WIDTH, HEIGHT, colour)
    depth = HEIGHT - horizon
    if name in ("oak", "dark wood"):
        for share in (0.16, 0.38, 0.67):
            painter.rectangle(0, horizon + depth * share, WIDTH, horizon + depth * share + 0.9, line)
    elif name != "slate":
        for share in (0.12, 0.34, 0.66):
            painter.rectangle(0, horizon + depth * share, WIDTH, horizon + depth * share + 0.8, line)
        for column in range(-6, 7):
            middle = WIDTH / 2
            painter.line([(middle + column * 26, horizon), (middle + column * 48, HEIGHT)], line, 0.8)
    painter.rectangle(0, horizon - 5, WIDTH, horizon, WHITE)
    painter.rectangle(0, horizon - 0.8, WIDTH, horizon + 0.6, darker(colour, 0.3))


def _window(painter: Painter, rng: np.random.Generator, x: float, y: float) -> None:
    sky = mix((150, 206, 244), (252, 204, 168), float(rng.choice((0.0, 0.0, 0.8))))
    painter.rectangle(x - 22, y - 25, x + 22, y + 25, WHITE, 2)
    painter.rectangle(x - 19, y - 22, x + 19, y + 22, sky)
    hill = float(rng.uniform(4, 12))
    slope = [
        (x - 19, y + 22),
        (x - 19, y + 18 - hill),
        (x - 6, y + 14 - hill),
        (x + 8, y + 18),
        (x + 19, y + 22),
    ]
    painter.polygon(slope, (136, 190, 124))
    cloud = float(rng.uniform(-8, 6))
    for dx, dy, r in ((-5, 0, 4), (0, -2.5, 5), (6, 0, 4)):
        painter.ellipse(x + cloud + dx, y - 10 + dy, r, r * 0.9, WHITE)
    painter.rectangle(x - 1.2, y - 22, x + 1.2, y + 22, WHITE)
    painter.rectangle(x - 19, y - 1.2, x + 19, y + 1.2, WHITE)
    painter.rectangle(x - 25, y + 25, x + 25, y + 29, darker(WHITE, 0.07), 1)


def _picture(painter: Painter, rng: np.random.Generator, x: float, y: float) -> None:
    painter.rectangle(x - 19, y - 16, x + 19, y + 16, WOOD, 1.5)
    painter.rectangle(x - 16, y - 13, x + 16, y + 13, WHITE)
    tone = WALLS[str(rng.choice(list(WALLS)))]
    painter.rectangle(x - 13, y - 10, x + 13, y + 10, darker(tone, 0.06))
    match int(rng.integers(3)):
        case 0:
            painter.ellipse(x + 6, y - 4, 3.2, 3.2, (250, 206, 90))
            painter.polygon([(x - 13, y + 10), (x - 5, y - 4), (x + 4, y + 10)], (112, 140, 170))
            painter.polygon([(x - 3, y + 10), (x + 5, y + 1), (x + 13, y + 10)], (134, 162, 188))
        case 1:
            red = (226, 92, 96)
            painter.ellipse(x - 3, y - 2, 3.6, 3.6, red)
            painter.ellipse(x + 3, y - 2, 3.6, 3.6, red)
            painter.polygon([(x - 6.3, y - 0.3), (x + 6.3, y - 0.3), (x, y + 7.5)], red)
        case _:
            for dx, dy in ((0, -4), (4, -1), (2.5, 4), (-2.5, 4), (-4, -1)):
                painter.ellipse(x + dx, y + dy, 3, 3, (238, 140, 120))
            painter.ellipse(x, y, 2.6, 2.6, (250, 214, 100))


def _shelf(painter: Painter, rng: np.random.Generator, x: float, y: float) -> None:
    left = x - 20
    for _ in range(5):
        width, height = float(rng.uniform(4, 6.5)), float(rng.uniform(13, 19))
        spine = tuple(
            int(v) for v in rng.choice(((214, 96, 88), (90, 140, 190), (240, 190, 92), (110, 170, 130)))
        )
        painter.rectangle(left, y - height, left + width, y, spine, 0.6)
        painter.rectangle(left, y - height + 3, left + width, y - height + 4.5, lighter(spine, 0.5))
        left += width + 0.4
    painter.ellipse(x + 14, y - 5, 4.5, 5, (236, 150, 110))
    painter.rectangle(x - 24, y, x + 24, y + 4, WOOD, 1)


def _plant(painter: Painter, rng: np.random.Generator, x: float, y: float) -> None:
    for angle in np.linspace(-1.25, 1.25, 7) + rng.uniform(-0.1, 0.1):
        length = 21 - 5 * abs(angle)
        tip = (x + length * np.sin(angle), y - length * np.cos(angle))
        side = (4.2 * np.cos(angle), 4.2 * np.sin(angle))
        middle = ((x + tip[0]) / 2, (y + tip[1]) / 2)
        leaf = [
            (x, y),
            (middle[0] + side[0], middle[1] + side[1]),
            tip,
            (middle[0] - side[0], middle[1] - side[1]),
        ]
        painter.blob(leaf, darker(LEAF, 0.12) if abs(angle) > 0.7 else LEAF)
    painter.polygon([(x - 8, y - 1), (x + 8, y - 1), (x + 6, y + 13), (x - 6, y + 13)], (222, 128, 92))
    painter.rectangle(x - 9.5, y - 3, x + 9.5, y + 2, (204, 108, 76), 1)


def _clock(painter: Painter, rng: np.random.Generator, x: float, y: float) -> None:
    painter.ellipse(x, y, 16, 16, darker(WOOD, 0.25))
    painter.ellipse(x, y, 13.5, 13.5, WHITE)
    for hour in range(0, 12, 3):
        angle = hour * np.pi / 6
        painter.ellipse(x + 10.5 * np.sin(angle), y - 10.5 * np.cos(angle), 1, 1, (90, 84, 92))
    for length, angle in ((9, rng.uniform(0, 6.28)), (6, rng.uniform(0, 6.28))):
        painter.line([(x, y), (x + length * np.sin(angle), y - length * np.cos(angle))], (70, 64, 76), 1.5)


def _bunting(painter: Painter, rng: np.random.Generator, x: float, y: float) -> None:
    flags = ((232, 108, 100), (250, 200, 92), (104, 172, 214), (130, 190, 130))
    start = int(rng.integers(4))
    for index in range(4):
        left = x - 26 + 13 * index
        sag = 3.5 - 1.4 * abs(index - 1.5)
        top = y - 14 + sag
        painter.polygon([(left, top), (left + 11, top), (left + 5.5, top + 13)], flags[(index + start) % 4])
    painter.line(
        [(x - 28, y - 15), (x - 13, y - 11.6), (x, y - 10.8), (x + 13, y - 11.6), (x + 28, y - 15)],
        WHITE,
        1.2,
    )
