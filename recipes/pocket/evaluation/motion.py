"""Two ways to make the same clips, compared where something moves: what a few-step model blurs.

Most of a clip is wall, which any model gets right.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from recipes.pocket.evaluation.sheet import captioned_sheet
from recipes.pocket.world.clip import Clip

MOVED = 24  # levels that a place changes by, at least, to count as moving
MARGIN = 4  # pixels around it
Media = tuple[np.ndarray, np.ndarray]  # uint8 [F, H, W, 3], float32 [S]


def moving_places(frames: np.ndarray) -> np.ndarray:
    """Where frames uint8 [F, H, W, 3] ever differ from the first, and around it: bool [H, W]."""
    change = np.abs(frames.astype(np.int16) - frames[0]).max(axis=(0, 3))
    moved = Image.fromarray((change >= MOVED).astype(np.uint8))
    return np.asarray(moved.filter(ImageFilter.MaxFilter(2 * MARGIN + 1))).astype(bool)


def compare(frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Of one clip beside its reference, where the reference moves.

    `psnr` in decibels, and `sharpness`: the steps between neighbouring pixels over the reference's. A clip
    without motion is compared everywhere.
    """
    places = moving_places(reference)
    places = places if places.any() else np.ones_like(places)
    error = np.square(frames.astype(np.float32) - reference)[:, places].mean()
    sharpness = steps_of(frames)[:, places].mean() / max(steps_of(reference)[:, places].mean(), 1e-6)
    return {
        "psnr": float(min(10 * np.log10(255**2 / max(error, 1e-9)), 99.0)),
        "sharpness": float(sharpness),
    }


def steps_of(frames: np.ndarray) -> np.ndarray:
    """Sums of the absolute differences to the right and lower neighbour, float32 [F, H, W]."""
    grey = frames.astype(np.float32).mean(axis=3)
    across, down = (np.abs(np.diff(grey, axis=axis, append=0)) for axis in (2, 1))
    across[:, :, -1], down[:, -1] = 0, 0
    return across + down


def comparison(made: Sequence[Media], references: Sequence[Media]) -> dict[str, float]:
    """Means of `compare` over clips of the same seeds."""
    pairs = [compare(a[0], b[0]) for a, b in zip(made, references, strict=True)]
    return {key: float(np.mean([pair[key] for pair in pairs])) for key in pairs[0]}


def write_pair(path: Path, reference: Clip, made: Clip) -> None:
    """One sheet above the other, as PNG."""
    above, below = captioned_sheet(reference), captioned_sheet(made)
    both = Image.new("RGB", (above.width, above.height + below.height), "white")
    both.paste(above)
    both.paste(below, (0, above.height))
    both.save(path)
