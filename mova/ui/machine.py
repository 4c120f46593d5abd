"""Which model suits this machine, told without loading anything, and in a sentence. No torch."""

import shutil
import subprocess
from dataclasses import dataclass

import psutil

from mova import catalog
from mova.ui.settings import Settings

GIB = 2**30
# MOVA-360p streamed layer by layer, as measured (README): 7.9 GiB and room for the desktop's own use.
RELEASED_VRAM, RELEASED_RAM = 11 * GIB, 72 * GIB
SMALL = "pocket"
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


def choose_model(settings: Settings) -> tuple[str, str]:
    """The name of the model to start with, and why in a sentence for the page."""
    if settings.backend == "remote":
        return settings.model or "360p", f"Clips are made by the engine at {settings.remote_url}."
    if settings.is_zero_gpu:
        return settings.model or "360p", "Runs on ZeroGPU: a shared GPU, for which you spend daily quota."
    gpu = installed_gpu() if settings.device in ("", "cuda") else None
    ram = psutil.virtual_memory().total
    if gpu is None:
        cores = psutil.cpu_count(logical=False) or 1
        where = f"this computer's processor ({cores} cores)" if not settings.space_id else "the Space's CPU"
    else:
        where = f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)"
    if settings.model:
        return settings.model, f"Runs on {where}."
    if gpu and gpu.memory >= RELEASED_VRAM and ram >= RELEASED_RAM:
        return "360p", f"MOVA-360p on {where}."
    lacks = "there is no NVIDIA GPU" if gpu is None else f"there are {ram / GIB:.0f} GiB of memory"
    if SMALL in catalog.MODELS:
        return SMALL, f"The small pocket model on {where}. {NEEDS}; here {lacks}."
    return "360p", f"{NEEDS}; here {lacks}. No clip can be made here unless MOVA_MODEL names a smaller model."


def offered_models(chosen: str, settings: Settings) -> list[str]:
    """Names that can be picked on the page: what was chosen, and what runs where that runs."""
    if settings.backend == "remote" or settings.is_public or chosen not in catalog.MODELS:
        return [chosen]
    released = ["360p", "720p"] if chosen in ("360p", "720p") else []
    return list(dict.fromkeys([chosen, *released, *([SMALL] if SMALL in catalog.MODELS else [])]))
