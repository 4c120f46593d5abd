"""Detectors of a clip's events: balls and their hits, lips and loudness, lit keys and notes.

Only the first frame's layout is given; everything else has to be found, so that generated clips are judged
by what they show.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from recipes.pocket.evaluation.recognise import band_levels, onsets
from recipes.pocket.world.ball import BALL_COLOURS, MATERIALS, draw_ball
from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE, Impact
from recipes.pocket.world.piano import KEYS
from recipes.pocket.world.sound import FIFTH_OCTAVE, impact_sound

REACH_UP, REACH_ACROSS = 24, 5  # pixels a ball may move in a frame
FAINT, STRONG = 10.0, 60.0  # of 255: difference from the empty room where a pixel begins to be, is, ball
DEEPEST_SHADE = 0.4  # of the empty room's light: a shadow may be this dark and still not count as ball
NEAR_FLOOR = 12.0  # pixels above the lowest place that still count as touching; a smeared ball turns early
FALL = 0.9  # pixels in the frame before: a ball that fell has hit, one that lies has not
FLIGHT = 1.5  # pixels from the highest place since the last hit; the world's lowest flight is 1.9
QUIET_HIT = 0.07  # a late bounce's rise in the sound, relative to the strongest one's
HIT_COLUMNS = 36  # of 4 ms: length of a hit's spectrum
TEMPLATES_EACH = 24

ACROSS, ABOVE, BELOW = 0.45, 0.24, 0.42  # of half a head, around the middle of the mouth
SHADES = 7  # steps of a colour channel
SOFTEN = np.array((0.25, 0.5, 0.25))  # lips move as slowly as three frames
LARGEST_LAG = 6  # frames

FACE_TOP, FACE_BOTTOM = 20.0, 34.0  # rows of a key's face below the black keys, from its top
FACE_MARGIN = 4.0  # pixels left out at each side of a key
SHORTEST_NOTE = 4  # frames
LEAST_LIGHT, STEP_SHARE = 14.0, 0.35  # a strike's brightening: of 255, and of the clip's brightest key
QUIET_NOTE = 0.25  # a note's rise in the sound, relative to the strongest one's
SETTLE, LISTEN = 0.012, 0.11  # seconds from an onset to listening for its pitch, and how long that takes
LOWEST, HIGHEST = 480.0, 1080.0  # Hz


@dataclass(frozen=True)
class BallSighting:
    path: np.ndarray  # float [F, 2]: x and y of the centre, pixels
    impact_frames: np.ndarray  # int [N]
    colour: str


def detect_ball(frames: np.ndarray, layout: dict[str, float]) -> BallSighting:
    """Frames uint8 [F, H, W, 3]; layout as in `world.clip.Clip`."""
    radius = layout["radius"]
    pictures = frames.astype(np.float32)
    room = _empty_room(pictures[0], layout["x"], layout["y"], radius)
    path = _track(_presence(pictures, room), layout["x"], layout["y"], radius)
    return BallSighting(path, hit_frames(path[:, 1]), _colour(pictures, path, radius))


def hit_frames(y: np.ndarray) -> np.ndarray:
    """Frames in which a ball that flew is at its lowest, near the lowest place of all: int [N]."""
    lowest = np.percentile(y, 97)
    fell = np.diff(y, prepend=y[0]) > FALL
    rises_next = np.diff(y, append=np.inf) < 0.5  # unknown after the last frame
    near = y > lowest - NEAR_FLOOR
    hits: list[int] = []
    for frame in np.flatnonzero(fell & rises_next & near):
        since = hits[-1] if hits else 0
        if y[frame] - y[since:frame].min() > FLIGHT:
            hits.append(int(frame))
    return np.array(hits, int)


def _empty_room(first: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """The first frame [H, W, 3] without its ball: across it, the wall between its left and right edges."""
    room = first.copy()
    reach = radius + 3
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, first.shape[1] - 1)
    rows = slice(max(int(y - reach), 0), min(int(y + reach) + 1, first.shape[0]))
    share = np.linspace(0, 1, right - left)[:, None]
    before, after = first[rows, max(left - 1, 0), None], first[rows, right, None]
    room[rows, left:right] = before * (1 - share) + after * share
    return room


def _presence(pictures: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Likelihood 0..1 of each pixel being ball [F, H, W]: its distance from the empty room, lit or in shadow.

    A shadow that counted as ball would pull a ball that lies up and down as the two melt together.
    """
    light = (pictures * room).sum(-1) / (room * room).sum(-1)
    shaded = np.clip(light, DEEPEST_SHADE, 1)[..., None] * room
    return np.clip((np.abs(pictures - shaded).max(-1) - FAINT) / (STRONG - FAINT), 0, 1)


def _track(presence: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Centres [F, 2]: in each frame the disc, near the last one, that is full and has empty surroundings."""
    matches = _disc_matches(presence, radius)
    height, width = presence.shape[1:]
    path = np.empty((len(presence), 2))
    for index, match in enumerate(matches):
        rows = np.arange(max(int(y) - REACH_UP, 0), min(int(y) + REACH_UP + 1, height))
        columns = np.arange(max(int(x) - REACH_ACROSS, 0), min(int(x) + REACH_ACROSS + 1, width))
        area = match[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        weight = np.clip(area - 0.85 * area.max(), 0, None) ** 2 + 1e-9
        y = float((weight.sum(1) * (rows + 0.5)).sum() / weight.sum())
        x = float((weight.sum(0) * (columns + 0.5)).sum() / weight.sum())
        path[index] = x, y
    return path


def _disc_matches(presence: np.ndarray, radius: float) -> np.ndarray:
    """Presence [F, H, W] correlated with a disc of ones in a ring of minus ones of the same sum."""
    height, width = presence.shape[1:]
    y = (np.arange(height) + height // 2) % height - height // 2
    x = (np.arange(width) + width // 2) % width - width // 2
    distance = np.hypot(y[:, None], x)
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    ring = np.clip(radius * 1.35 + 0.5 - distance, 0, 1) - disc
    kernel = disc / disc.sum() - ring / ring.sum()
    spectrum = np.fft.rfft2(presence) * np.fft.rfft2(kernel.astype(np.float32))
    return np.fft.irfft2(spectrum, (height, width))


def _colour(pictures: np.ndarray, path: np.ndarray, radius: float) -> str:
    """The colour that most frames show, without the first ones: frame 0 was given, not made."""
    votes = [
        _name_colour(_inside(picture, *place, radius))
        for picture, place in zip(pictures[4::3], path[4::3], strict=True)
    ]
    return max(BALL_COLOURS, key=votes.count)


def _inside(picture: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Pixels [N, 3] of the ball, without its edge."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[
        max(int(y - radius), 0) : min(int(y + radius) + 1, height),
        max(int(x - radius), 0) : min(int(x + radius) + 1, width),
    ]
    inside = np.hypot(rows + 0.5 - y, columns + 0.5 - x) < 0.8 * radius
    return picture[rows[inside], columns[inside]]


def _name_colour(pixels: np.ndarray) -> str:
    names, references = _colour_references()
    return names[int(np.argmin(np.abs(references - _tint(pixels)).sum(1)))]


def _tint(pixels: np.ndarray) -> np.ndarray:
    """Mean colour of the saturated pixels without its brightness: [3], sum 0."""
    saturation = pixels.max(1) - pixels.min(1)
    weight = saturation**2 + 1
    mean = (pixels * weight[:, None]).sum(0) / weight.sum()
    centred = mean - mean.mean()
    return centred / (np.linalg.norm(centred) + 20)


@lru_cache(maxsize=1)
def _colour_references() -> tuple[list[str], np.ndarray]:
    """The tint of every colour in every material before a grey and a cream wall."""
    names, tints = [], []
    for material in MATERIALS:
        for colour in BALL_COLOURS:
            for wall in ((150, 150, 150), (235, 215, 185), (160, 190, 215)):
                frame = np.ones((3, 1, 48, 48), np.float32) * np.array(wall, np.float32)[:, None, None, None]
                centre = np.array([[24.0, 24.0]])
                draw_ball(frame, material, BALL_COLOURS[colour], 14.0, centre, np.ones(1), np.zeros(1))
                names.append(colour)
                tints.append(_tint(_inside(frame[:, 0].transpose(1, 2, 0), 24, 24, 14.0)))
    return names, np.stack(tints)


def detect_hits(waveform: np.ndarray) -> np.ndarray:
    """Seconds of every hit heard, float [N]."""
    return onsets(waveform, QUIET_HIT)


def detect_material(waveform: np.ndarray) -> str | None:
    """The material whose hits sound most like these; None where nothing is heard."""
    feature = _hit_spectrum(waveform, detect_hits(waveform))
    if feature is None:
        return None
    names, templates = _material_templates()
    return names[int(np.argmin(np.abs(templates - feature).mean(1)))]


def _hit_spectrum(waveform: np.ndarray, hits: np.ndarray) -> np.ndarray | None:
    """Spectrum of the loudest hit and of its decay: decibels in bands, just after it and later, flattened."""
    if not len(hits):
        return None
    levels = band_levels(waveform, bands=20)
    spans = [levels[int(hit * SAMPLE_RATE / 64) :][:HIT_COLUMNS] for hit in hits]
    loudest = max(spans, key=lambda span: span[:8].max())
    loudest = np.pad(loudest, ((0, HIT_COLUMNS - len(loudest)), (0, 0)), mode="edge")
    parts = [part.mean(0) for part in (loudest[1:6], loudest[6:16], loudest[16:])]
    feature = np.concatenate(parts)
    return np.clip(feature - feature.max(), -40, 0)


@lru_cache(maxsize=1)
def _material_templates() -> tuple[list[str], np.ndarray]:
    """Hits of every material by balls of all sizes."""
    rng = np.random.default_rng(0)
    names, features = [], []
    for material in MATERIALS:
        for index in range(TEMPLATES_EACH):
            speed = float(rng.uniform(200, 400))
            impact = (Impact(0.5, speed, 12), Impact(0.9, 0.5 * speed, 21))
            sound = impact_sound(rng, material, impact, 11.5 + 4.5 * index / (TEMPLATES_EACH - 1))
            names.append(material)
            features.append(_hit_spectrum(sound, np.array([0.5])))
    return names, np.stack(features)


def mouth_opening(frames: np.ndarray, layout: dict[str, float]) -> np.ndarray:
    """Pixels of teeth, tongue and dark inside: those in colours that were fewer when closed. float [F].

    Frames uint8 [F, H, W, 3]; layout as in `world.clip.Clip`. Counting colours, wherever they are, does not
    mind that the head moves.
    """
    s = layout["half_head"]
    rows = slice(round(layout["mouth_y"] - ABOVE * s), round(layout["mouth_y"] + BELOW * s))
    columns = slice(round(layout["x"] - ACROSS * s), round(layout["x"] + ACROSS * s))
    counts = np.stack([_colour_counts(frame[rows, columns].reshape(-1, 3)) for frame in frames])
    return np.clip(counts - counts[0], 0, None).sum(1)


def _colour_counts(pixels: np.ndarray) -> np.ndarray:
    """Number of pixels of each shade, float [SHADES**3]; a pixel between two shades counts for both."""
    place = pixels.astype(np.float32) * ((SHADES - 1) / 255)
    below = np.minimum(place.astype(int), SHADES - 2)
    part = place - below
    counts = np.zeros(SHADES**3)
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, part, 1 - part).prod(1)
        counts += np.bincount((below + corner) @ (SHADES**2, SHADES, 1), weight, SHADES**3)
    return counts


def loudness(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """Root mean square of each frame's samples, float [F], softened as the lips are."""
    edges = np.arange(num_frames + 1) * SAMPLE_RATE // FRAME_RATE
    power = np.add.reduceat(
        np.pad(np.square(waveform, dtype=np.float64), (0, 1)), np.minimum(edges, len(waveform))
    )
    return np.convolve(np.sqrt(power[:-1] / np.diff(edges)), SOFTEN, "same")


def lag_correlations(opening: np.ndarray, loud: np.ndarray) -> np.ndarray:
    """Correlation when the sound is moved `lag` frames earlier, lag = -6 .. 6: float [13].

    Zero where either does not change. A positive best lag means that the sound is late.
    """
    return np.array(
        [_shifted_correlation(opening, loud, lag) for lag in range(-LARGEST_LAG, LARGEST_LAG + 1)]
    )


def _shifted_correlation(opening: np.ndarray, loud: np.ndarray, lag: int) -> float:
    first = opening[max(-lag, 0) : len(opening) - max(lag, 0)]
    second = loud[max(lag, 0) : len(loud) - max(-lag, 0)]
    first, second = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / scale) if scale > 1e-9 else 0.0


@dataclass(frozen=True)
class Struck:
    """Events in order of time."""

    seconds: np.ndarray  # float [N]
    keys: np.ndarray  # int [N], index from the left


@dataclass(frozen=True)
class Heard(Struck):
    cents: np.ndarray  # float [N], off the key's pitch


def detect_keys(frames: np.ndarray, layout: dict[str, float]) -> Struck:
    """Keys that light, each at the start of the frame that shows it.

    Frames uint8 [F, H, W, 3]; layout as in `world.clip.Clip`. A key is lit as far as it has left the colour
    it had in the first frame.
    """
    light = key_light(frames, layout)
    before = np.pad(light, ((2, 0), (0, 0)), mode="edge")
    step = light - before[1:-1]
    rise = light - np.minimum(before[1:-1], before[:-2])  # a strike may be blurred over two frames
    least = max(LEAST_LIGHT, STEP_SHARE * light.max())
    events = []
    for key in range(len(KEYS)):
        last = -SHORTEST_NOTE
        for frame in np.flatnonzero(rise[:, key] > least):
            around = step[max(frame - 2, 0) : frame + 3, key]
            if frame - last >= SHORTEST_NOTE and step[frame, key] >= 0.5 * around.max():
                events.append((int(frame), key))
                last = frame
    events.sort()
    seconds = np.array([frame / FRAME_RATE for frame, _ in events])
    return Struck(seconds, np.array([key for _, key in events], int))


def key_light(frames: np.ndarray, layout: dict[str, float]) -> np.ndarray:
    """Distance of each key's colour from its own in the first frame, of 255: float [F, keys]."""
    top = layout["keys_top"]
    rows = slice(round(top + FACE_TOP), round(top + FACE_BOTTOM))
    light = []
    for key in range(len(KEYS)):
        left = layout["keys_left"] + key * layout["key_width"]
        columns = slice(round(left + FACE_MARGIN), round(left + layout["key_width"] - FACE_MARGIN))
        face = frames[:, rows, columns].mean((1, 2), dtype=np.float32)  # [F, 3]
        light.append(np.abs(face - face[0]).max(1))
    return np.stack(light, 1)


def detect_notes(waveform: np.ndarray) -> Heard:
    """Every note that begins, with the white key it is nearest to."""
    seconds = onsets(waveform, QUIET_NOTE)
    pitches = np.array([_pitch(waveform, each) for each in seconds])
    known = np.array([FIFTH_OCTAVE[name] for name in KEYS])
    cents = 1200 * np.log2(pitches[:, None] / known) if len(pitches) else np.empty((0, len(KEYS)))
    keys = np.abs(cents).argmin(1) if len(pitches) else np.empty(0, int)
    return Heard(seconds, keys, cents[np.arange(len(keys)), keys])


def _pitch(waveform: np.ndarray, seconds: float) -> float:
    """Hz of the strongest tone in the keyboard's range that was not as strong before the onset."""
    length = int(LISTEN * SAMPLE_RATE)
    after = _spectrum(waveform, int((seconds + SETTLE) * SAMPLE_RATE), length)
    before = _spectrum(waveform, int((seconds - SETTLE) * SAMPLE_RATE) - length, length)
    frequencies = np.fft.rfftfreq(16384, 1 / SAMPLE_RATE)
    inside = (frequencies > LOWEST) & (frequencies < HIGHEST)
    return float(frequencies[inside][np.argmax((after - 0.5 * before)[inside])])


def _spectrum(waveform: np.ndarray, start: int, length: int) -> np.ndarray:
    padded = np.pad(waveform, (length, length))[start + length : start + 2 * length]
    return np.abs(np.fft.rfft(padded * np.hanning(len(padded)), 16384))
