import os
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mova.catalog import MODELS
from mova.cli.main import main
from mova.errors import BackendError
from mova.machine import Machine, lacks_for_released
from mova.media.clips import read_clip, read_settings, write_wav
from mova.prompting.first_frame import first_frame_for
from tests.prompting.test_first_frame import paint

ROOT = Path(__file__).parents[2]
CHECKPOINT = str(Path(__file__).parents[1] / "golden" / "checkpoint")
SMALL = ["--model", CHECKPOINT, "--size", "64x32", "--frames", "5", "--steps", "2", "--device", "cpu"]


@pytest.fixture
def run(capsys):
    """Run the command line in this process: (exit code, output, messages)."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = error.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def generate(run):
    """Make a small clip and read it back: (clip, settings)."""

    def generate(*arguments, out="clip.mp4"):
        code, _, messages = run("generate", *arguments, "--out", out)
        assert code == 0, messages
        return read_clip(Path(out)), read_settings(Path(out))

    return generate


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "mova", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )


def left_over():
    return sorted(path.name for path in Path().rglob("*"))


def test_one_command_makes_a_clip_that_plays(golden):
    command = ["--image", golden / "image.png", "--prompt", "a bell rings", *SMALL, "--seed", "7"]
    process = start("generate", *command)
    output, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    assert output == "outputs/clip-7.mp4\tseed 7\n"
    first, *_ = messages.splitlines()
    assert "on CPU" in first
    assert "denoising takes about 1 s" in first
    assert "2/2 steps" in messages
    assert "Warning" not in messages
    clip = read_clip(Path("outputs/clip-7.mp4"))
    assert clip.frames.shape == (5, 32, 64, 3)
    assert (clip.frame_rate, clip.sample_rate) == (24, 8000)  # 3200 Hz is none of AAC's rates
    assert clip.waveform.shape == (1, 8000 * 5 // 24)
    settings = read_settings(Path("outputs/clip-7.mp4"))
    assert (settings["prompt"], settings["seed"], settings["model"]) == ("a bell rings", 7, CHECKPOINT)


def test_a_stop_by_ctrl_c_leaves_nothing_and_says_so():
    process = start("generate", "--prompt", "a bell rings", *SMALL[:-4], "--steps", "1000", "--verbose")
    for line in process.stderr:
        if "placement:" in line:  # loaded, and about to denoise
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=180)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "stopped; no unfinished file is left"
    assert "Traceback" not in messages
    assert [name for name in left_over() if name != "outputs"] == []


def test_a_mistake_is_reported_in_a_second_before_torch_is_imported():
    began = time.monotonic()
    process = start("generate", "--model", CHECKPOINT, "--prompt", "a bell rings", "--size", "640x360")
    output, messages = process.communicate(timeout=180)
    assert (process.returncode, output) == (2, "")
    assert messages.startswith("error: size 640x360")
    assert "nearest: 640x352" in messages
    assert messages.count("\n") == 1
    assert time.monotonic() - began < 5


def test_progress_shows_the_time_left_on_a_terminal(monkeypatch):
    """A real terminal, as a bar is drawn differently into a file."""
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    shown = []

    def look():
        with suppress(OSError):  # the terminal is gone with its last writer
            while piece := os.read(leader, 4096):
                shown.append(piece)

    looking = threading.Thread(target=look)
    looking.start()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        assert main(["generate", "--prompt", "a bell rings", *SMALL[:-4], "--steps", "30"]) == 0
    looking.join()
    os.close(leader)
    shown = b"".join(shown)
    for stage in (b"load ", b"encode ", b"denoise ", b"write "):
        assert stage in shown
    assert b"s left" in shown
    assert b"30/30 steps" in shown


def test_a_random_seed_is_reported_and_makes_the_clip_again(run, generate):
    code, output, _ = run("generate", "--prompt", "a bell rings", *SMALL)
    path, _, seed = output.strip().partition("\tseed ")
    assert (code, path) == (0, f"outputs/clip-{seed}.mp4")
    again, settings = generate("--prompt", "a bell rings", *SMALL, "--seed", seed)
    made = read_clip(Path(path))
    assert np.array_equal(again.frames, made.frames)
    assert np.array_equal(again.waveform, made.waveform)
    assert settings["image"] is settings["image_sha256"] is None


def test_a_name_by_default_never_collides(run):
    names = [run("generate", "--prompt", "a bell rings", *SMALL, "--seed", "7")[1] for _ in range(3)]
    assert [name.split("\t")[0] for name in names] == [
        f"outputs/clip-7{suffix}.mp4" for suffix in ("", "-2", "-3")
    ]


def test_a_clip_is_made_again_from_its_own_settings_bit_for_bit(generate, golden):
    adapter = f"{golden / 'lora_upstream_accelerate'}:video=0.5,audio=2"
    chosen = [
        "--guidance-scale",
        "3",
        "--bridge-guidance-scale",
        "2",
        "--audio-guidance",
        "2.5",
        "--cache-threshold",
        "0.1",
        "--audio-bridge-guidance",
        "1",
        "--guidance-interval",
        "0.2",
        "0.95",
        "--solver",
        "unipc",
        "--audio-shift",
        "1",
        "--crop-position",
        "0.25",
        "--lora",
        adapter,
    ]
    command = ["--prompt", "a bell rings", "--image", golden / "image.png", "--fit", "pad", *SMALL, *chosen]
    first, settings = generate(*command, "--seed", "7", "--dtype", "bfloat16", out="first.mp4")
    again, repeated = generate("--from", "first.mp4", "--device", "cpu", out="again.mp4")
    assert repeated == settings
    assert (settings["dtype"], settings["audio_shift"]) == ("bfloat16", 1.0)
    assert settings["crop_position"] == 0.25
    assert (settings["audio_guidance_scale"], settings["audio_bridge_guidance_scale"]) == (2.5, 1.0)
    assert (settings["guidance_interval"], settings["solver"]) == ([0.2, 0.95], "unipc")
    assert settings["cache_threshold"] == 0.1
    assert settings["adapters"] == [[adapter.partition(":")[0], {"video": 0.5, "audio": 2.0}]]
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.waveform, again.waveform)


def test_what_is_given_with_from_replaces_its_settings(generate, golden):
    _, settings = generate("--prompt", "a bell rings", *SMALL, "--seed", "7", out="first.mp4")
    clip, changed = generate("--from", "first.mp4", "--seed", "8", "--size", "32x64", "--seconds", "0.4")
    assert clip.frames.shape == (9, 64, 32, 3)
    expected = {"seed": 8, "height": 64, "width": 32, "num_frames": 9}
    assert changed == settings | expected
    _, changed = generate("--from", "first.mp4", "--image", golden / "image.png", out="third.mp4")
    assert changed["image"] == str(golden / "image.png")
    assert changed["seed"] == 7


def test_from_needs_the_image_as_it_was_or_another(run, generate, golden):
    image = Path("first.png")
    image.write_bytes((golden / "image.png").read_bytes())
    generate("--prompt", "a bell rings", "--image", image, *SMALL, out="first.mp4")
    image.write_bytes((golden / "image_32x64.png").read_bytes())
    code, _, messages = run("generate", "--from", "first.mp4", "--out", "a.mp4")
    assert (code, messages) == (
        2,
        "error: first.png has changed since the clip was made from it; give the first frame with --image\n",
    )
    image.unlink()
    code, _, messages = run("generate", "--from", "first.mp4", "--out", "a.mp4")
    assert code == 2
    assert (
        "the clip was made from first.png, which is not here; give its first frame with --image" in messages
    )
    generate("--from", "first.mp4", "--image", golden / "image_32x64.png", out="b.mp4")


def test_sound_and_frames_are_written_next_to_the_clip(generate):
    clip, _ = generate("--prompt", "a bell rings", *SMALL, "--wav", "sound.wav", "--png", "frames")
    frames = [f"frame_{index:05}.png" for index in range(5)]
    assert left_over() == sorted(["clip.mp4", "frames", "sound.wav", *frames])
    assert Path("sound.wav").stat().st_size == 44 + 2 * clip.waveform.size


def test_an_adapter_at_its_strength_changes_the_clip(generate, golden):
    adapter = golden / "lora_upstream_accelerate"
    command = ["--prompt", "a bell", *SMALL, "--seed", "7"]
    plain, _ = generate(*command, out="plain.mp4")
    changed, settings = generate(*command, "--lora", f"{adapter}:0.5", out="changed.mp4")
    assert settings["adapters"] == [[str(adapter), 0.5]]
    assert not np.array_equal(plain.frames, changed.frames)


def test_a_preset_sets_steps_and_length(generate):
    small = ["--prompt", "a bell", "--model", CHECKPOINT, "--size", "32x32", "--guidance-scale", "1"]
    _, settings = generate(*small, "--preset", "quick", "--device", "cpu")
    assert (settings["num_frames"], settings["num_inference_steps"]) == (97, 12)
    assert settings["solver"] == "unipc"
    _, settings = generate("--from", "clip.mp4", "--preset", "exact", "--steps", "2", out="exact.mp4")
    assert (settings["num_frames"], settings["num_inference_steps"]) == (193, 2)
    assert (settings["solver"], settings["guidance_interval"]) == ("euler", [0.0, 1.0])
    assert settings["negative_prompt"].startswith("色调艳丽")


def test_a_prompt_over_512_tokens_is_cut_with_a_warning_that_shows_what_is_lost(run):
    code, _, messages = run("generate", "--prompt", "a bell rings and " * 100 + "THE END IS LOST", *SMALL)
    assert code == 0
    assert messages.count("THE END IS LOST") == 1
    assert "over 512 tokens" in messages


def test_inspect_prints_the_table_and_plans_for_the_size_asked(run):
    code, output, messages = run("inspect", CHECKPOINT, "--size", "64x32", "--frames", "9")
    assert (code, messages) == (0, "")
    assert output.startswith("component          parameters  in files  type  goes to\nvideo_dit ")
    assert "clip: 64x32, 9 frames" in output
    assert "\nattention: torch (flash-attn-4 needs a Hopper card or a B200)\n" in output


def test_convert_writes_a_checkpoint_that_generate_takes_and_says_is_fp8(run, generate):
    code, output, messages = run("convert", CHECKPOINT, "--to", "fp8", "--out", "small")
    assert (code, output) == (0, "small\n")
    assert "video_dit: 0." in messages
    small = [*SMALL, "--model", "small", "--prompt", "a bell", "--seed", "1"]
    clip, settings = generate(*small, "--verbose")
    assert settings["fp8"] is True
    plain, settings = generate(*SMALL, "--prompt", "a bell", "--seed", "1", "--fp8", out="plain.mp4")
    assert settings["fp8"] is True
    assert np.array_equal(clip.frames, plain.frames)
    assert run("convert", CHECKPOINT, "--to", "fp8", "--out", "small")[0] == 2


def test_an_attention_kernel_that_does_not_work_here_is_said_and_the_clip_is_made(generate, run, caplog):
    clip, _ = generate(*SMALL, "--prompt", "a bell", "--seed", "1", "--attention", "flash-attn-4")
    assert "video attention falls back to torch's: flash-attn-4 fails here" in caplog.text
    plain, _ = generate(*SMALL, "--prompt", "a bell", "--seed", "1", out="plain.mp4")
    assert np.array_equal(clip.frames, plain.frames)
    code, _, messages = run("generate", *SMALL, "--prompt", "a bell", "--attention", "warp")
    assert (code, messages.startswith("error: there is no attention kernel 'warp' for video")) == (2, True)


def test_without_a_model_the_small_one_is_taken_where_there_is_no_large_gpu(generate):
    if not lacks_for_released(Machine.installed()):
        pytest.skip("this machine runs the released model")
    clip, settings = generate("--prompt", "a toy piano", "--frames", "5", "--steps", "1", "--seed", "1")
    assert (settings["model"], settings["image"]) == ("pocket", "clip-first.png")
    assert clip.frames.shape[1:3] == (128, 224)
    pocket = MODELS["pocket"]
    own = pocket.defaults(pocket.preset())["guidance_scale"]
    assert settings["guidance_scale"] == own != MODELS["360p"].guidance_scale


POCKET_CLIP = ["--model", "pocket", "--frames", "5", "--steps", "1", "--seed", "1", "--device", "cpu"]


def test_pocket_starts_from_a_frame_that_is_drawn_for_the_prompt(run, generate):
    code, _, messages = run(
        "generate", "--prompt", "a tiny red ball falls", *POCKET_CLIP, "--out", "clip.mp4"
    )
    assert code == 0, messages
    assert "First frame drawn: A tiny red rubber ball" in messages
    assert "tiny: not seen in the picture" in messages
    settings = read_settings(Path("clip.mp4"))
    assert settings["image"] == "clip-first.png"
    drawn = np.asarray(first_frame_for("a tiny red ball falls", "pocket").image)
    assert np.array_equal(np.asarray(Image.open("clip-first.png")), drawn)
    first, again = read_clip(Path("clip.mp4")), generate("--from", "clip.mp4", out="again.mp4")
    assert np.array_equal(first.frames, again[0].frames)
    assert left_over() == ["again.mp4", "clip-first.png", "clip.mp4"]


def test_text_only_and_what_cannot_be_drawn_start_from_white(run, generate):
    _, settings = generate("--prompt", "a red ball falls", "--text-only", *POCKET_CLIP)
    assert settings["image"] is None
    code, _, messages = run("generate", "--prompt", "a dog runs", *POCKET_CLIP, "--out", "dog.mp4")
    assert code == 0, messages
    assert "No first frame: the idea lies outside pocket's world." in messages
    assert left_over() == ["clip.mp4", "dog.mp4"]


def test_a_voice_alone_gets_a_face(run):
    write_wav(Path("voice.wav"), np.zeros((1, 3200), np.float32), 16000)
    code, _, messages = run("generate", "--audio", "voice.wav", *POCKET_CLIP, "--out", "clip.mp4")
    assert code == 0, messages
    assert "First frame drawn: A cartoon woman" in messages


def test_a_run_that_fails_keeps_no_drawn_frame(run, monkeypatch):
    def fail(*_, **__):
        raise BackendError("the machine ran out of memory")

    monkeypatch.setattr("mova.backends.local.LocalBackend.generate", fail)
    assert run("generate", "--prompt", "a red ball falls", *POCKET_CLIP, "--out", "clip.mp4")[0] == 1
    assert left_over() == []


def test_another_model_is_painted_for_only_where_that_is_configured(run, scripted, monkeypatch):
    command = ["--prompt", "a bell rings", *SMALL, "--seed", "7"]
    assert run("generate", *command, "--out", "plain.mp4")[0] == 0
    assert read_settings(Path("plain.mp4"))["image"] is None
    scripted.always = paint
    monkeypatch.setenv("MOVA_IMAGE_BASE_URL", scripted.endpoint().base_url)
    code, _, messages = run("generate", *command, "--out", "clip.mp4")
    assert code == 0, messages
    assert "First frame painted: a bell rings" in messages
    assert read_settings(Path("clip.mp4"))["image"] == "clip-first.png"


def test_a_first_frame_can_be_looked_at_before_the_run(run):
    code, output, messages = run("first-frame", 'a man says "hi"', "--model", "pocket", "--variant", "2")
    assert (code, output) == (0, "first.png\n")
    assert "First frame drawn: A cartoon man" in messages
    assert Image.open("first.png").size == (224, 128)
    assert run("first-frame", "a dog runs", "--model", "pocket", "--out", "dog.png")[0] == 2
    assert run("first-frame", "a dog runs", "--model", "pocket", "--out", "dog.jpg")[0] == 2


def test_a_crop_is_placed_where_the_face_is(generate, run):
    picture = Path(__file__).parents[1] / "media" / "astronaut.jpg"
    command = ["--prompt", "a woman speaks", *SMALL, "--seed", "7", "--crop-position", "face"]
    _, settings = generate(*command, "--image", picture, out="clip.mp4")
    assert settings["crop_position"] == 0
    code, _, messages = run("generate", *command, "--out", "plain.mp4")
    assert code == 2
    assert "needs a picture" in messages
    assert run("generate", *command, "--crop-position", "nose", "--out", "plain.mp4")[0] == 2
