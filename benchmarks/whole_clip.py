"""Seconds of a whole clip by quality preset, stage by stage: text, first frame, steps, picture and sound.

    python -m benchmarks.whole_clip --steps-measured exact=3 --json clip.json
    python -m benchmarks.whole_clip --model pocket --device cpu --rows standard

Without `--model` all components of a release, with random weights, at 352x640 and 193 frames on one GPU with
90 GiB: right for seconds, silent about quality. A row is a preset, or PRESET+fp8; rows in fp8 come last, as
they convert the weights in place. Attention takes the fastest exact kernels that work, and on a GPU blocks
are compiled. Every stage runs once to warm up and once measured. All steps are taken, or for PRESET=K of
`--steps-measured` the first K, whose mean is multiplied; "steps_measured" says which. Loading, and writing
the file, are not counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import released_sizes
from mova.adapters.sources import read_adapter
from mova.backends.local import with_adapters
from mova.catalog import ModelSpec, find_model
from mova.errors import Cancelled
from mova.machine import Machine
from mova.pipeline import MOVAPipeline
from mova.placement import Placement, place
from mova.shapes import parse_size

PROMPT = 'A woman looks up at the camera and says, "Good morning." Soft room tone, a clock ticks.'


class Clock:
    """Wall-clock seconds of work that a device has finished."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def of(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of the second of two calls, and its result."""
        work()
        began = self.now()
        result = work()
        return self.now() - began, result


def measure_clip(
    pipeline: MOVAPipeline, arguments: dict[str, Any], measured: int | None, clock: Clock
) -> dict[str, float | int]:
    """Seconds by stage of a clip with `arguments` of the pipeline; of `measured` steps only, if given."""
    arguments = dict(arguments)
    texts = (PROMPT, arguments.pop("negative_prompt"))
    height, width, frames = (arguments[key] for key in ("height", "width", "num_frames"))
    white = torch.ones(1, 3, height, width)
    encode, embeds = clock.of(lambda: [pipeline.encode_prompt(text) for text in texts])
    first_frame, _ = clock.of(lambda: pipeline.encode_first_frame(white, frames))
    arguments |= {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "output_type": "latent"}
    take_steps(pipeline, arguments, 1, clock)  # compiles
    asked = arguments["num_inference_steps"]
    steps = take_steps(pipeline, arguments, measured, clock)
    denoise = steps.seconds if measured is None else steps.seconds * asked / steps.count
    picture, _ = clock.of(lambda: pipeline.decode_video(steps.latents[0]))
    sound, _ = clock.of(lambda: pipeline.decode_audio(steps.latents[1]))
    seconds = {
        "text": encode,
        "first frame": first_frame,
        "steps": denoise,
        "picture": picture,
        "sound": sound,
    }
    total = {"total": sum(seconds.values())}
    rounded = {name: round(value, 3) for name, value in (seconds | total).items()}
    counts = {
        "num_inference_steps": asked,
        "steps_measured": steps.count,
        "forwards_measured": steps.forwards,
    }
    return counts | rounded


class Steps(NamedTuple):
    """Denoising steps as they were taken, and the latents of picture and sound after the last."""

    count: int
    forwards: int
    seconds: float
    latents: tuple[Tensor, Tensor]


def take_steps(pipeline: MOVAPipeline, arguments: dict[str, Any], count: int | None, clock: Clock) -> Steps:
    """The first `count` steps of a clip, or all."""
    stamps: list[float] = []
    forwards: list[int] = []
    kept: list[tuple[Tensor, Tensor]] = []

    def before_forward() -> bool:
        if not stamps:
            stamps.append(clock.now())
        forwards.append(len(stamps))
        return False

    def on_step(pipe: MOVAPipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict:
        del timestep
        stamps.append(clock.now())
        kept[:] = [(tensors["latents"], tensors["audio_latents"])]
        pipe._interrupt = step + 1 == count
        return {}

    options = {"callback_on_step_end": on_step, "should_stop": before_forward}
    with suppress(Cancelled):
        pipeline(**arguments, **options, generator=torch.Generator().manual_seed(0))
    taken = len(stamps) - 1
    return Steps(taken, sum(step <= taken for step in forwards), stamps[-1] - stamps[0], kept[0])


def arguments_of(spec: ModelSpec, preset: str, options: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's arguments for a preset of a model, at the size and length asked for."""
    arguments = spec.defaults(spec.preset(preset))
    if options.size:
        arguments |= dict(zip(("height", "width"), parse_size(options.size), strict=True))
    return arguments | ({"num_frames": options.frames} if options.frames else {})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a checkpoint; default: random weights of the released sizes")
    parser.add_argument("--device", help="default: the machine's best")
    parser.add_argument("--rows", nargs="+", default=["exact", "fast+fp8"], metavar="PRESET[+fp8]")
    parser.add_argument("--steps-measured", nargs="+", default=[], metavar="PRESET=K")
    parser.add_argument("--size", metavar="WIDTHxHEIGHT")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--json", type=Path, help="write the rows here too, after each")
    options = parser.parse_args(argv)

    machine, spec = Machine.probe(options.device), find_model(options.model or "360p")
    measured = {
        preset: int(count) for preset, _, count in (each.partition("=") for each in options.steps_measured)
    }
    order = sorted(options.rows, key=lambda row: row.endswith("+fp8"))
    arguments = {row: arguments_of(spec, row.partition("+")[0], options) for row in order}
    clock, rows = Clock(torch.device(machine.device)), []
    if options.model:
        dtype = getattr(torch, machine.dtype)
        pipeline = MOVAPipeline.from_pretrained(spec.source, torch_dtype=dtype)
    else:
        pipeline = released_sizes.pipeline(machine.device)
    pipeline.set_progress_bar_config(disable=True)
    placed = None
    for row in order:
        preset, _, coarse = row.partition("+")
        if placed != coarse:
            compiles = machine.is_gpu and placed is None
            place(pipeline, Placement(machine.device, machine.dtype, fp8=bool(coarse), compile=compiles))
            placed = coarse
        given = arguments[row]
        adapters = [(read_adapter(source), strength) for source, strength in given.pop("adapters", ())]
        with with_adapters(pipeline, adapters):
            found = measure_clip(pipeline, given, measured.get(preset), clock)
        rows.append({"row": row, "attention": pipeline.video_dit.blocks[0].self_attn.kernel, **found})
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
        if options.json:
            system = {"machine": machine.name, "torch": torch.__version__, "model": options.model}
            options.json.write_text(json.dumps({"system": system, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
