"""The shipped weights: what they claim, on clips of seeds that training never drew."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mova.catalog import POCKET
from mova.metrics.health import psnr
from recipes.pocket.captions import CaptionMix
from recipes.pocket.evaluation.aggregate import score
from recipes.pocket.evaluation.generate import Request, Settings, generate, load_pipeline
from recipes.pocket.evaluation.measure import Expectation, measure
from recipes.pocket.world.clip import HEIGHT, WIDTH
from recipes.pocket.world.render import render

QUICK = Settings(steps=4, guidance_scale=1.0, bridge_guidance_scale=1.0)
FULL = CaptionMix(1, 0, 0, 0)


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(POCKET, "cpu")


@pytest.fixture(scope="module")
def made(pipeline, speech):
    """Figures of a family's clips of these seeds."""

    def made(family, seeds, settings):
        clips = [render(seed, family, "train", speech, FULL) for seed in seeds]
        requests = [Request.of(seed, clip) for seed, clip in zip(seeds, clips, strict=True)]
        results = generate(pipeline, requests, settings)
        return [
            measure(*result, Expectation.of(clip, speech))
            for result, clip in zip(results, clips, strict=True)
        ]

    return made


def test_the_checkpoint_is_small_enough_for_a_clone_and_for_a_space():
    sizes = [path.stat().st_size for path in POCKET.rglob("*") if path.is_file()]
    assert max(sizes) < 10e6
    assert sum(sizes) < 48.3e6


def test_its_configs_name_no_folder_of_the_machine_that_made_them():
    for path in POCKET.rglob("*config.json"):
        assert "_name_or_path" not in json.loads(path.read_text()), path


def test_keys_light_with_the_pitches_that_are_heard_and_only_by_the_bridge(made):
    seeds = (2_000_000, 2_000_002)
    scores = score("piano", made("piano", seeds, QUICK))
    assert scores["lit_is_heard"] > 0.8
    assert scores["offset"] < 1  # frame
    without = score("piano", made("piano", seeds, replace(QUICK, use_bridge=False)))
    assert without["lit_is_heard"] < 0.5


def test_lips_move_with_the_voice(made):
    rows = made("face", range(2_000_001, 2_000_005), QUICK)
    correlations = np.mean([row["correlations"] for row in rows], axis=0)
    assert correlations.max() > 0.2
    assert abs(correlations.argmax() - len(correlations) // 2) <= 2  # frames
    assert min(row["first_frame_psnr"] for row in rows) > 24


def test_a_picture_from_outside_its_world_is_kept_and_moves_on(pipeline):
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    hills = 128 + 90 * np.sin(columns / 31) * np.cos(rows / 23)
    picture = np.stack((hills, 255 - hills, 0.7 * hills + 40), axis=-1).astype(np.uint8)
    request = Request(3, "Waves roll onto a beach at dusk. The audio shows the sea.", picture)
    [(frames, sound)] = generate(pipeline, [request], QUICK)
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1
    assert psnr(frames[0], picture) > 15
    assert frames.std() > 10
