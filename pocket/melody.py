"""Which notes a toy piano plays, and when: onsets fall on frame boundaries, where keys light."""

import zlib

import numpy as np

from pocket.clip import FRAME_RATE, Note

KEYS = ("C", "D", "E", "F", "G", "A", "B")
TUNES = {
    "Twinkle, Twinkle": ("C", "C", "G", "G", "A", "A"),
    "Mary Had a Little Lamb": ("E", "D", "C", "D", "E", "E"),
    "Frere Jacques": ("C", "D", "E", "C"),
    "Ode to Joy": ("E", "E", "F", "G", "G", "F"),
    "Jingle Bells": ("E", "E", "E", "E", "E", "E"),
    "London Bridge": ("G", "A", "G", "F", "E", "F"),
    "a rising scale": ("C", "D", "E", "F", "G", "A"),
    "a falling scale": ("B", "A", "G", "F", "E", "D"),
}
TUNE_SHARE = 0.2
HELD_OUT_SHARE = 10  # one melody in so many
FIRST_ONSET = (4, 10)  # frames, both included
LAST_ONSET = 40
STEPS = (6, 11)  # frames from one onset to the next
QUICK, SLOW = 6, 9


def melody_is_held_out(notes: tuple[str, ...]) -> bool:
    """Melodies that training never shows."""
    return zlib.crc32(" ".join(notes).encode()) % HELD_OUT_SHARE == 0


def choose_melody(rng: np.random.Generator, split: str) -> tuple[str, ...]:
    """Three to six notes, now and then a known tune; only held-out ones in "heldout", never in "train"."""
    while True:
        if rng.random() < TUNE_SHARE:
            notes = list(TUNES.values())[int(rng.integers(len(TUNES)))]
        else:
            notes = tuple(KEYS[int(index)] for index in rng.integers(len(KEYS), size=int(rng.integers(3, 7))))
        if melody_is_held_out(notes) == (split == "heldout"):
            return notes


def tune_name(notes: tuple[str, ...]) -> str:
    """The name of a known tune, or an empty string."""
    return next((name for name, tune in TUNES.items() if tune == notes), "")


def schedule(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[tuple[Note, ...], str]:
    """The notes in time, evenly spaced, and the pace in a word."""
    first = int(rng.integers(FIRST_ONSET[0], FIRST_ONSET[1] + 1))
    longest = min(STEPS[1], (LAST_ONSET - first) // (len(names) - 1))
    step = int(rng.integers(STEPS[0], longest + 1))
    pace = "quick" if step <= QUICK else "slow" if step >= SLOW else "easy"
    notes = []
    for index, name in enumerate(names):
        frame = first + index * step
        held = step - 2 if index < len(names) - 1 else 8
        notes.append(Note(frame / FRAME_RATE, (frame + held) / FRAME_RATE, name, KEYS.index(name), frame))
    return tuple(notes), pace
