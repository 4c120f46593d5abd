"""What this machine has and which model suits it, told without loading anything. No torch."""

import shutil
import subprocess
from dataclasses import dataclass

import psutil

from mova.catalog import DEFAULT_MODEL, SMALL_MODEL

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
