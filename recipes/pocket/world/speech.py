"""The word bank: real synthesised speech, made once with espeak-ng and read by every renderer.

Each word is spoken by a man, a woman and a child at several pitches and speeds. The vocal tract of a voice is
its length: synthesising slower and replaying faster raises the formants, as a shorter tract does. The bank is
generated audio and stays out of the repository.
"""

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from recipes.pocket.world.clip import SAMPLE_RATE

SYNCHRONOUS = 2
PHONEME_EVENTS = 0x1
PHONEME_IPA = 0x2
EVENT_LIST_TERMINATED = 0
EVENT_PHONEME = 7
UTF8 = 1
RATE, VOLUME, PITCH, PITCH_RANGE = 1, 2, 3, 4

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
VARIANTS = 6  # pitches times speeds, in that order


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Utterance:
    waveform: np.ndarray  # float32 [S]
    sample_rate: int
    phonemes: tuple[tuple[int, str], ...]  # (first sample, IPA); silences have an empty name


def espeak_is_installed() -> bool:
    return ctypes.util.find_library("espeak-ng") is not None


class Espeak:
    """One loaded library. It keeps global state: use one instance in a process."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if name is None:
            raise FileNotFoundError(
                "the espeak-ng library is missing; install it, e.g. apt-get install espeak-ng"
            )
        self._library = ctypes.CDLL(name)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self.sample_rate = self._library.espeak_Initialize(SYNCHRONOUS, 0, None, PHONEME_EVENTS | PHONEME_IPA)
        self._blocks: list[np.ndarray] = []
        self._phonemes: list[tuple[int, str]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only a bare pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, pitch: int, words_per_minute: int, pitch_range: int) -> Utterance:
        """Synthesise `text`; pitch and pitch_range are espeak's 0..100 scales."""
        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (PITCH_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._phonemes = [], []
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        waveform = np.concatenate(self._blocks).astype(np.float32) / 32768
        return Utterance(waveform, self.sample_rate, tuple(self._phonemes))

    def _receive(self, samples: ctypes.Array, count: int, events: ctypes.Array) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events[index].type != EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == EVENT_PHONEME:
                self._phonemes.append((event.sample, event.id.string.decode()))
            index += 1
        return 0


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


@dataclass(frozen=True, eq=False)
class Cast:
    """The voices and words of a bank of recordings."""

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
            f"no word bank at {path}; make it with: python -m recipes.pocket speech --out {folder}"
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
