"""A small binding to the espeak-ng library: samples, and the moment each phoneme starts.

The command line prints no phoneme times without MBROLA voices, so the shared library is called through
ctypes. espeak-ng is GPL-3: it is looked up on the machine that builds the word bank and is no part of this
repository.
"""

import ctypes
import ctypes.util
from dataclasses import dataclass

import numpy as np

SYNCHRONOUS = 2
PHONEME_EVENTS = 0x1
PHONEME_IPA = 0x2
EVENT_LIST_TERMINATED = 0
EVENT_PHONEME = 7
UTF8 = 1
RATE, VOLUME, PITCH, PITCH_RANGE = 1, 2, 3, 4


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
