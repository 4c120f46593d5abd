"""Losses that can be compared, and sample clips, before and during training.

The training loss jumps with the timestep that was drawn. Losses on fixed windows, timesteps and noise do not:
any change is learning. The base model's figures on the same samples are the reference line. Sample clips
have the same seeds each time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from lora_trainer.config import EXPERTS, Config
from lora_trainer.latent_cache import Cache
from lora_trainer.objective import Batch, NoiseDraw, expert_range, losses, sample_generator, training_sigmas
from lora_trainer.windows import Window, lengths, size_of
from mova.catalog import find_model
from mova.media.clips import write_mp4
from mova.media.images import open_image
from mova.pipeline import MOVAPipeline

BINS = {"video_dit": 2, "video_dit_2": 3}  # of equal shares of each expert's timesteps
MAX_WINDOWS = 4
SEED = 20260208  # of the fixed noise; the same for every run, so that runs can be compared
Figures = dict[str, dict[str, float]]  # loss by "video_dit", "video_dit_2" or "audio_dit", then by timestep


@dataclass(frozen=True)
class Measurement:
    """A window at one timestep, `row` of the training sigmas; `number` decides the noise."""

    window: Window
    expert: str
    row: int
    number: int


def split(cache: Cache, held_out: int) -> tuple[list[Window], list[Window], list[Window]]:
    """(windows to learn, held out, for regularization); all windows of a clip go the same way."""
    new = [window for window in cache.windows if not window.is_regularization]
    clips = sorted({window.clip for window in new})
    # Spread over the sorted names, so that neither the first nor the last recording session is lost.
    chosen = {clips[(2 * index + 1) * len(clips) // (2 * held_out)] for index in range(held_out)}
    return (
        [window for window in new if window.clip not in chosen],
        [window for window in new if window.clip in chosen],
        [window for window in cache.windows if window.is_regularization],
    )


def fixed_measurements(pipeline: MOVAPipeline, windows: Iterable[Window]) -> list[Measurement]:
    """For up to MAX_WINDOWS windows the middle timestep of every bin, ordered by expert."""
    chosen = list(windows)
    chosen = chosen[:: max(1, len(chosen) // MAX_WINDOWS)][:MAX_WINDOWS]
    found = []
    for expert in EXPERTS:
        rows = expert_range(pipeline.scheduler, pipeline.config.boundary_ratio, expert)
        for index in range(BINS[expert] if rows else 0):
            row = rows[(2 * index + 1) * len(rows) // (2 * BINS[expert])]
            found += [Measurement(window, expert, row, number) for number, window in enumerate(chosen)]
    return found


def measure(
    pipeline: MOVAPipeline, measurements: Iterable[Measurement], load: Callable[[list[Window]], Batch]
) -> Figures:
    """Mean losses of the measurements by tower and timestep."""
    return {
        tower: {timestep: sum(values) / len(values) for timestep, values in bins.items()}
        for tower, bins in losses_of(pipeline, measurements, load).items()
    }


@torch.no_grad()
def losses_of(
    pipeline: MOVAPipeline, measurements: Iterable[Measurement], load: Callable[[list[Window]], Batch]
) -> dict[str, dict[str, list[float]]]:
    """Losses by tower and timestep, in order; the bridge is on and the caption given."""
    sigmas = training_sigmas(pipeline.scheduler)
    timesteps = pipeline.scheduler.config.num_train_timesteps
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fixed in measurements:
        pipeline.residency.activate(fixed.expert)
        batch = load([fixed.window])
        generator = sample_generator(SEED, fixed.number, fixed.row)
        noises = [
            torch.randn(latents.shape[1:], generator=generator)
            for latents in (batch.video_latents, batch.audio_latents)
        ]
        fixed_draw = NoiseDraw(sigmas[fixed.row, 0], sigmas[fixed.row, 1], *noises)
        video, audio = losses(pipeline.dual_tower, batch, [fixed_draw], timesteps)
        timestep = f"{sigmas[fixed.row, 0] * timesteps:.0f}"
        values[fixed.expert][timestep].append(video.item())
        if fixed.window.has_sound:
            values["audio_dit"][timestep].append(audio.item())
    return values


def mean(figures: Figures, tower: str) -> float:
    """The mean over a tower's timesteps."""
    bins = figures[tower]
    return sum(bins.values()) / len(bins)


def swapped_experts(pipeline: MOVAPipeline, load: Callable[[list[Window]], Batch], window: Window) -> bool:
    """True if each expert predicts better where the other should: a checkpoint with its experts swapped."""
    own, other = {}, {}
    for expert, wrong in (EXPERTS, EXPERTS[::-1]):
        at = [m for m in fixed_measurements(pipeline, [window]) if m.expert == expert]
        own[expert] = mean(measure(pipeline, at, load), expert)
        moved = [replace(m, expert=wrong) for m in at]
        other[expert] = mean(measure(pipeline, moved, load), wrong)
    return all(other[expert] < own[expert] for expert in EXPERTS)


def make_samples(
    config: Config, cache: Cache, pipeline: MOVAPipeline, step: int, write: bool = True
) -> Iterator[Path]:
    """Write samples/step-000100-0.mp4 and so on for every sample, with the pipeline as it is now.

    Without `write` they are made and forgotten, in a process whose part of the weights the writer needs.
    """
    settings, model = config.samples, find_model(config.model)
    height, width = size_of(config.data, model)
    num_frames = settings.num_frames or lengths(config.data, model)[0]
    negative = cache.text(config.texts[1])[None]
    for index, sample in enumerate(settings.clips):
        path = config.output / "samples" / f"step-{step:06d}-{index}.mp4"
        image: Image.Image | None = open_image(sample.image) if sample.image else None
        out = pipeline(
            image=image,
            prompt_embeds=cache.text(sample.prompt)[None],
            negative_prompt_embeds=negative,
            height=height,
            width=width,
            num_frames=num_frames,
            frame_rate=config.data.frame_rate,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(sample.seed),
            output_type="np" if write else "latent",
        )
        if not write:
            continue
        frames = (out.frames[0] * 255).round().astype("uint8")
        record = {"prompt": sample.prompt, "seed": sample.seed, "step": step}
        rate = pipeline.audio_vae.config.sample_rate
        write_mp4(path, frames, out.audio[0].numpy(), config.data.frame_rate, rate, record, overwrite=True)
        yield path
