"""Clips of the world made by a model: the world's first frame and caption in, frames and sound out."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mova.adapters.turbo import turbo_of
from mova.catalog import MODELS, SMALL_MODEL, STANDARD
from mova.encoders import draw_noise, to_pixels
from mova.errors import UserError
from mova.guidance import Branch, Guidance
from mova.machine import Machine
from mova.pipeline import MOVAPipeline
from mova.placement import Placement, place
from mova.shapes import ClipShape
from recipes.pocket.world.clip import FRAME_RATE, NUM_FRAMES, SAMPLE_RATE, Clip

POCKET = MODELS[SMALL_MODEL]


@dataclass(frozen=True)
class Settings:
    """Sampling settings; the defaults are those of the page and the command line for this model."""

    steps: int = POCKET.preset(STANDARD).num_inference_steps
    guidance_scale: float = POCKET.guidance_scale
    bridge_guidance_scale: float = POCKET.bridge_guidance_scale
    use_bridge: bool = True
    negative_prompt: str = POCKET.negative_prompt
    num_frames: int = NUM_FRAMES
    adapters: tuple[str, ...] = ()  # files of those that act in the run, each at full strength

    @classmethod
    def of_adapter(cls, path: Path) -> "Settings":
        """As a few-step adapter says that it is to be run; any other adapter has the model's own settings."""
        turbo = turbo_of(path)
        if turbo is None:
            return cls(adapters=(str(path),))
        return cls(turbo.steps, guidance_scale=1.0, bridge_guidance_scale=1.0, adapters=(str(path),))

    def forwards(self, sigma: float) -> list[Branch]:
        every = Guidance(self.guidance_scale, self.bridge_guidance_scale).branches(sigma)
        return every if self.use_bridge else [replace(branch, use_bridge=False) for branch in every]


@dataclass(frozen=True)
class Request:
    seed: int  # of the noise
    prompt: str
    image: np.ndarray  # uint8 [H, W, 3]; its size is the clip's, and all of a run have one size

    @classmethod
    def of(cls, seed: int, clip: Clip) -> "Request":
        return cls(seed, clip.caption, clip.frames[0])


@dataclass
class Stopwatch:
    """Seconds by stage, summed over a run."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        _wait_for_device()
        began = time.perf_counter()
        yield
        _wait_for_device()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def load_pipeline(model: Path | str, device: str | None = None) -> MOVAPipeline:
    """The checkpoint on one device, weights in the precision that suits it.

    Raises:
        UserError: the checkpoint or the device cannot be used, or its clips are not of the world's kind.
    """
    machine = Machine.probe(device)
    placement = Placement(machine.device, machine.dtype)
    pipeline = MOVAPipeline.from_pretrained(model, torch_dtype=placement.torch_dtype)
    rate = pipeline.audio_vae.config.sample_rate
    if rate != SAMPLE_RATE:
        raise UserError(f"{model} makes sound at {rate} Hz; the detectors know the world's {SAMPLE_RATE} Hz")
    place(pipeline, placement)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def use_adapters(pipeline: MOVAPipeline, adapters: Sequence[str]) -> None:
    """Take off what is attached, and attach `adapters`, which then act together."""
    pipeline.unload_lora_weights()
    names = [f"adapter_{index}" for index in range(len(adapters))]
    for name, adapter in zip(names, adapters, strict=True):
        pipeline.load_lora_weights(adapter, name)
    if names:
        pipeline.set_adapters(names)


def generate(
    pipeline: MOVAPipeline,
    requests: Sequence[Request],
    settings: Settings,
    batch: int = 1,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each request frames uint8 [F, H, W, 3] and sound float32 [S], the same in any batch.

    The stages of `MOVAPipeline.__call__`, each timed, with the bridge off where the settings say so.
    """
    watch = watch or Stopwatch()
    use_adapters(pipeline, settings.adapters)
    for first in range(0, len(requests), batch):
        part = requests[first : first + batch]
        with torch.no_grad():
            latents, audio_latents = denoised(pipeline, part, settings, watch)
            with watch.stage("decode video"):
                frames = to_frames(pipeline.decode_video(latents))
            with watch.stage("decode audio"):
                samples = _shape(pipeline, part, settings).num_samples
                sound = pipeline.decode_audio(audio_latents)[:, 0, :samples].numpy()
        yield from zip(frames, sound, strict=True)


def denoised(
    pipeline: MOVAPipeline, requests: Sequence[Request], settings: Settings, watch: Stopwatch
) -> tuple[Tensor, Tensor]:
    """Clean latents [B, 16, T, h, w] and [B, C, L]."""
    with watch.stage("text"):
        text = pipeline.encode_prompt([request.prompt for request in requests])
        negative = pipeline.encode_prompt(settings.negative_prompt).expand_as(text)
    with watch.stage("first frame"):
        images = torch.stack([to_pixels(each.image, *each.image.shape[:2]) for each in requests])
        condition = pipeline.encode_first_frame(images, settings.num_frames)
    sizes = pipeline.latent_sizes(_shape(pipeline, requests, settings))
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    noise = draw_noise(len(requests), sizes, generators, (None, None))
    with watch.stage("denoise"):
        return pipeline.denoise(
            *noise,
            condition,
            (text, negative),
            pipeline.scheduler.sigmas(settings.steps, None, None),
            settings.forwards,
            float(FRAME_RATE),
            lambda _step, _timestep, tensors: tensors,
            lambda: False,
        )


def to_frames(video: Tensor) -> np.ndarray:
    """Uint8 [B, F, H, W, 3] of a decoder's [B, 3, F, H, W] in about [-1, 1]."""
    shares = (video.float() / 2 + 0.5).clamp(0, 1)
    return (shares * 255).round().byte().permute(0, 2, 3, 4, 1).cpu().numpy()


def _shape(pipeline: MOVAPipeline, requests: Sequence[Request], settings: Settings) -> ClipShape:
    height, width = requests[0].image.shape[:2]
    return pipeline.clip_shape(height, width, settings.num_frames, float(FRAME_RATE))


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
