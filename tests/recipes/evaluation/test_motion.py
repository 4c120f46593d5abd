"""Clips beside a reference, where it moves: still places do not count, blur shows."""

import numpy as np
import pytest
from PIL import Image

from recipes.pocket.evaluation.motion import compare, comparison, moving_places, write_pair
from recipes.pocket.world.clip import Clip, Events


@pytest.fixture(scope="module")
def bar():
    """A noisy wall and a white bar that moves over it."""
    frames = np.repeat(np.random.default_rng(0).integers(60, 100, (1, 48, 64, 3)), 9, 0).astype(np.uint8)
    for index, frame in enumerate(frames):
        frame[20:30, 4 + 4 * index : 8 + 4 * index] = 255
    return frames


def test_only_where_the_reference_moves_counts(bar):
    places = moving_places(bar)
    assert places[25, 4:40].all() and not places[:12].any() and not places[:, 56:].any()
    wall = bar.copy()
    wall[:, :10] = 0
    assert compare(wall, bar) == {"psnr": 99.0, "sharpness": 1.0}
    moved = bar.copy()
    moved[:, 20:30] = 0
    assert compare(moved, bar)["psnr"] < 15


def test_a_blurred_clip_is_less_sharp(bar):
    wide = np.pad(bar.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    shifted = [wide[:, y : y + 48, x : x + 64] for y in range(3) for x in range(3)]
    blurred = np.mean(shifted, axis=0).astype(np.uint8)
    assert compare(blurred, bar)["sharpness"] < 0.6
    assert comparison([(blurred, None), (bar, None)], [(bar, None)] * 2)["sharpness"] == pytest.approx(
        (compare(blurred, bar)["sharpness"] + 1) / 2
    )


def test_a_clip_without_motion_is_compared_everywhere(bar):
    still = np.repeat(bar[:1], 9, 0)
    assert compare(still, still)["psnr"] == 99.0
    assert compare(255 - still, still)["psnr"] < 15


def test_a_pair_is_drawn_on_one_sheet(bar, tmp_path):
    clip = Clip(bar, np.zeros(6000, np.float32), "a bar moves", "ball", Events(), {}, {})
    write_pair(tmp_path / "pair.png", clip, clip)
    picture = np.asarray(Image.open(tmp_path / "pair.png"))
    assert (picture[: len(picture) // 2] == picture[len(picture) // 2 :]).all()
