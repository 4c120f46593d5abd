"""Losses that can be compared, and sample clips, before and during training.

The training loss jumps with the timestep that was drawn. Losses on fixed windows, timesteps and noise do not:
any change is learning. The base model's figures on the same samples are the reference line. A run that holds
a track is also measured with it held. Sample clips have the same seeds each time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lora_trainer.config import EXPERTS, Config, Objective, Sample
from lora_trainer.decode import first_sound, probe, read_frames, read_sound
from lora_trainer.latent_cache import Cache
from lora_trainer.manifest import DatasetItem
from lora_trainer.objective import Batch, NoiseDraw, expert_range, losses, sample_generator, training_sigmas
from lora_trainer.windows import TOLERANCE, Window, lengths, size_of
from mova.catalog import find_model
from mova.errors import UserError
from mova.files import sha256_of
from mova.media.clips import write_mp4
from mova.media.images import open_image
from mova.pipeline import MOVAPipeline, MOVAPipelineOutput
from mova.shapes import TEMPORAL_STRIDE

BINS = {"video_dit": 2, "video_dit_2": 3}  # of equal shares of each expert's timesteps
MAX_WINDOWS = 4
SEED = 20260208  # of the fixed noise; the same for every run, so that runs can be compared
# Loss by "video_dit", "video_dit_2" or "audio_dit", then by timestep. Where a run holds a track in some
# samples, there are also "audio_dit_video_held" or "video_dit_audio_held".
Figures = dict[str, dict[str, float]]
Held = Literal["video", "audio"] | None


@dataclass(frozen=True)
class Measurement:
    """A window at one timestep, `row` of the training sigmas; `number` decides the noise.

    `suffix` goes behind the names of the towers in the figures.
    """

    window: Window
    expert: str
    row: int
    number: int
    held: Held = None
    suffix: str = ""


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


def held_in_measurements(objective: Objective) -> tuple[Held, ...]:
    """The track that is held in each set of measurements; None where both are made.

    One set where a track is held always or never, else one more for each track that is held at times.
    """
    shares: dict[Held, float] = {"video": objective.hold_video, "audio": objective.hold_audio}
    both_made: tuple[Held, ...] = () if 1 in shares.values() else (None,)
    return both_made + tuple(track for track, share in shares.items() if share)


def fixed_measurements(
    pipeline: MOVAPipeline, windows: Iterable[Window], held: tuple[Held, ...] = (None,)
) -> list[Measurement]:
    """For up to MAX_WINDOWS windows the middle timestep of every bin, ordered by expert, for each of `held`.

    A held picture leaves the sound's timesteps, all of them, to `video_dit_2`.
    """
    chosen = list(windows)
    chosen = chosen[:: max(1, len(chosen) // MAX_WINDOWS)][:MAX_WINDOWS]
    rows: dict[str, list[int]] = {}
    for expert, count in BINS.items():
        served = expert_range(pipeline.scheduler, pipeline.config.boundary_ratio, expert)
        middles = [(2 * index + 1) * len(served) // (2 * count) for index in range(count)]
        rows[expert] = [served[middle] for middle in middles] if served else []
    with_picture = {EXPERTS[0]: [], EXPERTS[1]: [row for each in rows.values() for row in each]}
    return [
        Measurement(window, expert, row, number, track, f"_{track}_held" if track and None in held else "")
        for expert in EXPERTS
        for track in held
        for row in (with_picture if track == "video" else rows)[expert]
        for number, window in enumerate(chosen)
        if window.has_sound or track is None
    ]


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
        pair = sigmas[fixed.row].clone()
        timestep = f"{pair[1 if fixed.held == 'video' else 0] * timesteps:.0f}"
        if fixed.held is not None:
            pair[0 if fixed.held == "video" else 1] = 0
        video, audio = losses(pipeline.dual_tower, batch, [NoiseDraw(*pair, *noises)], timesteps)
        if fixed.held != "video":
            values[f"{fixed.expert}{fixed.suffix}"][timestep].append(video.item())
        if fixed.held != "audio" and fixed.window.has_sound:
            values[f"audio_dit{fixed.suffix}"][timestep].append(audio.item())
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

    Without `write` the clips are discarded: the process only supplies its part of the weights.
    """
    for index, sample in enumerate(config.samples.clips):
        path = config.output / "samples" / f"step-{step:06d}-{index}.mp4"
        out = run_sample(config, cache, pipeline, sample, "np" if write else "latent")
        if not write:
            continue
        frames = (out.frames[0] * 255).round().astype("uint8")
        record: dict[str, Any] = {"prompt": sample.prompt, "seed": sample.seed, "step": step}
        for track in ("video", "audio"):
            if given := getattr(sample, track):
                record |= {track: given.name, f"{track}_sha256": sha256_of(given)}
        rate = pipeline.audio_vae.config.sample_rate
        write_mp4(path, frames, out.audio[0].numpy(), config.data.frame_rate, rate, record, overwrite=True)
        yield path


def check_sample(sample: Sample) -> None:
    """Raise UserError, with the name of the setting, unless its picture, video and sound can be read."""

    def check_sound(path: Path) -> None:
        if first_sound(path) is None:
            raise UserError(f"{path} holds no sound; give a file with sound")

    checks: dict[str, Callable[[Path], object]] = {
        "image": open_image,
        "video": lambda path: probe(DatasetItem(path.name, path, "")),
        "audio": check_sound,
    }
    for key, check in checks.items():
        try:
            if path := getattr(sample, key):
                check(path)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error


def run_sample(
    config: Config, cache: Cache, pipeline: MOVAPipeline, sample: Sample, output_type: str
) -> MOVAPipelineOutput:
    """The clip of a sample. A given picture decides its length, up to that of the samples."""
    settings, model, rate = config.samples, find_model(config.model), config.data.frame_rate
    height, width = size_of(config.data, model)
    num_frames = settings.num_frames or lengths(config.data, model)[0]
    tracks: dict[str, np.ndarray] = {}
    if sample.video:
        item = DatasetItem(sample.video.name, sample.video, "")
        last = int(probe(item).seconds * rate + TOLERANCE) - 1
        num_frames = min(num_frames, max(0, last) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
        tracks["video"] = read_frames(item, np.arange(num_frames) / rate, height, width)
    if sample.audio:
        item = DatasetItem(sample.audio.name, sample.audio, "", audio=sample.audio)
        shape = pipeline.clip_shape(height, width, num_frames, rate)
        tracks["audio"] = read_sound(item, 0.0, shape.num_samples, shape.sample_rate)
    return pipeline(
        image=open_image(sample.image) if sample.image else None,
        prompt_embeds=cache.text(sample.prompt)[None],
        negative_prompt_embeds=cache.text(config.texts[1])[None],
        height=height,
        width=width,
        num_frames=num_frames,
        frame_rate=rate,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator().manual_seed(sample.seed),
        output_type=output_type,
        **tracks,
    )
