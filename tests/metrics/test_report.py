import json
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks.sync import shifted
from mova.cli.main import main
from mova.media.clips import write_mp4
from mova.metrics import measure
from recipes.pocket.world.render import make_scene


@pytest.fixture(scope="module")
def ball():
    return make_scene(9000, "ball")


def test_a_sound_clip_has_no_problems_and_says_that_its_timing_matches(ball):
    health = measure(ball.frames, ball.waveform, 16000, 24, first_frame=ball.frames[0])
    assert health.problems() == ()
    assert "matches" in health.sentences()[-1]
    assert health.seconds == pytest.approx(49 / 24)


def test_late_sound_is_said_with_its_milliseconds(ball):
    health = measure(ball.frames, shifted(ball.waveform, 300), 16000, 24)
    (problem,) = health.problems()
    assert problem.endswith("after what is seen: this disturbs.")
    assert abs(float(problem.split()[3]) - 300) < 42


def test_synchrony_is_less_where_half_of_the_sound_is_anothers_and_nothing_where_it_is_late(ball):
    other, middle = make_scene(9001, "ball").waveform, len(ball.waveform) // 2
    half = np.concatenate((ball.waveform[:middle], other[middle:]))
    sounds = (ball.waveform, half, shifted(ball.waveform, 300), np.zeros_like(half))
    own, halved, late, silent = (measure(ball.frames, sound, 16000, 24).synchrony for sound in sounds)
    assert own > halved
    assert late == silent == 0


def test_a_failed_clip_says_each_fault_in_a_sentence(ball):
    noise = np.random.default_rng(0).standard_normal(32666).astype(np.float32)
    plain = np.full_like(ball.frames, 128)
    faults = " ".join(measure(plain, np.clip(5 * noise, -1, 1), 16000, 24, ball.frames[0]).problems())
    for said in ("distorted", "very loud", "plain colour", "stands still", "given picture"):
        assert said in faults
    silent = measure(plain, np.zeros(32666), 16000, 24)
    assert "The clip is silent." in silent.problems()
    assert "cannot be measured" in silent.sentences()[-1]


def test_figures_are_json_and_sound_may_be_mono_or_stereo(ball):
    mono = measure(ball.frames, ball.waveform, 16000, 24).to_dict()
    assert measure(ball.frames, ball.waveform[None], 16000, 24).to_dict() == mono
    stereo = measure(ball.frames, np.stack((ball.waveform, ball.waveform)), 16000, 24)
    assert json.loads(json.dumps(stereo.to_dict(), allow_nan=False))["sync"] == mono["sync"]


@pytest.mark.parametrize(
    ("frames", "waveform", "first"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros(10), None),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(10), None),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(0), None),
        (np.zeros((2, 8, 8, 3), np.uint8), np.full(10, np.nan), None),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(10), np.zeros((4, 4, 3), np.uint8)),
    ],
)
def test_arrays_that_are_no_clip_are_refused(frames, waveform, first):
    with pytest.raises(ValueError):
        measure(frames, waveform, 16000, 24, first)


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (2, 16, 16, 3), (5, 32, 64, 3), (3, 64, 16, 3)])
def test_the_smallest_clips_have_figures(shape):
    frames = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    for samples in (1, 5, 700):
        health = measure(frames, 0.1 * np.ones(samples), 16000, 24)
        json.dumps(health.to_dict(), allow_nan=False)


def test_a_short_clip_costs_less_than_half_a_second(ball):
    began = time.process_time()
    measure(ball.frames, ball.waveform, 16000, 24)
    assert time.process_time() - began < 0.5


def test_evaluate_prints_sentences_or_json_and_names_what_it_cannot_read(ball, tmp_path, capsys):
    clip, image = tmp_path / "clip.mp4", tmp_path / "first.png"
    Image.fromarray(ball.frames[0]).save(image)
    settings = {"prompt": "a ball", "image": str(image)}
    write_mp4(clip, ball.frames, ball.waveform, 24, 16000, settings)
    assert main(["evaluate", str(clip)]) == 0
    printed = capsys.readouterr().out
    assert "The timing of sounds and what is seen matches" in printed
    assert "dB PSNR" in printed
    assert main(["evaluate", str(clip), str(tmp_path / "gone.mp4"), "--json"]) == 2
    output, messages = capsys.readouterr()
    good, bad = json.loads(output)
    assert (good["file"], good["sync"]["is_clear"]) == (str(clip), True)
    assert abs(good["sync"]["offset_ms"]) < 42  # through H.264 and AAC
    assert good["video"]["first_frame_psnr_db"] > 30
    assert "gone.mp4 is not a file" in bad["error"]
    assert "gone.mp4 is not a file" in messages
