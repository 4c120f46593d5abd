"""Clips without their pictures: what the audio VAE and the audio tower alone learn from."""

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pocket.loader import stream
from pocket.training import load_captioned, save_captioned

FAMILIES = ("face", "face", "ball", "piano")  # half of them speech, which is the hardest
BATCH = 64


@dataclass(frozen=True)
class Sounds:
    waveforms: Tensor  # float16 [N, 1, S]
    captions: list[str]

    @classmethod
    def render(cls, count: int, first_seed: int, workers: int, speech: Path) -> "Sounds":
        """At least `count` clips of the training split, from that seed on."""
        waveforms, captions = [], []
        size = min(count, BATCH)
        with closing(stream(size, first_seed, workers, FAMILIES, speech=speech)) as batches:
            for _ in range(math.ceil(count / size)):
                batch = next(batches)
                waveforms.append(torch.from_numpy(batch.waveforms).half())
                captions += batch.captions
        return cls(torch.cat(waveforms)[:, None], captions)

    def save(self, path: Path) -> None:
        save_captioned(path, {"waveforms": self.waveforms}, self.captions)

    @classmethod
    def load(cls, path: Path) -> "Sounds":
        tensors, captions = load_captioned(path)
        return cls(tensors["waveforms"], captions)
