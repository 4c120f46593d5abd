from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mova.errors import UserError
from recipes.pocket.evaluation.evaluate import DEFAULT_RUN, planned_runs
from recipes.pocket.evaluation.generate import Request, Settings, Stopwatch, generate, load_pipeline
from recipes.pocket.evaluation.roundtrip import log_spectral_distance
from recipes.pocket.world.clip import SAMPLE_RATE

SETTINGS = Settings(steps=2, guidance_scale=3.0, num_frames=9)


@pytest.fixture(scope="module")
def requests():
    image = np.asarray(Image.open("tests/golden/image_32x64.png").convert("RGB"))
    return [Request(5, "a red ball falls", image), Request(6, "a piano plays C", image[:, ::-1].copy())]


@pytest.mark.parametrize("bridge_scale", [1.0, 2.5])
def test_clips_are_those_the_pipeline_makes_alone(tiny_pipeline, requests, bridge_scale):
    settings = replace(SETTINGS, bridge_guidance_scale=bridge_scale)
    watch = Stopwatch()
    made = list(generate(tiny_pipeline, requests, settings, batch=2, watch=watch))
    assert set(watch.seconds) == {"text", "first frame", "denoise", "decode video", "decode audio"}
    for request, (frames, sound) in zip(requests, made, strict=True):
        expected = tiny_pipeline(
            request.prompt,
            request.image,
            height=32,
            width=64,
            num_frames=9,
            num_inference_steps=2,
            guidance_scale=3.0,
            bridge_guidance_scale=bridge_scale,
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
        )
        assert np.abs(frames / 255 - expected.frames[0]).max() < 0.01
        assert np.allclose(sound, expected.audio[0, 0], atol=1e-3)


def test_with_the_bridge_off_the_towers_do_not_hear_each_other(tiny_pipeline, requests):
    on, off = (
        next(generate(tiny_pipeline, requests[:1], replace(SETTINGS, use_bridge=each)))
        for each in (True, False)
    )
    assert not np.array_equal(on[0], off[0])
    assert not np.allclose(on[1], off[1])
    assert not any(branch.use_bridge for branch in replace(SETTINGS, use_bridge=False).forwards(0.5))


def test_the_adapters_of_a_run_act_together_and_are_gone_after_it(tiny_pipeline, requests):
    lora = "tests/golden/lora_upstream_accelerate"
    base, one, both, after = (
        next(generate(tiny_pipeline, requests[:1], replace(SETTINGS, adapters=each)))[1]
        for each in ((), (lora,), (lora, lora), ())
    )
    assert np.array_equal(base, after)
    assert not np.allclose(base, one)
    assert not np.allclose(one, both)


def test_a_model_of_another_sample_rate_is_refused():
    with pytest.raises(UserError, match="16000 Hz"):
        load_pipeline("tests/golden/checkpoint", "cpu")


def test_runs_differ_from_the_default_in_what_they_are_named_for():
    runs = planned_runs(4.0, None, (4, 8), ablations=True)
    default = runs[DEFAULT_RUN]
    assert default.guidance_scale == 4
    assert runs["8 steps"] == replace(default, steps=8)
    assert runs["bridge guidance 3"] == replace(default, bridge_guidance_scale=3.0)
    assert not runs["bridge off"].use_bridge


def test_log_spectral_distance_is_the_decibels_between_levels():
    sound = 0.5 * np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    assert log_spectral_distance(sound, sound) == 0
    assert log_spectral_distance(sound, sound / 10) == pytest.approx(20, abs=0.01)
