"""The face family: a cartoon person who says one to three words, with lips that follow the phonemes."""

# ruff: noqa: RUF001 (the keys of SHAPES are IPA)

import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np

from recipes.pocket.world.canvas import (
    Colour,
    Painter,
    band,
    blend,
    darker,
    disc,
    glow,
    grid,
    mix,
    shadow,
    to_frames,
)
from recipes.pocket.world.clip import (
    FRAME_RATE,
    FRAME_TIMES,
    HEIGHT,
    NO_PICTURES,
    NUM_FRAMES,
    NUM_SAMPLES,
    SAMPLE_RATE,
    WIDTH,
    Events,
    Phoneme,
    Scene,
    Word,
    frame_of,
)
from recipes.pocket.world.person import (
    EYE_HEIGHT,
    HEAD_BOX,
    MOUTH_HEIGHT,
    Person,
    choose_person,
    paint_body,
    paint_head,
)
from recipes.pocket.world.rooms import DECOR, WALLS, light, paint_decor
from recipes.pocket.world.speech import DEFAULT_FOLDER, PEOPLE, VARIANTS, WORDS, SpokenWord, load_bank

INSIDE = (92, 26, 40)
TEETH = (252, 250, 244)
TONGUE = (226, 108, 116)
INK = (52, 40, 48)

POINTS = 10  # track points in a frame
WINDOW = 18  # track points: 75 ms
LEAD_SECONDS = 0.02  # lips move before the sound they shape
CLOSED = ("m", "b", "p")
# opening, width, rounding, teeth, tongue: each 0..1; width .5 is the mouth at rest
REST = (0.0, 0.50, 0.0, 0.0, 0.0)
SHAPES = {
    "ɑː": (1.00, 0.50, 0.05, 0.4, 0.3),
    "ʌ": (0.75, 0.48, 0.05, 0.5, 0.3),
    "ɐ": (0.70, 0.50, 0.00, 0.5, 0.3),
    "ə": (0.50, 0.48, 0.05, 0.5, 0.3),
    "æ": (0.90, 0.75, 0.00, 0.8, 0.5),
    "ɛ": (0.65, 0.70, 0.00, 0.8, 0.5),
    "ɪ": (0.42, 0.80, 0.00, 0.9, 0.4),
    "i": (0.34, 1.00, 0.00, 1.0, 0.3),
    "iː": (0.34, 1.00, 0.00, 1.0, 0.3),
    "uː": (0.32, 0.05, 1.00, 0.0, 0.0),
    "ʊ": (0.36, 0.15, 0.85, 0.0, 0.0),
    "ɔː": (0.85, 0.25, 0.70, 0.1, 0.2),
    "ɚ": (0.40, 0.35, 0.50, 0.4, 0.3),
    "əl": (0.42, 0.50, 0.10, 0.4, 1.0),
    "w": (0.16, 0.05, 1.00, 0.0, 0.0),
    "ɹ": (0.26, 0.25, 0.65, 0.5, 0.2),
    "l": (0.38, 0.55, 0.00, 0.6, 1.0),
    "n": (0.24, 0.60, 0.00, 0.8, 0.8),
    "d": (0.24, 0.60, 0.00, 0.9, 0.6),
    "t": (0.20, 0.60, 0.00, 1.0, 0.4),
    "ɾ": (0.28, 0.55, 0.00, 0.8, 0.8),
    "s": (0.16, 0.80, 0.00, 1.0, 0.0),
    "z": (0.16, 0.80, 0.00, 1.0, 0.0),
    "j": (0.26, 0.90, 0.00, 0.9, 0.3),
    "k": (0.30, 0.55, 0.00, 0.5, 0.3),
    "ɡ": (0.30, 0.50, 0.10, 0.5, 0.3),
    "h": (0.35, 0.50, 0.00, 0.5, 0.3),
    "m": REST,
    "b": REST,
    "p": REST,
}
GLIDES = {"oʊ": ("ɔː", "uː"), "aɪ": ("ɑː", "ɪ"), "aʊ": ("ɑː", "uː")}  # start and end of a diphthong

FIRST_WORD = 0.17  # seconds, if the words leave room
LATENESS = 0.6  # of the room left: the first word may start that much later
GAPS = (0.05, 0.11)  # seconds between words
LAST_SOUND = 1.94  # seconds
HELD_OUT_SHARE = 8  # one ordered pair of words in so many


def draw_eyes(
    frames: np.ndarray,
    person: Person,
    x: np.ndarray,
    y: np.ndarray,
    blink: np.ndarray,
    raised: np.ndarray,
    gaze: float,
) -> None:
    """Eyes and brows on float32 [3, F, h, w]; x, y [F, h, w] are head units, blink and raised [F] go 0..1."""
    s, kind = person.size, person.kind
    big = 1.15 if kind == "child" else 1.0
    ex, rx, ry = 0.335, 0.145 * big * s, 0.165 * big * s
    side = np.sign(x)
    dx, dy = (np.abs(x) - ex) * s, (y - EYE_HEIGHT[kind]) * s
    shut = blink[:, None, None]
    lid = -ry * 0.9 + shut * ry * 1.75 + 0.05 * dx**2 * (1 - shut) * 0.4
    white = disc(dx, dy, rx, ry)
    blend(frames, mix(person.skin, INK, 0.22), np.clip(disc(dx, dy, rx + 1.1, ry + 1.1) - white, 0, 1) * 0.55)
    seen = white * np.clip(dy - lid + 0.5, 0, 1)
    blend(frames, mix(person.skin, INK, 0.12), white)
    blend(frames, (255, 254, 250), seen)
    px = dx - gaze * side * 1.3  # both look the same way although x is folded
    iris = 0.105 * big * s
    blend(frames, person.iris, disc(px, dy, iris, iris * 1.05) * seen)
    blend(frames, (24, 18, 24), disc(px, dy, iris * 0.55, iris * 0.6) * seen)
    spark = disc(px + side * iris * 0.36, dy + iris * 0.4, iris * 0.34, iris * 0.34)
    blend(frames, (255, 255, 255), spark * seen)
    lash = 1.5 if kind == "woman" else 1.0
    line = band(dy, lid - lash, lid + 0.35) * disc(dx, dy, rx + 1.0, ry + 1.4)
    blend(frames, INK, line)
    if kind == "woman":
        flick = band(dy, lid - 0.2 - (dx - rx * 0.6) * 0.8, lid + 1.1 - (dx - rx * 0.6) * 0.6)
        blend(frames, INK, flick * np.clip(dx - rx * 0.7, 0, 1) * np.clip(rx + 2.6 - dx, 0, 1))
    lift = (raised * 0.07 * s)[:, None, None]
    thick = {"man": 3.1, "woman": 1.9, "child": 1.9}[kind] * s / 42
    arch = -ry - 0.145 * s + 0.035 * (dx + 1) ** 2 - lift
    ends = np.clip(rx * 1.15 - np.abs(dx) + 0.5, 0, 1)
    blend(frames, darker(person.hair_colour, 0.25), band(dy, arch - thick / 2, arch + thick / 2) * ends)
    if person.glasses:
        ring = np.abs(np.sqrt((dx / 1.06) ** 2 + dy**2) - ry * 1.42)
        bridge = band(dy, -1.6 + 0 * dx, -0.2 + 0 * dx) * np.clip(-ry * 1.42 - dx, 0, 1)
        blend(frames, (60, 56, 78), np.maximum(np.clip(1.25 - ring, 0, 1), bridge))


def draw_mouth(frames: np.ndarray, person: Person, x: np.ndarray, y: np.ndarray, shapes: np.ndarray) -> None:
    """The mouth on float32 [3, F, h, w]; x, y [F, h, 2w] are pixels from its middle, twice as fine across.

    Curves bound lips, teeth and tongue: edges are exact down a column, and averaging pairs smooths across.
    """
    s = person.size
    opening, width, rounding, teeth, tongue = (column[:, None, None] for column in shapes.T)
    half = s * (0.255 + 0.145 * width) * (1 - 0.40 * rounding)
    gap = s * 0.40 * opening
    u = np.clip(x / half, -1, 1)
    rim = np.sqrt(1 - u * u)
    inside = np.clip((half - np.abs(x)) * 1.5, 0, 1)
    smile = 0.085 * s * (1 - rounding) * (0.5 - u * u)
    curve = rim ** (1.25 - 0.35 * rounding)
    top = smile - 0.30 * gap * curve
    bottom = smile + 0.70 * gap * curve
    full = {"man": 0.9, "woman": 1.45, "child": 0.9}[person.kind] * s / 42
    pout = full * (1 + 0.7 * rounding)
    lips = mix(person.skin, (204, 52, 74), 0.62 if person.kind == "woman" else 0.34)
    lip_top = top - (0.5 + 1.3 * pout) * rim * (1 - 0.14 * np.exp(-((u * 5) ** 2)))
    lip_bottom = bottom + (0.5 + 1.9 * pout) * rim
    _fill(frames, lips, band(y, lip_top, lip_bottom) * inside)
    crease = np.maximum(1.25 * rim**0.5 - (bottom - top), 0) / 2
    cavity = band(y, top - crease, bottom + crease) * inside
    _fill(frames, mix(INSIDE, darker(lips, 0.55), 0.2), cavity)
    tongue_top = np.maximum(bottom - (0.16 + 0.34 * tongue) * gap * rim, top + 0.3 * (bottom - top))
    _fill(frames, TONGUE, band(y, tongue_top, bottom) * inside * np.clip(1.35 - np.abs(u) * 1.5, 0, 1))
    edge = np.minimum(top + (0.05 + 0.07 * teeth) * s * np.minimum(teeth * 2, 1), bottom)
    _fill(
        frames,
        TEETH,
        band(y, top, edge) * inside * np.clip((0.93 - np.abs(u)) * 8, 0, 1) * np.minimum(teeth * 2, 1),
    )


def _fill(frames: np.ndarray, colour: Colour, coverage: np.ndarray) -> None:
    blend(frames, colour, (coverage[..., 0::2] + coverage[..., 1::2]) / 2)


def mouth_shapes(phonemes: tuple[Phoneme, ...]) -> np.ndarray:
    """Mouth parameters of every frame, float32 [F, 5]: opening, width, rounding, teeth, tongue."""
    track = np.tile(np.array(REST, np.float32), (NUM_FRAMES * POINTS, 1))
    points_per_second = FRAME_RATE * POINTS
    for phoneme in phonemes:
        first = int((phoneme.start - LEAD_SECONDS) * points_per_second)
        last = max(int((phoneme.end - LEAD_SECONDS) * points_per_second), first + 1)
        start, end = GLIDES.get(phoneme.name, (phoneme.name, phoneme.name))
        share = np.linspace(0, 1, last - first, dtype=np.float32)[:, None]
        share = np.clip(share * 1.6 - 0.4, 0, 1)
        track[first:last] = np.array(SHAPES[start]) * (1 - share) + np.array(SHAPES[end]) * share
    kernel = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
    kernel /= kernel.sum()
    smooth = np.stack([np.convolve(column, kernel, "same") for column in track.T], 1)
    shapes = smooth.reshape(NUM_FRAMES, POINTS, 5)[:, POINTS // 2]
    for phoneme in phonemes:
        if phoneme.name in CLOSED:
            shapes[frame_of((phoneme.start + phoneme.end) / 2), 0] = 0
    return shapes.astype(np.float32)


def pair_is_held_out(first: str, second: str) -> bool:
    """Ordered pairs of neighbouring words that training never shows."""
    return zlib.crc32(f"{first} {second}".encode()) % HELD_OUT_SHARE == 0


HELD_OUT_PAIRS = tuple((a, b) for a in WORDS for b in WORDS if a != b and pair_is_held_out(a, b))


def make_face(
    rng: np.random.Generator, split: str, speech: Path = DEFAULT_FOLDER, pictures: bool = True
) -> Scene:
    kind = PEOPLE[int(rng.integers(3))]
    texts = choose_words(rng, split)
    spoken, variant = _choose_recordings(rng, texts, kind, speech)
    waveform, words, phonemes = lay_out(rng, spoken, FIRST_WORD)
    person = choose_person(rng, kind)
    wall = list(WALLS)[int(rng.integers(len(WALLS)))]
    shapes = mouth_shapes(phonemes)
    x = float(rng.uniform(84, 140))
    y = float(rng.uniform(66, 72) if kind == "child" else rng.uniform(62, 66))
    frames = _render(rng, person, wall, shapes, words, x, y) if pictures else NO_PICTURES
    layout = {"x": x, "y": y, "half_head": person.size, "mouth_y": y + MOUTH_HEIGHT[kind] * person.size}
    events = Events(words=words, phonemes=phonemes, mouth_opening=shapes[:, 0])
    attributes = {
        "person": kind,
        "words": texts,
        "hair": person.hair,
        "style": person.style,
        "clothes": person.clothes,
        "garment": person.garment,
        "wall": wall,
        "pitch": ("low", "middle", "high")[variant // 2],
        "pace": ("calm", "brisk")[variant % 2],
        "glasses": person.glasses,
        "beard": person.beard,
    }
    return Scene(frames, waveform, events, attributes, layout)


def choose_words(rng: np.random.Generator, split: str) -> tuple[str, ...]:
    """One to three words; in "heldout" at least one neighbouring pair is held out, in "train" none is."""
    while True:
        if split == "heldout":
            texts = HELD_OUT_PAIRS[int(rng.integers(len(HELD_OUT_PAIRS)))]
            if rng.random() < 0.4:
                texts = (*texts, WORDS[int(rng.integers(len(WORDS)))])
            held_out = False
        else:
            count = 1 + int(rng.choice(3, p=(0.25, 0.40, 0.35)))
            texts = tuple(WORDS[int(index)] for index in rng.integers(len(WORDS), size=count))
            held_out = any(pair_is_held_out(a, b) for a, b in pairwise(texts))
        if not held_out and all(a != b for a, b in pairwise(texts)):
            return texts


def _choose_recordings(
    rng: np.random.Generator, texts: tuple[str, ...], kind: str, speech: Path
) -> tuple[list[SpokenWord], int]:
    """All words in one variant: one person, one mood. Three long words are said at the faster pace."""
    bank = load_bank(speech)
    variant = int(rng.integers(VARIANTS))
    spoken = [bank.word(text, kind, variant) for text in texts]
    if sum(word.seconds for word in spoken) > LAST_SOUND - FIRST_WORD - 2 * GAPS[1] - 0.05:
        variant |= 1
        spoken = [bank.word(text, kind, variant) for text in texts]
    return spoken, variant


def lay_out(
    rng: np.random.Generator, spoken: list[SpokenWord], earliest: float
) -> tuple[np.ndarray, tuple[Word, ...], tuple[Phoneme, ...]]:
    """The words on the clip's time line, from `earliest` (seconds) if they leave room; float32 [S] first.

    Start and gaps shrink when the words would not fit otherwise.
    """
    gaps = rng.uniform(*GAPS, size=len(spoken))
    length = sum(word.seconds for word in spoken) + gaps[:-1].sum()
    latest = LAST_SOUND - length
    start = rng.uniform(earliest, max(earliest, earliest + LATENESS * (latest - earliest)))
    start = max(min(start, latest), 0.08)
    waveform = np.zeros(NUM_SAMPLES, np.float32)
    gain = float(rng.uniform(0.85, 1.1))
    words, phonemes = [], []
    position = int(start * SAMPLE_RATE)
    for word, gap in zip(spoken, gaps, strict=True):
        end = min(position + len(word.waveform), NUM_SAMPLES)
        waveform[position:end] += gain * word.waveform[: end - position]
        words.append(Word(position / SAMPLE_RATE, end / SAMPLE_RATE, word.text))
        edges = [position + first for first, _ in word.phonemes] + [end]
        for (_, name), first, last in zip(word.phonemes, edges, edges[1:], strict=False):
            phonemes.append(Phoneme(first / SAMPLE_RATE, last / SAMPLE_RATE, name))
        position = end + int(gap * SAMPLE_RATE)
    return waveform, tuple(words), tuple(phonemes)


def _render(
    rng: np.random.Generator,
    person: Person,
    wall: str,
    shapes: np.ndarray,
    words: tuple[Word, ...],
    x: float,
    y: float,
) -> np.ndarray:
    s = person.size
    picture = _background(rng, person, wall, x, y)
    sway_x, sway_y = _head_motion(rng, shapes[:, 0])
    head = paint_head(person).sprite()
    corner = round(2 * HEAD_BOX * s) / 2
    top, left = int(y - 1.6 * s), int(x - 1.7 * s)
    bottom, right = min(int(y + 1.5 * s), HEIGHT), int(x + 1.7 * s)
    top = max(top, 0)
    faces = np.repeat(picture[:, None, top:bottom, left:right], NUM_FRAMES, 1)  # [3, F, h, w]
    for frame, (dx, dy) in enumerate(zip(sway_x, sway_y, strict=True)):
        head.place(faces[:, frame], x + dx - corner - left, y + dy - corner - top)
    draw_features(rng, faces, person, shapes, words, x + sway_x - left, y + sway_y - top, (x - left, y - top))
    frames = np.repeat(to_frames(picture)[None], NUM_FRAMES, 0)
    frames[:, top:bottom, left:right] = to_frames(faces)
    return frames


def draw_features(
    rng: np.random.Generator,
    frames: np.ndarray,
    person: Person,
    shapes: np.ndarray,
    words: tuple[Word, ...],
    x: np.ndarray,
    y: np.ndarray,
    rest: tuple[float, float],
    travel: float = 0,
) -> None:
    """Brows, eyes and mouth on float32 [3, F, h, w], around the head's middle at x, y [F].

    Only what is near the place of rest is drawn, and up to `travel` pixels below it.
    """
    s, height = person.size, frames.shape[2]
    blink, raised = _blinks(rng), _raised_brows(words)
    rows, columns = _box(*rest, s, (-0.62, 0.62), (-0.62, 0.32 + travel / s), height)
    gx, gy = _offsets(rows, columns, x, y)
    eyes = frames[..., rows, columns].copy()
    draw_eyes(eyes, person, gx / s, gy / s, blink, raised, float(rng.uniform(-1, 1)))
    frames[..., rows, columns] = eyes
    mouth = MOUTH_HEIGHT[person.kind]
    rows, columns = _box(*rest, s, (-0.50, 0.50), (mouth - 0.26, mouth + 0.42 + travel / s), height)
    gx, gy = _offsets(rows, columns, x, y + mouth * s, fine=True)
    lips = frames[..., rows, columns].copy()
    draw_mouth(lips, person, gx, gy, shapes)
    frames[..., rows, columns] = lips


def _background(rng: np.random.Generator, person: Person, wall: str, x: float, y: float) -> np.ndarray:
    """Wall, decor next to the head, shadow on the wall, body: float32 [3, H, W]."""
    s = person.size
    painter = Painter(HEIGHT, WIDTH, WALLS[wall])
    names = rng.permutation(len(DECOR))
    for index, side in enumerate((-1, 1)):
        place = x + side * (s * 1.2 + 30)
        if 14 < place < WIDTH - 14 and rng.random() < 0.85:
            paint_decor(painter, rng, DECOR[int(names[index])], place, float(rng.uniform(36, 56)))
    picture = painter.rgb()
    shade_wall(picture, s, x, y)
    body = Painter(HEIGHT, WIDTH)
    paint_body(body, person, x, y)
    body.sprite().place(picture, 0, 0)
    return picture


def shade_wall(picture: np.ndarray, s: float, x: float, y: float) -> None:
    """The shadow of a head of size s at (x, y), and the room's light; in place on float32 [3, H, W]."""
    gy, gx = grid(HEIGHT, WIDTH)
    shadow(picture, 0.30 * glow(gx - x - 9, gy - y - 7, 1.55 * s, 1.7 * s))
    light(picture)


def _head_motion(rng: np.random.Generator, opening: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sway and nods with the voice, in quarters of a pixel, so that head and features move as one."""
    phase = rng.uniform(0, 6.28, size=2)
    smooth = np.convolve(opening, np.hanning(11)[1:-1] / 5, "same")
    x = 1.3 * np.sin(2.2 * FRAME_TIMES + phase[0]) - 1.3 * np.sin(phase[0])
    y = 0.5 * np.sin(3.1 * FRAME_TIMES + phase[1]) + 2.2 * smooth
    return np.round(x * 4) / 4, np.round(y * 4) / 4


def _blinks(rng: np.random.Generator) -> np.ndarray:
    """One or two blinks, never on the first frames: float32 [F]."""
    blink = np.zeros(NUM_FRAMES, np.float32)
    for frame in (int(rng.integers(8, 22)), int(rng.integers(30, 60))):
        for offset, amount in enumerate((0.55, 1.0, 1.0, 0.45)):
            if frame + offset < NUM_FRAMES:
                blink[frame + offset] = amount
    return blink


def _raised_brows(words: tuple[Word, ...]) -> np.ndarray:
    """Brows go up on each word, the first one most: float32 [F]."""
    raised = np.zeros(NUM_FRAMES, np.float32)
    for index, word in enumerate(words):
        middle, spread = (word.start + word.end) / 2, (word.end - word.start) / 2
        raised += (1.0 if index == 0 else 0.6) * np.exp(-(((FRAME_TIMES - middle) / spread) ** 2) * 1.5)
    return raised.astype(np.float32)


def _box(
    x: float, y: float, s: float, across: tuple[float, float], down: tuple[float, float], height: int
) -> tuple[slice, slice]:
    rows = slice(max(int(y + down[0] * s) - 2, 0), min(int(y + down[1] * s) + 4, height))
    return rows, slice(int(x + across[0] * s) - 2, int(x + across[1] * s) + 3)


def _offsets(
    rows: slice, columns: slice, x: np.ndarray, y: np.ndarray, fine: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels from a moving middle [F]: x [F, 1, w] (or 2w, twice as fine) and y [F, h, 1]."""
    step = 0.5 if fine else 1.0
    gx = np.arange(columns.start, columns.stop, step, dtype=np.float32) + step / 2
    gy = np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5
    return (gx[None, None, :] - x[:, None, None]).astype(np.float32), (
        gy[None, :, None] - y[:, None, None]
    ).astype(np.float32)
