"""Seconds and peak memory of one joint forward at the released size: resident or streamed, eager or compiled.

    python -m benchmarks.joint_forward --frames 193 97 49 --json results.json

Needs a GPU with 48 GiB and 80 GB of host memory. Every row is the median of `--repeats` forwards after two
warm-up forwards, timed with CUDA events; peak memory is what the allocator handed out, weights included.
"plain" is `benchmarks.reference_forward`: the textbook form with float64 rotary embeddings, a yardstick of
the same run.
The kernels that take most of the time are timed alone first, as their rates differ from one GPU to the next.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from benchmarks import reference_forward, released_sizes
from mova.machine import GIB
from mova.models.dual_tower import ATTENTION_ORDER, DualTower
from mova.offload import LayerStreamer, WeightSwap
from mova.placement import compile_blocks
from mova.shapes import ClipShape


def inputs(shape: ClipShape) -> dict[str, Tensor | float]:
    generator = torch.Generator("cuda").manual_seed(0)
    grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
    sizes = {
        "video_latents": (1, released_sizes.VIDEO_DIT["in_dim"], *grid),
        "audio_latents": (1, released_sizes.AUDIO_DIT["in_dim"], shape.audio_latents),
        "text": (1, 512, released_sizes.VIDEO_DIT["text_dim"]),
    }
    tensors = {name: torch.randn(size, generator=generator, device="cuda") for name, size in sizes.items()}
    timestep = torch.tensor([950.0])
    return tensors | {"video_timestep": timestep, "audio_timestep": timestep, "frame_rate": shape.frame_rate}


def measure(forward: Callable[[], tuple[Tensor, Tensor]], repeats: int) -> dict[str, float]:
    forward()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        forward()
        end.record()
        torch.cuda.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return {
        "seconds": round(statistics.median(seconds), 4),
        "spread": round(max(seconds) - min(seconds), 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
    }


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def run(
    tower: Callable[..., tuple[Tensor, Tensor]],
    label: str,
    frames: list[int],
    repeats: int,
    reference: dict[int, tuple],
) -> list[dict]:
    """Rows of one setting. Errors are relative to `reference`, which the first setting fills."""
    rows = []
    for num_frames in frames:
        shape = ClipShape(352, 640, num_frames, 24.0, 48000, 960)
        arguments = inputs(shape)

        def forward(arguments: dict = arguments) -> tuple[Tensor, Tensor]:
            with torch.no_grad(), sdpa_kernel(ATTENTION_ORDER, set_priority=True):
                return tower(**arguments)

        output = forward()
        expected = reference.setdefault(num_frames, output)
        errors = [relative_error(a, b) for a, b in zip(output, expected, strict=True)]
        row = {"setting": label, "frames": num_frames, **measure(forward, repeats)}
        row |= {"video_error": errors[0], "audio_error": errors[1]}
        rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        del output
        torch.cuda.empty_cache()
    return rows


def kernels() -> dict[str, float]:
    """TFLOP/s of self-attention and of the feed-forward product at 352x640, 193 frames, with their biases."""
    tokens, dim, ffn, heads = 43120, released_sizes.VIDEO_DIT["dim"], released_sizes.VIDEO_DIT["ffn_dim"], 40
    q = torch.randn(1, heads, tokens, dim // heads, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(1, tokens, dim, device="cuda", dtype=torch.bfloat16)
    layer = torch.nn.Linear(dim, ffn, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad(), sdpa_kernel(ATTENTION_ORDER, set_priority=True):
        attention = measure(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q), 5)["seconds"]
        product = measure(lambda: layer(x), 5)["seconds"]
    return {
        "attention_tflops": round(4 * tokens**2 * dim / attention / 1e12),
        "product_tflops": round(2 * tokens * dim * ffn / product / 1e12),
    }


def stream(tower: DualTower) -> LayerStreamer:
    """Move the tower to host memory and stream its layers, as `offload=layers` does."""
    tower.to("cpu")
    torch.cuda.empty_cache()
    streamer = LayerStreamer(tower, {"video_dit": tower.video_dit}, torch.device("cuda"), hold_both=True)
    WeightSwap([tower], skip=streamer.streamed).load(torch.device("cuda"))
    streamer.start("video_dit")
    return streamer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[193, 97, 49], help='"plain" runs the first')
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()

    system = kernels()
    tower = released_sizes.dual_tower()
    reference: dict[int, tuple] = {}
    rows = run(
        partial(reference_forward.forward, tower), "plain", options.frames[:1], options.repeats, reference
    )
    rows += run(tower, "resident", options.frames, options.repeats, reference)
    compile_blocks(tower)
    rows += run(tower, "resident, compiled", options.frames, options.repeats, reference)
    stream(tower)
    rows += run(tower, "layers, compiled", options.frames, options.repeats, reference)
    torch.compiler.set_stance("force_eager")
    rows += run(tower, "layers", options.frames, options.repeats, reference)

    system |= {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
    }
    sys.stdout.write(json.dumps(system) + "\n")
    if options.json:
        options.json.write_text(json.dumps({"system": system, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
