"""Which model the page starts with on this machine, and what it says about that. No torch."""

import psutil

from mova import catalog
from mova.machine import GIB, NEEDS, installed_gpu, lacks_for_released
from mova.ui.settings import Settings

POCKET_KNOWS = (
    "Clips are made by pocket, a small model that runs on any computer. It knows three things: cartoon faces "
    "that say a few words, bouncing balls, and toy pianos; two seconds of them, at 224×128 pixels. Some "
    "words are wrong (one in fifteen), balls smear as they fall, anything else becomes a blur."
)
POCKET_PROMPTS = (
    'A child in a red shirt looks at the camera and says "banana, moon."',
    "purple wooden ball bounces twice",
)
OTHER_PROMPTS = (
    'A woman at a kitchen table looks up and smiles. She says, "Good morning." '
    "The audio shows her calm voice and a kettle.",
    'a baker lifts the bread and says "still warm"',
)


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
    return catalog.SMALL_MODEL, f"Pocket runs on {where}. {NEEDS}; here {lacks}."


def what_it_knows(model: str) -> str:
    """What the visitor must know of a model before asking it for something; empty for a large one."""
    return POCKET_KNOWS if model == catalog.SMALL_MODEL else ""


def sample_prompts(model: str) -> tuple[str, str]:
    """A prompt and an idea that the model can do something with, for the empty fields."""
    return POCKET_PROMPTS if model == catalog.SMALL_MODEL else OTHER_PROMPTS


def offered_models(chosen: str, settings: Settings) -> list[str]:
    """Names that can be picked on the page: what was chosen, and what runs where that runs."""
    if settings.backend == "remote" or settings.is_public or chosen not in catalog.MODELS:
        return [chosen]
    released = ["360p", "720p"] if chosen in ("360p", "720p") else []
    return list(dict.fromkeys([chosen, *released, catalog.SMALL_MODEL]))
