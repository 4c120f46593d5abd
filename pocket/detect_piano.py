"""What a piano clip shows and sounds like: which key lights when, and which note is heard when."""

from dataclasses import dataclass

import numpy as np

from pocket.clip import FRAME_RATE, SAMPLE_RATE
from pocket.hearing import onsets
from pocket.melody import KEYS
from pocket.sound import FIFTH_OCTAVE

FACE_TOP, FACE_BOTTOM = 20.0, 34.0  # rows of a key's face below the black keys, from its top
FACE_MARGIN = 4.0  # pixels left out at each side of a key
SHORTEST_NOTE = 4  # frames
LEAST_LIGHT, STEP_SHARE = 14.0, 0.35  # a strike's brightening: of 255, and of the clip's brightest key
QUIET_NOTE = 0.25  # a note's rise in the sound beside the strongest one's
SETTLE, LISTEN = 0.012, 0.11  # seconds from an onset to listening for its pitch, and how long that takes
LOWEST, HIGHEST = 480.0, 1080.0  # Hz


@dataclass(frozen=True)
class Struck:
    """Events in order of time."""

    seconds: np.ndarray  # float [N]
    keys: np.ndarray  # int [N], index from the left


@dataclass(frozen=True)
class Heard(Struck):
    cents: np.ndarray  # float [N], off the key's pitch


def see_keys(frames: np.ndarray, layout: dict[str, float]) -> Struck:
    """Keys that light, each at the start of the frame that shows it.

    Frames uint8 [F, H, W, 3]; layout as in `pocket.clip.Clip`. A key is lit as far as it has left the colour
    it had in the first frame.
    """
    light = key_light(frames, layout)
    before = np.pad(light, ((2, 0), (0, 0)), mode="edge")
    step = light - before[1:-1]
    rise = light - np.minimum(before[1:-1], before[:-2])  # a strike may be blurred over two frames
    least = max(LEAST_LIGHT, STEP_SHARE * light.max())
    events = []
    for key in range(len(KEYS)):
        last = -SHORTEST_NOTE
        for frame in np.flatnonzero(rise[:, key] > least):
            around = step[max(frame - 2, 0) : frame + 3, key]
            if frame - last >= SHORTEST_NOTE and step[frame, key] >= 0.5 * around.max():
                events.append((int(frame), key))
                last = frame
    events.sort()
    seconds = np.array([frame / FRAME_RATE for frame, _ in events])
    return Struck(seconds, np.array([key for _, key in events], int))


def key_light(frames: np.ndarray, layout: dict[str, float]) -> np.ndarray:
    """How far each key's colour is from its own in the first frame, of 255: float [F, keys]."""
    top = layout["keys_top"]
    rows = slice(round(top + FACE_TOP), round(top + FACE_BOTTOM))
    light = []
    for key in range(len(KEYS)):
        left = layout["keys_left"] + key * layout["key_width"]
        columns = slice(round(left + FACE_MARGIN), round(left + layout["key_width"] - FACE_MARGIN))
        face = frames[:, rows, columns].mean((1, 2), dtype=np.float32)  # [F, 3]
        light.append(np.abs(face - face[0]).max(1))
    return np.stack(light, 1)


def hear_notes(waveform: np.ndarray) -> Heard:
    """Every note that begins, with the white key it is nearest to."""
    seconds = onsets(waveform, QUIET_NOTE)
    pitches = np.array([_pitch(waveform, each) for each in seconds])
    known = np.array([FIFTH_OCTAVE[name] for name in KEYS])
    cents = 1200 * np.log2(pitches[:, None] / known) if len(pitches) else np.empty((0, len(KEYS)))
    keys = np.abs(cents).argmin(1) if len(pitches) else np.empty(0, int)
    return Heard(seconds, keys, cents[np.arange(len(keys)), keys])


def _pitch(waveform: np.ndarray, seconds: float) -> float:
    """Hz of the strongest tone in the keyboard's range that was not as strong before the onset."""
    length = int(LISTEN * SAMPLE_RATE)
    after = _spectrum(waveform, int((seconds + SETTLE) * SAMPLE_RATE), length)
    before = _spectrum(waveform, int((seconds - SETTLE) * SAMPLE_RATE) - length, length)
    frequencies = np.fft.rfftfreq(16384, 1 / SAMPLE_RATE)
    inside = (frequencies > LOWEST) & (frequencies < HIGHEST)
    return float(frequencies[inside][np.argmax((after - 0.5 * before)[inside])])


def _spectrum(waveform: np.ndarray, start: int, length: int) -> np.ndarray:
    padded = np.pad(waveform, (length, length))[start + length : start + 2 * length]
    return np.abs(np.fft.rfft(padded * np.hanning(len(padded)), 16384))
