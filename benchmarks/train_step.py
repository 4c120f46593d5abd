"""Seconds and peak memory of a real-size training step beside the plan's prediction and the FLOP floor.

    python -m benchmarks.train_step --frames 97 193 --settings resident experts layers --json results.json

Random weights of the released configs, the trainer's own engine, rank 16 in the attention of all towers,
352x640, batch 1, no accumulation. A step is forward, recomputed layers, backward and update. Needs a GPU
("resident" 95 GiB, "experts" 70, "layers" 24 to 38) and, but for "resident", 110 GiB of host memory; every
setting runs in a process of its own, as pinned memory stays with the one that took it. A row is the median of
`--repeats` steps of one expert after one to warm up; "switch" is what the other expert's first step took
longer. The floor is the step's operations at the rate of the card's largest matrix products, measured
first. `--tiny` runs small towers on the CPU, to try the script itself.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from benchmarks import released
from lora_trainer import plan_memory, plan_time
from lora_trainer.cache import Cache, Entry, write_tensors
from lora_trainer.config import Config, read_config
from lora_trainer.engine import Engine
from lora_trainer.model import TrainingResidency
from lora_trainer.order import Order
from lora_trainer.plan import step_seconds
from lora_trainer.plan_inputs import Card, Outline
from mova.catalog import GPUS, UNKNOWN_GPU_LINK, UNKNOWN_GPU_TFLOPS
from mova.models.audio_dit import AudioDiT
from mova.models.bridge import Bridge
from mova.models.video_dit import VideoDiT
from mova.pipeline import MOVAPipeline
from mova.placement import GIB
from mova.scheduler import PairScheduler
from mova.shapes import ClipShape
from mova.strengths import TOWERS

CLASSES = dict(zip(TOWERS, (VideoDiT, VideoDiT, AudioDiT, Bridge), strict=True))
SETTINGS = {"resident": "none", "experts": "experts", "layers": "layers"}
TINY_VIDEO = released.VIDEO_DIT | {
    "dim": 128,
    "ffn_dim": 256,
    "num_heads": 4,
    "num_layers": 4,
    "text_dim": 32,
}
TINY_AUDIO = released.AUDIO_DIT | {"dim": 64, "ffn_dim": 128, "num_heads": 2, "num_layers": 3, "text_dim": 32}
TINY_BRIDGE = released.BRIDGE | {
    "visual_layers": 4, "audio_layers": 3, "visual_hidden_dim": 128, "audio_hidden_dim": 64, "head_dim": 32,
}  # fmt: skip
COLUMNS = {
    "setting": "setting",
    "frames": "frames",
    "seconds": "s/step",
    "planned_seconds": "planned",
    "floor_seconds": "floor",
    "switch_seconds": "switch",
    "peak_gib": "peak GiB",
    "planned_gib": "planned GiB",
}


def configs(tiny: bool) -> dict[str, dict]:
    video, audio = (TINY_VIDEO, TINY_AUDIO) if tiny else (released.VIDEO_DIT, released.AUDIO_DIT)
    return dict(zip(TOWERS, (video, video, audio, TINY_BRIDGE if tiny else released.BRIDGE), strict=True))


def settings(setting: str, device: str, folder: Path) -> Config:
    """What a person would write for this row."""
    changes = {
        "model": "360p",
        "output": str(folder),
        "data.path": "none",
        "data.held_out": 0,
        "recipe": "released",
        "run.accumulation": 1,
        "run.device": device,
        "run.dtype": "bfloat16" if device == "cuda" else "float32",
        "run.offload": SETTINGS[setting],
        "objective.high_share": 0.5,
        "objective.hold_steps": 1000,  # the switch is asked for below
        "towers.audio_dit.targets": "attention",
    }
    return read_config(None, changes | {f"towers.{name}.rank": 16 for name in TOWERS})


def cache_of(shapes: list[ClipShape], sizes: dict[str, dict], folder: Path) -> Cache:
    """One window of random latents of each shape."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(200, sizes["video_dit"]["text_dim"], generator=generator)
    write_tensors(folder / "text", {"text": text}, {})
    entries = []
    for shape in shapes:
        grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
        audio = (sizes["audio_dit"]["in_dim"], shape.audio_latents)
        window = {"video_latents": (16, *grid), "condition": (20, *grid), "audio_latents": audio}
        name = f"{shape.num_frames}"
        random = {key: torch.randn(size, generator=generator) for key, size in window.items()}
        write_tensors(folder / name, random, {})
        place = (shape.num_frames, shape.height, shape.width, shape.frame_rate, True)
        entries.append(Entry(name, name, name, "text", "a clip", *place))
    return Cache(folder, tuple(entries), {"": "text"})


def pipeline_of(config: Config, sizes: dict[str, dict], device: str) -> MOVAPipeline:
    """Towers of random weights where the trainer finds them: on the device if they stay there, else not."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    home = device if config.run.offload == "none" else "cpu"
    towers = {}
    for name, kind in CLASSES.items():
        # Drawn on the device, since a CPU takes minutes for the numbers of an expert.
        towers[name] = released.build(kind, sizes[name], device, dtype).to(home)
    pipeline = MOVAPipeline(
        **towers,
        video_vae=None,
        audio_vae=None,
        text_encoder=None,
        tokenizer=None,
        scheduler=PairScheduler(num_train_timesteps=1000, shift=5.0),
    )
    pipeline.residency = TrainingResidency(pipeline, torch.device(device), config.run.offload)
    return pipeline


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


def product_tflops(device: str) -> float:
    """TFLOP/s of a large matrix product, the fastest thing the device does."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        synchronize(a.device)
        began = time.perf_counter()
        _ = a @ b
        synchronize(a.device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds) / 1e12


def card_of(device: str, tflops: float) -> Card:
    if device == "cpu":  # the measured rate: the catalogue has none for tiny layers
        return Card("CPU", 0, None, tflops, UNKNOWN_GPU_LINK, is_gpu=False, dtype="float32")
    name = torch.cuda.get_device_name()
    known = next((gpu for gpu in GPUS if gpu.name in name), None)
    rate, link = (known.tflops, known.link) if known else (UNKNOWN_GPU_TFLOPS, UNKNOWN_GPU_LINK)
    return Card(name, torch.cuda.mem_get_info()[0], None, rate, link, is_gpu=True, dtype="bfloat16")


def rows_of(
    setting: str, shapes: list[ClipShape], sizes: dict[str, dict], card: Card, floor: float, repeats: int
) -> list[dict]:
    """The lines of one setting. Memory in GiB; on a CPU the peak is not known."""
    device = "cuda" if card.is_gpu else "cpu"
    with torch.device("meta"):
        meta = {name: kind(**sizes[name]) for name, kind in CLASSES.items()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = settings(setting, device, Path(folder))
        engine = Engine(config, cache_of(shapes, sizes, Path(folder)), pipeline_of(config, sizes, device))
        for shape, entry in zip(shapes, engine.cache.entries, strict=True):
            engine.order = Order([entry], 1, 0)
            known = Outline(meta, sizes, 0.5, 0, {shape: 1}, 1, True, 0, 0, 0)
            planned, operations = step_seconds(config, card, known, {shape: 1})
            memory = sum(plan_memory.device_memory(meta, shape, config, card.dtype).values())
            measured = measure(engine, repeats)
            figures = {
                "planned_seconds": round(planned, 3),
                "floor_seconds": round(operations / (floor * 1e12), 3),
                "planned_gib": round(memory / GIB, 2),
                "petaflops": operations / 1e15,
            }
            rows.append({"setting": setting, "frames": shape.num_frames} | measured | figures)
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    return rows


def measure(engine: Engine, repeats: int) -> dict[str, float | None]:
    """Steps of the first expert, then one of the second: seconds and the peak of all of them."""
    hold, on_gpu = engine.config.objective.hold_steps, engine.device.type == "cuda"
    engine.step = 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timed_step(engine)
    seconds = statistics.median(timed_step(engine) for _ in range(repeats))
    engine.step = hold
    first = timed_step(engine)
    return {
        "seconds": round(seconds, 3),
        "switch_seconds": round(first - seconds, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if on_gpu else None,
    }


def markdown(rows: list[dict]) -> str:
    lines = [" | ".join(COLUMNS.values()), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(str(each[key]) for key in COLUMNS) for each in rows]
    return "".join(f"| {line} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[97, 193])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="small towers and clips, on the CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()

    if len(options.settings) == 1:
        diffusers_logging.set_verbosity_error()
        found = run(options)
    else:
        found = {"system": {}, "rows": []}
        for setting in options.settings:
            one = in_process(setting, options)
            found = {"system": one["system"], "rows": found["rows"] + one["rows"]}
    sys.stdout.write(f"{json.dumps(found['system'])}\n\n{markdown(found['rows'])}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def run(options: argparse.Namespace) -> dict:
    device = "cpu" if options.tiny else "cuda"
    sizes, side = configs(options.tiny), (64, 96) if options.tiny else (352, 640)
    shapes = [ClipShape(*side, frames, 24.0, 48000, 960) for frames in options.frames]
    floor = product_tflops(device)
    card = card_of(device, floor)
    rows = rows_of(options.settings[0], shapes, sizes, card, floor, options.repeats)
    system = {"device": card.name, "torch": torch.__version__, "product_tflops": round(floor, 3)}
    return {"system": system | {"backward_rate": plan_time.BACKWARD_RATE}, "rows": rows}


def in_process(setting: str, options: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks.train_step", "--settings", setting, "--json", path]
        command += ["--frames", *map(str, options.frames), "--repeats", str(options.repeats)]
        subprocess.run([*command, *(["--tiny"] if options.tiny else [])], check=True)
        return json.loads(path.read_text())


if __name__ == "__main__":
    main()
