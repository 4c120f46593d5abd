"""Loudness as broadcasters measure it: ITU-R BS.1770-4, in LUFS."""

import numpy as np

BLOCK_SECONDS, STEP_SECONDS = 0.4, 0.1
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
TAIL_SECONDS = 0.5  # the slowest part of the filter, a 38 Hz high-pass, has faded by then


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
