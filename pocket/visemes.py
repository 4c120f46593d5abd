"""From phonemes to mouth shapes, frame by frame, with coarticulation.

A track at ten points a frame holds each phoneme's target; a 75 ms window blends neighbours, as lips do, and
then the consonants that need closed lips win their frame back: a 40 ms "p" would otherwise fall between two
pictures.
"""
# ruff: noqa: RUF001 (the keys are IPA)

import numpy as np

from pocket.clip import FRAME_RATE, NUM_FRAMES, Phoneme, frame_of

POINTS = 10  # track points in a frame
WINDOW = 18  # track points: 75 ms
LEAD_SECONDS = 0.02  # lips move before the sound they shape
CLOSED = ("m", "b", "p")

# opening, width, rounding, teeth, tongue: each 0..1; width .5 is the mouth at rest
REST = (0.0, 0.50, 0.0, 0.0, 0.0)
SHAPES = {
    "ɑː": (1.00, 0.50, 0.05, 0.4, 0.3),
    "ʌ": (0.75, 0.48, 0.05, 0.5, 0.3),
    "ɐ": (0.70, 0.50, 0.00, 0.5, 0.3),
    "ə": (0.50, 0.48, 0.05, 0.5, 0.3),
    "æ": (0.90, 0.75, 0.00, 0.8, 0.5),
    "ɛ": (0.65, 0.70, 0.00, 0.8, 0.5),
    "ɪ": (0.42, 0.80, 0.00, 0.9, 0.4),
    "i": (0.34, 1.00, 0.00, 1.0, 0.3),
    "iː": (0.34, 1.00, 0.00, 1.0, 0.3),
    "uː": (0.32, 0.05, 1.00, 0.0, 0.0),
    "ʊ": (0.36, 0.15, 0.85, 0.0, 0.0),
    "ɔː": (0.85, 0.25, 0.70, 0.1, 0.2),
    "ɚ": (0.40, 0.35, 0.50, 0.4, 0.3),
    "əl": (0.42, 0.50, 0.10, 0.4, 1.0),
    "w": (0.16, 0.05, 1.00, 0.0, 0.0),
    "ɹ": (0.26, 0.25, 0.65, 0.5, 0.2),
    "l": (0.38, 0.55, 0.00, 0.6, 1.0),
    "n": (0.24, 0.60, 0.00, 0.8, 0.8),
    "d": (0.24, 0.60, 0.00, 0.9, 0.6),
    "t": (0.20, 0.60, 0.00, 1.0, 0.4),
    "ɾ": (0.28, 0.55, 0.00, 0.8, 0.8),
    "s": (0.16, 0.80, 0.00, 1.0, 0.0),
    "z": (0.16, 0.80, 0.00, 1.0, 0.0),
    "j": (0.26, 0.90, 0.00, 0.9, 0.3),
    "k": (0.30, 0.55, 0.00, 0.5, 0.3),
    "ɡ": (0.30, 0.50, 0.10, 0.5, 0.3),
    "h": (0.35, 0.50, 0.00, 0.5, 0.3),
    "m": REST,
    "b": REST,
    "p": REST,
}
GLIDES = {"oʊ": ("ɔː", "uː"), "aɪ": ("ɑː", "ɪ"), "aʊ": ("ɑː", "uː")}  # start and end of a diphthong


def mouth_shapes(phonemes: tuple[Phoneme, ...]) -> np.ndarray:
    """Mouth parameters of every frame, float32 [F, 5]: opening, width, rounding, teeth, tongue."""
    track = np.tile(np.array(REST, np.float32), (NUM_FRAMES * POINTS, 1))
    points_per_second = FRAME_RATE * POINTS
    for phoneme in phonemes:
        first = int((phoneme.start - LEAD_SECONDS) * points_per_second)
        last = max(int((phoneme.end - LEAD_SECONDS) * points_per_second), first + 1)
        start, end = GLIDES.get(phoneme.name, (phoneme.name, phoneme.name))
        mix = np.linspace(0, 1, last - first, dtype=np.float32)[:, None]
        mix = np.clip(mix * 1.6 - 0.4, 0, 1)
        track[first:last] = np.array(SHAPES[start]) * (1 - mix) + np.array(SHAPES[end]) * mix
    kernel = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
    kernel /= kernel.sum()
    smooth = np.stack([np.convolve(column, kernel, "same") for column in track.T], 1)
    shapes = smooth.reshape(NUM_FRAMES, POINTS, 5)[:, POINTS // 2]
    for phoneme in phonemes:
        if phoneme.name in CLOSED:
            shapes[frame_of((phoneme.start + phoneme.end) / 2), 0] = 0
    return shapes.astype(np.float32)
