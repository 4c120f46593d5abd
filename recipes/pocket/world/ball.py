"""The ball family: a ball of some colour and material falls and bounces, and each hit is heard."""

from dataclasses import dataclass

import numpy as np

from recipes.pocket.world.canvas import Colour, Painter, disc, glow, grid, shadow, to_frames
from recipes.pocket.world.clip import (
    FRAME_TIMES,
    HEIGHT,
    NO_PICTURES,
    NUM_FRAMES,
    SECONDS,
    WIDTH,
    Events,
    Impact,
    Scene,
    frame_of,
)
from recipes.pocket.world.rooms import DECOR, FLOORS, WALLS, light, paint_decor, paint_floor
from recipes.pocket.world.sound import impact_sound

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

Shaded = tuple[np.ndarray, np.ndarray]

GRAVITY = 760.0  # pixels/s^2
TOSSES = (110.0, 230.0)  # pixels/s upwards, for half of the balls; the others are dropped
LONGEST_WAIT = 0.7  # seconds that a ball hangs at most, before it falls or flies up
RESTITUTION = {"rubber": 0.78, "glass": 0.61, "metal": 0.56, "wood": 0.37}
SPREAD = 0.03  # of the restitution
SHORTEST_FLIGHT = 0.14  # seconds; below it the ball lies
QUIET_END = 0.16  # seconds without a hit before the clip ends
SQUASH = 0.22  # of a rubber ball's height at full speed
DIRECTIONS = ("straight down", "left", "right")
HELD_OUT_BALLS = (("green", "glass"), ("blue", "rubber"), ("yellow", "metal"), ("purple", "wood"))


def draw_ball(
    frames: np.ndarray,
    material: str,
    colour: Colour,
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
    base = np.array(colour, np.float32)[:, None, None, None]
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


def make_ball(rng: np.random.Generator, split: str, pictures: bool = True) -> Scene:
    colour, material = choose_ball(rng, split)
    wall, floor = list(WALLS)[int(rng.integers(len(WALLS)))], list(FLOORS)[int(rng.integers(len(FLOORS)))]
    radius = float(rng.uniform(11.5, 16))
    ground = float(rng.uniform(106, 116))
    bounce = RESTITUTION[material] + float(rng.uniform(-SPREAD, SPREAD))
    wait, toss, height, impacts = _choose_start(rng, bounce, ground - 2 * radius - 4)
    direction = DIRECTIONS[int(rng.integers(3))]
    velocity = {"straight down": 0.0, "left": -1.0, "right": 1.0}[direction] * float(rng.uniform(20, 44))
    travel = velocity * SECONDS
    margin = radius + 8
    start = float(rng.uniform(margin + max(-travel, 0), WIDTH - margin - max(travel, 0)))
    path, squash = trajectory(impacts, bounce, ground - radius, start, velocity, wait)
    if material != "rubber":
        squash[:] = 1
    else:
        path[:, 1] += radius * (1 - squash) * (squash < 1)  # a squashed ball still touches the floor
    angles = float(rng.uniform(0, 6.28)) + (path[:, 0] - start) / radius
    frames = NO_PICTURES
    if pictures:
        room = np.broadcast_to(
            _background(rng, wall, floor, ground, start)[:, None], (3, NUM_FRAMES, HEIGHT, WIDTH)
        ).copy()
        draw_shadows(room, material, colour, radius, path, ground)
        draw_ball(room, material, BALL_COLOURS[colour], radius, path, squash, angles)
        frames = to_frames(room)
    attributes = {
        "colour": colour,
        "material": material,
        "direction": direction,
        "start": "tossed" if toss else "dropped",
        "bounces": len(impacts),
        "wall": wall,
        "floor": floor,
        "height": "high" if height > 60 else "low" if height < 42 else "middle",
    }
    events = Events(impacts=impacts, ball_path=path.astype(np.float32))
    layout = {"x": start, "y": float(path[0, 1]), "radius": radius, "ground": ground}
    sound = impact_sound(rng, material, impacts, radius)
    return Scene(frames, sound, events, attributes, layout)


def choose_ball(rng: np.random.Generator, split: str) -> tuple[str, str]:
    """A colour and a material; the held-out pairs are all that "heldout" draws, and "train" never."""
    if split == "heldout":
        return HELD_OUT_BALLS[int(rng.integers(len(HELD_OUT_BALLS)))]
    pairs = [(c, m) for c in BALL_COLOURS for m in MATERIALS if (c, m) not in HELD_OUT_BALLS]
    return pairs[int(rng.integers(len(pairs)))]


def _choose_start(
    rng: np.random.Generator, bounce: float, highest: float
) -> tuple[float, float, float, tuple[Impact, ...]]:
    """Wait (seconds), speed upwards (pixels/s), height (pixels below the ball), and its hits.

    The last of them rings out in time. Neither the first frame nor the caption reveals how long the
    ball waits or how far up it flies, and so when it hits: sound must follow the picture.
    """
    while True:
        toss = float(rng.uniform(*TOSSES)) if rng.random() < 0.5 else 0.0
        wait = float(rng.uniform(0, LONGEST_WAIT))
        height = float(rng.uniform(24 if toss else 36, highest))
        impacts = impacts_of(toss, height, bounce, wait)
        in_time = all(i.seconds < SECONDS - QUIET_END or i.seconds > SECONDS + 0.05 for i in impacts)
        if in_time and height + toss**2 / (2 * GRAVITY) < highest:
            return wait, toss, height, tuple(impact for impact in impacts if impact.seconds < SECONDS)


def impacts_of(toss: float, height: float, bounce: float, wait: float = 0.0) -> list[Impact]:
    """Hits of a ball thrown up after `wait` seconds at `toss` pixels/s, `height` above its lowest place."""
    speed = np.sqrt(toss**2 + 2 * GRAVITY * height)
    seconds = wait + (toss + speed) / GRAVITY
    impacts = [Impact(float(seconds), float(speed), frame_of(seconds))]
    while True:
        speed *= bounce
        flight = 2 * speed / GRAVITY
        seconds += flight
        if flight < SHORTEST_FLIGHT or seconds > SECONDS + 0.1:
            return impacts
        impacts.append(Impact(float(seconds), float(speed), frame_of(seconds)))


def trajectory(
    impacts: tuple[Impact, ...],
    bounce: float,
    lowest: float,
    start: float,
    velocity: float,
    wait: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Centres [F, 2] and heights [F] (1 round) of what hangs for `wait` seconds, then moves.

    The frame of a hit shows the hit, as an animator draws it.
    """
    times = np.maximum(FRAME_TIMES, wait)
    for impact in impacts:
        times[impact.frame] = impact.seconds
    first = impacts[0]
    before = times - first.seconds  # seconds, negative: the path back from the first hit
    drop = np.where(before <= 0, -first.speed * before - GRAVITY * before**2 / 2, 0)  # above the floor
    squash = np.ones(NUM_FRAMES)
    for impact in impacts:
        rebound = impact.speed * bounce
        flight = 2 * rebound / GRAVITY
        if flight >= SHORTEST_FLIGHT:
            since = times - impact.seconds
            inside = (since >= 0) & (since < flight)
            drop = np.where(inside, rebound * since - GRAVITY * since**2 / 2, drop)
        squash[impact.frame] = 1 - SQUASH * min(impact.speed / 340, 1)
        for near in (impact.frame - 1, impact.frame + 1):
            if 0 < near < NUM_FRAMES and drop[near] > 4:
                squash[near] = 1 + 0.10 * min(impact.speed / 340, 1)
    path = np.stack([start + velocity * (times - wait), lowest - np.maximum(drop, 0)], 1)
    return path, squash


def _background(rng: np.random.Generator, wall: str, floor: str, ground: float, start: float) -> np.ndarray:
    """Float32 [3, H, W]; nothing hangs where the ball starts, so that the first frame shows it clearly."""
    painter = Painter(HEIGHT, WIDTH, WALLS[wall])
    horizon = ground - float(rng.uniform(15, 22))
    paint_floor(painter, floor, horizon)
    names = rng.permutation(len(DECOR))
    for index, place in enumerate((44, 112, 180)):
        x = place + float(rng.uniform(-12, 12))
        if abs(x - start) > 42 and rng.random() < 0.7:
            paint_decor(painter, rng, DECOR[int(names[index])], x, float(rng.uniform(34, 48)))
    picture = painter.rgb()
    light(picture)
    return picture


def draw_shadows(
    frames: np.ndarray, material: str, colour: str, radius: float, path: np.ndarray, ground: float
) -> None:
    """A soft shadow under the ball, wider and paler the higher it is; glass also throws its colour."""
    y, x = grid(HEIGHT, WIDTH)
    top, bottom = int(ground - 8), min(int(ground + 9), HEIGHT)
    y = y[top:bottom]
    tint = (0.80, 0.76, 0.70)
    if material == "glass":
        tint = tuple(0.75 - 0.6 * value / 255 for value in BALL_COLOURS[colour])
    for frame, (centre, middle) in enumerate(path):
        up = max(ground - radius - middle, 0) / 80
        reach = radius * (1.15 + 0.5 * up)
        left, right = max(int(centre - reach - 4), 0), min(int(centre + reach + 6), WIDTH)
        soft = glow(x[:, left:right] - centre - 2, y - ground + 0.5, reach, 6.5 + 2 * up)
        area = frames[:, frame, top:bottom, left:right]
        shadow(area, (0.85 - 0.5 * min(up, 1)) * soft, tint)
