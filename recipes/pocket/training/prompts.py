"""Prompts for a distillation of pocket: captions of the world and the first frames of their clips."""

import json
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from mova.files import new_output
from recipes.pocket.world.render import render

PROMPTS_SEED = 90_000_000  # neither training nor evaluation draws these
CHUNK = 32  # clips that a process renders before it hands over their captions


def write_prompts(
    folder: Path, count: int, workers: int, speech: Path, first_seed: int = PROMPTS_SEED
) -> Path:
    """Write `count` first frames as PNG and `prompts.jsonl`, a line each; its path.

    All kinds of captions, the empty one too. Raises FileNotFoundError where `speech` has no word bank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    chunks = [seeds[start : start + CHUNK] for start in range(0, count, CHUNK)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(chunks))) as pool:
        parts = pool.imap(partial(_render, folder, speech), chunks)
        lines = [json.dumps(entry) for part in parts for entry in part]
    path = folder / "prompts.jsonl"
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _render(folder: Path, speech: Path, seeds: Sequence[int]) -> list[dict[str, str]]:
    entries = []
    for seed in seeds:
        clip = render(seed, speech=speech)
        name = f"{seed}_{clip.family}.png"
        Image.fromarray(clip.frames[0]).save(folder / name, compress_level=1)
        entries.append({"prompt": clip.caption, "image": name})
    return entries
