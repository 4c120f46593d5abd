"""What this machine has and which model suits it, told without loading anything. No torch."""

import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import psutil

from mova.catalog import (
    DEFAULT_MODEL,
    SMALL_MODEL,
)
from mova.errors import UserError
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape


@dataclass(frozen=True)
class Gpu:
    """A card by the part of its name that tells it: what programs get of its memory, and how fast it is.

    `tflops` are sustained by a whole bf16 forward, `link` is GB/s from pinned host memory.
    """

    name: str
    gib: float
    tflops: float
    link: float


# "H200" is measured with `python -m benchmarks.joint_forward`; down to "4090" the TFLOP/s follow from
# reported seconds a step and the count below; the others are half of their dense peak. Longer names first.
GPUS = (
    Gpu("H200", 139.8, 600, 55),
    Gpu("H100", 79.2, 590, 55),
    Gpu("A100-SXM4-40GB", 39.4, 176, 25),
    Gpu("A100", 79.2, 176, 25),
    Gpu("RTX PRO 6000", 94.9, 340, 50),
    Gpu("5090", 31.3, 195, 50),
    Gpu("4090", 23.5, 148, 25),
    Gpu("3090", 23.6, 36, 25),
    Gpu("L40S", 44.4, 180, 25),
    Gpu("A6000", 47.4, 77, 25),
    Gpu("A10G", 22.1, 35, 12),
    Gpu("L4", 22.0, 60, 12),
)
SUSTAINED_TFLOPS = {gpu.name: gpu.tflops for gpu in GPUS}
UNKNOWN_GPU_TFLOPS = 100
UNKNOWN_GPU_LINK = 12
CPU_TFLOPS_PER_CORE = 0.05


def find_gpu(name: str) -> Gpu:
    """The card that `name` ("4090", "NVIDIA H200") means. Raises UserError: it is not in the table."""
    found = next((gpu for gpu in GPUS if gpu.name.lower() in name.lower()), None)
    if found is None:
        names = ", ".join(gpu.name for gpu in GPUS)
        raise UserError(f"there is no GPU {name!r} in the table; choose one of {names}")
    return found


def forward_flops(
    video: dict[str, Any], audio: dict[str, Any], bridge: dict[str, Any], shape: ClipShape
) -> float:
    """Floating-point operations of one joint forward, from the configs of towers and bridge.

    Matrix products and attention only, which are 98 % of them at the released size.
    """
    n, a = shape.video_tokens, shape.audio_latents
    total = 0.0
    for config, tokens in ((video, n), (audio, a)):
        dim, ffn = config["dim"], config["ffn_dim"]
        projections = 2 * dim * dim * (4 * tokens + 2 * tokens + 2 * MAX_PROMPT_TOKENS)
        attention = 4 * dim * tokens * (tokens + MAX_PROMPT_TOKENS)
        total += config["num_layers"] * (projections + attention + 4 * dim * ffn * tokens)
    v, d = bridge["visual_hidden_dim"], bridge["audio_hidden_dim"]
    to_video = 4 * v * v * n + 4 * d * v * a + 4 * v * n * a
    to_audio = 4 * d * d * a + 4 * v * d * n + 4 * d * n * a
    return total + min(bridge["visual_layers"], bridge["audio_layers"]) * (to_video + to_audio)


def estimate_seconds(flops: float, steps: int, forwards: int, device_name: str, cores: int) -> float:
    """Seconds of denoising: `steps` steps of `forwards` forwards of `flops` operations each.

    Encoding, decoding and loading come on top. A guess within a factor of two off the devices above.
    """
    rate = CPU_TFLOPS_PER_CORE * cores
    if device_name != "CPU":
        rates = [tflops for part, tflops in SUSTAINED_TFLOPS.items() if part in device_name]
        rate = rates[0] if rates else UNKNOWN_GPU_TFLOPS
    return flops * steps * forwards / (rate * 1e12)


def human_seconds(seconds: float) -> str:
    """A rough duration for people: "8 s", "12 min", "3.5 h"; at least a second."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


GIB = 2**30
# MOVA-360p streamed layer by layer, as measured (README): 7.9 GiB and room for the desktop's own use.
RELEASED_VRAM, RELEASED_RAM = 11 * GIB, 72 * GIB
NEEDS = "MOVA-360p needs an NVIDIA GPU with 12 GB and 80 GB of memory"


@dataclass(frozen=True)
class InstalledGpu:
    """The first NVIDIA card: `memory` in bytes."""

    name: str
    memory: int


def installed_gpu() -> InstalledGpu | None:
    """The machine's first NVIDIA card by its driver's own tool, or None."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        name, _, mebibytes = answer.splitlines()[0].rpartition(",")
        return InstalledGpu(name.strip(), int(mebibytes) * 2**20)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None


def lacks_for_released(gpu: InstalledGpu | None) -> str:
    """What a machine with this card lacks for MOVA-360p, as the end of a sentence; empty if it has all."""
    ram = psutil.virtual_memory().total
    if gpu is None:
        return "there is no NVIDIA GPU"
    if gpu.memory < RELEASED_VRAM:
        return f"the GPU has {gpu.memory / GIB:.0f} GiB"
    return f"there are {ram / GIB:.0f} GiB of memory" if ram < RELEASED_RAM else ""


def suitable_model() -> str:
    """The catalogue's name of the model to use where none is named."""
    return SMALL_MODEL if lacks_for_released(installed_gpu()) else DEFAULT_MODEL
