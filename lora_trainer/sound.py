"""What the trainer asks of sound beside `mova.metrics`: levelling, cancelled stereo, speech. No torch."""

import numpy as np

from mova.metrics.loudness import loudness

SILENT_DB = -50.0
FRAME_SECONDS = 0.05
PEAK = 0.97  # a gain never goes past it
SPEECH_GATE = 0.35  # of `speech_score`


def to_loudness(wave: np.ndarray, sample_rate: int, target: float) -> np.ndarray:
    """`wave` brought to `target` LUFS, or as near as its peaks allow; silence stays silence."""
    current = loudness(wave[None], sample_rate)
    if current is None:
        return wave
    gain = min(10 ** ((target - current) / 20), PEAK / max(float(np.abs(wave).max()), 1e-9))
    return (wave * gain).astype(np.float32)


def cancellation(channels: np.ndarray) -> float:
    """dB that the mono mix of stereo `channels` [2, S] loses; 0 for mono. Opposite phase loses all of it."""
    if len(channels) < 2:
        return 0.0
    apart = np.square(channels.astype(np.float64)).mean()
    mixed = np.square(channels.astype(np.float64).mean(axis=0)).mean()
    return float(10 * np.log10((apart + 1e-12) / (mixed + 1e-12)))


def speech_score(wave: np.ndarray, sample_rate: int) -> float:
    """How much the level swings at the pace of syllables (3 to 8 Hz) while a voice's pitch is there; 0 to 1.

    A guess: for a hint, never for a decision.
    """
    levels = np.maximum(frame_levels(wave, sample_rate), SILENT_DB)
    if len(levels) < 20:
        return 0.0
    spectrum = np.square(np.abs(np.fft.rfft(levels - levels.mean())))
    rates = np.fft.rfftfreq(len(levels), FRAME_SECONDS)
    paced = spectrum[(rates >= 3) & (rates <= 8)].sum() / max(spectrum[rates > 0.5].sum(), 1e-9)
    return float(paced * voiced_ratio(wave, sample_rate))


def voiced_ratio(wave: np.ndarray, sample_rate: int) -> float:
    """Share of the audible frames that repeat at a pitch from 80 to 350 Hz."""
    size = round(0.04 * sample_rate)
    frames = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    frames = frames[np.square(frames).mean(axis=1) > 10 ** (SILENT_DB / 10)]
    if not len(frames):
        return 0.0
    spectrum = np.square(np.abs(np.fft.rfft(frames, 2 * size)))
    similar = np.fft.irfft(spectrum)[:, :size]
    lags = slice(round(sample_rate / 350), round(sample_rate / 80))
    return float((similar[:, lags].max(axis=1) > 0.5 * similar[:, 0]).mean())


def frame_levels(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level in dB (0 = full-scale square) of every FRAME_SECONDS of `wave` [S]."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    whole = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    return 10 * np.log10(np.square(whole).mean(axis=1) + 1e-12)
