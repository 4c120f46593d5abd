"""The piano family: a smiling toy piano whose keys sink and light up as they sound."""

import zlib

import numpy as np

from recipes.pocket.world.ball import BALL_COLOURS
from recipes.pocket.world.canvas import (
    Colour,
    Painter,
    Sprite,
    blend,
    darker,
    glow,
    grid,
    lighter,
    mix,
    shadow,
    to_frames,
)
from recipes.pocket.world.clip import FRAME_RATE, HEIGHT, NO_PICTURES, NUM_FRAMES, WIDTH, Events, Note, Scene
from recipes.pocket.world.rooms import DECOR, WALLS, light, paint_decor
from recipes.pocket.world.sound import piano_sound

KEYS = ("C", "D", "E", "F", "G", "A", "B")
TUNES = {
    "Twinkle, Twinkle": ("C", "C", "G", "G", "A", "A"),
    "Mary Had a Little Lamb": ("E", "D", "C", "D", "E", "E"),
    "Frere Jacques": ("C", "D", "E", "C"),
    "Ode to Joy": ("E", "E", "F", "G", "G", "F"),
    "Jingle Bells": ("E", "E", "E", "E", "E", "E"),
    "London Bridge": ("G", "A", "G", "F", "E", "F"),
    "a rising scale": ("C", "D", "E", "F", "G", "A"),
    "a falling scale": ("B", "A", "G", "F", "E", "D"),
}
TUNE_SHARE = 0.2
HELD_OUT_SHARE = 10  # one melody in so many
FIRST_ONSET = (4, 10)  # frames, both included
LAST_ONSET = 40
STEPS = (6, 11)  # frames from one onset to the next
QUICK, SLOW = 6, 9

BODIES: dict[str, Colour] = {
    "red": (216, 72, 70),
    "blue": (72, 132, 208),
    "green": (84, 166, 112),
    "pink": (240, 142, 168),
    "turquoise": (64, 176, 180),
    "white": (240, 236, 228),
}
RAINBOW = ("red", "orange", "yellow", "green", "turquoise", "blue", "purple")  # C to B
LIGHTS: dict[str, Colour] = {**BALL_COLOURS, "turquoise": (46, 190, 196)}
TABLE = (222, 178, 128)
IVORY = (253, 250, 242)
INK = (58, 50, 62)
BLACK_KEYS = (0, 1, 3, 4, 5)  # to the right of these white keys
KEY_WIDTH, KEY_LENGTH = 21.0, 34.0
FRONT = 4.5  # height of a key's front face
SINK = 3.0  # pixels a pressed key goes down
KEYS_LEFT, KEYS_TOP = 8, 40  # of the body's corner
BODY_WIDTH = KEY_WIDTH * len(KEYS) + 2 * KEYS_LEFT
NOTE_RISE = 46.0  # pixels a floating note climbs
NOTE_FRAMES = 18


def melody_is_held_out(notes: tuple[str, ...]) -> bool:
    """Melodies that training never shows."""
    return zlib.crc32(" ".join(notes).encode()) % HELD_OUT_SHARE == 0


def choose_melody(rng: np.random.Generator, split: str) -> tuple[str, ...]:
    """Three to six notes, now and then a known tune; only held-out ones in "heldout", never in "train"."""
    while True:
        if rng.random() < TUNE_SHARE:
            notes = list(TUNES.values())[int(rng.integers(len(TUNES)))]
        else:
            notes = tuple(KEYS[int(index)] for index in rng.integers(len(KEYS), size=int(rng.integers(3, 7))))
        if melody_is_held_out(notes) == (split == "heldout"):
            return notes


def tune_name(notes: tuple[str, ...]) -> str:
    """The name of a known tune, or an empty string."""
    return next((name for name, tune in TUNES.items() if tune == notes), "")


def schedule(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[tuple[Note, ...], str]:
    """The notes in time, evenly spaced, and the pace in a word."""
    first = int(rng.integers(FIRST_ONSET[0], FIRST_ONSET[1] + 1))
    longest = min(STEPS[1], (LAST_ONSET - first) // (len(names) - 1))
    step = int(rng.integers(STEPS[0], longest + 1))
    pace = "quick" if step <= QUICK else "slow" if step >= SLOW else "easy"
    notes = []
    for index, name in enumerate(names):
        frame = first + index * step
        held = step - 2 if index < len(names) - 1 else 8
        notes.append(Note(frame / FRAME_RATE, (frame + held) / FRAME_RATE, name, KEYS.index(name), frame))
    return tuple(notes), pace


def make_piano(rng: np.random.Generator, split: str, pictures: bool = True) -> Scene:
    names = choose_melody(rng, split)
    notes, pace = schedule(rng, names)
    body, wall = list(BODIES)[int(rng.integers(len(BODIES)))], list(WALLS)[int(rng.integers(len(WALLS)))]
    glowing = "rainbow" if rng.random() < 0.5 else list(BALL_COLOURS)[int(rng.integers(len(BALL_COLOURS)))]
    depth, brightness = _key_motion(notes)
    left = round(float(rng.uniform(16, WIDTH - BODY_WIDTH - 16)))
    top = round(float(rng.uniform(26, 36)))
    frames = NO_PICTURES
    if pictures:
        frames = _render(rng, notes, body, wall, glowing, depth, brightness, (left, top))
    layout = {
        "keys_left": left + KEYS_LEFT,
        "keys_top": top + KEYS_TOP,
        "key_width": KEY_WIDTH,
        "key_length": KEY_LENGTH,
    }
    attributes = {
        "notes": names,
        "tune": tune_name(names),
        "pace": pace,
        "light": glowing,
        "body": body,
        "wall": wall,
    }
    events = Events(notes=notes, key_depth=depth)
    return Scene(frames, piano_sound(rng, notes), events, attributes, layout)


def light_colour(glowing: str, key: int) -> Colour:
    return LIGHTS[RAINBOW[key] if glowing == "rainbow" else glowing]


def _key_motion(notes: tuple[Note, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Depth and brightness of each key, float32 [F, keys]; down at once, half up at release."""
    depth = np.zeros((NUM_FRAMES, len(KEYS)), np.float32)
    brightness = np.zeros_like(depth)
    for note in notes:
        release = round(note.release * FRAME_RATE)
        held = np.arange(note.frame, min(release, NUM_FRAMES))
        depth[held, note.key] = 1
        brightness[held, note.key] = 1 - 0.25 * (held - note.frame) / max(len(held), 1)
        if release < NUM_FRAMES:
            depth[release, note.key], brightness[release, note.key] = 0.5, 0.3
    return depth, brightness


def _render(
    rng: np.random.Generator,
    notes: tuple[Note, ...],
    body: str,
    wall: str,
    glowing: str,
    depth: np.ndarray,
    brightness: np.ndarray,
    corner: tuple[int, int],
) -> np.ndarray:
    left, top = corner
    picture = _background(rng, body, wall, left, top)
    keys_left, keys_top = left + KEYS_LEFT, top + KEYS_TOP
    states = {level: paint_keyboard(level, None) for level in (0.0, 0.5, 1.0)}
    lit = {level: paint_keyboard(level, glowing) for level in (0.5, 1.0)}
    states[0.0].place(picture, keys_left, keys_top)
    frames = np.broadcast_to(picture[:, None], (3, NUM_FRAMES, HEIGHT, WIDTH)).copy()
    y, x = grid(HEIGHT, WIDTH)
    for frame, key in np.argwhere(depth > 0):
        level, bright = float(depth[frame, key]), float(brightness[frame, key])
        _place_key(frames[:, frame], states[level], key, keys_left, keys_top, 1.0)
        _place_key(frames[:, frame], lit[level], key, keys_left, keys_top, min(bright * 1.05, 1))
        middle = keys_left + (key + 0.5) * KEY_WIDTH
        rows, columns = slice(keys_top - 24, keys_top + 42), slice(max(int(middle - 30), 0), int(middle + 30))
        halo = glow(x[:, columns] - middle, y[rows] - keys_top - 14, 30, 38)
        blend(frames[:, frame, rows, columns], lighter(light_colour(glowing, key), 0.3), 0.34 * bright * halo)
    _float_notes(frames, notes, glowing, keys_left, keys_top)
    return to_frames(frames)


def _place_key(
    frame: np.ndarray, keyboard: Sprite, key: int, keys_left: int, keys_top: int, strength: float
) -> None:
    """One white key of a keyboard's picture; what overlaps it of the black keys comes along."""
    first = int(key * KEY_WIDTH)
    columns = slice(keys_left + first, keys_left + int((key + 1) * KEY_WIDTH))
    keyboard.place(frame[:, :, columns], -first, keys_top, strength)


def _background(rng: np.random.Generator, body: str, wall: str, left: int, top: int) -> np.ndarray:
    """Room, table, and the piano without its keys: float32 [3, H, W]."""
    painter = Painter(HEIGHT, WIDTH, WALLS[wall])
    names = rng.permutation(len(DECOR))
    for index, place in enumerate((30, 194)):
        if rng.random() < 0.6:
            paint_decor(painter, rng, DECOR[int(names[index])], place + float(rng.uniform(-8, 8)), 28)
    picture = set_table(painter, left, top)
    piano = Painter(HEIGHT, WIDTH)
    paint_piano(piano, BODIES[body], left, top)
    piano.sprite().place(picture, 0, 0)
    return picture


def set_table(painter: Painter, left: int, top: int) -> np.ndarray:
    """The room with a table for a piano at this corner, its shadow and the light: float32 [3, H, W]."""
    table = top + 58
    painter.rectangle(0, table, WIDTH, HEIGHT, TABLE)
    painter.rectangle(0, table, WIDTH, table + 1.2, lighter(TABLE, 0.4))
    picture = painter.rgb()
    y, x = grid(HEIGHT, WIDTH)
    middle = left + BODY_WIDTH / 2
    shadow(picture, 0.55 * glow(x - middle - 4, y - top - 88, BODY_WIDTH * 0.60, 17))
    light(picture)
    return picture


def paint_piano(painter: Painter, colour: Colour, left: float, top: float) -> None:
    right, bottom = left + BODY_WIDTH, top + 84
    shade, shine = darker(colour, 0.22), lighter(colour, 0.28)
    for foot in (left + 10, right - 22):
        painter.rectangle(foot, bottom - 4, foot + 12, bottom + 5, darker(colour, 0.38), 2)
    painter.rectangle(left, top, right, bottom, shade, 6)
    painter.rectangle(left, top, right, top + 40, colour, 6)
    painter.rectangle(left + 4, top + 2.5, right - 4, top + 5, shine, 1.2)
    painter.rectangle(left, top + 12, left + 7, bottom - 6, colour, 2)
    painter.rectangle(right - 7, top + 12, right, bottom - 6, colour, 2)
    painter.rectangle(left + 7, top + 37, right - 7, bottom - 3, darker(colour, 0.6), 2)
    _paint_smile(painter, colour, (left + right) / 2, top + 20)
    for side, x in ((-1, left + 26), (1, right - 26)):
        for ring, tone in ((9, shade), (6.5, mix(colour, (255, 240, 200), 0.55))):
            painter.ellipse(x, top + 21, ring, ring, tone)
        for row in (-3, 0, 3):
            painter.rectangle(x - 4, top + 20.4 + row, x + 4, top + 21.6 + row, shade)
        painter.ellipse(x + side * 14, top + 32, 1.2, 1.2, shine)


def _paint_smile(painter: Painter, colour: Colour, x: float, y: float) -> None:
    ink = darker(colour, 0.72)
    for side in (-1, 1):
        painter.ellipse(x + side * 12, y - 2, 3.4, 4.2, ink)
        painter.ellipse(x + side * 12 - 1, y - 3.6, 1.2, 1.4, (255, 255, 255))
        painter.ellipse(x + side * 20, y + 4.5, 4, 2.6, mix(colour, (255, 120, 120), 0.5))
    painter.arc(x, y + 1.5, 6.5, 6, (20, 160), ink, 1.8)


def paint_keyboard(level: float, glowing: str | None) -> Sprite:
    """All keys at one depth, unlit or each in its light."""
    painter = Painter(46, round(KEY_WIDTH * len(KEYS)))
    down = level * SINK
    for key, name in enumerate(KEYS):
        x0, x1 = key * KEY_WIDTH + 0.6, (key + 1) * KEY_WIDTH - 0.6
        face = IVORY if glowing is None else mix(light_colour(glowing, key), IVORY, 0.06)
        bottom = KEY_LENGTH + FRONT
        if level:
            painter.rectangle(x0 - 0.6, 0, x1 + 0.6, bottom, INK)
        painter.rectangle(x0, down, x1, bottom, darker(face, 0.24), 2)
        painter.rectangle(x0, down * 0.6, x1, KEY_LENGTH + down, face, 2)
        painter.rectangle(x0 + 1.2, down * 0.6, x0 + 2.4, KEY_LENGTH + down - 3, lighter(face, 0.5))
        ink = INK if glowing is None else darker(face, 0.75)
        painter.text((x0 + x1) / 2, KEY_LENGTH - 7.5 + down, name, ink, 11)
    for key in BLACK_KEYS:
        x = (key + 1) * KEY_WIDTH
        painter.rectangle(x - 5.5, -2, x + 5.5, 18, INK, 2)
        painter.rectangle(x - 3.8, -2, x + 3.8, 14.5, lighter(INK, 0.20), 1.5)
    return painter.sprite()


def _float_notes(
    frames: np.ndarray, notes: tuple[Note, ...], glowing: str, keys_left: int, keys_top: int
) -> None:
    """A little note climbs from each struck key and fades."""
    for note in notes:
        painter = Painter(22, 18)
        colour = darker(light_colour(glowing, note.key), 0.12)
        painter.ellipse(6, 17, 4.4, 3.4, colour)
        painter.line([(9.6, 16.4), (9.6, 3.5)], colour, 1.8)
        painter.line([(9.6, 3.6), (12.6, 6), (14.6, 9.6)], colour, 2.3)
        sprite = painter.sprite()
        x = keys_left + (note.key + 0.5) * KEY_WIDTH - 8
        for age in range(min(NOTE_FRAMES, NUM_FRAMES - note.frame)):
            share = (age + 0.5) / NOTE_FRAMES
            rise = NOTE_RISE * (1 - (1 - share) ** 2)
            sway = 3 * np.sin(share * 7)
            strength = min(1.0, 2.2 * (1 - share))
            sprite.place(frames[:, note.frame + age], x + sway, keys_top - 14 - rise, strength)
