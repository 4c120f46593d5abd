"""What pocket can already, for an adapter to keep: prompts and first frames of its world.

Their seeds are their own.
"""

import json
from pathlib import Path

from PIL import Image

from pocket.clip import FAMILIES
from pocket.evaluate import CAPTIONS, FIRST_SEED
from pocket.world import render

SEED = FIRST_SEED + 500_000  # on; evaluation takes seeds from FIRST_SEED, training far lower ones
NOISE_SEED = 1000  # of the clips; evaluation's are in the millions


def write_prompts(folder: Path, count: int, speech: Path) -> Path:
    """First frames of `count` scenes, families in turn, and the path of the list of prompts with them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        family = FAMILIES[index % len(FAMILIES)]
        clip = render(SEED + index, family, "train", speech, CAPTIONS["full"])
        name = f"{family}_{index:04d}.png"
        Image.fromarray(clip.frames[0]).save(folder / name)
        rows.append({"prompt": clip.caption, "image": name})
    path = folder / "prompts.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path
