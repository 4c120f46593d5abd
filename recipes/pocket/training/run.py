"""Parts shared by the training stages: ranks and devices, time budget, weight averages, checkpoints, logs."""

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread

import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mova.files import new_output
from mova.models.audio_vae import AudioVAE
from recipes.pocket.training.loader import Batch
from recipes.pocket.training.muon import AdamWRate, Muon

logger = logging.getLogger("pocket")
VALIDATION_SEED = 1_000_000  # of clips that training does not draw

CLIP = 1.0  # of the gradients' total norm


@dataclass(frozen=True)
class Ranks:
    """This process among those that `torchrun` started; alone without it."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> "Ranks":
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if not torch.cuda.is_available():
            return cls(rank, size, torch.device("cpu"))
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        if size > 1 and not dist.is_initialized():
            dist.init_process_group("nccl", device_id=device)
        return cls(rank, size, device)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def workers(self, wanted: int | None) -> int:
        """Rendering processes for this rank: the number given, else its share of the cores but one."""
        return wanted or max(1, (os.cpu_count() or 1) // self.size - 1)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, dist.ReduceOp.AVG)
        parts = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])

    def broadcast(self, value: float) -> float:
        """The first rank's value, so that all follow one clock."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], device=self.device)
        dist.broadcast(shared, 0)
        return shared.item()

    def same_weights(self, module: nn.Module) -> None:
        """Copy the first rank's weights to all."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def leave(self) -> None:
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


class Budget:
    """A run of so many minutes and its learning rate: a warm-up, a plateau, a linear end of share `decay`.

    The clock starts after the first steps, which compile; all ranks follow the first one's.
    """

    CHECK_EVERY = 10  # steps between readings of the clock
    WARMUP = 100  # steps

    def __init__(self, minutes: float, decay: float, ranks: Ranks) -> None:
        self.minutes, self.decay, self.ranks = minutes, decay, ranks
        self.step = -1
        self.fraction = 0.0
        self._began = self._saved = time.monotonic()

    def steps(self) -> Iterator[float]:
        """For each step until time is up, the factor of the learning rate."""
        while self.fraction < 1:
            self.step += 1
            if self.step == self.CHECK_EVERY:
                self._began = time.monotonic()
            elif self.step % self.CHECK_EVERY == 0 and self.step:
                self.fraction = self.ranks.broadcast((time.monotonic() - self._began) / (60 * self.minutes))
            ending = (1 - self.fraction) / self.decay if self.decay else 1.0
            yield min(1.0, (self.step + 1) / self.WARMUP, max(ending, 0.0))

    def is_save_due(self) -> bool:
        """True every two minutes, for the first rank: a run that is killed loses no more."""
        due = self.ranks.is_first and time.monotonic() - self._saved > 120
        if due:
            self._saved = time.monotonic()
        return due

    @property
    def steps_a_second(self) -> float:
        return (self.step - self.CHECK_EVERY) / max(time.monotonic() - self._began, 1e-3)


class Average:
    """Exponential moving average of named tensors, in float32, its horizon growing with the steps."""

    def __init__(self, tensors: dict[str, Tensor], decay: float = 0.999) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().float().clone() for name, tensor in tensors.items()}
        self.steps = 0

    def resume(self, weights: dict[str, Tensor], steps: int) -> None:
        torch._foreach_copy_(list(self.weights.values()), [weights[name] for name in self.weights])
        self.steps = steps

    @torch.no_grad()
    def update(self, tensors: dict[str, Tensor]) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        new = [tensors[name].detach().float() for name in self.weights]
        torch._foreach_lerp_(list(self.weights.values()), new, 1 - decay)


class Log:
    """JSON lines, one for each report, also printed. Only the first rank writes."""

    def __init__(self, path: Path, ranks: Ranks) -> None:
        self.path = path if ranks.is_first else None
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, **values: object) -> None:
        if self.path is None:
            return
        rounded = {
            key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in values.items()
        }
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        logger.info("%s: %s", self.path.stem, " ".join(f"{key}={value}" for key, value in rounded.items()))


def save_captioned(path: Path, tensors: dict[str, Tensor], captions: list[str]) -> None:
    """Write clips as one safetensors file, whole or not at all."""
    with new_output(path, overwrite=True) as part:
        save_file(tensors, part, {"captions": json.dumps(captions)})


def load_captioned(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read a file of `save_captioned`."""
    with safe_open(path, "pt") as file:
        captions = json.loads(file.metadata()["captions"])
    return load_file(path), captions


def save_state(path: Path, **state: object) -> None:
    """Write a checkpoint whole or not at all."""
    with new_output(path, overwrite=True) as part:
        torch.save(state, part)


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Frames uint8 [B, 3, F, H, W] and waveforms float32 [B, 1, S] on the device, and captions; two ahead."""
    ready: Queue = Queue(maxsize=2)

    def fill() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        for batch in batches:
            frames = torch.from_numpy(batch.frames).to(device, copy=True).permute(0, 4, 1, 2, 3)
            waveforms = torch.from_numpy(batch.waveforms).to(device, copy=True)[:, None]
            ready.put((frames, waveforms, batch.captions))

    Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


def to_video(frames: Tensor) -> Tensor:
    """uint8 frames as float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    """Of two videos in [-1, 1], over the range of 2."""
    return float(10 * torch.log10(4 / (a.float() - b.float()).square().mean()))


class CodecRun:
    """Trains `vae` from `path` if it is there. With `decoder_only` the encoder, and so the latents, stay.

    It then continues from the averaged weights: the latents were made with those.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan | AudioVAE,
        path: Path,
        ranks: Ranks,
        learning_rate: float,
        adamw_rate: AdamWRate,
        decoder_only: bool,
    ) -> None:
        self.vae, self.path, self.ranks, self.decoder_only = vae, path, ranks, decoder_only
        self.learning_rate = learning_rate
        stored = torch.load(path, map_location=ranks.device, weights_only=True) if path.exists() else {}
        if stored:
            vae.load_state_dict(stored["average" if decoder_only else "weights"])
        ranks.same_weights(vae)
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        to_channels_last(vae)
        self.parameters = {name: p for name, p in vae.named_parameters() if p.requires_grad}
        self.optimizer = Muon(self.parameters, adamw_rate)
        self.average = Average(vae.state_dict())
        self.step = stored.get("step", 0)
        if stored:
            self.average.resume(stored["average"], self.step)
            if "optimizer" in stored and stored["decoder_only"] == decoder_only:
                self.optimizer.load_state_dict(stored["optimizer"])

    def update(self, scale: float) -> Tensor:
        """Step on the gradients that a backward pass left, at `scale` of the rate; their norm."""
        gradients = {name: p.grad for name, p in self.parameters.items()}
        self.ranks.average(list(gradients.values()))
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        self.optimizer.step(gradients, self.learning_rate * scale)
        self.average.update(self.vae.state_dict())
        self.step += 1
        return norm

    def save(self) -> None:
        save_state(
            self.path,
            weights=self.vae.state_dict(),
            average=self.average.weights,
            optimizer=self.optimizer.state_dict(),
            step=self.step,
            decoder_only=self.decoder_only,
        )


def to_channels_last(module: nn.Module) -> None:
    """Lay out the weights of 2D and 3D convolutions in the order that their kernels prefer."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
