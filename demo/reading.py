"""A prompt read for pocket before the click: what of it the small model can make."""

from mova.catalog import SMALL_MODEL
from mova.prompting.pocket import PocketReading, read_idea

OUTSIDE = "This model can't draw that. It knows talking cartoon faces, bouncing balls and toy pianos."
NOT_ITS_WORLD = "not in pocket's world"


def read_prompt(prompt: str, model: str) -> PocketReading | None:
    """Pocket's reading of an idea; None for other models, no words, and a prompt that is written out."""
    if model != SMALL_MODEL or not prompt.strip() or is_written_out(prompt):
        return None
    return read_idea(prompt)


def is_written_out(prompt: str) -> bool:
    """True for a prompt in paragraphs, like the writers' and pocket's captions: it is not read as an idea."""
    return "\n\n" in prompt.strip()


def is_outside(prompt: str, model: str) -> bool:
    """True where the model cannot draw any of it."""
    found = read_prompt(prompt, model)
    return found is not None and found.belongs == "not"


def completed(prompt: str, model: str) -> str:
    """The prompt that the model gets: an idea of pocket's world in the sentences that it was trained on."""
    found = read_prompt(prompt, model)
    return found.prompt if found and found.prompt else prompt


def lacks(found: PocketReading) -> str:
    """The parts of an idea that the model cannot make, each with its reason."""
    parts = []
    for reason in found.not_kept:
        what, _, why = reason.partition(": ")
        parts.append(f'"{what}"' if why == NOT_ITS_WORLD else f'"{what}" ({why})')
    return ", ".join(parts)


def warning(prompt: str, model: str) -> str:
    """A warning for programs about a prompt that the model cannot make whole, or empty."""
    found = read_prompt(prompt, model)
    if found is None or found.belongs == "whole":
        return ""
    return OUTSIDE if found.belongs == "not" else f"This model does not know {lacks(found)}."
