"""Clips without their pictures: what the audio VAE and the audio tower alone learn from."""

import json
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mova.outputs import new_output
from pocket.loader import stream

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
        with new_output(path, overwrite=True) as part:
            save_file({"waveforms": self.waveforms}, part, {"captions": json.dumps(self.captions)})

    @classmethod
    def load(cls, path: Path) -> "Sounds":
        with safe_open(path, "pt") as file:
            captions = json.loads(file.metadata()["captions"])
        return cls(load_file(path)["waveforms"], captions)
