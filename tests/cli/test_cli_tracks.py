"""The command line takes a sound, a picture or both, and continues a clip."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mova.catalog import find_model
from mova.cli import extend, generate
from mova.cli.main import build_parser, main
from mova.media.clips import read_clip, read_settings, write_mp4, write_wav
from mova.request import GenerationRequest
from tests.backends.test_backend_tracks import RATE, packets, picture, voice, write_foreign

ROOT = Path(__file__).parents[2]
CHECKPOINT = str(ROOT / "tests" / "golden" / "checkpoint")
SMALL = ["--model", CHECKPOINT, "--size", "64x32", "--steps", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def in_folder_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mp4(Path("given.mp4"), picture(9), voice(1, 44100, 2), RATE, 44100, {})
    write_foreign(Path("silent.mp4"))
    write_wav(Path("voice.wav"), voice(0.3, 16000), 16000)


@pytest.fixture
def run(capsys):
    """Run the command line in this process: (exit code, output, messages)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_a_sound_gets_a_picture_of_its_length(run, golden):
    image = golden / "image.png"
    code, _, messages = run("generate", "--audio", "voice.wav", "--image", image, *SMALL, "--out", "a.mp4")
    assert code == 0, messages
    clip = read_clip(Path("a.mp4"))
    assert (len(clip.frames), clip.sample_rate) == (9, 16000)
    assert np.corrcoef(clip.waveform[0, :4800], voice(0.3, 16000)[0])[0, 1] > 0.999
    assert read_settings(Path("a.mp4"))["audio"] == "voice.wav"
    assert "the clip's end after it is silent" in messages


def test_a_silent_picture_gets_a_sound(run):
    assert run("generate", "--video", "silent.mp4", *SMALL, "--out", "a.mp4")[0] == 0
    assert packets(Path("a.mp4")) == packets(Path("silent.mp4"))
    settings = read_settings(Path("a.mp4"))
    assert (settings["video"], settings["audio"], settings["num_frames"]) == ("silent.mp4", None, 9)


@pytest.mark.parametrize(
    ("flags", "video", "audio"),
    [
        (["--regenerate-audio", "0.1-0.2,0.25-0.3"], False, [[0.1, 0.2], [0.25, 0.3]]),
        (["--regenerate-audio"], False, True),
        (["--regenerate-video"], True, False),
        (["--regenerate-video", "0-0.1", "--regenerate-audio", "0-0.1"], [[0, 0.1]], [[0, 0.1]]),
    ],
)
def test_a_part_of_a_clip_is_made_again_and_the_rest_of_both_tracks_kept(run, flags, video, audio):
    assert run("generate", "--video", "given.mp4", *flags, *SMALL, "--out", "a.mp4")[0] == 0
    settings = read_settings(Path("a.mp4"))
    assert settings["video"] == settings["audio"] == "given.mp4"
    assert (settings["regenerate_video"], settings["regenerate_audio"]) == (video, audio)
    for kind, regenerated in (("video", video), ("audio", audio)):
        same = packets(Path("a.mp4"), kind) == packets(Path("given.mp4"), kind)
        assert same == (not regenerated)


def test_a_strength_takes_fewer_steps_and_the_bar_says_so(run):
    command = ["generate", "--video", "silent.mp4", "--regenerate-video", "--strength", "0.5", *SMALL]
    assert run(*command, "--audio", "voice.wav", "--steps", "4", "--out", "a.mp4")[0] == 0
    assert read_settings(Path("a.mp4"))["strength"] == 0.5
    _, _, messages = run("generate", "--from", "a.mp4", "--out", "b.mp4")
    assert "1/1 steps" in messages


def test_from_makes_such_a_clip_again_and_checks_its_sources(run):
    run("generate", "--video", "given.mp4", "--regenerate-audio", "0.1-0.2", *SMALL, "--out", "a.mp4")
    assert run("generate", "--from", "a.mp4", "--out", "b.mp4")[0] == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert run("generate", "--from", "a.mp4", "--video", "silent.mp4", "--out", "c.mp4")[0] == 2
    Path("given.mp4").write_bytes(Path("silent.mp4").read_bytes())
    code, _, messages = run("generate", "--from", "a.mp4", "--out", "c.mp4")
    assert code == 2
    assert "given.mp4 has changed since the clip was made from it; give the video with --video" in messages
    Path("given.mp4").unlink()
    code, _, messages = run("generate", "--from", "a.mp4", "--out", "c.mp4")
    assert code == 2
    assert "the clip was made from given.mp4, which is not here; give its video with --video" in messages


def test_without_a_size_the_clip_has_the_shape_and_the_length_of_the_video():
    write_foreign(Path("tall.mp4"), num_frames=30, size=(64, 32))
    options = build_parser().parse_args(["generate", "--video", "tall.mp4"])
    request = generate.build_request(options, {}, find_model("pocket"))
    assert (request.height, request.width, request.num_frames) == (240, 128, 29)
    options = build_parser().parse_args(
        ["generate", "--video", "tall.mp4", "--frames", "9", "--size", "64x32"]
    )
    request = generate.build_request(options, {}, find_model("pocket"))
    assert (request.height, request.width, request.num_frames) == (32, 64, 9)


@pytest.mark.parametrize(
    ("flags", "model", "refine"),
    [
        (["--regenerate-video", "0-0.1", "--regenerate-audio", "0-0.1"], "pocket", 4),
        (["--regenerate-video", "0-0.1", "--regenerate-audio", "0-0.1", "--refine", "0"], "pocket", 0),
        (["--regenerate-video", "0-0.1", "--regenerate-audio", "0-0.1"], "360p", 0),
        (["--regenerate-audio", "0-0.1"], "pocket", 0),
        (["--regenerate-video"], "pocket", 0),
    ],
)
def test_pocket_refines_where_a_part_of_both_tracks_is_made(flags, model, refine):
    options = build_parser().parse_args(["generate", "--video", "given.mp4", *flags])
    assert generate.build_request(options, {}, find_model(model)).refine == refine


@pytest.mark.parametrize(("flags", "refine"), [([], 2), (["--refine", "1"], 1)])
def test_pocket_refines_what_continues_a_clip_whatever_the_clip_was_made_with(flags, refine):
    options = build_parser().parse_args(["extend", "given.mp4", "--seconds", "1", *flags])
    settings = GenerationRequest("a bell", seed=5).to_settings()
    assert extend.build_request(options, settings, find_model("pocket")).refine == refine


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--video", "gone.mp4"], "gone.mp4 is not a file"),
        (["--audio", "silent.mp4"], "silent.mp4 has no sound"),
        (["--video", "given.mp4", "--audio", "voice.wav"], "nothing is left to make"),
        (["--video", "silent.mp4", "--regenerate-audio", "0-0.1"], "regenerate_audio needs audio"),
        (["--video", "given.mp4", "--regenerate-audio", "1.0"], "'1.0' is not START-END in seconds"),
        (["--video", "given.mp4", "--regenerate-audio", "0.1-9"], "out of range"),
        (["--video", "given.mp4", "--regenerate-audio", "0.2-0.1"], "ends before it starts"),
        (["--video", "given.mp4", "--regenerate-video", "0-0.2,0.1-0.3"], "overlap"),
        (["--video", "given.mp4", "--strength", "0.5"], "nothing to start from"),
        (["--video", "given.mp4", "--regenerate-video", "--strength", "2"], "from 0 to 1"),
        (["--video", "given.mp4", "--regenerate-video", "--refine", "1"], "one is kept whole; set refine=0"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(run, arguments, sentence):
    code, output, messages = run("generate", *arguments, *SMALL, "--out", "a.mp4")
    assert (code, output) == (2, "")
    assert messages.startswith("error: ")
    assert messages.count("\n") == 1
    assert sentence in messages
    assert not Path("a.mp4").exists()


def test_a_clip_is_extended_with_its_own_settings(run):
    run("generate", "--prompt", "a bell", "--frames", "9", "--seed", "5", *SMALL, "--out", "a.mp4")
    code, output, messages = run(
        "extend", "a.mp4", "--seconds", "0.3", "--overlap", "0.2", "--window", "0.375"
    )
    assert code == 0, messages
    assert output == "a-extended.mp4\tseed 5\n"
    settings = read_settings(Path("a-extended.mp4"))
    assert (settings["prompt"], settings["num_inference_steps"], settings["video"]) == ("a bell", 2, "a.mp4")
    assert len(read_clip(Path("a-extended.mp4")).frames) == 17
    code, _, messages = run("generate", "--from", "a-extended.mp4", "--out", "b.mp4")
    assert code == 2
    assert "was made by extending a.mp4; run python -m mova extend" in messages


def test_the_overlap_is_the_models_own_unless_it_is_given(run):
    model = find_model("pocket")
    run("generate", "--prompt", "a bell", "--frames", "9", *SMALL, "--out", "a.mp4")
    for given, overlap in (((), model.overlap_seconds), (("--overlap", "0.2"), 0.2)):
        command = ["extend", "a.mp4", "--seconds", "0.1", "--model", "pocket", "--refine", "0", "--overwrite"]
        code, _, messages = run(*command, *given)
        assert code == 0, messages
        extension = read_settings(Path("a-extended.mp4"))["extension"]
        assert extension == {"seconds": 0.1, "overlap": overlap}


def test_a_clip_of_another_tool_is_extended_by_the_prompt_at_its_shape_and_always_with_one_seed():
    options = build_parser().parse_args(["extend", "given.mp4", "--seconds", "1", "--prompt", "A ball."])
    requests = [extend.build_request(options, {}, find_model("pocket")) for _ in range(2)]
    assert requests[0] == requests[1]
    assert requests[0].seed is not None
    assert (requests[0].prompt, requests[0].num_frames) == ("A ball.", find_model("pocket").num_frames)
    assert (requests[0].height, requests[0].width) == (128, 240)
    assert extend.own_settings(Path("silent.mp4")) == {}


def test_ctrl_c_keeps_the_finished_windows_and_says_how_to_resume(run):
    run("generate", "--prompt", "a bell", "--frames", "9", "--seed", "5", *SMALL, "--out", "a.mp4")
    command = [
        "extend",
        "a.mp4",
        "--seconds",
        "0.5",
        "--overlap",
        "0.2",
        "--window",
        "0.375",
        "--steps",
        "40",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mova", *command, "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    while process.poll() is None and not list(Path().glob(".mova-extend-*/window-001.npz")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, messages = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, "")
    (folder,) = Path().glob(".mova-extend-*")
    assert f"windows are kept in {folder}: run the same command to resume" in messages
    assert not list(Path().rglob("*.part"))
    assert not Path("a-extended.mp4").exists()
    assert run(*command, "--device", "cpu")[0] == 0
    assert not list(Path().glob(".mova-extend-*"))
    resumed = Path("a-extended.mp4").read_bytes()
    assert run(*command, "--device", "cpu", "--overwrite")[0] == 0
    assert Path("a-extended.mp4").read_bytes() == resumed
