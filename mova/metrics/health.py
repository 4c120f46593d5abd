"""Figures of sound and picture that show a failed clip, without weights; loudness after ITU-R BS.1770."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from mova.spectrum import power_columns

BLOCK_SECONDS, STEP_SECONDS = 0.4, 0.1
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
TAIL_SECONDS = 0.5  # the slowest part of the filter, a 38 Hz high-pass, has faded by then
FULL_SCALE = 0.999  # a sample from here on touches the ceiling
CLIPPED_RUN = 3  # so many such samples in a row are cut off, one may be a peak
SILENCE_SECONDS = 0.05
SILENCE_DB = -50.0  # RMS of such a piece, against full scale
BANDWIDTH_DB = -60.0  # under the loudest frequency
BANDWIDTH_WINDOW_SECONDS = 0.08
FROZEN_LEVELS = 0.5  # largest change of any cell of the thumbnail; codecs stay below it in a still
PLAIN_LEVELS = 4.0  # standard deviation over a frame, in the liveliest colour channel


@dataclass(frozen=True)
class AudioHealth:
    """`peak_db` and `loudness_lufs` are None for silence."""

    peak_db: float | None  # against full scale
    loudness_lufs: float | None
    clipped_ratio: float  # of all samples
    silence_ratio: float  # of the time
    bandwidth_hz: float
    dc_offset: float  # share of full scale


@dataclass(frozen=True)
class VideoHealth:
    """Levels are those of 8 bits, 0..255. `first_frame_psnr_db` is None without a picture to compare with."""

    first_frame_psnr_db: float | None
    flicker_levels: float  # how much the brightness of the whole picture jumps to and fro
    frozen_ratio: float  # of the steps from frame to frame, those in which nothing moves
    motion_levels: float  # mean change from frame to frame
    plain_ratio: float  # of the frames, those of one colour


def audio_health(waveform: np.ndarray, sample_rate: int) -> AudioHealth:
    """The figures of `waveform` [channels, S]."""
    size = np.abs(waveform)
    peak = float(size.max(initial=0))
    return AudioHealth(
        peak_db=20 * float(np.log10(peak)) if peak > 0 else None,
        loudness_lufs=loudness(waveform, sample_rate),
        clipped_ratio=_clipped_ratio(size),
        silence_ratio=_silence_ratio(waveform, sample_rate),
        bandwidth_hz=_bandwidth(waveform.mean(0), sample_rate),
        dc_offset=float(waveform.mean(dtype=np.float64)),
    )


def video_health(frames: np.ndarray, luma: np.ndarray, first_frame: np.ndarray | None = None) -> VideoHealth:
    """The figures of `frames` [F, H, W, 3] and their thumbnails `luma` [F, h, w]."""
    steps = np.abs(np.diff(luma, axis=0))
    brightness = luma.mean((1, 2), dtype=np.float64)
    jumps = np.abs(np.diff(brightness, n=2)) / 2
    return VideoHealth(
        first_frame_psnr_db=None if first_frame is None else psnr(frames[0], first_frame),
        flicker_levels=float(np.median(jumps)) if len(jumps) else 0.0,
        frozen_ratio=float((steps.max((1, 2)) < FROZEN_LEVELS).mean()) if len(steps) else 1.0,
        motion_levels=float(steps.mean()) if len(steps) else 0.0,
        plain_ratio=float(np.mean([_is_plain(frame) for frame in frames])),
    )


def psnr(frame: np.ndarray, picture: np.ndarray) -> float:
    """Decibels between uint8 pictures or clips; at most 99, for equal ones."""
    error = ((frame.astype(np.float32) - picture) ** 2).mean()
    return float(min(10 * np.log10(255**2 / max(error, 1e-9)), 99.0))


def loudness(waveform: np.ndarray, sample_rate: int) -> float | None:
    """Integrated loudness of `waveform` [channels, S] in LUFS; None under the gate of -70 (silence).

    A clip shorter than a block of 0.4 s counts as one block.
    """
    weighted = k_weighted(waveform, sample_rate)
    total = np.cumsum(np.pad((weighted**2).sum(0), (1, 0)))
    block = min(round(BLOCK_SECONDS * sample_rate), waveform.shape[1])
    starts = np.arange(0, waveform.shape[1] - block + 1, max(round(STEP_SECONDS * sample_rate), 1))
    power = (total[starts + block] - total[starts]) / max(block, 1)
    power = power[power > _power(ABSOLUTE_GATE)]
    if not len(power):
        return None
    power = power[power > power.mean() * 10 ** (RELATIVE_GATE / 10)]
    return float(-0.691 + 10 * np.log10(power.mean()))


def k_weighted(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """`waveform` [channels, S] as the head and the ear weigh it: float64, the same size."""
    samples = waveform.shape[1]
    size = 1 << (samples + round(TAIL_SECONDS * sample_rate)).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)
    response = _shelf(frequency, sample_rate) * _high_pass(frequency, sample_rate)
    return np.fft.irfft(np.fft.rfft(waveform.astype(np.float64), size) * response, size)[:, :samples]


def _shelf(frequency: np.ndarray, sample_rate: int) -> np.ndarray:
    """The first stage: +4 dB above some 2 kHz, for the head; the standard's 48 kHz filter at any rate."""
    gain, quality, centre = 3.999843853973347, 0.7071752369554196, 1681.974450955533
    k = np.tan(np.pi * centre / sample_rate)
    high = 10 ** (gain / 20)
    band = high**0.4996667741545416
    above = (high + band * k / quality + k * k, 2 * (k * k - high), high - band * k / quality + k * k)
    below = (1 + k / quality + k * k, 2 * (k * k - 1), 1 - k / quality + k * k)
    return _biquad(frequency, sample_rate, above, below)


def _high_pass(frequency: np.ndarray, sample_rate: int) -> np.ndarray:
    """The second stage, from 38 Hz."""
    quality, centre = 0.5003270373238773, 38.13547087602444
    k = np.tan(np.pi * centre / sample_rate)
    # The standard leaves the numerator at (1, -2, 1) instead of giving it the gain of a unit pass band.
    below = (
        1.0,
        2 * (k * k - 1) / (1 + k / quality + k * k),
        1 - 2 * (k / quality) / (1 + k / quality + k * k),
    )
    return _biquad(frequency, sample_rate, (1.0, -2.0, 1.0), below)


def _biquad(
    frequency: np.ndarray, sample_rate: int, above: tuple[float, ...], below: tuple[float, ...]
) -> np.ndarray:
    delay = np.exp(-2j * np.pi * frequency / sample_rate)
    return np.polyval(above[::-1], delay) / np.polyval(below[::-1], delay)


def _power(lufs: float) -> float:
    return 10 ** ((lufs + 0.691) / 10)


def _clipped_ratio(size: np.ndarray) -> float:
    """Share of samples in runs at full scale, of absolute values [channels, S]."""
    touching = size >= FULL_SCALE
    if touching.shape[1] < CLIPPED_RUN or not touching.any():
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(touching, CLIPPED_RUN, axis=1).all(-1)
    cut = np.zeros(touching.shape, bool)
    for shift in range(CLIPPED_RUN):
        cut[:, shift : shift + windows.shape[1]] |= windows
    return float(cut.mean())


def _silence_ratio(waveform: np.ndarray, sample_rate: int) -> float:
    pieces = max(round(waveform.shape[1] / (SILENCE_SECONDS * sample_rate)), 1)
    power = [
        float((piece.astype(np.float64) ** 2).mean()) for piece in np.array_split(waveform, pieces, axis=1)
    ]
    return float((np.array(power) < 10 ** (SILENCE_DB / 10)).mean())


def _bandwidth(waveform: np.ndarray, sample_rate: int) -> float:
    """The highest frequency (Hz) within BANDWIDTH_DB of the loudest, in the mean spectrum; 0 for silence."""
    window = min(round(BANDWIDTH_WINDOW_SECONDS * sample_rate), len(waveform))
    power = power_columns(waveform, np.arange(0, len(waveform), max(window // 2, 1)), window).mean(0)
    if power.max() <= 0:
        return 0.0
    highest = np.flatnonzero(power >= power.max() * 10 ** (BANDWIDTH_DB / 10))[-1]
    return float(highest * sample_rate / (2 * (len(power) - 1)))


def _is_plain(frame: np.ndarray) -> bool:
    small = Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX)
    return bool(np.asarray(small, np.float32).std((0, 1)).max() < PLAIN_LEVELS)
