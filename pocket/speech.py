"""The word bank: real synthesised speech, made once with espeak-ng and read by every renderer.

Each word is spoken by a man, a woman and a child at several pitches and speeds. The vocal tract of a voice is
its length: synthesising slower and replaying faster raises the formants, as a shorter tract does. The bank is
generated audio and stays out of the repository.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from pocket.clip import SAMPLE_RATE
from pocket.espeak import Espeak

WORDS = (
    *("hello", "goodbye", "yes", "no", "wow", "mama", "banana", "apple"),
    *("music", "moon", "water", "happy", "robot", "tiger", "summer", "cookie"),
)
PEOPLE = ("man", "woman", "child")
DEFAULT_FOLDER = Path("outputs/pocket")

ACTIVE_RMS = 0.13
PEAK = 0.85
TRIM_LEVEL = 0.012  # of the peak
MARGIN = 48  # samples kept around the trimmed word
FADE = 48


@dataclass(frozen=True)
class Voice:
    espeak: str
    tract: float  # formants and pitch are multiplied by it
    pitches: tuple[int, ...]
    words_per_minute: tuple[int, ...]
    pitch_range: int


VOICES = {
    "man": Voice("en-us+m3", 0.96, (44, 57, 70), (158, 182), 45),
    "woman": Voice("en-us+f1", 1.04, (50, 62, 74), (156, 178), 50),
    "child": Voice("en-us+f1", 1.26, (62, 76, 90), (138, 156), 60),
}
VARIANTS = 6  # pitches times speeds, in that order


@dataclass(frozen=True, eq=False)
class Cast:
    """Who says which words in a bank of recordings."""

    bank: str  # name of its file
    words: tuple[str, ...]
    voices: dict[str, Voice]  # by person


WORLD = Cast("speech.npz", WORDS, VOICES)


@dataclass(frozen=True)
class SpokenWord:
    text: str
    waveform: np.ndarray  # float32 [S]
    phonemes: tuple[tuple[int, str], ...]  # (first sample, IPA)

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


class SpeechBank:
    """All recordings of a cast in one array; `word` cuts one out."""

    def __init__(self, path: Path, cast: Cast) -> None:
        self._words, self._people = cast.words, tuple(cast.voices)
        with np.load(path) as file:
            self._samples = file["samples"]
            self._edges = file["edges"]
            self._phoneme_starts = file["phoneme_starts"]
            self._phoneme_names = file["phoneme_names"].tolist()
            self._phoneme_edges = file["phoneme_edges"]

    def word(self, text: str, person: str, variant: int) -> SpokenWord:
        place = self._words.index(text) * len(self._people) + self._people.index(person)
        index = place * VARIANTS + variant
        samples = self._samples[self._edges[index] : self._edges[index + 1]]
        first, last = self._phoneme_edges[index], self._phoneme_edges[index + 1]
        starts = self._phoneme_starts[first:last].tolist()
        phonemes = tuple(zip(starts, self._phoneme_names[first:last], strict=True))
        return SpokenWord(text, samples.astype(np.float32) / 32767, phonemes)


@lru_cache(maxsize=4)
def load_bank(folder: Path = DEFAULT_FOLDER, cast: Cast = WORLD) -> SpeechBank:
    path = Path(folder) / cast.bank
    if not path.exists():
        raise FileNotFoundError(
            f"no word bank at {path}; make it with: python -m pocket speech --out {folder}"
        )
    return SpeechBank(path, cast)


def build_bank(folder: Path, cast: Cast = WORLD) -> Path:
    """Speak every word in every voice and variant, and write the bank; returns its path."""
    espeak = Espeak()
    waveforms: list[np.ndarray] = []
    starts: list[int] = []
    names: list[str] = []
    phoneme_edges = [0]
    for text, voice in product(cast.words, cast.voices.values()):
        for pitch, words_per_minute in product(voice.pitches, voice.words_per_minute):
            spoken = _speak(espeak, text, voice, pitch, words_per_minute)
            waveforms.append((spoken.waveform * 32767).astype(np.int16))
            starts += [start for start, _ in spoken.phonemes]
            names += [name for _, name in spoken.phonemes]
            phoneme_edges.append(len(starts))
    path = Path(folder) / cast.bank
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        samples=np.concatenate(waveforms),
        edges=np.cumsum([0, *map(len, waveforms)]),
        phoneme_starts=np.array(starts),
        phoneme_names=np.array(names),
        phoneme_edges=np.array(phoneme_edges),
    )
    return path


def _speak(espeak: Espeak, text: str, voice: Voice, pitch: int, words_per_minute: int) -> SpokenWord:
    utterance = espeak.say(text, voice.espeak, pitch, words_per_minute, voice.pitch_range)
    ratio = SAMPLE_RATE / (utterance.sample_rate * voice.tract)
    waveform = _resample(utterance.waveform, ratio)
    loud = np.flatnonzero(np.abs(waveform) > TRIM_LEVEL * np.abs(waveform).max())
    first, last = max(loud[0] - MARGIN, 0), min(loud[-1] + MARGIN, len(waveform))
    waveform = waveform[first:last]
    active = waveform[np.abs(waveform) > 0.05 * np.abs(waveform).max()]
    waveform = waveform * ACTIVE_RMS / np.sqrt(np.mean(active**2))
    waveform = np.tanh(waveform / PEAK) * PEAK  # a few peaks would clip; bend them instead
    ramp = np.linspace(0, 1, FADE, dtype=np.float32)
    waveform[:FADE] *= ramp
    waveform[-FADE:] *= ramp[::-1]
    phonemes = tuple(
        (max(int(start * ratio) - first, 0), name)
        for start, name in utterance.phonemes
        if name and start * ratio < last
    )
    return SpokenWord(text, waveform.astype(np.float32), phonemes)


def _resample(waveform: np.ndarray, ratio: float) -> np.ndarray:
    """Band-limited resampling by cutting or padding the spectrum; silence keeps the ends from wrapping."""
    padded = np.concatenate([waveform, np.zeros(1024, np.float32)])
    length = round(len(padded) * ratio)
    spectrum = np.fft.rfft(padded)[: length // 2 + 1]
    full = np.zeros(length // 2 + 1, complex)
    full[: len(spectrum)] = spectrum
    return (np.fft.irfft(full, length) * length / len(padded))[: round(len(waveform) * ratio)]
