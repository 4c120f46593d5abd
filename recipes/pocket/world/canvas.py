"""Drawing: shapes at four times the size with Pillow, light and motion at true size with numpy.

What holds still in a clip is drawn once. What moves is either a `Sprite`, placed to a quarter of a pixel, or
a function of the pixel grid that covers all frames at once (`disc`, `band`), whose edges are smooth by
construction. Pictures are planar while they are drawn, float32 [3, H, W] in 0..255: three long rows instead
of many short ones make blending four times faster.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 4
Colour = tuple[int, int, int]
Point = tuple[float, float]


def mix(a: Colour, b: Colour, amount: float) -> Colour:
    return tuple(round(p + (q - p) * amount) for p, q in zip(a, b, strict=True))


def darker(colour: Colour, amount: float) -> Colour:
    return mix(colour, (20, 14, 32), amount)


def lighter(colour: Colour, amount: float) -> Colour:
    return mix(colour, (255, 252, 244), amount)


def smooth_outline(points: Iterable[Point], steps: int = 6) -> list[Point]:
    """A closed Catmull-Rom curve through `points`."""
    p = np.array(list(points), float)
    before, after, beyond = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (q[:, None] for q in (before, p, after, beyond))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [tuple(q) for q in curve.reshape(-1, 2)]


def mirrored(right_half: Iterable[Point]) -> list[Point]:
    """Close a left-right symmetric outline given from top to bottom by its right half."""
    half = list(right_half)
    return half + [(-x, y) for x, y in reversed(half) if abs(x) > 1e-6]


class Painter:
    """Flat anti-aliased shapes in pixel coordinates; later shapes cover earlier ones.

    The fourth channel of the "RGBX" picture is the coverage: a large pixel is full or empty, so it is its own
    premultiplied value, and Pillow's conversions of alpha, slower than all drawing, are not needed.
    """

    def __init__(self, height: int, width: int, fill: Colour | None = None) -> None:
        self.height, self.width = height, width
        self._image = Image.new(
            "RGBX", (width * SCALE, height * SCALE), (0, 0, 0, 0) if fill is None else fill
        )
        self._draw = ImageDraw.Draw(self._image)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self._draw.ellipse(_scaled((x - rx, y - ry, x + rx, y + ry)), fill=fill)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0) -> None:
        """The box from (x0, y0) up to, not including, (x1, y1)."""
        a, b, c, d = _scaled((x0, y0, x1, y1))
        self._draw.rounded_rectangle((a, b, c - 1, d - 1), radius * SCALE, fill=fill)

    def polygon(self, points: Iterable[Point], fill: Colour) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill)

    def blob(self, points: Iterable[Point], fill: Colour) -> None:
        self.polygon(smooth_outline(points), fill)

    def line(self, points: Iterable[Point], fill: Colour, width: float) -> None:
        """A stroke with round joints and ends."""
        points = list(points)
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=fill, width=round(width * SCALE), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, degrees: Point, fill: Colour, width: float
    ) -> None:
        angles = np.radians(np.linspace(*degrees, 13))
        self.line(zip(x + rx * np.cos(angles), y + ry * np.sin(angles), strict=True), fill, width)

    def text(self, x: float, y: float, text: str, fill: Colour, size: float) -> None:
        """Centred on (x, y)."""
        self._draw.text((x * SCALE, y * SCALE), text, fill=fill, font=_font(size), anchor="mm")

    def rgb(self) -> np.ndarray:
        """The picture at true size, float32 [3, H, W] in 0..255."""
        return np.ascontiguousarray(
            np.asarray(self._image.reduce(SCALE))[..., :3].transpose(2, 0, 1), np.float32
        )

    def sprite(self) -> "Sprite":
        """The shapes on nothing; to be placed between pixels, they must leave the outermost pixel free."""
        return Sprite(self._image)


class Sprite:
    """A painted figure that can be placed at quarters of a pixel."""

    def __init__(self, image: Image.Image) -> None:
        """Keep the part of the picture that shapes cover, and a free pixel around it where there is one."""
        left, top, right, bottom = image.getbbox() or (0, 0, SCALE, SCALE)
        self._left, self._top = max(left // SCALE - 1, 0), max(top // SCALE - 1, 0)
        right = min((right // SCALE + 2) * SCALE, image.width)
        bottom = min((bottom // SCALE + 2) * SCALE, image.height)
        self._image = image.crop((self._left * SCALE, self._top * SCALE, right, bottom))
        self._cache: dict[tuple[int, int], np.ndarray] = {}

    def place(self, frame: np.ndarray, x: float, y: float, strength: float = 1.0) -> None:
        """Composite onto float32 [3, H, W] with the painter's corner at (x, y); what falls outside is cut.

        A strength below 1 lets what is behind show through.
        """
        column, phase_x = divmod(-round(x * SCALE), SCALE)
        row, phase_y = divmod(-round(y * SCALE), SCALE)
        column, row = self._left - column, self._top - row
        pixels = self._phase(phase_x, phase_y)
        top, left = max(row, 0), max(column, 0)
        bottom = min(row + pixels.shape[1], frame.shape[1])
        right = min(column + pixels.shape[2], frame.shape[2])
        if top >= bottom or left >= right:
            return
        part = pixels[:, top - row : bottom - row, left - column : right - column]
        area = frame[:, top:bottom, left:right]
        if strength < 1:
            part = part * np.float32(strength)
            part[3] += 1 - strength
        area *= part[3]
        area += part[:3]

    def _phase(self, x: int, y: int) -> np.ndarray:
        """Without its first x columns and y rows of large pixels: float32 [4, h, w].

        Three planes of colour times coverage, and the share left for what is behind.
        """
        if (x, y) not in self._cache:
            small = np.asarray(self._image.reduce(SCALE, (x, y, *self._image.size)))
            pixels = np.ascontiguousarray(small.transpose(2, 0, 1), np.float32)
            pixels[3] = 1 - pixels[3] / 255
            self._cache[x, y] = pixels
        return self._cache[x, y]


def blend(area: np.ndarray, colour: np.ndarray | Colour, coverage: np.ndarray) -> None:
    """Paint `colour` over area [3, ...] in place where coverage [...] says."""
    for channel, value in zip(area, colour, strict=True):
        channel += (np.float32(value) - channel) * coverage


def shadow(
    area: np.ndarray, coverage: np.ndarray, tint: tuple[float, float, float] = (0.72, 0.66, 0.62)
) -> None:
    """Darken area [3, ...] in place; the tint keeps shadows from going grey."""
    for channel, value in zip(area, tint, strict=True):
        channel *= 1 - coverage * np.float32(value)


def to_frames(planar: np.ndarray) -> np.ndarray:
    """Drawn pictures float32 [3, ..., H, W] as uint8 [..., H, W, 3]."""
    frames = np.empty((*planar.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(planar):
        frames[..., channel] = plane
    return frames


def disc(x: np.ndarray, y: np.ndarray, rx: np.ndarray | float, ry: np.ndarray | float) -> np.ndarray:
    """Coverage of an ellipse around the origin of the coordinates x, y (pixels)."""
    q = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
    return np.clip((1 - q) * np.minimum(rx, ry) + 0.5, 0, 1)


def band(y: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Coverage of the pixel row centred at y by the area between two curves."""
    return np.clip(np.minimum(y + 0.5, bottom) - np.maximum(y - 0.5, top), 0, 1)


def glow(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
    """A soft spot around the origin: 1 in the middle, 0 on the ellipse, smooth on the way."""
    q = np.maximum(1 - (x / rx) ** 2 - (y / ry) ** 2, 0)
    return q * q


@lru_cache(maxsize=4)
def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: y [H, 1] and x [1, W], float32."""
    y = np.arange(height, dtype=np.float32)[:, None] + 0.5
    x = np.arange(width, dtype=np.float32)[None, :] + 0.5
    return y, x


@lru_cache(maxsize=8)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(round(size * SCALE))


def _scaled(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    return tuple(value * SCALE for value in box)
