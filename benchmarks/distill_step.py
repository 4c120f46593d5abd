"""Seconds and peak memory of a distillation's steps at the released size, beside its plan.

    python -m benchmarks.distill_step --settings layers --json results.json
    python -m benchmarks.distill_step --settings layers --match

Random weights of the released configs, the trainer's own student: rank 32 in every layer that it can be in,
352x640, 97 frames, batch 1. Measured are a guided step of the teacher on each expert, an update of the
student at the teacher's states on each expert, and one of the second expert at the student's own state, its
path of so many forwards included. Each is run once to warm up and once for the clock; one setting takes about
a minute and a half on an H200. "layers" streams the frozen weights (24 GiB and more), "experts" swaps the
video experts (75), "resident" holds all (110). With `--match` it is an update that matches distributions
instead of those. `--tiny` runs small towers on the CPU, to try the script.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from benchmarks.train_step import markdown, product_tflops, synchronize, worker_card
from benchmarks.training_setup import configs, meta_towers, pack_once, pipeline_of
from lora_trainer.config import EXPERTS
from lora_trainer.distillation.config import DistillConfig, read_distill_config
from lora_trainer.distillation.matching import make_student
from lora_trainer.distillation.plan import (
    DistillInputs,
    device_memory,
    forward_seconds,
    micro_batch_seconds,
)
from lora_trainer.distillation.prompts import Item
from lora_trainer.distillation.student import Student
from lora_trainer.distillation.trajectories import KEPT, Group, Trajectories
from lora_trainer.distributed import Workers
from lora_trainer.latent_cache import write_tensors
from mova.guidance import Guidance
from mova.machine import GIB
from mova.shapes import ClipShape

SETTINGS = {"resident": "none", "experts": "experts", "layers": "layers"}
HOLD, OWN_FROM = 1000, 2000  # steps of an expert in a row, and after which states are the student's own
STAGES = (
    ("update", EXPERTS[0], 0),
    ("update", EXPERTS[1], HOLD),
    ("update, own state", EXPERTS[1], 3 * HOLD),
)
MATCHED = (("update, matched", EXPERTS[1], 3 * HOLD),)
COLUMNS = {
    "setting": "setting",
    "stage": "stage",
    "expert": "expert",
    "seconds": "s",
    "planned_seconds": "planned",
    "peak_gib": "peak GiB",
    "planned_gib": "planned GiB",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", default=["layers"], choices=SETTINGS)
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--match", action="store_true", help="of distribution matching")
    parser.add_argument("--tiny", action="store_true", help="small towers and clips, on the CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()
    workers = Workers(torch.device("cpu" if options.tiny else "cuda"))
    rows = []
    for setting in options.settings:
        with tempfile.TemporaryDirectory() as folder:
            config = settings(setting, options.frames, options.match, options.tiny, Path(folder))
            rows += measure_setting(setting, config, options.tiny, workers, Path(folder))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write(markdown(rows, COLUMNS))


def settings(setting: str, frames: int, match: bool, tiny: bool, folder: Path) -> DistillConfig:
    changes = {
        "model": "360p",
        "output": str(folder),
        "prompts.path": "none",
        "prompts.held_out": 0,
        "prompts.num_frames": frames,
        "prompts.size": "96x64" if tiny else "640x352",
        "run.device": "cpu" if tiny else "cuda",
        "run.dtype": "float32" if tiny else "bfloat16",
        "run.offload": SETTINGS[setting],
        "run.steps": 2 * OWN_FROM,
        "objective.own_share": 1.0,
        "objective.own_from": 0.5,
        "matching.on": match,
        "matching.score_alone": 0,
        "matching.share": 1.0,
        "objective.hold_steps": HOLD,  # the measurement switches experts itself
    }
    return read_distill_config(None, changes)


def measure_setting(
    setting: str, config: DistillConfig, tiny: bool, workers: Workers, folder: Path
) -> list[dict]:
    sizes, device = configs(tiny), workers.device
    height, width, frames = config.size
    shape = ClipShape(height, width, frames, 24.0, 48000, 960)
    student = make_student(config, pipeline_of(config, sizes, workers), workers)
    student.pipeline.set_progress_bar_config(disable=True)
    if student.pipeline.residency.streamer is not None:
        pack_once(student.pipeline.residency.streamer)
    group = random_group(config, shape, sizes, folder)
    student.follow(Trajectories([group], device))
    card = worker_card(workers, product_tflops(device))
    inputs = DistillInputs(
        meta_towers(sizes),
        sizes,
        0,
        shape,
        student.pipeline.scheduler,
        student.pipeline.config.boundary_ratio,
    )
    planned = sum(device_memory(config, card, inputs).values()) / GIB
    rows = []

    def row(stage: str, expert: str, run: Callable[[], object], planned_seconds: float) -> None:
        run()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None
        rows.append(
            {
                "setting": setting,
                "stage": stage,
                "expert": expert,
                "seconds": round(time.perf_counter() - began, 3),
                "planned_seconds": round(planned_seconds, 3),
                "peak_gib": None if peak is None else round(peak, 2),
                "planned_gib": round(planned, 2),
                "device": card.name,
                "torch": torch.__version__,
            }
        )
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()

    guided = Guidance(*config.scales)
    planned_step = len(guided.branches(1.0)) * forward_seconds(config, card, inputs)
    with student.lora.without(*student.towers):
        for expert, sigma in zip(EXPERTS, (1.0, 0.8), strict=True):
            row("teacher, guided step", expert, partial(teacher_step, student, guided, sigma), planned_step)
    for stage, expert, step in MATCHED if config.matching.on else STAGES:
        own = float(step >= OWN_FROM)
        seconds = micro_batch_seconds(config, card, inputs, expert, own, config.matching.on)
        row(stage, expert, partial(update, student, step), seconds)
    return rows


def random_group(config: DistillConfig, shape: ClipShape, sizes: dict[str, dict], folder: Path) -> Group:
    """One trajectory of noise, in the files that the trainer reads."""
    generator = torch.Generator().manual_seed(0)
    grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
    steps, audio = config.steps + 1, (sizes["audio_dit"]["in_dim"], shape.audio_latents)
    text = torch.randn(1, 200, sizes["video_dit"]["text_dim"], generator=generator)
    drawn = {
        "text": text,
        "negative": text.clone(),
        "condition": torch.randn(1, 20, *grid, generator=generator).to(KEPT),
        "video": torch.randn(1, steps, 16, *grid, generator=generator).to(KEPT),
        "audio": torch.randn(1, steps, *audio, generator=generator).to(KEPT),
    }
    group = Group((Item("a clip", None, 0),), None, folder / "prompts", folder / "states")
    for path, names in (
        (group.prompts, ("text", "negative", "condition")),
        (group.states, ("video", "audio")),
    ):
        write_tensors(path, {name: drawn[name] for name in names}, {})
    return group


def teacher_step(student: Student, guided: Guidance, sigma: float) -> None:
    rows, pipeline = student.trajectories.rows, student.pipeline
    text, condition = student.trajectories.prompts(rows)
    pipeline.denoise(
        *student.trajectories.states(rows, torch.tensor([0])),
        condition,
        (text, text),
        torch.tensor([[sigma, sigma], [0.0, 0.0]]),
        guided.branches,
        student.config.prompts.frame_rate,
        lambda _step, _timestep, tensors: tensors,
        lambda: False,
    )


def update(student: Student, step: int) -> None:
    student.step = step
    student.micro_batch()
    student.update()


if __name__ == "__main__":
    main()
