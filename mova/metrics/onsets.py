"""Onsets of sounds: a spectral-flux picker in numpy.

Two stages, as one window cannot do both: a long one (resolves bands, so that a late hit stands out of a
ringing tail) finds that there is an onset; the energy within a millisecond then says when.
"""

import math
from dataclasses import dataclass

import numpy as np

from mova.spectrum import mel_filters, power_columns

HOP_SECONDS = 0.005
WINDOW_SECONDS = 0.023
BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 120.0, 8000.0
FLOOR_DB = -66.0  # under the clip's loudest band; what lies deeper is not heard with it
AUDIBLE_DB = 45.0  # under the loudest moment; what is softer does not tell what kind of sound it is
LOUD_DB = 25.0
SHORTEST_WORD = 0.1  # seconds within LOUD_DB; what never lasts so long is dry knocks and clicks
STEADY_DB = 0.5  # change in 10 ms
STRUCK_SKEWNESS, STRUCK_RISING = 3.0, 0.38  # between struck and spoken clips of the procedural world
SILENCE = 1e-9  # power: -90 dB
RISE_HOPS = 2
QUIET_SHARE = 0.2  # of the time a band is at its own floor: noise, a hum, a long ring
ABOVE_FLOOR_DB = 6.0
LOUDEST_RISES = 8  # a soft tone lifts a few bands only
LEAST_RISE_DB = 3.0
NOISE_SPREADS = 5.0  # over the local median
LOCAL_SECONDS = 0.25
SHORTEST_GAP = 0.06  # seconds between two onsets
REFINE_SECONDS = 0.020  # searched on both sides of the coarse place
BEFORE_SECONDS, AFTER_SECONDS = 0.006, 0.002  # energies that are compared there


@dataclass(frozen=True)
class Onsets:
    """Starts of sounds (seconds, ascending) and the mean rise of the bands there, in decibels."""

    seconds: np.ndarray  # float64 [N]
    strengths: np.ndarray  # float64 [N]


def find_onsets(waveform: np.ndarray, sample_rate: int) -> Onsets:
    """The onsets of `waveform` [S]. Measured bias and spread: benchmarks/README.md."""
    levels = band_levels(waveform, sample_rate)
    if not levels.size:
        return Onsets(np.zeros(0), np.zeros(0))
    flux = spectral_flux(levels)
    picked = _peaks(flux)
    seconds = np.array([_refine(waveform, sample_rate, index * HOP_SECONDS) for index in picked])
    return Onsets(seconds, flux[picked])


def is_struck(waveform: np.ndarray, sample_rate: int) -> bool:
    """True if `waveform` [S] sounds by strokes: short, or loud at once and then long in fading.

    Speech and steady noise swell as often as they fade, and their loudness changes are evenly distributed.
    """
    step = round(2 * HOP_SECONDS * sample_rate)
    blocks = waveform[: len(waveform) // step * step].reshape(-1, step).astype(np.float64)
    if len(blocks) < 5 or not blocks.any():
        return False
    decibels = np.convolve(10 * np.log10((blocks**2).mean(1) + 1e-12), np.full(3, 1 / 3), "valid")
    quiet = np.flatnonzero(np.pad(decibels < decibels.max() - LOUD_DB, 1, constant_values=True))
    if (np.diff(quiet).max() - 1) * 2 * HOP_SECONDS < SHORTEST_WORD:
        return True
    changes = np.diff(np.maximum(decibels, decibels.max() - AUDIBLE_DB))
    skewness = (changes**3).mean() / ((changes**2).mean() ** 1.5 + 1e-9)
    moving = np.abs(changes) > STEADY_DB
    rising = (changes > STEADY_DB).sum() / max(moving.sum(), 1)
    return bool(moving.any() and (skewness > STRUCK_SKEWNESS or rising < STRUCK_RISING))


def band_levels(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Decibels [columns, BANDS] of mel bands under the loudest, cut at FLOOR_DB; empty if there is no sound.

    Column i is at i * HOP_SECONDS.
    """
    window = round(WINDOW_SECONDS * sample_rate)
    if len(waveform) < window:
        return np.zeros((0, BANDS))
    columns = math.ceil(len(waveform) / (HOP_SECONDS * sample_rate))
    starts = (np.arange(columns) * HOP_SECONDS * sample_rate).astype(int) - window // 2
    power = power_columns(waveform, starts, window)
    size = 2 * (power.shape[1] - 1)
    bands = power @ mel_filters(size, sample_rate, BANDS, LOWEST_HZ, HIGHEST_HZ)
    loudest = bands.max()
    if loudest < SILENCE:
        return np.zeros((0, BANDS))
    return 10 * np.log10(np.maximum(bands / loudest, 10 ** (FLOOR_DB / 10)))


def spectral_flux(levels: np.ndarray) -> np.ndarray:
    """Mean of the LOUDEST_RISES largest rises of bands over RISE_HOPS: decibels [columns].

    A tone that wanders to the next band is not a rise, nor is what stays near the band's floor.
    """
    levels = np.maximum(levels, np.quantile(levels, QUIET_SHARE, axis=0) + ABOVE_FLOOR_DB)
    before = np.pad(levels, ((RISE_HOPS, 0), (0, 0)), mode="edge")[:-RISE_HOPS]
    around = np.pad(before, ((0, 0), (1, 1)), mode="edge")
    before = np.maximum(np.maximum(around[:, :-2], around[:, 2:]), before)
    rises = np.maximum(levels - before, 0)
    return np.partition(rises, -LOUDEST_RISES, axis=1)[:, -LOUDEST_RISES:].mean(1)


def _peaks(flux: np.ndarray) -> np.ndarray:
    """Columns where the flux is the highest nearby and stands out of its surroundings."""
    gap, local = round(SHORTEST_GAP / HOP_SECONDS), round(LOCAL_SECONDS / HOP_SECONDS)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(flux, gap // 2), gap // 2 * 2 + 1).max(1)
    wide = np.lib.stride_tricks.sliding_window_view(np.pad(flux, local, mode="reflect"), 2 * local + 1)
    middle = np.median(wide, 1)
    spread = np.median(np.abs(wide - middle[:, None]), 1)
    threshold = np.maximum(LEAST_RISE_DB, middle + NOISE_SPREADS * spread)
    places = np.flatnonzero((flux == near) & (flux >= threshold))
    return places[np.diff(places, prepend=-gap) > gap // 2]


def _refine(waveform: np.ndarray, sample_rate: int, seconds: float) -> float:
    """The moment near `seconds` at which the energy rises most steeply.

    Looked for in the waveform and in its slope, which lifts an attack's high frequencies out of a low ring.
    """
    start = max(int((seconds - REFINE_SECONDS) * sample_rate), 0)
    piece = waveform[start : int((seconds + REFINE_SECONDS) * sample_rate)].astype(np.float64)
    long, short = round(BEFORE_SECONDS * sample_rate), round(AFTER_SECONDS * sample_rate)
    if len(piece) <= long + short:
        return seconds
    place = np.arange(short, len(piece) - short)
    best, moment = -np.inf, seconds
    for signal in (piece, np.diff(piece, prepend=piece[0])):
        total = np.concatenate(([0.0], np.cumsum(signal**2)))
        quiet = total[-1] / len(signal) * 0.1 + 1e-12
        before = (total[place] - total[np.maximum(place - long, 0)]) / np.minimum(place, long)
        after = (total[place + short] - total[place]) / short
        rise = (after + quiet) / (before + quiet)
        if rise.max() > best:
            best, moment = rise.max(), (start + place[int(rise.argmax())]) / sample_rate
    return float(moment)
