"""Losses that can be compared: fixed windows, fixed timesteps, fixed noise, before and during training.

The training loss jumps with the timestep that was drawn. These do not: any change is learning. The base
model's figures on the same samples are the reference line.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from lora_trainer.cache import Cache, Entry
from lora_trainer.objective import Batch, Draw, expert_range, losses, sample_generator, training_sigmas
from lora_trainer.presets import EXPERTS
from mova.pipeline import MOVAPipeline

BINS = {"video_dit": 2, "video_dit_2": 3}  # of equal shares of each expert's timesteps
MAX_WINDOWS = 4
SEED = 20260208  # of the fixed noise; the same for every run, so that runs can be compared
Figures = dict[str, dict[str, float]]  # loss by "video_dit", "video_dit_2" or "audio_dit", then by timestep


@dataclass(frozen=True)
class Fixed:
    """One measurement: a window at one timestep."""

    entry: Entry
    expert: str
    row: int
    number: int


def split(cache: Cache, held_out: int) -> tuple[list[Entry], list[Entry], list[Entry]]:
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


def fixed_measurements(pipeline: MOVAPipeline, entries: Iterable[Entry]) -> list[Fixed]:
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
    load: Callable[[list[Entry]], Batch],
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
        fixed_draw = Draw(sigmas[fixed.row, 0], sigmas[fixed.row, 1], *noises)
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


def swapped_experts(pipeline: MOVAPipeline, load: Callable[[list[Entry]], Batch], entry: Entry) -> bool:
    """Whether each expert predicts better where the other should: a checkpoint with its experts swapped."""
    own, other = {}, {}
    for expert, wrong in (EXPERTS, EXPERTS[::-1]):
        at = [m for m in fixed_measurements(pipeline, [entry]) if m.expert == expert]
        own[expert] = mean(measure(pipeline, at, load), expert)
        moved = [Fixed(m.entry, wrong, m.row, m.number) for m in at]
        other[expert] = mean(measure(pipeline, moved, load), wrong)
    return all(other[expert] < own[expert] for expert in EXPERTS)
