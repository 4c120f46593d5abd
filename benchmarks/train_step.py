"""Seconds and peak memory of a real-size training step, with the plan's prediction and the FLOP floor.

    python -m benchmarks.train_step --settings experts layers --frames 97 193 --json results.json
    python -m benchmarks.train_step --settings experts --frames 97 --ranks 1 2

Random weights of the released configs, the trainer's own engine, rank 16 in the attention of all towers,
352x640, batch 1, no accumulation. A step is forward, recomputed layers, backward and update. Needs a GPU
("resident" 95 GiB, "experts" 70, "layers" 24 to 38; "shards" two of 65); what is different from a
checkpoint's weights is said in `training_setup`. Every row is printed when it is measured, and every setting
runs in processes of its own, so one that fails costs no other. A row is the median of `--repeats` steps of
one expert after one to warm up; "switch" is what the other expert's first step took longer. "reserved" is
what torch reserved of the card; the CUDA context takes about half a GiB more. The floor is the step's
operations at the rate of the card's largest matrix products, measured first. `--ranks` repeats each setting
in so many processes, one GPU each, which average their gradients: clips/s are those of all. `--limit` is the
GiB that torch may hold of each card. `--tiny` runs small towers on the CPU, to try the script itself.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn

from benchmarks.training_setup import SETTINGS, configs, engine_of, meta_towers
from lora_trainer.batch_sampler import BatchSampler
from lora_trainer.distributed import Workers
from lora_trainer.engine import Engine
from lora_trainer.plan import flops, memory
from lora_trainer.plan.estimate import step_seconds
from lora_trainer.plan.inputs import Card, PlanInputs, card_of
from mova.machine import GIB, UNKNOWN_GPU_LINK, Machine
from mova.shapes import ClipShape

RESIDENT_GIB = 100  # a card with less is not asked to hold both experts
COLUMNS = {
    "setting": "setting",
    "ranks": "GPUs",
    "frames": "frames",
    "seconds": "s/step",
    "planned_seconds": "planned",
    "floor_seconds": "floor",
    "switch_seconds": "switch",
    "clips_per_second": "clips/s",
    "peak_gib": "peak GiB",
    "reserved_gib": "reserved GiB",
    "planned_gib": "planned GiB",
}

NOTE = (
    "Random weights. The layers of a tower, and both experts, share one layer's (pinned) host memory; on the "
    "GPU each has its own, so time and memory there are a checkpoint's; start-up and host memory are not."
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[97, 193])
    parser.add_argument("--settings", nargs="+", default=["experts", "layers"], choices=SETTINGS)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="processes, one GPU each")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--limit", type=float, help="GiB of each card that torch may hold")
    parser.add_argument("--tiny", action="store_true", help="small towers and clips, on the CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        diffusers_logging.set_verbosity_error()
        measure_setting(options)
        return
    rows, failed = [], []
    for setting in options.settings:
        for ranks in options.ranks:
            found, whole = in_processes(setting, ranks, options)
            rows += found
            failed += [] if whole else [f"{setting} on {ranks}"]
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.stdout.write(f"\n{markdown(rows)}\n{NOTE}\n")
    if failed:
        sys.exit(f"not finished: {', '.join(failed)}")


def in_processes(setting: str, ranks: int, options: argparse.Namespace) -> tuple[list[dict], bool]:
    """The rows of one setting, and whether all were measured; processes as a launcher starts them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks.train_step", "--child", "--settings", setting]
        command += ["--frames", *map(str, options.frames), "--repeats", str(options.repeats), "--json", path]
        command += ["--limit", str(options.limit)] if options.limit else []
        command += ["--tiny"] if options.tiny else []
        shared = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        running = []
        for rank in range(ranks):
            own = shared | {"RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {}
            environment = os.environ | {key: str(value) for key, value in own.items()}
            running.append(subprocess.Popen(command, env=environment))
        while any(process.poll() is None for process in running):
            time.sleep(0.2)
            if any(process.returncode for process in running):  # the others would wait for it for hours
                for process in running:
                    process.kill()
        whole = not any(process.returncode for process in running)
        return json.loads(path.read_text()) if path.exists() else [], whole


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def measure_setting(options: argparse.Namespace) -> None:
    """In a process of its own: print and write each row as it is measured."""
    (setting,) = options.settings
    workers = Workers(torch.device("cpu" if options.tiny else "cuda"))
    if workers.device.type == "cuda":
        total = torch.cuda.get_device_properties(workers.device).total_memory / GIB
        if setting == "resident" and total < RESIDENT_GIB:
            sys.stderr.write(f"resident is left out: the card has {total:.0f} GiB\n")
            return
        if options.limit:
            torch.cuda.set_per_process_memory_fraction(options.limit / total)
    sizes, side = configs(options.tiny), (64, 96) if options.tiny else (352, 640)
    shapes = [ClipShape(*side, frames, 24.0, 48000, 960) for frames in options.frames]
    floor = product_tflops(workers.device)
    card, meta, rows = worker_card(workers, floor), meta_towers(sizes), []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_of(setting, shapes, sizes, workers, Path(folder))
        say(workers, f"{setting}: ready after {time.perf_counter() - began:.1f} s")
        for shape, window in zip(shapes, engine.cache.windows, strict=True):
            engine.sampler = BatchSampler([window], 1, 0)
            row = {"setting": setting, "ranks": workers.count, "frames": shape.num_frames}
            row |= measure(engine, options.repeats)
            row |= predicted(engine, shape, meta, sizes, card, floor)
            row["fitted_backward_rate"] = fitted_backward_rate(row, card)
            row["clips_per_second"] = round(workers.count / row["seconds"], 4)
            rows.append(
                row | {"device": card.name, "torch": torch.__version__, "product_tflops": round(floor, 3)}
            )
            if workers.is_first:
                say(workers, json.dumps(rows[-1]))
                options.json.write_text(json.dumps(rows))
        workers.wait()


def say(workers: Workers, line: str) -> None:
    if workers.is_first:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def measure(engine: Engine, repeats: int) -> dict[str, float | list[float] | None]:
    """Steps of the first expert, then one of the second: seconds and the peak of all of them."""
    hold, on_gpu = engine.config.objective.hold_steps, engine.device.type == "cuda"
    engine.step = 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    warm_up, *steps = [timed_step(engine) for _ in range(1 + repeats)]
    seconds = statistics.median(steps)
    engine.step = hold
    first = timed_step(engine)
    return {
        "seconds": round(seconds, 3),
        "switch_seconds": round(first - seconds, 3),
        "all_seconds": [round(each, 3) for each in (warm_up, *steps, first)],
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if on_gpu else None,
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2) if on_gpu else None,
    }


def timed_step(engine: Engine) -> float:
    synchronize(engine.device)
    began = time.perf_counter()
    engine.micro_batch()
    engine.update()
    synchronize(engine.device)
    return time.perf_counter() - began


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def predicted(
    engine: Engine,
    shape: ClipShape,
    meta: dict[str, nn.Module],
    sizes: dict[str, dict],
    card: Card,
    floor: float,
) -> dict[str, float | dict]:
    """Predictions of `plan` for this row, and the figures to which its constants can be fitted.

    Seconds are (forward + recomputed + backward / BACKWARD_RATE) / rate: the rates are in `mova.machine.GPUS`
    and `lora_trainer.plan.flops`, the memory that is not counted in `lora_trainer.plan.memory`.
    """
    config = engine.config
    inputs = PlanInputs(
        towers=meta,
        configs=sizes,
        high_share=0.5,
        text_parameters=0,
        windows={shape: 1},
        clips=1,
        cached=True,
        text_tokens=0,
        texts=0,
        download=0,
    )
    planned, operations = step_seconds(config, card, inputs, {shape: 1})
    parts = memory.device_memory(meta, shape, config, card.dtype, card.processes)
    one = flops.training_pass(sizes, shape, config, "video_dit")
    return {
        "planned_seconds": round(planned, 3),
        "floor_seconds": round(operations / (floor * 1e12), 3),
        "planned_gib": round(sum(parts.values()) / GIB, 2),
        "planned_parts_gib": {name: round(size / GIB, 2) for name, size in parts.items()},
        "petaflops": {
            name: getattr(one, name) / 1e15 for name in ("forward", "recomputed", "backward", "total")
        },
    }


def fitted_backward_rate(row: dict, card: Card) -> float:
    """The `plan_time.BACKWARD_RATE` that would have predicted the row's seconds at the card's rate."""
    work = row["petaflops"]
    left = row["seconds"] * card.tflops / 1e3 - work["forward"] - work["recomputed"]
    return round(work["backward"] / left, 3)


def product_tflops(device: torch.device) -> float:
    """TFLOP/s of a large matrix product, the fastest thing the device does."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        synchronize(device)
        began = time.perf_counter()
        _ = a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e12


def worker_card(workers: Workers, tflops: float) -> Card:
    device, count = workers.device, workers.count
    if device.type == "cpu":  # the measured rate: the catalogue has none for tiny layers
        return Card("CPU", 0, None, tflops, UNKNOWN_GPU_LINK, is_gpu=False, dtype="float32", processes=count)
    return replace(card_of(Machine.probe(str(device)), "bfloat16", count), ram=None)


def markdown(rows: list[dict], columns: dict[str, str] = COLUMNS) -> str:
    lines = [" | ".join(columns.values()), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(each[key]) for key in columns) for each in rows]
    return "".join(f"| {line} |\n" for line in lines)


if __name__ == "__main__":
    main()
