"""What a ball is made of, seen: matte rubber with a stripe, grained wood, mirror-bright metal, clear glass.

The ball is shaded as a sphere, pixel by pixel, in all frames at once: [F, P, P] patches that follow its
centre.
"""

from dataclasses import dataclass

import numpy as np

from pocket.canvas import Colour, disc, glow

BALL_COLOURS: dict[str, Colour] = {
    "red": (226, 52, 50),
    "orange": (246, 138, 36),
    "yellow": (250, 210, 48),
    "green": (58, 170, 82),
    "blue": (46, 108, 222),
    "purple": (144, 66, 196),
}
MATERIALS = ("rubber", "wood", "metal", "glass")
LIGHT = np.array((-0.48, -0.62, 0.62), np.float32)
CREAM = np.array((255, 246, 226), np.float32)
GRAIN = np.array((206, 148, 92), np.float32)


def draw_ball(
    frames: np.ndarray,
    material: str,
    colour: str,
    radius: float,
    path: np.ndarray,
    squash: np.ndarray,
    angles: np.ndarray,
) -> None:
    """Composite the ball onto float32 [3, F, H, W]: centres path [F, 2], heights squash [F], angles [F]."""
    half = int(radius * 1.3) + 2
    corner = np.floor(path).astype(int) - half
    span = np.arange(2 * half, dtype=np.float32) + 0.5
    offset = (path - corner).astype(np.float32)
    wide = (1 / np.sqrt(squash)).astype(np.float32)[:, None, None]
    dx = (span[None, None, :] - offset[:, 0, None, None]) / wide
    dy = (span[None, :, None] - offset[:, 1, None, None]) / squash.astype(np.float32)[:, None, None]
    nx, ny = np.broadcast_arrays(dx / radius, dy / radius)
    flat = np.minimum(nx * nx + ny * ny, 1)
    nz = np.sqrt(1 - flat)
    lit = np.maximum(nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2], 0)
    turn_x, turn_y = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    u = (nx * turn_x + ny * turn_y).astype(np.float32)
    v = (ny * turn_x - nx * turn_y).astype(np.float32)
    base = np.array(BALL_COLOURS[colour], np.float32)[:, None, None, None]
    paint = {"rubber": _rubber, "wood": _wood, "metal": _metal, "glass": _glass}[material]
    shaded, alpha = paint(base, Surface(nx, ny, nz, lit, u, v, radius))  # [3, F, P, P], [F, P, P]
    alpha = alpha * disc(dx, dy, radius, radius)
    height, width = frames.shape[2:]
    for frame, (left, top) in enumerate(corner):
        rows = slice(max(top, 0), min(top + 2 * half, height))
        columns = slice(max(left, 0), min(left + 2 * half, width))
        inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
        area = frames[:, frame, rows, columns]
        area += (shaded[:, frame, *inner] - area) * alpha[frame, *inner]


@dataclass(frozen=True)
class Surface:
    """The visible half of the ball, arrays [F, P, P]."""

    nx: np.ndarray  # the normal
    ny: np.ndarray
    nz: np.ndarray
    lit: np.ndarray  # how much the surface faces the light
    u: np.ndarray  # coordinates that roll with the ball
    v: np.ndarray
    radius: float  # pixels


Shaded = tuple[np.ndarray, np.ndarray]


def _rubber(base: np.ndarray, s: Surface) -> Shaded:
    stripe = np.clip((0.24 - np.abs(s.v)) * s.radius + 0.5, 0, 1)
    body = base + (CREAM[:, None, None, None] - base) * stripe
    shaded = body * (0.62 + 0.42 * s.lit) + 26 * _spot(s.nx, s.ny, 0.6)
    return np.minimum(shaded, 255), np.ones_like(s.nz)


def _wood(base: np.ndarray, s: Surface) -> Shaded:
    rings = np.sqrt((s.u * 0.8 + 0.35) ** 2 + (s.v * 1.25 - 0.2) ** 2)
    grain = 0.5 + 0.5 * np.sin(rings * 12.0)
    grain = grain * grain * (3 - 2 * grain)
    body = base * (1 - 0.50 * grain) + GRAIN[:, None, None, None] * (0.44 * grain)
    shaded = body * (0.60 + 0.44 * s.lit) + 46 * _spot(s.nx, s.ny, 0.34)
    return np.minimum(shaded, 255), np.ones_like(s.nz)


def _metal(base: np.ndarray, s: Surface) -> Shaded:
    """A room in a mirror: bright ceiling, dark band where wall and floor meet, floor light from below."""
    horizon = (s.ny - 0.10 + 0.30 * s.nx * s.nx) * 2.0
    ceiling = 1 / (1 + np.exp(9 * horizon))
    ground = 1 / (1 + np.exp(-7 * (horizon - 0.9)))
    tone = 0.30 + 0.72 * ceiling + 0.50 * ground
    rim = (1 - s.nz) ** 3
    shine = np.clip(ceiling * 0.42 + 0.25 * rim, 0, 1) + 0.15 * ground
    shaded = (
        base * tone * (1 - 0.4 * rim) + (255 - base * tone) * (0.55 * shine) + 190 * _spot(s.nx, s.ny, 0.30)
    )
    return np.clip(shaded, 0, 255), np.ones_like(s.nz)


def _glass(base: np.ndarray, s: Surface) -> Shaded:
    """Mostly what is behind, a coloured rim, a sharp window of light, and light gathered on the far side."""
    rim = 1 - s.nz
    gathered = glow(s.nx - 0.34, s.ny - 0.42, 0.52, 0.45)
    window = np.clip(_spot(s.nx, s.ny, 0.30) * 2.2, 0, 1)
    body = base * (0.80 + 0.28 * s.lit) + (255 - base) * (0.04 + 0.55 * gathered)
    shaded = body * (1 - 0.25 * rim) + (255 - body) * window
    return np.clip(shaded, 0, 255), np.clip(0.54 + 0.46 * rim + 0.30 * gathered + window, 0, 1)


def _spot(nx: np.ndarray, ny: np.ndarray, size: float) -> np.ndarray:
    return glow(nx + 0.36, ny + 0.44, size, size * 0.85)
