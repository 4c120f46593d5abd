"""Recognition of sounds by their kind after the model's own audio autoencoder.

A small autoencoder changes sounds that it was not trained on: a honk loses the partials by which
`new_concepts.detect` recognises a horn, and an adapter cannot teach more than the decoder can render. So the
references here have gone through the autoencoder too: an onset has the kind of the nearest reference, among
new concepts and the world's own families.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mova.encoders import EncoderMixin
from recipes.pocket.evaluation.evaluate import CAPTIONS
from recipes.pocket.evaluation.measure import Expectation, Figures, measure
from recipes.pocket.evaluation.recognise import HOP, SILENCE, band_levels, onsets, recogniser
from recipes.pocket.evaluation.roundtrip import round_trip_sound
from recipes.pocket.new_concepts.clips import render_new_concept
from recipes.pocket.new_concepts.detect import HIGH_VOICE, detect_pitch
from recipes.pocket.new_concepts.puppet import PUPPET_CAST, WORD
from recipes.pocket.world.clip import FAMILIES, NEW_CONCEPTS, SAMPLE_RATE, Clip
from recipes.pocket.world.render import render
from recipes.pocket.world.speech import WORLD

REFERENCES = 12  # clips of each kind; with 4 an onset of the world is sometimes taken for a new concept's
FIRST_SEED = 7_000_000
SECONDS, SLICES = 0.16, 4  # after an onset
DEPTH_DB = 40.0  # below the loudest band
QUIET = 0.25  # a late onset's rise, relative to the strongest one's


FARTHEST = 3.8  # a word's distance: true ones reach 3.4 after the round trip, other words begin at 4.0


class RoundTripListener:
    """Reference sounds of new concepts and of the world, after a round trip through `codec`.

    The references are of seeds that nothing else uses.
    """

    def __init__(self, codec: EncoderMixin, speech: Path) -> None:
        rows, self._kinds = [], []
        for kind in (*NEW_CONCEPTS, *FAMILIES):
            for seed in range(FIRST_SEED, FIRST_SEED + REFERENCES):
                waveform = clip_of(kind, seed, speech).waveform
                found = [row for _, row in _sounds(round_trip_sound(codec, waveform[None])[0])]
                rows += found
                self._kinds += [kind] * len(found)
        self._rows = np.stack(rows)  # [N, D]
        self._recogniser = recogniser(speech, (WORLD, PUPPET_CAST))

    def detect(self, waveform: np.ndarray) -> list[tuple[float, str]]:
        """Onsets in seconds, each with the kind of its sound."""
        return [
            (at, self._kinds[int(np.square(self._rows - row).sum(1).argmin())])
            for at, row in _sounds(waveform)
        ]

    def measure(self, frames: np.ndarray, waveform: np.ndarray, expected: Expectation) -> Figures:
        """Like `evaluation.measure.measure` of a new concept, with this listener for the sound."""
        figures, heard = measure(frames, waveform, expected), self.detect(waveform)
        if expected.family == "cube":
            return figures | {"heard_seconds": [at for at, kind in heard if kind == "cube"]}
        words = [word for word in self._recogniser.recognise(waveform) if word.text == WORD]
        words = [word for word in words if word.distance < FARTHEST]
        parts = [waveform[int(word.start * SAMPLE_RATE) : int(word.end * SAMPLE_RATE)] for word in words]
        is_pip = sum(kind == "character" for _, kind in heard) > len(heard) / 2
        voice = is_pip and any(detect_pitch(part) > HIGH_VOICE for part in parts)
        return figures | {"word": bool(words), "voice": voice}


def clip_of(kind: str, seed: int, speech: Path) -> Clip:
    """A clip of a new concept or of one of the world's families."""
    if kind in NEW_CONCEPTS:
        return render_new_concept(seed, kind, speech)
    return render(seed, kind, "train", speech, CAPTIONS["full"])


def _sounds(waveform: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Each onset with its bands' levels over time, whatever the loudness [SLICES * bands]."""
    if np.sqrt(np.mean(np.square(waveform))) < SILENCE:
        return
    levels = band_levels(waveform)  # [columns, bands]
    columns = int(SECONDS * SAMPLE_RATE / HOP) // SLICES * SLICES
    for at in onsets(waveform, QUIET):
        first = int(at * SAMPLE_RATE / HOP)
        part = levels[first : first + columns]
        if len(part) == columns:
            part = np.maximum(part, part.max() - DEPTH_DB).reshape(SLICES, -1, part.shape[1]).mean(1)
            yield at, (part - part.mean()).ravel()
