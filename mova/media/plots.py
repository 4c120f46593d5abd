"""Pictures of sound: a waveform, and a spectrogram with the pitch in mel, for light and for dark pages."""

import numpy as np
from PIL import Image

from mova.spectrum import mel_filters, power_columns

WINDOW_SECONDS = 0.032
LOWEST_HZ, HIGHEST_HZ = 40.0, 12000.0
RANGE_DB = 70.0  # from black to bright
LEAST_TOP_DB = -40.0  # what is softer than that stays dark: silence shows as silence
BACKGROUND = {False: (250, 250, 252), True: (17, 19, 28)}
WAVE = {False: (70, 84, 196), True: (140, 160, 255)}
CLIPPED = (214, 52, 62)
# From silence to loud, evenly spaced in lightness, so that it reads without colour too.
RAMPS = {
    False: ((250, 250, 252), (205, 222, 242), (140, 178, 226), (102, 116, 206), (98, 54, 150), (56, 12, 66)),
    True: ((17, 19, 28), (44, 32, 92), (110, 44, 130), (190, 66, 110), (244, 138, 84), (255, 238, 178)),
}


def draw_waveform(waveform: np.ndarray, size: tuple[int, int], dark: bool = False) -> np.ndarray:
    """uint8 [H, W, 3] of (height, width) `size`: from -1 to 1, time to the right.

    `waveform` is [S] or [channels, S]. Each column spans what the sound reaches in its time; columns
    that reach full scale are red.
    """
    waveform = _mono(waveform)
    height, width = size
    edges = np.linspace(0, len(waveform), width + 1).astype(int)
    starts = np.minimum(edges[:-1], len(waveform) - 1)
    # Each column begins with the last sample of the one before, so that the line has no gaps.
    high = np.maximum(np.maximum.reduceat(waveform, starts), waveform[np.maximum(starts - 1, 0)])
    low = np.minimum(np.minimum.reduceat(waveform, starts), waveform[np.maximum(starts - 1, 0)])
    level = np.linspace(1, -1, height)[:, None]
    half = 1 / max(height - 1, 1)
    inside = np.clip(
        (np.minimum(high + half, level + half) - np.maximum(low - half, level - half)) / half, 0, 1
    )
    colour = np.where((np.maximum(high, -low) >= 0.999)[:, None], CLIPPED, WAVE[dark])
    picture = inside[..., None] * colour + (1 - inside[..., None]) * np.array(BACKGROUND[dark])
    return picture.round().astype(np.uint8)


def draw_spectrogram(
    waveform: np.ndarray, sample_rate: int, size: tuple[int, int], dark: bool = False
) -> np.ndarray:
    """uint8 [H, W, 3] of (height, width) `size`: time to the right, pitch upwards in mel, loudness as colour.

    The colours span RANGE_DB under the loudest place. `waveform` is [S] or [channels, S].
    """
    levels = mel_levels(_mono(waveform), sample_rate, *size)
    top = max(float(levels.max()), LEAST_TOP_DB)
    share = np.clip((levels - top + RANGE_DB) / RANGE_DB, 0, 1)[::-1]
    ramp = np.array(RAMPS[dark], np.float32)
    stops = np.linspace(0, 1, len(ramp))
    return np.stack([np.interp(share, stops, channel) for channel in ramp.T], -1).round().astype(np.uint8)


def mel_levels(waveform: np.ndarray, sample_rate: int, bands: int, columns: int) -> np.ndarray:
    """Decibels [bands, columns], the lowest band first; a full-scale sine is near 0 dB in its band."""
    window = min(round(WINDOW_SECONDS * sample_rate), len(waveform))
    middle = (np.arange(columns) + 0.5) * len(waveform) / columns
    power = power_columns(waveform, (middle - window / 2).astype(int), window)
    filters = mel_filters(2 * (power.shape[1] - 1), sample_rate, bands, LOWEST_HZ, HIGHEST_HZ)
    # The loudest bin of a band, not the mean: a tone is as bright in a wide band as in a narrow one.
    bins = [np.flatnonzero(band) for band in filters.T]
    peaks = np.stack([power[:, place[0] : place[-1] + 1].max(1) for place in bins])
    return 10 * np.log10(peaks + 1e-14)


def frame_strip(frames: np.ndarray, count: int) -> np.ndarray:
    """`count` frames of uint8 [F, H, W, 3] side by side, each with its left edge at its time on the strip."""
    chosen = (np.arange(count) * len(frames) / count).round().astype(int)
    return np.concatenate(list(frames[chosen]), axis=1)


def contact_sheet(
    frames: np.ndarray, waveform: np.ndarray, sample_rate: int, count: int = 8, dark: bool = False
) -> Image.Image:
    """Frames above waveform and spectrogram, on one time axis."""
    strip = frame_strip(frames, count)
    wave = draw_waveform(waveform, (56, strip.shape[1]), dark)
    spectrogram = draw_spectrogram(waveform, sample_rate, (160, strip.shape[1]), dark)
    return Image.fromarray(np.concatenate((strip, wave, spectrogram)))


def _mono(waveform: np.ndarray) -> np.ndarray:
    waveform = np.atleast_2d(np.asarray(waveform, np.float32))
    if waveform.ndim != 2 or not waveform.shape[1]:
        raise ValueError(f"waveform is {waveform.shape}, not [S] or [channels, S]")
    return waveform.mean(0)
