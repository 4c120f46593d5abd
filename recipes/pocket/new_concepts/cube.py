"""The second new concept: a blue cube with a red nose that falls into the room and honks at every bounce.

The first frame is the empty room: whatever is seen of the cube later, a model has to know. Its colour is
one that balls have, as pocket's video autoencoder, which no adapter changes, knows few others.
"""

import numpy as np

from recipes.pocket.world.ball import BALL_COLOURS, impacts_of, trajectory
from recipes.pocket.world.canvas import Painter, Sprite, darker, glow, grid, lighter, shadow, to_frames
from recipes.pocket.world.clip import HEIGHT, NUM_FRAMES, SECONDS, WIDTH, Events, Impact, Scene
from recipes.pocket.world.rooms import DECOR, FLOORS, WALLS, light, paint_decor, paint_floor
from recipes.pocket.world.sound import HONK_SECONDS, honk_sound

COLOUR = BALL_COLOURS["blue"]
RED, INK, WHITE = (228, 48, 56), (40, 36, 52), (255, 254, 250)
BOUNCE = (0.44, 0.48)
TOSSES = (0.0, 90.0)  # pixels/s upwards, over the picture: how late the cube comes
DEPTH = 0.34  # of a side, how far the top and the right face reach back
BOX = 80  # pixels, the side of the cube's own picture
HONKING = 4  # frames for which nose and mouth show a honk
SQUASHED, STRETCHED = 0.80, 1.08  # heights at an impact and in the frames next to it


def make_cube(rng: np.random.Generator) -> Scene:
    wall, floor = list(WALLS)[int(rng.integers(len(WALLS)))], list(FLOORS)[int(rng.integers(len(FLOORS)))]
    side = float(rng.uniform(32, 36))
    ground = float(rng.uniform(108, 114))
    bounce = float(rng.uniform(*BOUNCE))
    impacts = _choose_fall(rng, ground + DEPTH * side + 2, bounce)
    start, velocity = float(rng.uniform(88, 136)), float(rng.uniform(-14, 14))
    path, heights = trajectory(impacts, bounce, ground - side / 2, start, velocity)
    picture = _room(rng, wall, floor, ground, start)
    frames = np.repeat(picture[:, None], NUM_FRAMES, 1)
    _draw_shadows(frames, path, side, ground)
    hit = [impact.frame for impact in impacts]
    shapes = np.select([np.isin(range(NUM_FRAMES), hit), heights > 1], [SQUASHED, STRETCHED], 1.0)
    honks = np.isin(range(NUM_FRAMES), [frame + later for frame in hit for later in range(HONKING)])
    sprites = {(h, o): _paint_cube(side, h, o) for h in (1.0, SQUASHED, STRETCHED) for o in (True, False)}
    for frame, (x, y) in enumerate(path):
        bottom = y + side / 2
        sprites[float(shapes[frame]), bool(honks[frame])].place(
            frames[:, frame], x - BOX / 2, bottom - BOX + 6
        )
    attributes = {"bounces": len(impacts), "wall": wall, "floor": floor}
    events = Events(impacts=impacts, ball_path=path.astype(np.float32))
    layout = {"side": side, "ground": ground}
    return Scene(to_frames(frames), honk_sound(rng, impacts), events, attributes, layout)


def _choose_fall(rng: np.random.Generator, height: float, bounce: float) -> tuple[Impact, ...]:
    """Hits of a fall from over the picture, of which the last can be heard to its end."""
    while True:
        impacts = impacts_of(float(rng.uniform(*TOSSES)), height, bounce)
        if all(i.seconds < SECONDS - HONK_SECONDS or i.seconds > SECONDS + 0.05 for i in impacts):
            return tuple(impact for impact in impacts if impact.seconds < SECONDS)


def _room(rng: np.random.Generator, wall: str, floor: str, ground: float, start: float) -> np.ndarray:
    """The empty room, float32 [3, H, W]."""
    painter = Painter(HEIGHT, WIDTH, WALLS[wall])
    paint_floor(painter, floor, ground - float(rng.uniform(15, 22)))
    names = rng.permutation(len(DECOR))
    for index, side in enumerate((-1, 1)):
        place = start + side * float(rng.uniform(58, 70))
        if 20 < place < WIDTH - 20 and rng.random() < 0.8:
            paint_decor(painter, rng, DECOR[int(names[index])], place, float(rng.uniform(34, 48)))
    picture = painter.rgb()
    light(picture)
    return picture


def _draw_shadows(frames: np.ndarray, path: np.ndarray, side: float, ground: float) -> None:
    """A shadow that closes in below the cube; there is none before the cube comes."""
    y, x = grid(HEIGHT, WIDTH)
    for frame, (centre, middle) in enumerate(path):
        up = np.clip((ground - side / 2 - middle) / 110, 0, 1)
        soft = glow(x - centre - 4, y - ground + 1, side * (0.75 + 0.5 * up), 7 + 3 * up)
        shadow(frames[:, frame], 0.85 * (1 - up) * soft)


def _paint_cube(side: float, height: float, honking: bool) -> Sprite:
    """The cube on its lower edge, 6 pixels above the bottom of its own picture; `height` 1 is a cube."""
    painter = Painter(BOX, BOX)
    wide, tall = side / height**0.5, side * height
    back = DEPTH * side
    left, right = BOX / 2 - wide / 2, BOX / 2 + wide / 2
    bottom, top = BOX - 6.0, BOX - 6 - tall
    lid = [(left, top), (left + back, top - back), (right + back, top - back), (right, top)]
    flank = [(right, top), (right + back, top - back), (right + back, bottom - back), (right, bottom)]
    painter.polygon(lid, lighter(COLOUR, 0.42))
    painter.polygon(flank, darker(COLOUR, 0.36))
    painter.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], COLOUR)
    painter.line([(left, top), (right, top), (right, bottom)], lighter(COLOUR, 0.25), 0.9)

    def at(across: float, down: float) -> tuple[float, float]:
        return BOX / 2 + across * wide, top + down * tall

    for across in (-0.23, 0.23):
        x, y = at(across, 0.28)
        if honking:  # eyes shut with the effort
            painter.line([(x - 3, y - 1.5), (x, y + 1), (x + 3, y - 1.5)], INK, 1.4)
        else:
            painter.ellipse(x, y, 0.13 * side, 0.15 * side, WHITE)
            painter.ellipse(x + 0.5, y + 0.7, 0.065 * side, 0.075 * side, INK)
    if honking:
        painter.ellipse(*at(0, 0.80), 0.15 * side, 0.12 * side, INK)
    else:
        painter.arc(*at(0, 0.66), 0.2 * side, 0.14 * side, (25, 155), INK, 1.4)
    nose = 0.10 if not honking else 0.16
    x, y = at(0, 0.52)
    painter.ellipse(x, y, nose * side, nose * side, RED)
    painter.ellipse(x - nose * 10, y - nose * 12, nose * 8, nose * 7, lighter(RED, 0.6))
    return painter.sprite()
