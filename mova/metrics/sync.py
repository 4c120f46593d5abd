"""Offset of the sound from the picture, and how sure it is.

What is heard is laid over what is seen at every shift up to half a second; the best one is the offset.
The best of many shifts fits well by chance too. So the same search is made for sounds that have nothing to do
with the picture (as many onsets, at random times; the loudness in shuffled pieces), and the share of those
that fit worse is the confidence.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mova.metrics.onsets import Onsets, find_onsets, is_struck

THUMBNAIL_WIDTH = 56
PYRAMID_LEVELS = 3  # motion up to a fifth of the width between two frames
ITERATIONS = 2
WINDOW_RADIUS = 2  # of the flow, thumbnail pixels
STEADINESS = 20.0  # luma^2: below such contrast no motion can be measured
PATCH_RADIUS = (3, 4)  # rows and columns around the liveliest place: a mouth, if there is one
PATCHES = 2
SUBFRAMES = 4  # steps of the offset, a frame
LONGEST_OFFSET = 0.5  # seconds
UNRELATED = 400  # sounds of chance
CLEAR = 0.95  # confidence from which an offset is stated
SILENT = 1e-4  # peak: -80 dB
STILL = 0.02  # levels or pixels by which the liveliest curve must move
ONSET_WIDTH = 0.6  # frames, standard deviation
ONSET_CEILING_DB = 20.0
SHORTEST_GAP = 0.1  # seconds between two onsets of chance
SURROUNDINGS_SECONDS = 0.38
PIECE_SECONDS = 0.25  # of the loudness that is shuffled
NEARLY_AS_GOOD = 0.85


@dataclass(frozen=True)
class Sync:
    """Alignment of sound and picture in time.

    `evidence` is "events" (onsets against sudden changes), "speech" (loudness against the liveliest place) or
    "none" (no sound, or nothing moves); then offset and rival are None. A positive `offset_ms` means that
    the sound comes after the picture; rely on it only if `is_clear`. `confidence` is the share (0..1) of
    unrelated sounds that fit worse. `correlation` is that of the best shift, `baseline` the median of what
    unrelated sounds reach. `rival_ms` is another offset that fits nearly as well, as with a regular beat.
    """

    evidence: str
    offset_ms: float | None = None
    confidence: float = 0.0
    correlation: float = 0.0
    baseline: float = 0.0
    rival_ms: float | None = None
    sound_events: int = 0

    @property
    def is_clear(self) -> bool:
        return self.offset_ms is not None and self.confidence >= CLEAR


def measure_sync(luma: np.ndarray, waveform: np.ndarray, sample_rate: int, frame_rate: float) -> Sync:
    """The offset between `luma` (thumbnails [F, h, w]) and `waveform` [S], which start together."""
    onsets = find_onsets(waveform, sample_rate)
    steps, count = len(luma) * SUBFRAMES, len(onsets.seconds)
    if len(luma) < 3 or np.abs(waveform).max(initial=0) < SILENT:
        return Sync("none", sound_events=count)
    if count and is_struck(waveform, sample_rate):
        evidence, seen = "events", np.stack((motion_change(luma), flash(luma)))
        seen = _above_surroundings(seen, round(SURROUNDINGS_SECONDS * frame_rate))
        heard = onset_curves(onsets, steps, frame_rate)
    else:
        evidence, seen = "speech", liveliest_openness(luma)
        heard = loudness_curves(waveform, steps, sample_rate, frame_rate)
    if np.ptp(seen, axis=1).max() < STILL:
        return Sync("none", sound_events=count)
    return _fit(evidence, _standardised(_finer(seen)), heard, frame_rate, count)


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Luma float32 [F, h, w] in 0..255 of frames uint8 [F, H, W, 3], averaged to THUMBNAIL_WIDTH columns."""
    height, width = frames.shape[1:3]
    columns = min(THUMBNAIL_WIDTH, width)
    size = columns, max(round(height * columns / width), 1)
    box = Image.Resampling.BOX
    small = [Image.fromarray(frame).convert("L").resize(size, box) for frame in frames]
    return np.stack([np.asarray(image, np.float32) for image in small])


def motion_change(luma: np.ndarray) -> np.ndarray:
    """Change of the motion field at each frame [F], in pixels of the thumbnails: a bounce, a strike.

    The motion *into* a frame is compared with that *out of* it. The speed itself peaks before and after an
    impact, so it would tell the wrong moment.
    """
    if len(luma) < 3:
        return np.zeros(len(luma))
    across, down = _flow(luma)
    change = np.hypot(np.diff(across, axis=0), np.diff(down, axis=0)).mean((1, 2))
    return np.pad(change, 1).astype(np.float64)


def flash(luma: np.ndarray) -> np.ndarray:
    """Suddenness of each frame's [F] difference from the one before, in levels: a lamp, a lit key."""
    if len(luma) < 3:
        return np.zeros(len(luma))
    difference = np.abs(np.diff(luma, axis=0)).mean((1, 2), dtype=np.float64)
    return np.pad(np.maximum(np.diff(difference), 0), (2, 0))


def liveliest_openness(luma: np.ndarray) -> np.ndarray:
    """Distance of the liveliest places from their rest in each frame: [candidates, F], in levels.

    Of a speaking face that is its mouth, as long as the head keeps its place. Rest is guessed twice: as the
    median over time and as the first frame.
    """
    activity = _box(np.abs(np.diff(luma, axis=0)).mean(0)[None], WINDOW_RADIUS)[0]
    rows, columns = PATCH_RADIUS
    curves = []
    for _ in range(PATCHES):
        y, x = np.unravel_index(activity.argmax(), activity.shape)
        patch = luma[:, max(y - rows, 0) : y + rows + 1, max(x - columns, 0) : x + columns + 1]
        curves += [np.abs(patch - rest).mean((1, 2)) for rest in (np.median(patch, axis=0), patch[0])]
        activity[max(y - 2 * rows, 0) : y + 2 * rows + 1, max(x - 2 * columns, 0) : x + 2 * columns + 1] = -1
    return np.stack(curves).astype(np.float64)


def onset_curves(onsets: Onsets, steps: int, frame_rate: float) -> np.ndarray:
    """Bumps at the onsets: [1 + UNRELATED, steps]; the first row is true, the others at times of chance."""
    rng = np.random.default_rng(0)
    count, duration = len(onsets.seconds), steps / SUBFRAMES / frame_rate
    free = max(duration - (count - 1) * SHORTEST_GAP, 0)
    chance = np.sort(rng.uniform(0, free, (UNRELATED, count)), axis=1) + np.arange(count) * SHORTEST_GAP
    seconds = np.concatenate((onsets.seconds[None], chance))
    weights = np.sqrt(np.minimum(onsets.strengths, ONSET_CEILING_DB))
    weights = np.stack([weights, *(rng.permutation(weights) for _ in range(UNRELATED))])
    times = (np.arange(steps) + 0.5) / (frame_rate * SUBFRAMES)
    curves = np.zeros((1 + UNRELATED, steps))
    for place, weight in zip(seconds.T, weights.T, strict=True):
        distance = (times - place[:, None]) * (frame_rate / ONSET_WIDTH)
        curves += weight[:, None] * np.exp(-0.5 * distance**2)
    return _standardised(curves)


def loudness_curves(waveform: np.ndarray, steps: int, sample_rate: int, frame_rate: float) -> np.ndarray:
    """The envelope: [1 + UNRELATED, steps]; the first row is true, the others are its pieces reordered."""
    rng = np.random.default_rng(0)
    width = max(int(sample_rate / frame_rate * 1.5), 1)
    total = np.concatenate(([0.0], np.cumsum(waveform.astype(np.float64) ** 2)))
    middle = ((np.arange(steps) + 0.5) * sample_rate / (frame_rate * SUBFRAMES)).astype(int)
    first, last = (middle - width // 2).clip(0, len(waveform)), (middle + width // 2).clip(0, len(waveform))
    envelope = ((total[last] - total[first]).clip(0) / width) ** 0.25
    pieces = np.array_split(envelope, max(round(steps / SUBFRAMES / frame_rate / PIECE_SECONDS), 2))
    shuffled = [np.concatenate([pieces[i] for i in rng.permutation(len(pieces))]) for _ in range(UNRELATED)]
    return _standardised(np.stack((envelope, *shuffled)))


def _fit(evidence: str, seen: np.ndarray, heard: np.ndarray, frame_rate: float, sound_events: int) -> Sync:
    """The best shift of the first of `heard` [N, steps] on any of `seen` [C, steps]; others are chance."""
    longest = min(round(LONGEST_OFFSET * frame_rate * SUBFRAMES), seen.shape[1] - 1)
    fits = _correlate(heard, seen, longest)  # [N, C, shifts]
    best = fits.max((1, 2))
    unrelated = best[1:]
    curve, shift = np.unravel_index(fits[0].argmax(), fits.shape[1:])
    to_ms = 1000 / (frame_rate * SUBFRAMES)
    rival = _rival(fits[0, curve], int(shift))
    return Sync(
        evidence,
        offset_ms=float((shift - longest) * to_ms),
        confidence=float((unrelated < best[0]).mean()),
        correlation=float(best[0]),
        baseline=float(np.median(unrelated)),
        rival_ms=None if rival is None else float((rival - longest) * to_ms),
        sound_events=sound_events,
    )


def _correlate(heard: np.ndarray, seen: np.ndarray, longest: int) -> np.ndarray:
    """Mean product [N, C, 2 * longest + 1] at shifts of `heard` [N, steps] behind `seen` [C, steps]."""
    steps = seen.shape[1]
    size = 1 << (2 * steps - 1).bit_length()
    product = np.fft.rfft(heard, size)[:, None] * np.fft.rfft(seen, size).conj()
    shifts = np.fft.irfft(product, size)
    return np.concatenate((shifts[..., size - longest :], shifts[..., : longest + 1]), axis=-1) / steps


def _rival(fits: np.ndarray, best: int) -> int | None:
    """The highest other peak of `fits` [shifts], if it is nearly as high."""
    inner = fits[1:-1]
    peaks = np.flatnonzero((inner >= fits[:-2]) & (inner > fits[2:])) + 1
    others = peaks[np.abs(peaks - best) > 2 * SUBFRAMES]
    if not len(others) or fits[others].max() < NEARLY_AS_GOOD * fits[best]:
        return None
    return int(others[fits[others].argmax()])


def _above_surroundings(curves: np.ndarray, frames: int) -> np.ndarray:
    """Curves [C, F] above their median over the `frames` around: events, not a lively scene."""
    radius = max(frames // 2, 1)
    around = np.pad(curves, ((0, 0), (radius, radius)), mode="edge")
    middle = np.median(np.lib.stride_tricks.sliding_window_view(around, 2 * radius + 1, axis=1), axis=-1)
    return np.maximum(curves - middle, 0)


def _finer(curves: np.ndarray) -> np.ndarray:
    """[C, F] to [C, F * SUBFRAMES], linear between the middles of frames."""
    frames = curves.shape[1]
    places = (np.arange(frames * SUBFRAMES) + 0.5) / SUBFRAMES - 0.5
    return np.stack([np.interp(places, np.arange(frames), curve) for curve in curves])


def _standardised(curves: np.ndarray) -> np.ndarray:
    """Mean 0 and spread 1 over the last axis; a flat curve becomes 0, which fits nothing."""
    curves = curves - curves.mean(-1, keepdims=True)
    spread = curves.std(-1, keepdims=True)
    return np.where(spread > 1e-6, curves / np.maximum(spread, 1e-6), 0.0)


def _flow(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion from each frame to the next, across and down, [F - 1, h, w]: Lucas-Kanade, coarse to fine."""
    pyramid = [luma]
    while len(pyramid) < PYRAMID_LEVELS and min(pyramid[-1].shape[1:]) >= 8:
        pyramid.append(_halve(pyramid[-1]))
    across = down = np.zeros_like(pyramid[-1][1:])
    for level in reversed(pyramid):
        now, following = level[:-1], level[1:]
        if across.shape != now.shape:
            across, down = 2 * _double(across, now.shape), 2 * _double(down, now.shape)
        slope_y, slope_x = np.gradient(now, axis=(1, 2))
        xx = _box(slope_x * slope_x, WINDOW_RADIUS) + STEADINESS
        yy = _box(slope_y * slope_y, WINDOW_RADIUS) + STEADINESS
        xy = _box(slope_x * slope_y, WINDOW_RADIUS)
        determinant = xx * yy - xy * xy
        for _ in range(ITERATIONS):
            missing = _warp(following, across, down) - now
            x, y = _box(slope_x * missing, WINDOW_RADIUS), _box(slope_y * missing, WINDOW_RADIUS)
            across = across - (yy * x - xy * y) / determinant
            down = down - (xx * y - xy * x) / determinant
        across, down = _box(across, 1), _box(down, 1)
    return across, down


def _warp(images: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """`images` [N, h, w] read at each pixel plus its motion, bilinear, edges repeated."""
    count, height, width = images.shape
    x = np.clip(np.arange(width) + across, 0, width - 1.001)
    y = np.clip(np.arange(height)[:, None] + down, 0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    x, y = x - left, y - top
    flat, place = images.reshape(-1), (np.arange(count) * height * width)[:, None, None] + top * width + left
    upper = flat[place] * (1 - x) + flat[place + 1] * x
    lower = flat[place + width] * (1 - x) + flat[place + width + 1] * x
    return upper * (1 - y) + lower * y


def _box(images: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square of 2 * radius + 1 around each pixel of [N, h, w], edges repeated."""
    side = 2 * radius + 1
    for axis in (1, 2):
        margin = [(0, 0)] * 3
        margin[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(images, margin, mode="edge"), axis=axis, dtype=np.float32)
        length = images.shape[axis]
        ends = np.take(total, range(side, side + length), axis)
        images = (ends - np.take(total, range(length), axis)) / side
    return images


def _halve(images: np.ndarray) -> np.ndarray:
    count, height, width = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))


def _double(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows = np.minimum(np.arange(shape[1]) // 2, images.shape[1] - 1)
    columns = np.minimum(np.arange(shape[2]) // 2, images.shape[2] - 1)
    return images[:, rows][:, :, columns]
