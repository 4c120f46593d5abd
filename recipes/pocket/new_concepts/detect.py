"""Detectors of new concepts: stripes, a blue cube, honks, a new word, a new voice.

Nothing is known of the first frame, so that any clip can be tested, also one that shows no new concept.
"""

from pathlib import Path

import numpy as np

from recipes.pocket.evaluation.detect import hit_frames
from recipes.pocket.evaluation.recognise import SILENCE, onsets, recogniser
from recipes.pocket.new_concepts.cube import COLOUR
from recipes.pocket.new_concepts.puppet import PUPPET_CAST, WORD
from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE
from recipes.pocket.world.sound import HORNS
from recipes.pocket.world.speech import WORLD

SETTLED = 1.2  # seconds after which a new concept is in the picture to stay
STRIPES_WIDTH, STRIPES_HEIGHT = 36, 42  # pixels: the window that has to be full of stripes
PERIODS = (12.0, 13.0, 14.0, 15.0, 16.0)  # pixels from a dark stripe to the next
LEAST_SWING, LEAST_SHARE = 45.0, 0.80  # of 255; and of the window's variance that the stripes explain

LEAST_CHROMA, LEAST_LIKENESS = 48.0, 0.92  # of 255; and the cosine between a pixel's colour and the cube's
LEAST_AREA, LARGEST_AREA = 900, 2800  # pixels; the largest ball has 804
TOGETHER = 0.7  # of all blue pixels that the cube has
SQUARE = 0.80  # of its bounding box a cube fills so much; a disc 0.785
CROWD = 40  # pixels, about the side of a cube with its top and flank
STRAY = 0.25  # of the longest row or column of blue pixels: shorter ones are not part of the cube

LISTEN = (0.02, 0.15)  # seconds after an onset
QUIET_HONK = 0.25  # a late honk's rise in the sound, relative to the strongest one's
PARTIALS_BELOW = 3000.0  # Hz
NEAR, FAR = 12.0, 40.0  # Hz from a partial
HONK_DB = 10.0  # how far three quarters of both horns' partials stand out
FARTHEST = 3.2  # a word's distance from the nearest recording: degraded clips reach 1.9, notes begin at 3.8
VOICE_STEP, VOICE_WINDOW = 160, 800  # samples: 10 ms, 50 ms
VOICED = 0.5  # of a window's power, what repeats itself
PITCHES = (70.0, 700.0)  # Hz
QUIET_DB = 26.0  # below the loudest window; what is fainter has no pitch
HIGH_VOICE = 395.0  # Hz; the world's children stay below 365, Pip above 420
DEEPEST_DB = 50.0  # below the strongest partial; fainter ones are masked
DETUNES = np.linspace(0.95, 1.05, 21)


def striped_share(frames: np.ndarray) -> float:
    """Share of the settled frames, uint8 [F, H, W, 3], in which pale and dark stripes lie one on another."""
    settled = frames[round(SETTLED * FRAME_RATE) :]
    return float(np.mean([_has_stripes(frame) for frame in settled]))


def _has_stripes(frame: np.ndarray) -> bool:
    red = frame[..., 0].astype(np.float32)  # white is full of it, navy has little
    sums = np.cumsum(np.pad(red, ((0, 0), (1, 0))), 1)
    profiles = (sums[:, STRIPES_WIDTH:] - sums[:, :-STRIPES_WIDTH])[:, ::4] / STRIPES_WIDTH  # [H, N]
    windows = np.lib.stride_tricks.sliding_window_view(profiles, STRIPES_HEIGHT, 0)[::2]  # [M, N, height]
    swings = windows - windows.mean(-1, keepdims=True)
    y = np.arange(STRIPES_HEIGHT)
    shape = np.hanning(STRIPES_HEIGHT)
    power = (swings**2 * shape).sum(-1) + 1e-6
    found = np.zeros(power.shape, bool)
    for period in PERIODS:
        wave = np.exp(-2j * np.pi * y / period)
        swing = np.abs(swings @ (wave * shape)) * 2 / shape.sum()
        share = swing**2 / 2 * shape.sum() / power
        found |= (swing > LEAST_SWING) & (share > LEAST_SHARE)
    return bool(found.any())


def cube_path(frames: np.ndarray) -> np.ndarray:
    """Path of a blue cube that comes in after the first frame: float [F, 2], x and y of its middle in pixels.

    NaN where there is none. Blue of the first frame belongs to the room.
    """
    path = np.full((len(frames), 2), np.nan)
    masks = [_blue(frame) for frame in frames]
    for index, mask in enumerate(masks):
        outline = _outline(mask & ~masks[0])
        if outline is not None:
            path[index] = outline
    return path


def _blue(frame: np.ndarray) -> np.ndarray:
    """Mask bool [H, W] of the pixels of a frame, uint8 [H, W, 3], that have the cube's colour."""
    target = np.array(COLOUR, np.float32)
    target = (target - target.mean()) / np.linalg.norm(target - target.mean())
    smooth = _smoothed(frame.astype(np.float32))
    colour = smooth - smooth.mean(-1, keepdims=True)
    along = colour @ target
    return (along > LEAST_CHROMA) & (along > LEAST_LIKENESS * np.linalg.norm(colour, axis=-1))


def _smoothed(frame: np.ndarray) -> np.ndarray:
    """Means of 3 x 3 pixels: without grain, of which a pale wall would have some blue pixels."""
    padded = np.pad(frame, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def _outline(mask: np.ndarray) -> tuple[float, float] | None:
    """The middle of a filled, nearly square shape in a mask [H, W]; None if it is round, small or strewn."""
    near = mask & _around_the_most(mask)
    if near.sum() < max(LEAST_AREA / 2, TOGETHER * mask.sum()):
        return None
    mask = near
    columns, rows = (np.flatnonzero(count > STRAY * count.max()) for count in (mask.sum(0), mask.sum(1)))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # Between the outermost pixels of each row: eyes, nose and mouth are holes.
    filled = (np.maximum.accumulate(part, 1) & np.maximum.accumulate(part[:, ::-1], 1)[:, ::-1]).astype(float)
    height, width = part.shape
    if (
        not LEAST_AREA < filled.sum() < LARGEST_AREA
        or filled.mean() < SQUARE
        or not 0.6 < width / height < 1.8
    ):
        return None
    y, x = np.mgrid[:height, :width]
    return (
        float(columns[0] + (x * filled).sum() / filled.sum() + 0.5),
        float(rows[0] + (y * filled).sum() / filled.sum() + 0.5),
    )


def _around_the_most(mask: np.ndarray) -> np.ndarray:
    """The square of side 1.5 * CROWD around the one of side CROWD that holds most of a mask."""
    sums = np.pad(mask.astype(int), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    crowd = sums[CROWD:, CROWD:] - sums[:-CROWD, CROWD:] - sums[CROWD:, :-CROWD] + sums[:-CROWD, :-CROWD]
    top, left = np.unravel_index(crowd.argmax(), crowd.shape)
    around = np.zeros_like(mask)
    edge = CROWD // 4
    around[max(top - edge, 0) : top + CROWD + edge, max(left - edge, 0) : left + CROWD + edge] = True
    return around


def cube_share(path: np.ndarray) -> float:
    """Share of the settled frames with a cube."""
    return float(np.isfinite(path[round(SETTLED * FRAME_RATE) :, 0]).mean())


def cube_hits(path: np.ndarray) -> np.ndarray:
    """Frames in which the cube hits the floor: int [N]."""
    seen = np.flatnonzero(np.isfinite(path[:, 1]))
    if len(seen) < 2:
        return np.empty(0, int)
    # Where it is not seen for a while it flew on; before it came it was up.
    y = path[seen, 1]
    return hit_frames(np.interp(np.arange(len(path)), seen, y, left=y.min()))


def detect_honks(waveform: np.ndarray) -> np.ndarray:
    """Onsets of a two-tone horn in seconds, float [N]."""
    if np.sqrt(np.mean(np.square(waveform))) < SILENCE:
        return np.empty(0)
    return np.array([each for each in onsets(waveform, QUIET_HONK) if horn_level(waveform, each) > HONK_DB])


def horn_level(waveform: np.ndarray, seconds: float) -> float:
    """Decibels by which all but the weakest quarter of two horns' partials stand out from what is between."""
    first, last = (int((seconds + after) * SAMPLE_RATE) for after in LISTEN)
    part = waveform[first:last]
    if len(part) < (last - first) // 2:
        return 0.0
    spectrum = 20 * np.log10(np.abs(np.fft.rfft(part * np.hanning(len(part)), 16384)) + 1e-9)
    spectrum = np.maximum(spectrum, spectrum.max() - DEEPEST_DB)
    frequencies = np.fft.rfftfreq(16384, 1 / SAMPLE_RATE)
    return max(_stands_out(spectrum, frequencies, detune) for detune in DETUNES)


def _stands_out(spectrum: np.ndarray, frequencies: np.ndarray, detune: float) -> float:
    partials = [np.arange(1, int(PARTIALS_BELOW / horn) + 1) * horn * detune for horn in HORNS]
    every = np.concatenate(partials)
    inside = (frequencies > every.min() - 2 * FAR) & (frequencies < PARTIALS_BELOW)
    away = np.abs(frequencies[:, None] - every).min(1)
    between = spectrum[inside & (away > FAR)].mean()
    step = frequencies[1]
    reach = np.arange(-round(NEAR / step), round(NEAR / step) + 1)
    peaks = [spectrum[np.round(p / step).astype(int)[:, None] + reach].max(1) for p in partials]
    return float(np.percentile(np.concatenate(peaks), 25) - between)


def detect_word(waveform: np.ndarray, speech: Path) -> tuple[bool, bool]:
    """True twice: Pip's word is heard, with the world's words as alternatives; and it is in Pip's voice."""
    words = recogniser(speech, (WORLD, PUPPET_CAST)).recognise(waveform)
    heard = [word for word in words if word.text == WORD and word.distance < FARTHEST]
    parts = [waveform[int(word.start * SAMPLE_RATE) : int(word.end * SAMPLE_RATE)] for word in heard]
    return bool(heard), any(detect_pitch(part) > HIGH_VOICE for part in parts)


def detect_pitch(waveform: np.ndarray) -> float:
    """Hz of the voice, the median over what is voiced; 0 where nothing is."""
    padded = np.pad(waveform, VOICE_WINDOW)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, VOICE_WINDOW)[::VOICE_STEP]
    levels = np.sqrt((blocks**2).mean(1))
    blocks = blocks[levels > max(levels.max() * 10 ** (-QUIET_DB / 20), SILENCE)] * np.hanning(VOICE_WINDOW)
    first, last = (int(SAMPLE_RATE / hertz) for hertz in reversed(PITCHES))
    repeats = np.fft.irfft(np.abs(np.fft.rfft(blocks, 2 * VOICE_WINDOW)) ** 2)[:, : last + 1]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(VOICE_WINDOW), 2 * VOICE_WINDOW)) ** 2)[: last + 1]
    repeats = repeats / (repeats[:, :1] + 1e-12) / (window / window[0])
    best = repeats[:, first:].max(1, initial=0.0)
    # The shortest period that repeats nearly as well as the best: twice a period repeats just as well.
    lags = first + (repeats[:, first:] > 0.9 * best[:, None]).argmax(1)
    voiced = best > VOICED
    return float(SAMPLE_RATE / np.median(lags[voiced])) if voiced.any() else 0.0
