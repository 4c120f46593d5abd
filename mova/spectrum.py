"""Spectra of a waveform in numpy: what the onset picker measures and the spectrogram picture shows."""

import numpy as np


def power_columns(waveform: np.ndarray, starts: np.ndarray, window: int) -> np.ndarray:
    """Power [columns, size // 2 + 1] of Hann windows from each of `starts` (samples) of `waveform` [S].

    Scaled so that a full-scale sine is near 1 (0 dB); `size` is the power of two from `window` up. Windows
    stay inside the clip: where it starts or ends inside a sound there is no click. Needs S >= window.
    """
    starts = np.clip(starts, 0, len(waveform) - window)
    hann = np.hanning(window).astype(np.float32) * np.float32(4 / window)
    blocks = np.lib.stride_tricks.sliding_window_view(waveform, window)[starts] * hann
    return np.abs(np.fft.rfft(blocks, max(1 << (window - 1).bit_length(), 2))) ** 2


def mel_filters(size: int, sample_rate: int, count: int, lowest: float, highest: float) -> np.ndarray:
    """Triangles [size // 2 + 1, count] with centres evenly in mel from `lowest` to `highest` Hz.

    Each column sums to 1. Where bins are wider than triangles the nearest bin stands for the band.
    """
    mels = np.linspace(_mel(lowest), _mel(min(highest, sample_rate / 2)), count + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequency = np.fft.rfftfreq(size, 1 / sample_rate)[:, None]
    rise = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    filters = np.maximum(np.minimum(rise, fall), 0)
    filters[np.abs(frequency - edges[1:-1]).argmin(0), np.arange(count)] += 1e-3
    return (filters / filters.sum(0)).astype(np.float32)


def _mel(hertz: float) -> float:
    return 2595 * np.log10(1 + hertz / 700)
