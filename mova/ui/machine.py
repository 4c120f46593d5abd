"""Which model the page starts with on this machine, and what it says about that. No torch."""

import psutil

from mova import catalog
from mova.machine import GIB, NEEDS, installed_gpu, lacks_for_released
from mova.ui.settings import Settings


def choose_model(settings: Settings) -> tuple[str, str]:
    """The name of the model to start with, and why in a sentence for the page."""
    if settings.backend == "remote":
        return settings.model or "360p", f"Clips are made by the engine at {settings.remote_url}."
    if settings.is_zero_gpu:
        return settings.model or "360p", "Runs on ZeroGPU: a shared GPU, for which you spend daily quota."
    gpu = installed_gpu() if settings.device in ("", "cuda") else None
    if gpu is None:
        cores = psutil.cpu_count(logical=False) or 1
        where = f"this computer's processor ({cores} cores)" if not settings.space_id else "the Space's CPU"
    else:
        where = f"{gpu.name} ({gpu.memory / GIB:.0f} GiB)"
    if settings.model:
        return settings.model, f"Runs on {where}."
    lacks = lacks_for_released(gpu)
    if not lacks:
        return catalog.DEFAULT_MODEL, f"MOVA-360p on {where}."
    return catalog.SMALL_MODEL, f"The small pocket model on {where}. {NEEDS}; here {lacks}."


def offered_models(chosen: str, settings: Settings) -> list[str]:
    """Names that can be picked on the page: what was chosen, and what runs where that runs."""
    if settings.backend == "remote" or settings.is_public or chosen not in catalog.MODELS:
        return [chosen]
    released = ["360p", "720p"] if chosen in ("360p", "720p") else []
    return list(dict.fromkeys([chosen, *released, catalog.SMALL_MODEL]))
