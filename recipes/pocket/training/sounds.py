"""Clips without their pictures: what the audio VAE and the audio tower alone learn from."""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mova.models.audio_vae import AudioVAE
from recipes.pocket.training.run import load_captioned, save_captioned
from recipes.pocket.world.render import choose_family, make_scene, write_scene_caption

FAMILIES = ("face", "face", "ball", "ball", "piano")  # words and materials are the hardest
CHUNK = 64  # clips that a process renders before it hands them over


@dataclass(frozen=True)
class Sounds:
    waveforms: Tensor  # float16 [N, 1, S]
    captions: list[str]

    @classmethod
    def render(cls, count: int, first_seed: int, workers: int, speech: Path) -> "Sounds":
        """`count` clips of the training split, from that seed on."""
        seeds = range(first_seed, first_seed + count)
        chunks = [seeds[start : start + CHUNK] for start in range(0, count, CHUNK)]
        context = multiprocessing.get_context("spawn")  # the caller may hold a GPU, which a fork would break
        with context.Pool(min(workers, len(chunks))) as pool:
            waveforms, captions = zip(*pool.imap(partial(_render, speech), chunks), strict=True)
        return cls(
            torch.from_numpy(np.concatenate(waveforms))[:, None], [text for part in captions for text in part]
        )

    def save(self, path: Path) -> None:
        save_captioned(path, {"waveforms": self.waveforms}, self.captions)

    @classmethod
    def load(cls, path: Path) -> "Sounds":
        tensors, captions = load_captioned(path)
        return cls(tensors["waveforms"], captions)


@torch.no_grad()
def encode_sounds(vae: AudioVAE, waveforms: Tensor, batch: int = 256) -> Tensor:
    """Latents bfloat16 [N, C, L], on the VAE's device, of float16 `waveforms` [N, 1, S]."""
    parts = [vae.encode(part.to(vae.device).float()).mode().bfloat16() for part in waveforms.split(batch)]
    return torch.cat(parts)


def _render(speech: Path, seeds: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """Waveforms float16 [N, S] and captions."""
    waveforms, captions = [], []
    for seed in seeds:
        family = choose_family(seed, FAMILIES)
        scene = make_scene(seed, family, "train", speech, pictures=False)
        waveforms.append(scene.waveform.astype(np.float16))
        captions.append(write_scene_caption(seed, family, "train", scene))
    return np.stack(waveforms), captions
