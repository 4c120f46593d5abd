"""Losses that can be compared: fixed windows, fixed timesteps, fixed noise, before and during training.

The training loss jumps with the timestep that was drawn. These do not: any change is learning. The base
model's figures on the same samples are the reference line.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from lora_trainer.config import EXPERTS, Config
from lora_trainer.latent_cache import Cache, CacheEntry
from lora_trainer.objective import Batch, NoiseDraw, expert_range, losses, sample_generator, training_sigmas
from lora_trainer.windows import lengths, size_of
from mova.catalog import find_model
from mova.media.clips import write_mp4
from mova.media.images import open_image
from mova.pipeline import MOVAPipeline

BINS = {"video_dit": 2, "video_dit_2": 3}  # of equal shares of each expert's timesteps
MAX_WINDOWS = 4
SEED = 20260208  # of the fixed noise; the same for every run, so that runs can be compared
Figures = dict[str, dict[str, float]]  # loss by "video_dit", "video_dit_2" or "audio_dit", then by timestep


@dataclass(frozen=True)
class Fixed:
    """One measurement: a window at one timestep."""

    entry: CacheEntry
    expert: str
    row: int
    number: int


def split(cache: Cache, held_out: int) -> tuple[list[CacheEntry], list[CacheEntry], list[CacheEntry]]:
    """(windows to learn, windows held out, windows to keep); all windows of a clip go the same way."""
    new = [entry for entry in cache.entries if not entry.kept]
    clips = sorted({entry.clip for entry in new})
    # Spread over the sorted names, so that neither the first nor the last recording session is lost.
    chosen = {clips[(2 * index + 1) * len(clips) // (2 * held_out)] for index in range(held_out)}
    return (
        [entry for entry in new if entry.clip not in chosen],
        [entry for entry in new if entry.clip in chosen],
        [entry for entry in cache.entries if entry.kept],
    )


def fixed_measurements(pipeline: MOVAPipeline, entries: Iterable[CacheEntry]) -> list[Fixed]:
    """For up to MAX_WINDOWS windows the middle timestep of every bin, ordered by expert."""
    chosen = list(entries)
    chosen = chosen[:: max(1, len(chosen) // MAX_WINDOWS)][:MAX_WINDOWS]
    found = []
    for expert in EXPERTS:
        rows = expert_range(pipeline.scheduler, pipeline.config.boundary_ratio, expert)
        for index in range(BINS[expert] if rows else 0):
            row = rows[(2 * index + 1) * len(rows) // (2 * BINS[expert])]
            found += [Fixed(entry, expert, row, number) for number, entry in enumerate(chosen)]
    return found


@torch.no_grad()
def measure(
    pipeline: MOVAPipeline,
    measurements: Iterable[Fixed],
    load: Callable[[list[CacheEntry]], Batch],
) -> Figures:
    """Mean losses of the measurements by tower and timestep; the bridge is on and the caption given."""
    sigmas = training_sigmas(pipeline.scheduler)
    timesteps = pipeline.scheduler.config.num_train_timesteps
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fixed in measurements:
        pipeline.residency.activate(fixed.expert)
        batch = load([fixed.entry])
        generator = sample_generator(SEED, fixed.number, fixed.row)
        noises = [
            torch.randn(latents.shape[1:], generator=generator)
            for latents in (batch.video_latents, batch.audio_latents)
        ]
        fixed_draw = NoiseDraw(sigmas[fixed.row, 0], sigmas[fixed.row, 1], *noises)
        video, audio = losses(pipeline.dual_tower, batch, [fixed_draw], timesteps)
        timestep = f"{sigmas[fixed.row, 0] * timesteps:.0f}"
        values[fixed.expert][timestep].append(video.item())
        if fixed.entry.has_sound:
            values["audio_dit"][timestep].append(audio.item())
    return {
        tower: {timestep: sum(found) / len(found) for timestep, found in bins.items()}
        for tower, bins in values.items()
    }


def mean(figures: Figures, tower: str) -> float:
    """The mean over a tower's timesteps."""
    bins = figures[tower]
    return sum(bins.values()) / len(bins)


def swapped_experts(
    pipeline: MOVAPipeline, load: Callable[[list[CacheEntry]], Batch], entry: CacheEntry
) -> bool:
    """Whether each expert predicts better where the other should: a checkpoint with its experts swapped."""
    own, other = {}, {}
    for expert, wrong in (EXPERTS, EXPERTS[::-1]):
        at = [m for m in fixed_measurements(pipeline, [entry]) if m.expert == expert]
        own[expert] = mean(measure(pipeline, at, load), expert)
        moved = [Fixed(m.entry, wrong, m.row, m.number) for m in at]
        other[expert] = mean(measure(pipeline, moved, load), wrong)
    return all(other[expert] < own[expert] for expert in EXPERTS)


logger = logging.getLogger(__name__)


def make_samples(
    config: Config, cache: Cache, pipeline: MOVAPipeline, step: int, write: bool = True
) -> Iterator[Path]:
    """Write samples/step-000100-0.mp4 and so on for every sample, with the pipeline as it stands now.

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
