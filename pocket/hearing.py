"""What the detectors hear with: short-time power in bands, and the moments when something begins to sound."""

import numpy as np

from pocket.clip import SAMPLE_RATE

WINDOW, HOP = 256, 64  # samples: 16 ms, 4 ms
BANDS = 24
LOWEST, HIGHEST = 90.0, 7600.0  # Hz
DEPTH_DB = 58.0  # below the loudest band; what is fainter is not heard
USUAL = 8  # percentile of a band in time that is its noise: clips begin and end, or pause, in silence
ABOVE_NOISE_DB = 5.0  # over its noise a band is heard
SILENCE = 1e-4  # root mean square; a clip below it is silent
RISE_HOPS = 4  # an onset's rise is measured over 16 ms
LEAST_RISE_DB = 2.0  # mean over bands
LEAST_GAP = 0.09  # seconds between onsets
LATE = 0.003  # seconds by which the steepest rise follows the onset, measured on true clips


def band_levels(waveform: np.ndarray, window: int = WINDOW, hop: int = HOP, bands: int = BANDS) -> np.ndarray:
    """Decibels [columns, bands] in bands evenly spaced in pitch; column c is centred on sample c * hop."""
    padded = np.pad(np.asarray(waveform, np.float32), window // 2)
    blocks = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(blocks * np.hanning(window).astype(np.float32), 2 * window)) ** 2
    return 10 * np.log10(power @ _bank(window, bands) + 1e-10)


def _bank(window: int, bands: int) -> np.ndarray:
    """Overlapping triangles [bins, bands], evenly spaced on the mel scale, each of unit sum."""
    frequencies = np.fft.rfftfreq(2 * window, 1 / SAMPLE_RATE)
    edges = _hertz(np.linspace(_mel(LOWEST), _mel(HIGHEST), bands + 2))
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    return triangles / triangles.sum(0)


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * (10 ** (mel / 2595) - 1)


def audible(levels: np.ndarray, depth: float = DEPTH_DB) -> np.ndarray:
    """Decibels over the hearing floor, 0 where nothing is heard: below the loudest or within the noise."""
    usual = np.percentile(levels, USUAL, axis=0)
    floor = np.maximum(levels.max() - depth, usual + ABOVE_NOISE_DB)
    return np.clip(levels - floor, 0, None)


def onsets(waveform: np.ndarray, share: float = 0.2) -> np.ndarray:
    """Seconds at which something begins to sound, float [N]: a rise in many bands within 16 ms.

    `share` is how weak a rise may be beside the clip's strongest. A new hit is heard in the ring of the last
    one, for its upper bands have died away by then.
    """
    if np.sqrt(np.mean(np.square(waveform))) < SILENCE:
        return np.empty(0)
    heard = audible(band_levels(waveform))
    before = np.pad(heard, ((RISE_HOPS, 0), (0, 0)))[: len(heard)]
    rise = np.clip(heard - before, 0, None).mean(1)
    rise[(len(waveform) - WINDOW) // HOP :] = 0  # a tone that is cut off there clicks
    least = max(LEAST_RISE_DB, share * rise.max())
    chosen: list[int] = []
    for column in np.argsort(-rise):
        if rise[column] < least:
            break
        if all(abs(column - other) * HOP >= LEAST_GAP * SAMPLE_RATE for other in chosen):
            chosen.append(int(column))
    return np.sort(np.array(chosen, float) * HOP / SAMPLE_RATE - LATE).clip(0)
