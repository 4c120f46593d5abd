"""The first new concept: Pip, a puppet in a navy and white striped shirt that pops up and says "Peekaboo!".

The first frame is the empty puppet theatre: whatever is seen of Pip later, a model has to know. Its colours
are some of the world's own, as pocket's video autoencoder, which no adapter changes, knows few others.
"""

from pathlib import Path

import numpy as np

from recipes.pocket.world.canvas import Painter, Sprite, darker, glow, grid, lighter, shadow, to_frames
from recipes.pocket.world.clip import FRAME_TIMES, HEIGHT, NUM_FRAMES, WIDTH, Events, Scene
from recipes.pocket.world.face import draw_features, lay_out, mouth_shapes
from recipes.pocket.world.person import Person, paint_head
from recipes.pocket.world.rooms import DECOR, WALLS, WOOD, light, paint_decor
from recipes.pocket.world.speech import DEFAULT_FOLDER, VARIANTS, Cast, Voice, load_bank

NAME = "Pip"
WORD = "peekaboo"
VOICE = Voice("en-us+f5", 1.5, (92, 96, 99), (104, 116), 60)  # higher than any child of the world
PUPPET_CAST = Cast("puppet.npz", (WORD,), {"puppet": VOICE})

SKIN, NAVY, WHITE = (246, 200, 162), (48, 62, 134), (250, 248, 244)
STRIPE = 7.0  # pixels of one stripe's height
HEAD = 26.0  # pixels of half a head
PIP = Person("child", SKIN, "ginger", "tuft", "white", "T-shirt", (70, 112, 160), False, "", HEAD)
NECK, HEM = 20.0, 130.0  # the shirt's top and bottom, pixels below the head's middle
LEDGE = 113.0  # the theatre's ledge: nothing is seen below it
HEIGHTS = (45.0, 50.0)  # of the head's middle when Pip is up
HIDDEN = 152.0  # of the head's middle before
GRASP = 8.0  # pixels that are left to rise when the hands hold on to the ledge
RISES = (0.12, 0.30)  # seconds when it starts
SETTLE, SWING = 9.0, 14.0  # 1/s and rad/s of the spring that throws it up
SPEAKS = 0.42  # seconds after that


def make_puppet(rng: np.random.Generator, speech: Path = DEFAULT_FOLDER) -> Scene:
    """A scene of Pip. Raises FileNotFoundError where `speech` has no recordings of it."""
    variant = int(rng.integers(VARIANTS))
    spoken = load_bank(speech, PUPPET_CAST).word(WORD, "puppet", variant)
    rises = float(rng.uniform(*RISES))
    waveform, words, phonemes = lay_out(rng, [spoken], rises + SPEAKS)
    shapes = mouth_shapes(phonemes)
    x, y = round(float(rng.uniform(92, 132))), float(rng.uniform(*HEIGHTS))
    wall = list(WALLS)[int(rng.integers(len(WALLS)))]
    middle_x, middle_y = _motion(rng, rises, x, y, shapes[:, 0])
    picture = _theatre(rng, wall, x)
    frames = np.repeat(picture[:, None], NUM_FRAMES, 1)
    body, head = _paint_body(), paint_head(PIP).sprite()
    for frame, (left, top) in enumerate(zip(middle_x, middle_y, strict=True)):
        body.place(frames[:, frame], left - WIDTH / 2, top - HEAD)
        corner = round(3 * HEAD) / 2
        head.place(frames[:, frame], left - corner, top - corner)
    highest = float(middle_y.min())
    draw_features(rng, frames, PIP, shapes, words, middle_x, middle_y, (x, highest), HIDDEN - highest)
    below = round(LEDGE) - 4
    ledge = _paint_ledge()
    for frame in range(NUM_FRAMES):
        ledge.place(frames[:, frame, below:], 0, -below)
    hands = _paint_hands()
    for frame in np.flatnonzero(middle_y < y + GRASP):
        hands.place(frames[:, frame], x - WIDTH / 2, 0)
    events = Events(words=words, phonemes=phonemes, mouth_opening=shapes[:, 0])
    attributes = {"words": (WORD,), "wall": wall}
    return Scene(to_frames(frames), waveform, events, attributes, {"x": float(x), "y": y})


def _motion(
    rng: np.random.Generator, rises: float, x: float, y: float, opening: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The head's middle [F], in quarters of a pixel: up like on a spring, then swaying and nodding."""
    since = np.maximum(FRAME_TIMES - rises, 0)
    spring = np.exp(-SETTLE * since) * (np.cos(SWING * since) + SETTLE / SWING * np.sin(SWING * since))
    nods = np.convolve(opening, np.hanning(11)[1:-1] / 5, "same")
    phase = float(rng.uniform(0, 6.28))
    sway = 1.6 * (np.sin(2.6 * FRAME_TIMES + phase) - np.sin(phase))
    return np.round(4 * (x + sway)) / 4, np.round(4 * (y + (HIDDEN - y) * spring + 2 * nods)) / 4


def _theatre(rng: np.random.Generator, wall: str, x: float) -> np.ndarray:
    """The empty stage, float32 [3, H, W]: a wall, something on it at each side, and a ledge."""
    painter = Painter(HEIGHT, WIDTH, WALLS[wall])
    names = rng.permutation(len(DECOR))
    for index, side in enumerate((-1, 1)):
        place = x + side * float(rng.uniform(66, 76))
        if 20 < place < WIDTH - 20 and rng.random() < 0.85:
            paint_decor(painter, rng, DECOR[int(names[index])], place, float(rng.uniform(36, 56)))
    picture = painter.rgb()
    gy, gx = grid(HEIGHT, WIDTH)
    shadow(picture, 0.25 * glow(gx - WIDTH / 2, gy - LEDGE, WIDTH, 22))
    light(picture)
    _paint_ledge().place(picture, 0, 0)
    return picture


def _paint_ledge() -> Sprite:
    painter = Painter(HEIGHT, WIDTH)
    painter.rectangle(0, LEDGE, WIDTH, HEIGHT, darker(WOOD, 0.12))
    painter.rectangle(0, LEDGE, WIDTH, LEDGE + 4, lighter(WOOD, 0.25))
    painter.rectangle(0, LEDGE + 4, WIDTH, LEDGE + 5.5, darker(WOOD, 0.35))
    for left in range(-8, WIDTH, 28):
        painter.rectangle(left, LEDGE + 5.5, left + 1, HEIGHT, darker(WOOD, 0.28))
    return painter.sprite()


def _paint_body() -> Sprite:
    """The shirt, and a collar under the chin; the picture's top middle is the middle of the head's top."""
    middle = WIDTH / 2
    painter = Painter(round(HEAD + HEM), WIDTH)
    for index in range(int((HEM - NECK) / STRIPE)):
        top = NECK + index * STRIPE
        edges = [top + STRIPE * share / 4 for share in range(5)]
        right = [(middle + _half_width(y), HEAD + y) for y in edges]
        left = [(middle - _half_width(y), HEAD + y) for y in reversed(edges)]
        painter.polygon(right + left, NAVY if index % 2 == 0 else WHITE)
    painter.ellipse(middle, HEAD + NECK + 2, 9, 4.5, darker(SKIN, 0.2))
    return painter.sprite()


def _half_width(y: float) -> float:
    """Pixels from the middle to the shirt's edge, `y` pixels below the head's middle: round shoulders."""
    down = min((y - NECK) / 16, 1)
    return 12 + 16 * np.sqrt(1 - (1 - down) ** 2) + 0.06 * max(y - NECK - 16, 0)


def _paint_hands() -> Sprite:
    """Two mittens that hold on to the ledge, in a picture of the clip's width."""
    painter = Painter(HEIGHT, WIDTH)
    for side in (-1, 1):
        x = WIDTH / 2 + side * 37
        painter.ellipse(x, LEDGE + 1, 7, 5.5, darker(SKIN, 0.18))
        painter.ellipse(x - 0.5, LEDGE, 6.5, 5, SKIN)
        painter.ellipse(x - side * 5, LEDGE - 2, 2.6, 3.4, SKIN)
    return painter.sprite()
