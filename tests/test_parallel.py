"""Several processes make the clip of one. On the CPU they talk over gloo; with `pytest -m gpu`, over NCCL."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mova import parallel
from mova.adapters.sources import read_adapter
from mova.backends.local import LocalBackend, with_adapters
from mova.cli.main import main
from mova.errors import BackendError, Cancelled, UserError
from mova.layout import Layout
from mova.media.clips import read_clip
from mova.placement import Placement, place
from mova.request import GenerationRequest
from tests.team import shared
from tests.tiny import SHORT_RUN, relative_error

ROOT = Path(__file__).parents[1]
ROUNDING = 1e-4  # of float32 over a short run, relative


@pytest.fixture(scope="module", autouse=True)
def no_team_is_left():
    yield
    parallel._close_team()


def run(pipeline, **changes):
    out = pipeline(**SHORT_RUN | {"generator": torch.Generator().manual_seed(0)} | changes)
    return out.frames, out.audio


def watch_tokens(pipeline):
    """The number of the picture's tokens that this process has, at each forward."""
    lengths = []
    for expert in (pipeline.video_dit, pipeline.video_dit_2):
        expert.blocks[1].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    return lengths


def equal(ours, theirs):
    return all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def error(ours, theirs):
    return max(relative_error(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def folder(golden):
    return str(golden / "checkpoint")


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(1)
    return {
        "video": torch.rand(3, 5, 32, 48, generator=generator) * 2 - 1,
        "audio": torch.rand(700, generator=generator) - 0.5,
    }


GUIDED, DUAL = {}, {"bridge_guidance_scale": 3.0}
RUNS = {
    "guided": GUIDED,
    "dual guidance, shared out": DUAL,
    "unguided": {"guidance_scale": 1.0},
    "two clips": {"prompt": ["a ball falls", "rain"]},
    "guided for a part, each track in its way": {
        "solver": "unipc",
        "guidance_interval": (0.3, 0.9),
        "audio_guidance_scale": 3.0,
    },
    "some steps without the picture": {"cache_threshold": 1.0, "num_inference_steps": 10},
    "refined": {"refine": 2},
    "an odd number of tokens": {"height": 48, "num_frames": 9},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("mode", ["branches", "ulysses"])
def test_two_processes_make_the_clip_of_one(pipeline, folder, name, mode):
    """Side by side bit for bit; the picture shared out, to rounding."""
    together, theirs = shared(folder, 2, mode), run(pipeline, **RUNS[name])
    lengths = watch_tokens(together)
    ours = run(together, **RUNS[name])
    assert equal(ours, theirs) if mode == "branches" else error(ours, theirs) < ROUNDING
    tokens = 27 if "odd" in name else 12
    assert set(lengths) == {tokens if mode == "branches" else -(-tokens // 2)}


@pytest.mark.parametrize("offload", ["component", "layers"])
@pytest.mark.parametrize("mode", ["branches", "ulysses"])
def test_weights_that_move_change_nothing(pipeline, folder, offload, mode):
    theirs = run(pipeline)
    ours = run(shared(folder, 2, mode, offload=offload, hold_both=False))
    assert equal(ours, theirs) if mode == "branches" else error(ours, theirs) < ROUNDING


@pytest.mark.parametrize(
    "made",
    [
        {"regenerate_audio": True},
        {"regenerate_video": [(0.1, 0.2)]},
        {"regenerate_video": True, "strength": 0.6},
    ],
)
def test_held_tracks_stay_held(pipeline, folder, given, made):
    ours, theirs = run(shared(folder, 2), **given, **made), run(pipeline, **given, **made)
    assert equal(ours, theirs)


def test_a_held_picture_is_remembered_where_it_was_seen(pipeline, folder, given):
    """Seen by both together outside the interval of guidance, by one of them inside."""
    changes = {"regenerate_audio": True, "cache_threshold": 1.0, "guidance_interval": (0.3, 0.9)}
    together, theirs = shared(folder, 2), run(pipeline, **given, **changes)
    lengths = watch_tokens(together)
    assert error(run(together, **given, **changes), theirs) < ROUNDING
    assert lengths in ([6, 12], [12, 6], [6])  # at most once for each text


def test_adapters_act_in_every_process_and_only_in_their_clip(pipeline, folder, golden):
    adapters = [(read_adapter(golden / "lora_upstream_accelerate"), 0.7)]
    together = shared(folder, 2)
    with with_adapters(together, adapters):
        ours = run(together)
    with with_adapters(pipeline, adapters):
        theirs = run(pipeline)
    assert equal(ours, theirs)
    assert equal(run(together), run(pipeline))
    assert not equal(run(together), ours)


@pytest.mark.parametrize(("count", "changes"), [(3, DUAL), (4, GUIDED)])
def test_more_processes_take_more_branches_and_then_share_them(pipeline, folder, count, changes):
    together, theirs = shared(folder, count), run(pipeline, **changes)
    lengths = watch_tokens(together)
    ours = run(together, **changes)
    assert equal(ours, theirs) if count == 3 else error(ours, theirs) < ROUNDING
    assert lengths == [12 if count == 3 else 6] * 4  # one forward in each step


def test_a_stop_and_a_fault_of_the_callback_leave_the_others_ready(pipeline, folder):
    together, steps = shared(folder, 2), []

    def break_off(pipe, step, timestep, tensors):
        raise OSError("the page is gone")

    with pytest.raises(Cancelled, match="step 3 of 4"):
        run(together, should_stop=lambda: steps.append(1) or len(steps) == 3)
    with pytest.raises(OSError, match="the page is gone"):
        run(together, callback_on_step_end=break_off)
    assert equal(run(together), run(pipeline))


def test_a_callback_that_replaces_latents_does_so_for_all(pipeline, folder):
    def silence(pipe, step, timestep, tensors):
        return {"audio_latents": torch.zeros_like(tensors["audio_latents"])}

    theirs = run(pipeline, callback_on_step_end=silence)
    assert equal(run(shared(folder, 2), callback_on_step_end=silence), theirs)


def fail_in_a_layer(team):
    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access\nand much more")

    team.pipeline.video_dit.blocks[1].register_forward_pre_hook(fail)


def die_in_a_layer(team):
    block = team.pipeline.video_dit.blocks[1]
    block.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("mode", ["branches", "ulysses"])
@pytest.mark.parametrize(
    ("break_follower", "reason"),
    [
        (fail_in_a_layer, r"^process 2 of 2 failed: RuntimeError: CUDA error: an illegal memory access$"),
        (die_in_a_layer, "^process 2 of 2 failed: its process ended"),
    ],
)
def test_a_follower_that_fails_ends_the_run_with_its_reason(folder, mode, break_follower, reason):
    together = shared(folder, 2, mode)
    together.team.tell(break_follower)
    began = time.monotonic()
    with pytest.raises(BackendError, match=reason):
        run(together)
    with pytest.raises(BackendError, match=reason):
        run(together)
    assert time.monotonic() - began < 20


def test_adapters_that_one_process_lacks_are_refused(folder, golden):
    together = shared(folder, 2)
    together.load_lora_weights(golden / "lora_upstream_accelerate")
    with pytest.raises(BackendError, match=r"it has adapters .* attach the same in all processes"):
        run(together)


def test_a_process_that_is_alone_is_told_how_to_start_several(fresh):
    parallel._close_team()
    with pytest.raises(UserError, match="torchrun --nproc-per-node"):
        place(fresh(), Placement("cpu", "float32", gpus=2))


@pytest.mark.parametrize(
    ("forwards", "count", "mode", "expected"),
    [
        (2, 1, "auto", (1, 1)),
        (2, 2, "auto", (2, 1)),
        (3, 2, "auto", (2, 1)),
        (3, 3, "auto", (3, 1)),
        (2, 3, "auto", (2, 1)),
        (1, 2, "auto", (1, 2)),
        (1, 3, "auto", (1, 2)),  # 40 heads do not go into three
        (2, 4, "auto", (2, 2)),
        (2, 8, "auto", (2, 4)),
        (3, 8, "auto", (3, 2)),
        (2, 2, "ulysses", (1, 2)),
        (2, 8, "branches", (2, 1)),
    ],
)
def test_branches_come_first_and_heads_are_shared_evenly(forwards, count, mode, expected):
    layout = Layout.choose(forwards, count, 40, mode)
    assert (layout.branches, layout.ulysses) == expected


def test_the_speedup_counts_rounds_of_forwards():
    assert Layout.choose(2, 2, 40).speedup == 2
    assert Layout.choose(3, 2, 40).speedup == 1.5
    assert 3 < Layout.choose(2, 4, 40).speedup < 4


REQUEST = GenerationRequest(
    "a bell rings", height=32, width=64, num_frames=9, num_inference_steps=3, guidance_scale=3.0, seed=7
)
OPTIONS = ["--prompt=bell", "--size=64x32", "--frames=9", "--steps=2", "--seed=7"]
OPTIONS += ["--device=cpu", "--dtype=float32"]


def clip(path):
    read = read_clip(path)
    return read.frames, read.waveform


def same(*paths):
    return all(np.array_equal(*pair) for pair in zip(*map(clip, paths), strict=True))


@pytest.mark.slow
def test_a_backend_starts_its_followers_and_replaces_those_that_die(folder, tmp_path):
    alone, together = (LocalBackend(folder, "cpu", dtype="float32", gpus=gpus) for gpus in (1, 2))
    paths = [tmp_path / f"{name}.mp4" for name in "abc"]
    alone.generate(REQUEST, paths[0])
    reports = []
    together.generate(REQUEST, paths[1], reports.append)
    assert [report.stage for report in reports].count("denoise") == 3
    assert together.plan(REQUEST).seconds == pytest.approx(alone.plan(REQUEST).seconds / 2)
    (follower,) = parallel._team.processes
    follower.kill()
    with pytest.raises(BackendError, match="process 2 of 2 failed: its process ended"):
        together.generate(REQUEST, paths[2])
    assert not paths[2].exists()
    together.generate(REQUEST, paths[2])
    assert same(paths[0], paths[1])
    assert same(paths[0], paths[2])


@pytest.mark.slow
def test_torchrun_makes_the_clip_of_one_process_and_says_how(folder, tmp_path, capsys):
    arguments = ["generate", "--model", folder, *OPTIONS, "--out"]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "mova",
        *arguments,
    ]
    done = subprocess.run([*command, tmp_path / "two.mp4"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 GPUs at work: 2 forwards at once; denoising takes about" in done.stderr
    assert main([*arguments, str(tmp_path / "one.mp4")]) == 0
    assert same(tmp_path / "one.mp4", tmp_path / "two.mp4")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--gpus", "0"], "0 GPUs are asked for; choose from 1 to 64"),
        (["--gpus", "2", "--device", "cuda:1"], "'cuda:1' is a single one; .* CUDA_VISIBLE_DEVICES"),
        (["--gpus", "2", "--remote", "http://localhost:1"], "--gpus is for this machine"),
    ],
)
def test_numbers_of_gpus_that_make_no_sense_are_refused(folder, capsys, given, sentence):
    assert main(["generate", "--model", folder, "--prompt", "bell", *given]) == 2
    assert re.search(sentence, capsys.readouterr().err)
