"""The page as it comes: no setting, the model of a machine without a GPU, its own examples."""

import re
import signal
import time

import numpy as np
import pytest

from mova.media.clips import read_clip, read_settings
from mova.metrics.health import loudness, psnr
from mova.metrics.onsets import find_onsets
from recipes.pocket.evaluation.examples import NOISE_SEED
from tests.browser.page import Demo, serving, visiting

AS_IT_COMES = {"MOVA_MODEL": "", "MOVA_SIZE": "", "MOVA_SECONDS": "", "MOVA_DEVICE": "cpu"}
CLIP_SECONDS = 240  # for a clip that takes 13 on two idle cores


@pytest.fixture(scope="module")
def pocket_server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("pocket"), **AS_IT_COMES) as server:
        yield server


@pytest.fixture
def pocket(chromium, pocket_server):
    with visiting(chromium, pocket_server) as demo:
        yield demo


def heard(clip):
    """Loudness in LUFS and the number of strokes."""
    strokes = find_onsets(clip.waveform[0], clip.sample_rate)
    return loudness(clip.waveform, clip.sample_rate), len(strokes.seconds)


def test_an_example_plays_and_is_made_here_bit_for_bit_the_same_twice(pocket, tmp_path):
    page = pocket.page
    assert "bouncing balls" in pocket.text("#about-model")
    assert "words are wrong" in pocket.text("#about-model")
    page.locator("#examples button", has_text="It falls, it rings").click()
    page.wait_for_function("() => document.querySelector('#player video')?.readyState >= 2")
    example = read_clip(pocket.download(tmp_path / "example.mp4"))
    level, strokes = heard(example)
    assert level > -40
    assert strokes >= 2
    assert not page.locator("#actions").is_visible()  # it is nobody's clip
    assert page.locator("#prompt textarea").input_value().startswith("A blue metal ball")
    page.get_by_text(f"Seed {NOISE_SEED} is set: the same form makes the same clip.").wait_for()
    pocket.choose("Quick")
    page.get_by_text("224×128 pixels (7:4), 2.0 s (49 frames)").wait_for()
    assert re.search(r"About \d+ (s|min) on this machine", pocket.text("#cost-note"))
    made = []
    for name in ("first", "again"):
        pocket.make(preset=None, seconds=CLIP_SECONDS)
        made.append(read_clip(pocket.download(tmp_path / f"{name}.mp4")))
    first, again = made
    assert first.frames.shape == (49, 128, 224, 3)
    assert first.waveform.shape[1] == pytest.approx(49 / 24 * first.sample_rate, abs=2)
    assert psnr(first.frames[0], example.frames[0]) > 20  # it starts from the same picture
    assert np.abs(first.frames[0].astype(int) - first.frames[-1]).max() > 60  # and the ball moves
    level, strokes = heard(first)
    assert level > -40
    assert strokes >= 1
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.waveform, again.waveform)
    decoded = page.evaluate(
        """async () => { const video = document.querySelector('#player video'); video.muted = true;
           await video.play(); await new Promise(done => video.onended = done);
           return video.webkitAudioDecodedByteCount }"""
    )
    assert decoded > 0


def test_an_idea_becomes_a_prompt_and_a_clip_without_a_picture(pocket, tmp_path):
    page = pocket.page
    page.get_by_role("tab", name="Write a prompt").click()
    page.locator("#idea textarea").fill("a purple wooden ball bounces twice")
    page.locator("#write").click()
    page.get_by_text("Written by pocket's word lists").wait_for(timeout=60_000)
    prompt = page.locator("#candidate-0 textarea").input_value()
    assert {"purple", "wooden", "ball"} <= set(re.findall(r"\w+", prompt))
    page.locator("#use-0").click()
    page.wait_for_function("text => document.querySelector('#prompt textarea').value === text", arg=prompt)
    pocket.make(seconds=CLIP_SECONDS)
    settings = read_settings(pocket.download(tmp_path / "clip.mp4"))
    assert (settings["prompt"], settings.get("image"), settings["num_inference_steps"]) == (prompt, None, 4)
    level, _ = heard(read_clip(tmp_path / "clip.mp4"))
    assert level > -40


def test_training_keeps_what_pocket_can_unless_told_otherwise(pocket):
    pocket.page.get_by_role("tab", name="Train").click()
    keep = pocket.page.get_by_label("Keep what it can already")
    keep.wait_for()
    assert keep.is_checked()
    pocket.page.get_by_text("makes clips of its own examples").wait_for()


def test_ctrl_c_ends_a_page_that_is_open_and_at_work(chromium, pocket_server):
    demo = Demo(chromium, pocket_server.url)
    demo.page.locator("#prompt textarea").fill("A ball bounces.")
    demo.page.locator("#make").click()
    demo.page.locator("#status .mova-run").wait_for()
    began = time.monotonic()
    pocket_server.process.send_signal(signal.SIGINT)
    assert pocket_server.process.wait(30) == 0
    assert time.monotonic() - began < 10  # 2.4 when it was written, 20 and more before
    demo.close()
    assert "Traceback" not in pocket_server.log.read_text()
