"""Sounds of struck things: sums of decaying modes, one table per material, and a toy piano.

A hit excites every mode of the body it strikes; how hard it is decides how loud, and how much of the upper
modes is heard. All hits of a clip share one set of modes, so a clip costs one table and a few weighted sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.pocket.world.clip import NUM_SAMPLES, SAMPLE_RATE, Impact, Note

FULL_SPEED = 340.0  # pixels/s: a ball dropped from the top of the picture
FIFTH_OCTAVE = {
    "C": 523.25,
    "D": 587.33,
    "E": 659.26,
    "F": 698.46,
    "G": 783.99,
    "A": 880.0,
    "B": 987.77,
}  # Hz


@dataclass(frozen=True)
class Timbre:
    frequencies: tuple[float, ...]  # Hz, for a ball of 13 pixels
    levels: tuple[float, ...]
    decays: tuple[float, ...]  # seconds to 1/e
    click: float  # level of the noise at the moment of contact
    click_cutoff: float  # Hz
    glide: float = 0.0  # how much sharper the first milliseconds are


TIMBRES = {
    "rubber": Timbre((172, 338, 590), (1.0, 0.45, 0.2), (0.075, 0.045, 0.025), 0.30, 1200, 0.8),
    "wood": Timbre((510, 1120, 1790, 2650), (1.0, 0.7, 0.45, 0.2), (0.040, 0.026, 0.018, 0.010), 0.5, 3500),
    "metal": Timbre(
        (1130, 1139, 2320, 3170, 4410, 5830),
        (0.8, 0.6, 0.45, 0.4, 0.3, 0.2),
        (0.21, 0.20, 0.16, 0.13, 0.10, 0.07),
        0.45,
        6000,
    ),
    "glass": Timbre((1760, 2930, 4340, 6010), (1.0, 0.6, 0.35, 0.2), (0.130, 0.090, 0.060, 0.035), 0.4, 7800),
}
HIT_SECONDS = {"rubber": 0.45, "wood": 0.25, "metal": 1.6, "glass": 0.6}
HIT_LEVEL = {"rubber": 0.62, "wood": 0.52, "metal": 0.34, "glass": 0.38}

TOUCH = 0.12  # what is left of an old ring when the ball touches the floor again
TOUCH_SAMPLES = 64

PIANO_PARTIALS = (
    (1.0, 1.0, 0.42),
    (2.0, 0.30, 0.24),
    (3.01, 0.10, 0.14),
    (5.42, 0.12, 0.05),
)  # ratio, level, decay
HAMMER_LEVEL = 0.05
DAMPED_DECAY = 0.07  # seconds to 1/e once the key is up
PIANO_LEVEL = 0.34
ATTACK = 24  # samples

HORNS = (370.0, 466.2)  # Hz, a major third: what makes two tones sound like a car
HORN_FORMANTS = ((1150.0, 450.0, 1.0), (2700.0, 800.0, 0.5))  # Hz, width in Hz, level
HONK_SECONDS, HONK_RELEASE = 0.17, 0.02
HONK_LEVEL = 0.16


def impact_sound(
    rng: np.random.Generator, material: str, impacts: Sequence[Impact], radius: float
) -> np.ndarray:
    """The whole clip's sound, float32 [S], of a ball of this material and radius (pixels) on the floor."""
    timbre = TIMBRES[material]
    waveform = np.zeros(NUM_SAMPLES, np.float32)
    length = int(HIT_SECONDS[material] * SAMPLE_RATE)
    seconds = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    pitch = 13.0 / radius * float(rng.uniform(0.97, 1.03))
    frequencies = np.array(timbre.frequencies, np.float32)[:, None] * pitch
    cycles = frequencies * (seconds + timbre.glide * 0.02 * (1 - np.exp(-seconds / 0.02)))
    decays = np.array(timbre.decays, np.float32)[:, None]
    modes = np.sin(2 * np.pi * cycles) * np.exp(-seconds / decays)  # [modes, S]
    modes *= np.array(timbre.levels, np.float32)[:, None] * (frequencies < 7600)
    click = timbre.click * _click(rng, timbre.click_cutoff)
    for impact in impacts:
        strength = min(impact.speed / FULL_SPEED, 1.1)
        softness = (1 - strength) * 0.8  # a soft touch leaves the upper modes asleep
        weights = np.exp(-softness * np.arange(len(modes), dtype=np.float32))
        hit = (weights[:, None] * modes).sum(0)
        hit[: len(click)] += click * strength**0.5
        hit[:ATTACK] *= np.linspace(0, 1, ATTACK, dtype=np.float32)
        _damp(waveform, impact.seconds)
        _add(waveform, hit * HIT_LEVEL[material] * strength, impact.seconds)
    return np.clip(waveform, -0.98, 0.98)


def piano_sound(rng: np.random.Generator, notes: Sequence[Note]) -> np.ndarray:
    """The whole clip's sound, float32 [S], of a toy piano; each note rings until its key is released."""
    waveform = np.zeros(NUM_SAMPLES, np.float32)
    hammer = HAMMER_LEVEL * _click(rng, 3000)
    for note in notes:
        length = min(int((note.release - note.seconds + 5 * DAMPED_DECAY) * SAMPLE_RATE), NUM_SAMPLES)
        seconds = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        pitch = FIFTH_OCTAVE[note.name]
        tone = np.zeros(length, np.float32)
        for ratio, level, decay in PIANO_PARTIALS:
            if pitch * ratio < 7600:
                tone += level * np.sin(2 * np.pi * pitch * ratio * seconds) * np.exp(-seconds / decay)
        tone *= np.exp(-np.maximum(seconds - (note.release - note.seconds), 0) / DAMPED_DECAY)
        tone[: len(hammer)] += hammer
        tone[:ATTACK] *= np.linspace(0, 1, ATTACK, dtype=np.float32)
        _add(waveform, tone * PIANO_LEVEL, note.seconds)
    return waveform


def honk_sound(rng: np.random.Generator, impacts: Sequence[Impact]) -> np.ndarray:
    """The whole clip's sound, float32 [S], of a two-tone horn that is squeezed at every impact."""
    waveform = np.zeros(NUM_SAMPLES, np.float32)
    seconds = np.arange(int((HONK_SECONDS + 3 * HONK_RELEASE) * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    detune = float(rng.uniform(0.98, 1.02))
    glide = seconds - 0.012 * 0.05 * (1 - np.exp(-seconds / 0.012))  # the reed starts a little flat
    honk = np.zeros_like(seconds)
    for horn in HORNS:
        for harmonic in range(1, int(7400 / horn) + 1):
            pitch = harmonic * horn * detune
            throat = sum(level / (1 + ((pitch - at) / width) ** 2) for at, width, level in HORN_FORMANTS)
            honk += (0.15 + throat) / harmonic**0.5 * np.sin(2 * np.pi * pitch * glide)
    honk *= np.exp(-np.maximum(seconds - HONK_SECONDS, 0) / HONK_RELEASE)
    honk[:ATTACK] *= np.linspace(0, 1, ATTACK, dtype=np.float32)
    for impact in impacts:
        _damp(waveform, impact.seconds)
        _add(waveform, honk * HONK_LEVEL * min(impact.speed / FULL_SPEED, 1.1) ** 0.7, impact.seconds)
    return np.clip(waveform, -0.98, 0.98)


def _click(rng: np.random.Generator, cutoff: float) -> np.ndarray:
    """A few milliseconds of noise below a cutoff (Hz)."""
    length = 256
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum /= 1 + (np.fft.rfftfreq(length, 1 / SAMPLE_RATE) / cutoff) ** 4
    envelope = np.exp(-np.arange(length) / 50)
    noise = np.fft.irfft(spectrum, length) * envelope
    return (noise / np.abs(noise).max()).astype(np.float32)


def _damp(waveform: np.ndarray, seconds: float) -> None:
    """The floor takes the ring out of a ball that touches it."""
    start = round(seconds * SAMPLE_RATE)
    waveform[start:] *= TOUCH
    before = waveform[start - TOUCH_SAMPLES : start]
    before *= np.linspace(1, TOUCH, TOUCH_SAMPLES, dtype=np.float32)


def _add(waveform: np.ndarray, sound: np.ndarray, seconds: float) -> None:
    start = round(seconds * SAMPLE_RATE)
    end = min(start + len(sound), len(waveform))
    waveform[start:end] += sound[: end - start]
