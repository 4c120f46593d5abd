import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mova.cli.main import main
from mova.media.clips import read_clip, read_settings, write_mp4
from tests.backends.video_server import KEY, running_engine

ROOT = Path(__file__).parents[2]
SMALL = ["--size", "64x32", "--frames", "9", "--steps", "3", "--prompt", "a bell rings", "--seed", "7"]


@pytest.fixture(scope="module")
def running():
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(running, tmp_path, monkeypatch):
    for name in ("MOVA_BACKEND", "MOVA_REMOTE_URL", "MOVA_REMOTE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (9, 32, 64, 3), np.uint8)
    write_mp4(tmp_path / "made.mp4", frames, random.uniform(-0.5, 0.5, 18000), 24, 48000, {})
    running.reset((tmp_path / "made.mp4").read_bytes())
    running.looks_until_done = 1
    return running


def test_one_command_makes_a_clip_on_a_server_and_shows_no_guess(engine):
    command = [sys.executable, "-m", "mova", "generate", "--remote", engine.url, *SMALL]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "MOVA_REMOTE_API_KEY": KEY}
    engine.key = KEY
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "outputs/clip-7.mp4\tseed 7\n"
    assert "on the server, which reports no steps" in done.stderr
    assert "%" not in done.stderr
    assert "0/3" not in done.stderr
    assert KEY not in done.stderr
    assert read_clip(Path("outputs/clip-7.mp4")).frames.shape == (9, 32, 64, 3)


def test_the_environment_sends_a_clip_to_the_server_and_a_clip_is_made_again_there(
    engine, monkeypatch, capsys
):
    monkeypatch.setenv("MOVA_BACKEND", "remote")
    monkeypatch.setenv("MOVA_REMOTE_URL", engine.url)
    assert main(["generate", *SMALL, "--out", "a.mp4", "--wav", "a.wav"]) == 0
    assert main(["generate", "--from", "a.mp4", "--out", "b.mp4"]) == 0, capsys.readouterr().err
    assert engine.orders[0] == engine.orders[1]
    assert read_settings(Path("a.mp4")) == read_settings(Path("b.mp4"))
    assert Path("a.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--offload", "layers", "--fp8"], 2, "error: --offload, --fp8 is for this machine; leave it out"),
        (["--attention", "torch"], 2, "error: --attention is for this machine; leave it out"),
        (["--bridge-guidance-scale", "3"], 2, "error: bridge_guidance_scale=3 cannot be sent to a server"),
        (["--video", "../made.mp4"], 2, "error: video cannot be sent to a server"),
        (["--remote-api-key-env", "NOT_SET"], 2, "error: the environment variable NOT_SET is empty"),
        (["--model", "720p"], 2, "serves 360p, not 720p; give --model 360p"),
        (["--frame-rate", "30"], 1, "9 frames at 24 a second, not 64x32, 9 frames at 30 a second"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_an_exit_code(engine, capsys, arguments, code, sentence):
    assert main(["generate", "--remote", engine.url, *SMALL, *arguments]) == code
    messages = capsys.readouterr().err.splitlines()
    assert sentence in messages[-1]
    assert not list(Path().rglob("*.mp4"))


def test_a_key_without_a_server_is_a_mistake(engine, capsys):
    assert main(["generate", *SMALL, "--remote-api-key-env", "KEY"]) == 2
    assert "--remote-api-key-env belongs to --remote URL; give both" in capsys.readouterr().err
