"""Distillation on the golden model: trajectories, the loss, whole runs, and every way to be interrupted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_trainer.checkpoint import checkpoints
from lora_trainer.distillation.prompts import read_items
from lora_trainer.distillation.run import open_distillation
from lora_trainer.distillation.trajectories import Trajectories, held_in_group
from mova.adapters.strengths import EXPERTS, TOWERS
from mova.adapters.turbo import Turbo, turbo_of
from mova.errors import Cancelled, UserError
from tests.lora_trainer.loops import adapter_of, same, stop_inside

ROOT = Path(__file__).parents[3]
CACHE = "prompts-*.safetensors", "states-*.safetensors"


def test_the_kept_states_are_those_of_the_pipelines_own_guided_run(distil, fresh, prompts):
    with distil() as distillation:
        trajectories = distillation.engine.trajectories
        row = trajectories.rows[1]
        item = row.group.items[row.index]
        kept = [trajectories.states([row], torch.tensor([step])) for step in range(5)]
    pipeline = fresh()
    seen = []
    made = pipeline(
        item.prompt,
        Image.open(item.image),
        height=32,
        width=64,
        num_frames=9,
        num_inference_steps=8,
        guidance_scale=5.0,
        negative_prompt=distillation.config.negative_prompt,
        latents=kept[0][0],
        audio_latents=kept[0][1],
        output_type="latent",
        callback_on_step_end=lambda _pipe, step, _time, tensors: seen.append(tensors) or {},
    )
    for step in (1, 2, 3, 4):
        video, audio = kept[step]
        assert torch.allclose(video, seen[2 * step - 1]["latents"], atol=4e-3)
        assert torch.allclose(audio, seen[2 * step - 1]["audio_latents"], atol=4e-3)
    assert torch.allclose(kept[4][0], made.frames, atol=4e-3)


def test_a_loss_is_that_of_a_plain_computation(distil, fresh):
    """At the teacher's states and at the student's own, for the expert of each step."""
    with distil(
        prompts__count=4,
        prompts__held_out=0,
        run__batch_size=4,
        objective__own_from=0.0,
        objective__own_share=0.5,
    ) as d:
        student = d.engine
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for key, weight in student.lora.weights.items():
                if "lora_B" in key:
                    weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
        student.lora.publish()
        for step in range(4):
            student.step = step
            drawn = {}
            own_states = student.own_states

            def noted(start, kind, steps, *rest, own_states=own_states, drawn=drawn):
                drawn["own"] = steps
                return own_states(start, kind, steps, *rest)

            states = student.trajectories.states

            def noted_states(rows, steps, states=states, drawn=drawn):
                drawn.setdefault("all", (rows, steps))
                return states(rows, steps)

            student.own_states, student.trajectories.states = noted, noted_states
            video_loss, audio_loss, _ = student.losses(step)
            student.own_states, student.trajectories.states = own_states, states
            rows, steps = drawn["all"]
            assert len(drawn["own"]) == 2
            expected = [plain_losses(d, row, int(steps[n]), n < 2) for n, row in enumerate(rows)]
            video, audio = (sum(each) / len(each) for each in zip(*expected, strict=True))
            assert video_loss.item() == pytest.approx(video, rel=1e-4)
            assert audio_loss.item() == pytest.approx(audio, rel=1e-4)


def plain_losses(distillation, row, step, is_own):
    """One state's losses by the formula, walking the student's own path where it is its own."""
    student, pipeline = distillation.engine, distillation.engine.pipeline
    sigma = [5 * (1 - k / 4) / (1 + 4 * (1 - k / 4)) for k in range(5)]
    read = student.trajectories.states
    text, condition = student.trajectories.prompts([row])

    def velocity(video, audio, k):
        expert = EXPERTS[0] if 1000 * sigma[k] >= 900 else EXPERTS[1]
        pipeline.dual_tower.video_dit = getattr(pipeline, expert)
        time = torch.tensor([1000 * sigma[k]])
        with torch.no_grad():
            return pipeline.dual_tower(torch.cat((video, condition), 1), audio, time, time, text, 24.0)

    if is_own:
        video, audio = read([row], torch.tensor([0]))
        for k in range(step):
            moved = velocity(video, audio, k)
            video = video + moved[0] * (sigma[k + 1] - sigma[k])
            audio = audio + moved[1] * (sigma[k + 1] - sigma[k])
    else:
        video, audio = read([row], torch.tensor([step]))
    ends = read([row], torch.tensor([step + 1]))
    moved = velocity(video, audio, step)
    gap = sigma[step] - sigma[step + 1]
    return [
        (v - (x - end) / gap).square().mean().item()
        for v, x, end in zip(moved, (video, audio), ends, strict=True)
    ]


def test_the_student_comes_closer_to_the_teachers_end_and_its_file_runs_so(distil, fresh):
    ranks = {f"towers__{name}__rank": 8 for name in TOWERS}
    with distil(run__steps=60, run__validate_every=0, run__ema_decay=0.9, prompts__held_out=1, **ranks) as d:
        path = d.run()
        base, last = d.journal.read("base")[0], d.journal.read("validation")[-1]
        student = d.engine
        row = student.measured["training"][0]
        item = row.group.items[row.index]
        noise = student.trajectories.states([row], torch.tensor([0]))
        with student.shown():
            own = student.own_states(noise, "", torch.tensor([4]), *student.trajectories.prompts([row]))
    for track in ("video", "audio"):
        assert last["training"]["end"][track] < 0.9 * base["training"]["end"][track]
    turbo = turbo_of(path)
    assert turbo == Turbo(steps=4, video_shift=5.0, audio_shift=5.0)
    pipeline = fresh()
    pipeline.load_lora_weights(path)
    made = pipeline(
        item.prompt,
        Image.open(item.image),
        height=32,
        width=64,
        num_frames=9,
        num_inference_steps=turbo.steps,
        guidance_scale=1,
        latents=noise[0],
        audio_latents=noise[1],
        output_type="latent",
    )
    assert torch.allclose(made.frames, own[0], atol=2e-2)
    assert torch.allclose(made.audio, own[1], atol=2e-2)


def test_a_stopped_run_resumes_bit_for_bit(distil, tmp_path):
    with distil(output=str(tmp_path / "whole"), run__accumulation=2) as whole:
        expected = adapter_of(whole)
    with distil(run__accumulation=2) as stopped:
        stop_inside(stopped, 2, 1)
        with pytest.raises(Cancelled, match="stopped at step 2"):
            stopped.run()
    with distil(resume=True, run__accumulation=2) as again:
        assert same(adapter_of(again), expected)
        assert [event["step"] for event in again.journal.read("step")] == [1, 2, 3, 4]


def command(config, *more):
    path = config.output.parent / "config.yaml"
    path.write_text(config.model_dump_json())  # JSON is YAML
    return [sys.executable, "-m", "lora_trainer", "distill", str(path), *more]


@pytest.mark.parametrize("stage", ["prompts", "trajectories", "training"])
def test_a_run_killed_in_any_stage_resumes_to_the_same_bits(stage, settings, distil, tmp_path):
    with distil(output=str(tmp_path / "whole"), run__steps=8) as whole:
        expected = adapter_of(whole)
    config = settings(run__steps=8)
    process = subprocess.Popen(
        command(config), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ
    )
    reached = {
        "prompts": lambda: list(config.cache.glob(CACHE[0])),
        "trajectories": lambda: list(config.cache.glob(CACHE[1])),
        "training": lambda: checkpoints(config.output / "checkpoints"),
    }[stage]
    deadline = time.monotonic() + 120
    while not reached() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for pattern in CACHE for path in config.cache.glob(pattern)}
    (config.cache / ".mova-0.part").write_bytes(b"half")  # as a kill while writing leaves one
    with open_distillation(config, resume=True) as resumed:
        assert same(adapter_of(resumed), expected)
        assert [event["step"] for event in resumed.journal.read("step")] == list(range(1, 9))
    assert not list(config.cache.glob(".mova-*"))
    assert all((config.cache / name).stat().st_mtime_ns == time for name, time in before.items())


def test_a_full_disk_ends_the_teacher_with_a_sentence_and_keeps_what_is_whole(settings, distil, tmp_path):
    config = settings()
    code = f"""
import resource, sys
from lora_trainer.__main__ import main
from lora_trainer.distillation import run
make = run.make_trajectories
def limited(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    return make(*arguments)
run.make_trajectories = limited
sys.exit(main({command(config)[3:]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written (File too large); free some space there" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(config.cache.glob(CACHE[0]))) == 3
    assert not list(config.cache.glob(CACHE[1])) and not list(config.cache.glob(".mova-*"))


def test_each_expert_learns_its_own_steps_and_a_held_picture_only_the_second(distil):
    with distil(prompts__hold_video=0.4, prompts__hold_audio=0.4, prompts__count=10) as d:
        student = d.engine
        assert student.experts == {
            "": [EXPERTS[0]] * 2 + [EXPERTS[1]] * 2,
            "video": [EXPERTS[1]] * 4,
            "audio": [EXPERTS[0]] * 2 + [EXPERTS[1]] * 2,
        }
        held = [row.held for row in student.trajectories.rows]
        assert held.count("video") == held.count("audio") == 4
        first = {row.bucket for number in range(20) for row in student.samplers[EXPERTS[0]].batch(number)}
        assert first == {"", "audio"}
        for held in ("video", "audio"):
            row = next(row for row in student.trajectories.rows if row.held == held)
            column = ("video", "audio").index(held)
            states = [student.trajectories.states([row], torch.tensor([k]))[column] for k in range(5)]
            assert all(torch.equal(states[0], state) for state in states)
            assert states[0].abs().mean() > 0
        figures = student.measure()["training"]
        assert "video_dit_2_video_held" not in figures  # a held track has no error


def test_trajectories_read_from_the_disk_are_those_in_memory(distil):
    with distil() as d:
        resident = d.engine.trajectories
        groups = list(dict.fromkeys(row.group for row in resident.rows))
        lazy = Trajectories(groups, torch.device("cpu"))
        lazy.held = None
        rows, steps = resident.rows[1:4], torch.tensor([0, 3, 4])
        for ours, theirs in (
            (resident.states(rows, steps), lazy.states(rows, steps)),
            (resident.prompts(rows), lazy.prompts(rows)),
        ):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_time_ends_a_run_and_its_learning_rate_with_it(distil):
    with distil(run__steps=1000, run__minutes=0.05) as d:
        rates = []
        d.run(lambda record: rates.append(record["learning_rate"]))
        assert d.engine.step < 1000
        assert d.engine.elapsed >= 3
        assert rates[-1] < 0.5 * max(rates)


def test_shares_of_held_tracks_are_spread_evenly():
    kinds = [held_in_group(number, {"video": 0.1, "audio": 0.2}) for number in range(100)]
    assert kinds.count("video") == 10
    assert 18 <= kinds.count("audio") <= 20
    assert held_in_group(0, {"video": 0.0, "audio": 0.0}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__steps": 10}, r"teacher.steps=10 is not a multiple of the student's 4.*nearest above: 12"),
        ({"run__offload": "shards", "run__gradient_checkpointing": True}, "shards is not for distillation"),
        ({"objective__video_weight": 0.0, "objective__audio_weight": 0.0}, "nothing would be learnt"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, changes, message):
    with pytest.raises(UserError, match=message):
        settings(**changes)


def test_prompts_come_from_a_folder_a_list_or_a_text_file(prompts, tmp_path, settings):
    items = read_items(settings(prompts__count=4).prompts)
    assert [item.image.name for item in items] == ["bell.png", "door.png", "lamp.png", "bell.png"]
    assert [item.number for item in items] == [0, 1, 2, 3]
    listed = tmp_path / "list.jsonl"
    shutil.copy(prompts / "lamp.png", tmp_path / "lamp.png")
    listed.write_text('{"prompt": "A lamp.", "image": "lamp.png"}\n\n{"prompt": ""}\n')
    items = read_items(settings(prompts__path=str(listed), prompts__count=2).prompts)
    assert [(item.prompt, item.image) for item in items] == [("A lamp.", tmp_path / "lamp.png"), ("", None)]
    text = tmp_path / "list.txt"
    text.write_text("One.\nTwo.\n")
    assert [
        item.prompt for item in read_items(settings(prompts__path=str(text), prompts__count=2).prompts)
    ] == [
        "One.",
        "Two.",
    ]
    listed.write_text('{"prompt": "A lamp.", "image": "gone.png"}\n')
    with pytest.raises(UserError, match=r"line 1: there is no .*gone\.png"):
        read_items(settings(prompts__path=str(listed)).prompts)
    listed.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: write"):
        read_items(settings(prompts__path=str(listed)).prompts)
    with pytest.raises(UserError, match="leaves none of 1"):
        read_items(settings(prompts__count=1).prompts)


def test_other_prompts_on_resume_are_refused(distil, prompts):
    with distil(run__steps=2) as d:
        d.run()
    picture = prompts / "lamp.png"
    before = picture.read_bytes()
    try:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
        with pytest.raises(UserError, match="have changed"), distil(resume=True, run__steps=2) as d:
            d.run()
    finally:
        picture.write_bytes(before)


@pytest.mark.parametrize("offload", ["experts", "layers"])
def test_frozen_weights_that_come_and_go_change_no_bit(distil, tmp_path, offload):
    """Also where the student's own path needs the other expert in between."""
    changes = {"run__gradient_checkpointing": True, "objective__own_from": 0.0, "run__steps": 3}
    with distil(output=str(tmp_path / "whole"), **changes) as resident:
        expected = adapter_of(resident)
    with distil(run__offload=offload, **changes) as moving:
        assert same(adapter_of(moving), expected)


def test_an_int8_base_is_the_teacher_and_under_the_student(distil):
    with distil(run__base="int8", run__steps=2) as d:
        rows = d.engine.trajectories.rows
        adapter_of(d)
    with distil(output=str(d.config.output) + "-plain", run__steps=2) as plain:
        others = plain.engine.trajectories.rows
    assert {row.group.states for row in rows}.isdisjoint(row.group.states for row in others)
    assert {row.group.prompts for row in rows} == {row.group.prompts for row in others}
