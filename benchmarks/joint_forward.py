"""Seconds, peak memory and error of one joint forward at the released size, in every setting, in one process.

    python -m benchmarks.joint_forward --frames 193 97 49 --json results.json
    python -m benchmarks.joint_forward --tiny --settings eager compiled fp8

Needs a GPU with 48 GiB and 80 GB of host memory; `--tiny` runs small towers and clips on the CPU, to try the
command. Every row is the median of `--repeats` forwards after one to warm up (which compiles), timed with
CUDA events; peak memory is what the allocator handed out, weights included. Errors of the velocity are
relative to "eager", which always runs. "plain" is `benchmarks.reference_forward`: the textbook form with
float64 rotary embeddings, a yardstick of the same run. A setting whose kernel does not work here is left out,
with the reason. The kernels that take most of the time are timed alone first, as their rates differ from one
GPU to the next.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from benchmarks import reference_forward, released_sizes
from benchmarks.training_setup import CLASSES, configs
from mova.kernels import FLASH_4, TORCH, AttentionKernels
from mova.machine import GIB
from mova.models import fp8
from mova.models.attention import attention, obstacle
from mova.models.dual_tower import ATTENTION_ORDER, DualTower
from mova.offload import LayerStreamer
from mova.placement import compile_blocks, use_kernels
from mova.shapes import ClipShape

PARTS = ("video_dit", "audio_dit", "dual_tower_bridge")


@dataclass(frozen=True)
class Setting:
    is_plain: bool = False
    compiled: bool = True
    kernel: str = TORCH
    fp8: bool = False
    streamed: bool = False


# In the order in which one set of weights can have them: what is in 8 bits stays so.
SETTINGS = {
    "eager": Setting(compiled=False),
    "plain": Setting(is_plain=True, compiled=False),
    "compiled": Setting(),
    "flash": Setting(kernel=FLASH_4),
    "streamed": Setting(streamed=True),
    "fp8": Setting(fp8=True),
    "fp8 flash": Setting(fp8=True, kernel=FLASH_4),
    "fp8 flash streamed": Setting(fp8=True, kernel=FLASH_4, streamed=True),
}


class Bench:
    """One dual tower of random weights, brought from setting to setting."""

    def __init__(self, tiny: bool) -> None:
        self.device = torch.device("cpu" if tiny else "cuda")
        self.sizes = configs(tiny)
        parts = [released_sizes.build(CLASSES[name], self.sizes[name], str(self.device)) for name in PARTS]
        self.tower = DualTower(*parts)
        self.is_compiled = False
        self.streamer: LayerStreamer | None = None

    def prepare(self, setting: Setting) -> Callable[..., tuple[Tensor, Tensor]]:
        """The forward of a setting. Raises RuntimeError: its attention kernel does not work here."""
        dtype = torch.bfloat16
        if problem := obstacle(setting.kernel, self.device, dtype, self.tower.video_dit.head_dim):
            raise RuntimeError(f"{setting.kernel} {problem}")
        use_kernels(self.tower, AttentionKernels(video=setting.kernel), self.device, dtype)
        if self.streamer and not setting.streamed:
            self.streamer.stop()
            self.streamer = None
        if setting.fp8:
            for name in PARTS:
                fp8.to_8_bits(name, getattr(self.tower, name), self.device, stays=True)
        if not self.streamer:
            self.tower.to(self.device)
        if setting.streamed and not self.streamer:
            self.streamer = LayerStreamer(
                self.tower, {"video_dit": self.tower.video_dit}, self.device, hold_both=True
            )
            self.streamer.start("video_dit")  # packs layers from the device; the rest stays there
        if setting.compiled and not self.is_compiled:
            compile_blocks(self.tower)
            self.is_compiled = True
        torch.compiler.set_stance("default" if setting.compiled else "force_eager")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return partial(reference_forward.forward, self.tower) if setting.is_plain else self.tower

    def inputs(self, shape: ClipShape) -> dict[str, Tensor | float]:
        generator = torch.Generator(self.device).manual_seed(0)
        video, audio = self.sizes["video_dit"], self.sizes["audio_dit"]
        grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
        sizes = {
            "video_latents": (1, video["in_dim"], *grid),
            "audio_latents": (1, audio["in_dim"], shape.audio_latents),
            "text": (1, 512, video["text_dim"]),
        }
        tensors = {
            name: torch.randn(size, generator=generator, device=self.device) for name, size in sizes.items()
        }
        times = dict.fromkeys(("video_timestep", "audio_timestep"), torch.tensor([950.0]))
        return tensors | times | {"frame_rate": shape.frame_rate}


def measure(forward: Callable[[], object], repeats: int, device: torch.device) -> dict[str, float]:
    """Median and spread of the seconds of `repeats` calls, and their peak memory in GiB (0 on a CPU)."""
    on_gpu = device.type == "cuda"
    seconds = []
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        if on_gpu:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            forward()
            end.record()
            torch.cuda.synchronize()
            seconds.append(start.elapsed_time(end) / 1000)
        else:
            began = time.perf_counter()
            forward()
            seconds.append(time.perf_counter() - began)
    return {
        "seconds": round(statistics.median(seconds), 4),
        "spread": round(max(seconds) - min(seconds), 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2) if on_gpu else 0.0,
    }


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def rows_of(
    name: str, bench: Bench, shapes: list[ClipShape], repeats: int, reference: dict[int, tuple]
) -> list[dict]:
    """A row for each length of one setting. Errors are relative to `reference`, which the first one fills."""
    forward, rows = bench.prepare(SETTINGS[name]), []
    for shape in shapes:
        arguments = bench.inputs(shape)

        def run(arguments: dict = arguments) -> tuple[Tensor, Tensor]:
            with torch.no_grad(), sdpa_kernel(ATTENTION_ORDER, set_priority=True):
                return forward(**arguments)

        began = time.perf_counter()
        output = run()
        expected = reference.setdefault(shape.num_frames, output)
        errors = [relative_error(a, b) for a, b in zip(output, expected, strict=True)]
        first = round(time.perf_counter() - began, 1)
        row = {"setting": name, "frames": shape.num_frames, **measure(run, repeats, bench.device)}
        rows.append(row | {"video_error": errors[0], "audio_error": errors[1], "first_seconds": first})
        say(rows[-1])
        del output
    return rows


def say(content: dict) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


@torch.no_grad()
def kernels() -> dict[str, float | str]:
    """TFLOP/s of self-attention and of the feed-forward product at 352x640, 193 frames, with its bias."""
    device, dtype = torch.device("cuda"), torch.bfloat16
    dim, ffn, heads = (released_sizes.VIDEO_DIT[key] for key in ("dim", "ffn_dim", "num_heads"))
    tokens = 43120
    q = torch.randn(1, tokens, heads, dim // heads, device=device, dtype=dtype)
    x = torch.randn(1, tokens, dim, device=device, dtype=dtype)
    layer = torch.nn.Linear(dim, ffn, device=device, dtype=dtype).requires_grad_(False)
    codes, scale = fp8.to_fp8(x[0])
    coarse = fp8.Fp8Linear(layer)
    flops = {"attention": 4 * tokens**2 * dim, "product": 2 * tokens * dim * ffn}
    calls = {"attention": lambda: attention(TORCH, q, q, q), "product": lambda: layer(x)}
    found: dict[str, float | str] = {}
    if problem := obstacle(FLASH_4, device, dtype, dim // heads):
        found["flash"] = problem
    else:
        calls["attention flash"] = lambda: attention(FLASH_4, q, q, q)
    if fp8.multiplies_fp8(device):
        calls["product fp8"] = lambda: coarse.multiply(codes, scale, dtype)
    with sdpa_kernel(ATTENTION_ORDER, set_priority=True):
        for name, call in calls.items():
            call()
            seconds = measure(call, 5, device)["seconds"]
            found[f"{name} TFLOP/s"] = round(flops[name.split()[0]] / seconds / 1e12)
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[193, 97, 49])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="small towers and clips, on the CPU")
    parser.add_argument("--json", type=Path, help="write the rows here too, after each setting")
    options = parser.parse_args(argv)

    size = (32, 48) if options.tiny else (352, 640)
    shapes = [ClipShape(*size, frames, 24.0, 48000, 960) for frames in options.frames]
    system: dict[str, object] = {"torch": torch.__version__}
    if not options.tiny:
        system |= {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version(), **kernels()}
    say(system)
    bench, rows = Bench(options.tiny), []
    reference: dict[int, tuple] = {}
    for name in [name for name in SETTINGS if name == "eager" or name in options.settings]:
        try:
            rows += rows_of(name, bench, shapes, options.repeats, reference)
        except Exception as error:  # of a kernel under development; it must not cost the other rows
            say({"setting": name, "left out": f"{type(error).__name__}: {error}"[:500]})
        if options.json:
            options.json.write_text(json.dumps({"system": system, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
