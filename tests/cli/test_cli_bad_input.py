"""Every mistake costs a second, one sentence and an exit code; nothing is written, lost or downloaded."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from mova.cli.main import main
from tests.disk import files_of_at_most

# If it were asked for, it would have to come from the Hub, and the sentence would be another.
ABSENT = ["--model", "nobody/never-asked-for"]
ADAPTER = Path(__file__).parents[1] / "golden" / "lora_upstream_accelerate"
FLAGS = [  # one wrong value each; the rules themselves are those of a request
    (["--size", "640x360"], "size 640x360 (width x height) will not do", "nearest: 640x352"),
    (["--frames", "100"], "num_frames=100 must be 4k+1", "nearest: 97, 101"),
    (["--seconds", "41"], "seconds=41.0 is out of range", "to 40.0417"),
    (["--frame-rate", "0"], "frame_rate=0.0 is out of range", "from 1 to 120"),
    (["--guidance-scale", "nan"], "guidance_scale=nan is not a number", "from 0 to 30"),
    (["--bridge-guidance-scale", "-1"], "bridge_guidance_scale=-1.0 is out of range", "from 0 to 30"),
    (["--steps", "5000"], "num_inference_steps=5000 is out of range", "from 1 to 1000"),
    (["--audio-guidance", "nan"], "audio_guidance_scale=nan is not a number", "from 0 to 30"),
    (["--audio-bridge-guidance", "31"], "audio_bridge_guidance_scale=31.0 is out of range", "from 0 to 30"),
    (["--guidance-interval", "0.9", "0.3"], "guidance_interval=0.9, 0.3 ends before it starts", "give 0.3"),
    (["--guidance-interval", "0", "1.5"], "guidance_interval=1.5 is out of range", "from 0 to 1"),
    (["--guidance-interval", "nan", "1"], "guidance_interval=nan is not a number", "from 0 to 1"),
    (["--video-shift", "0"], "video_shift=0.0 is out of range", "from 0.01 to 100"),
    (["--audio-shift", "nan"], "audio_shift=nan is not a number", "from 0.01 to 100"),
    (["--seed", "-1"], "seed=-1 is out of range", "from 0 to"),
    (["--lora", f"{ADAPTER}:nan"], f"the strength of {ADAPTER}=nan is not a number", "from -10 to 10"),
    (["--lora", f"{ADAPTER}:voice=1"], "'voice' is not a part of the model", "choose from video, high, low"),
    (["--lora", "gone.safetensors"], "there is no adapter gone.safetensors", "give a .safetensors file"),
]
SYNTAX = [
    (["--frames", "5", "--seconds", "1"], "not allowed with argument"),
    (["--preset", "slow"], "invalid choice: 'slow'"),
    (["--seed", "one"], "invalid int value: 'one'"),
    (["--steps", "2.5"], "invalid int value: '2.5'"),
    (["--solver", "heun"], "invalid choice: 'heun'"),
    (["--guidance-interval", "0.5"], "expected 2 arguments"),
    (["--offload", "some"], "invalid choice: 'some'"),
    (["--sed", "1"], "unrecognized arguments: --sed 1"),
]


@pytest.fixture
def refusal(capsys):
    """Run a command that must be refused with one sentence on stderr, nothing on stdout, and this code."""

    def refusal(*arguments, code=2, prompt="a bell rings", model=ABSENT):
        before = sorted(Path().rglob("*"))
        options = [*model, "--prompt", prompt, *arguments]
        assert main(["generate", *map(str, options)]) == code
        output, messages = capsys.readouterr()
        assert output == ""
        assert sorted(Path().rglob("*")) == before
        return messages

    return refusal


def assert_sentence(messages, *parts):
    assert messages.startswith("error: ")
    assert messages.count("\n") == 1
    for part in parts:
        assert part in messages


@pytest.mark.parametrize(("arguments", "complaint", "advice"), FLAGS)
def test_a_wrong_value_is_refused_with_one_that_works(refusal, arguments, complaint, advice):
    assert_sentence(refusal(*arguments), complaint, advice)


def test_a_prompt_that_says_nothing_is_refused(refusal):
    assert_sentence(refusal(prompt=" "), "the prompt is empty; say what is seen and what is heard")


def test_a_prompt_is_needed(capsys):
    assert main(["generate", *ABSENT]) == 2
    assert_sentence(capsys.readouterr().err, "give --prompt: what is seen and what is heard")


@pytest.mark.parametrize(("arguments", "complaint"), SYNTAX)
def test_arguments_that_cannot_be_read_show_the_usage(capsys, arguments, complaint):
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--prompt", "a bell rings", *arguments])
    assert caught.value.code == 2
    messages = capsys.readouterr().err
    assert messages.startswith("usage: ")
    assert complaint in messages.splitlines()[-1]


@pytest.mark.parametrize("name", ["36p", "./gone", "/gone/model", "gone.safetensors"])
def test_an_unknown_model_is_refused_with_the_known_ones(refusal, name):
    assert_sentence(refusal(model=["--model", name]), f"there is no model {name!r}; give 360p, 720p")


def test_an_image_that_is_none_is_refused(refusal):
    assert_sentence(refusal("--image", "first.png"), "first.png cannot be read: No such file")
    Path("first.png").write_bytes(b"a text file that somebody named .png")
    assert_sentence(refusal("--image", "first.png"), "first.png is not an image that can be read")


@pytest.mark.parametrize(
    ("arguments", "complaint", "advice"),
    [
        (["--out", "clip.mov"], "must end in .mp4", "--wav and --png"),
        (["--out", "taken.mp4"], "taken.mp4 exists", "--overwrite"),
        (["--out", "folder.mp4"], "is a folder", "give the name of a file"),
        (["--out", "taken.mp4/clip.mp4"], "taken.mp4 is a file", "choose another folder"),
        (["--out", "a" * 300 + ".mp4"], "File name too long", "choose another name"),
        (["--wav", "sound.mp3"], "must end in .wav", ""),
        (["--wav", "taken.wav"], "taken.wav exists", "--overwrite"),
        (["--png", "folder.mp4"], "folder.mp4 exists", "--overwrite"),
        (
            ["--png", "folder.mp4", "--overwrite"],
            "holds mine.txt, which is not ours",
            "choose another folder",
        ),
        (["--png", "taken.wav"], "Not a directory", "choose another name"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_run(refusal, arguments, complaint, advice):
    for name in ("taken.mp4", "taken.wav", "folder.mp4/mine.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    assert_sentence(refusal(*arguments), complaint, advice)
    assert Path("taken.mp4").read_text() == Path("folder.mp4/mine.txt").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_the_run(refusal):
    Path("locked").mkdir(mode=0o500)
    assert_sentence(refusal("--out", "locked/clip.mp4"), "is read-only; choose another name or folder")


@pytest.mark.parametrize(("content", "complaint"), [(None, "is not a file"), (b"<html>", "not an mp4 clip")])
def test_settings_come_only_from_a_clip_of_ours(refusal, content, complaint):
    if content:
        Path("clip.mp4").write_bytes(content)
    assert_sentence(refusal("--from", "clip.mp4"), "clip.mp4", complaint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuda would be there")
def test_a_device_that_is_not_there_is_refused(refusal, golden):
    messages = refusal("--device", "cuda", model=["--model", golden / "checkpoint"])
    assert_sentence(messages, "device 'cuda' cannot be used here", "leave --device out to choose")


def test_a_broken_checkpoint_is_refused_by_file(refusal, checkpoint_copy):
    folder = checkpoint_copy / "text_encoder"
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"shared.weight": "model-00001-of-00003.safetensors"}})
    )
    model = ["--model", checkpoint_copy]
    assert_sentence(
        refusal(model=model), f"{folder} lacks model-00001-of-00003.safetensors", "finish the download"
    )
    shutil.rmtree(folder)
    assert_sentence(refusal(model=model), "has no folder text_encoder/")


def test_a_broken_adapter_is_refused_by_file(refusal, golden):
    Path("style.safetensors").write_text("<html>")
    messages = refusal("--lora", "style.safetensors:0.5", model=["--model", golden / "checkpoint"])
    assert "error: " in messages
    assert "style.safetensors" in messages.splitlines()[-1]


def test_a_full_disk_is_a_failure_that_leaves_nothing(refusal, golden):
    small = ["--size", "64x32", "--frames", "5", "--steps", "1"]
    with files_of_at_most(2000):
        messages = refusal(*small, "--out", "clip.mp4", code=1, model=["--model", golden / "checkpoint"])
    assert messages.splitlines()[-1].startswith("failed: clip.mp4 cannot be written (File too large)")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["36p"], "there is no model '36p'"),
        ([*ABSENT[1:], "--size", "640x360"], "nearest: 640x352"),
        ([*ABSENT[1:], "--frames", "0"], "num_frames=0 must be from 1 to 961"),
    ],
)
def test_inspect_reports_mistakes_alike(capsys, arguments, complaint):
    assert main(["inspect", *arguments]) == 2
    assert_sentence(capsys.readouterr().err, complaint)
