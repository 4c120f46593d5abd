"""Figures of a waveform: loudness, silence, clipping, bandwidth, onsets. numpy only; no torch."""

import numpy as np

SILENT_DB = -50.0
FRAME_SECONDS = 0.05
CLIPPED = 0.999
PEAK = 0.97  # a gain never goes past it
SPEECH_GATE = 0.35  # of `speech_score`


def frame_levels(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level in dB (0 = full-scale square) of every FRAME_SECONDS of `wave` [S]."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    whole = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    return 10 * np.log10(np.square(whole).mean(axis=1) + 1e-12)


def silence_ratio(wave: np.ndarray, sample_rate: int) -> float:
    """Share of the time below SILENT_DB."""
    levels = frame_levels(wave, sample_rate)
    return float((levels < SILENT_DB).mean()) if len(levels) else 1.0


def clipped_ratio(wave: np.ndarray) -> float:
    """Share of samples that stand at full scale for two samples or more."""
    full = np.abs(wave) >= CLIPPED
    return float((full[1:] & full[:-1]).mean()) if len(wave) > 1 else 0.0


def loudness(wave: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness of a mono signal in LUFS (ITU-R BS.1770-4: K weighting, 400 ms blocks, gates)."""
    block, hop = round(0.4 * sample_rate), round(0.1 * sample_rate)
    if len(wave) < block:
        wave = np.pad(wave, (0, block - len(wave)))
    power = np.square(k_weighted(wave, sample_rate))
    sums = np.concatenate([[0], np.cumsum(power)])
    starts = np.arange(0, len(wave) - block + 1, hop)
    blocks = (sums[starts + block] - sums[starts]) / block
    gated = blocks[blocks > 10 ** ((-70 + 0.691) / 10)]
    if not len(gated):
        return -np.inf
    relative = gated.mean() / 10
    return float(-0.691 + 10 * np.log10(gated[gated > relative].mean()))


def k_weighted(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """`wave` through the two filters of BS.1770, applied as their frequency response."""
    # Analogue prototypes whose bilinear transform at 48 kHz gives the standard's coefficients.
    size = 1 << int(np.ceil(np.log2(len(wave) + sample_rate // 4)))
    z = np.exp(2j * np.pi * np.fft.rfftfreq(size))
    response = np.ones_like(z)
    for frequency, quality, gain_db in (
        (1681.974450955533, 0.7071752369554196, 3.999843853973347),
        (38.13547087602444, 0.5003270373238773, None),
    ):
        k = np.tan(np.pi * frequency / sample_rate)
        a0 = 1 + k / quality + k * k
        if gain_db is None:
            b = (1.0, -2.0, 1.0)
        else:
            high = 10 ** (gain_db / 20)
            band = high**0.4996667741545416
            b = (
                (high + band * k / quality + k * k) / a0,
                2 * (k * k - high) / a0,
                (high - band * k / quality + k * k) / a0,
            )
        a = (1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0)
        response *= (b[0] + b[1] / z + b[2] / z**2) / (a[0] + a[1] / z + a[2] / z**2)
    return np.fft.irfft(np.fft.rfft(wave.astype(np.float64), size) * response, size)[: len(wave)]


def to_loudness(wave: np.ndarray, sample_rate: int, target: float) -> np.ndarray:
    """`wave` brought to `target` LUFS, or as near as its peaks allow; silence stays silence."""
    current = loudness(wave, sample_rate)
    if not np.isfinite(current):
        return wave
    gain = min(10 ** ((target - current) / 20), PEAK / max(float(np.abs(wave).max()), 1e-9))
    return (wave * gain).astype(np.float32)


def bandwidth(wave: np.ndarray, sample_rate: int) -> float:
    """Frequency in Hz below which 99 % of the energy lies; 0 for silence."""
    power = np.square(np.abs(np.fft.rfft(wave.astype(np.float64))))
    total = power.sum()
    if total < 1e-9:
        return 0.0
    index = int(np.searchsorted(np.cumsum(power), 0.99 * total))
    return float(index * sample_rate / len(wave))


def cancellation(channels: np.ndarray) -> float:
    """dB that the mono mix of stereo `channels` [2, S] loses; 0 for mono. Opposite phase loses all of it."""
    if len(channels) < 2:
        return 0.0
    apart = np.square(channels.astype(np.float64)).mean()
    mixed = np.square(channels.astype(np.float64).mean(axis=0)).mean()
    return float(10 * np.log10((apart + 1e-12) / (mixed + 1e-12)))


def onset_strength(wave: np.ndarray, sample_rate: int, rate: float) -> np.ndarray:
    """How much louder it gets, `rate` times a second: the rise of the level, zero where it falls."""
    size = max(1, round(sample_rate / rate))
    edges = np.round(np.arange(int(len(wave) / sample_rate * rate)) * sample_rate / rate).astype(int)
    sums = np.concatenate([[0], np.cumsum(np.square(wave.astype(np.float64)))])
    power = (sums[np.minimum(edges + size, len(wave))] - sums[edges]) / size
    level = np.log10(power + 1e-7)
    return np.maximum(np.diff(level, prepend=level[:1]), 0)


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
