"""Runs from start to end on the command line: kill, stop, resume, faults; the adapter and the journal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_trainer.__main__ import main
from lora_trainer.checkpoint import checkpoints, load_state, save_state
from lora_trainer.engine import GradientMonitor
from lora_trainer.journal import Journal
from lora_trainer.overfit import Verdict
from lora_trainer.train import Trainer, saved_state
from mova.errors import BackendError, Cancelled, UserError
from mova.media.clips import read_clip

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(settings):
    """With one window for each clip: a run measures all of them at its start and end."""
    return lambda **changes: settings(**{"data__num_frames": [17]} | changes)


@pytest.fixture
def trainer(settings, parts):
    def trainer(resume=False, **changes):
        config, cache, pipeline = parts(**changes)
        return Trainer(config, cache, pipeline, state=saved_state(config, resume, is_first=True))

    return trainer


def adapter_of(trainer):
    return load_file(trainer.run())


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_writes_adapter_checkpoints_samples_and_a_journal(trainer, clips):
    ran = trainer(
        samples__clips=[{"prompt": "a lamp"}],
        samples__num_inference_steps=1,
        samples__guidance_scale=1,
        run__keep_checkpoints=1,
        run__tracker="tensorboard",
    )
    steps = []
    path = ran.run(on_step=steps.append)
    output = ran.config.output
    assert path == output / "adapter.safetensors"
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert [path.name for path in checkpoints(output / "checkpoints")] == ["step-000004"]
    assert same(load_file(output / "checkpoints" / "step-000004" / "adapter.safetensors"), load_file(path))
    events = [event["event"] for event in ran.journal.read()]
    assert events[:3] == ["run", "base", "sample"]
    assert [event for event in events if event != "alarm"][3:] == [
        *["step"] * 4,
        "validation",
        "sample",
        "done",
    ]
    base, last = ran.journal.read("base")[0], ran.journal.read("validation")[-1]
    assert base["held_out"].keys() == {"video_dit", "video_dit_2", "audio_dit"}
    assert sum(len(bins) for bins in base["held_out"].values()) == 2 + 3 + 5
    # The fixed-noise loss of what was trained on falls below the base model's.
    for tower, bins in last["training"].items():
        assert sum(bins.values()) < sum(base["training"][tower].values()), tower
    clip = read_clip(output / "samples" / "step-000004-0.mp4")
    assert clip.frames.shape == (17, 32, 64, 3)
    assert not (clip.frames == read_clip(output / "samples" / "step-000000-0.mp4").frames).all()
    assert list((output / "tensorboard").glob("events*"))


def test_a_stopped_run_saves_inside_the_accumulation_and_goes_on_bit_for_bit(trainer, tmp_path):
    expected = adapter_of(trainer(output=str(tmp_path / "whole")))
    stopped = trainer()
    before = signal.getsignal(signal.SIGTERM)
    inner = stopped.engine.micro_batch

    def micro_batch():
        inner()
        if (stopped.engine.step, stopped.engine.micro) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped.engine.micro_batch = micro_batch
    with pytest.raises(Cancelled, match="stopped at step 2"):
        stopped.run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert checkpoints(stopped.checkpoints)[0].name == "step-000002-001"
    with pytest.raises(UserError, match="--resume"):
        trainer()
    again = trainer(resume=True)
    assert same(adapter_of(again), expected)
    steps = [event["step"] for event in again.journal.read("step")]
    assert steps == [1, 2, 3, 4]


def command(settings, *more):
    config = settings()
    path = config.output.parent / "config.yaml"
    path.write_text(config.model_dump_json())  # JSON is YAML
    return [sys.executable, "-m", "lora_trainer", "train", str(path), *more]


def test_a_killed_run_resumes_from_its_last_checkpoint_bit_for_bit(settings, trainer, tmp_path):
    expected = adapter_of(trainer(output=str(tmp_path / "whole"), run__steps=8))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(settings, "--steps", "8"),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    folder = settings().output / "checkpoints"
    deadline = time.monotonic() + 120
    while not checkpoints(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (folder / ".mova-0.part").mkdir()  # as a kill while writing leaves one
    resumed = trainer(resume=True, run__steps=8)
    assert same(adapter_of(resumed), expected)
    assert not list(folder.glob(".mova-*"))
    assert [event["step"] for event in resumed.journal.read("step")] == list(range(1, 9))


def test_a_full_disk_stops_with_a_sentence_and_the_checkpoint_before_is_whole(tmp_path):
    code = f"""
import resource, torch
from pathlib import Path
from lora_trainer.checkpoint import load_state, save_state
from mova.errors import BackendError
folder = Path({str(tmp_path)!r}) / "checkpoints"
save_state(folder, "step-000001", {{"x": torch.zeros(10)}}, 1, lambda _: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_state(folder, "step-000002", {{"x": torch.zeros(1_000_000)}}, 1, lambda _: None)
except BackendError as error:
    print(error)
print([path.name for path in folder.iterdir()], len(load_state(folder)["x"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "step-000002 cannot be written (File too large); free some space there" in done.stdout
    assert done.stdout.endswith("['step-000001'] 10\n")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    for step in (1, 2):
        save_state(tmp_path, f"step-00000{step}", {"step": step}, 2, lambda _: None)
    (tmp_path / "step-000002" / "state.pt").write_bytes(b"half")
    assert load_state(tmp_path)["step"] == 1
    (tmp_path / "step-000001" / "state.pt").write_bytes(b"")
    assert load_state(tmp_path) is None


def test_running_out_of_memory_saves_what_was_done_and_says_what_to_change(trainer):
    ran = trainer()
    inner = ran.engine._backward

    def backward(*arguments):
        if (ran.engine.step, ran.engine.micro) == (1, 1):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(*arguments)

    ran.engine._backward = backward
    with pytest.raises(BackendError, match=r"out of memory; all is saved. Change one of: run\.gradient"):
        ran.run()
    state = load_state(ran.checkpoints)
    assert (state["step"], state["micro"]) == (1, 1)
    assert trainer(resume=True).run()


def test_resuming_after_the_clips_changed_is_refused(trainer, tmp_path, clips):
    trainer(run__steps=2).run()
    shutil.copytree(clips, tmp_path / "changed")
    (tmp_path / "changed" / "a.txt").write_text("Another caption.")
    with pytest.raises(UserError, match="clips or captions have changed"):
        trainer(resume=True, run__steps=2, data__path=str(tmp_path / "changed")).run()


def test_a_tower_that_does_not_learn_raises_one_alarm():
    watch = GradientMonitor(["video_dit", "audio_dit"], patience=3)
    still, moving = {"audio_dit": 0.0}, {"audio_dit": 0.0, "video_dit": 0.1}
    assert [len(watch.alarms(still, still)) for _ in range(5)] == [0, 0, 1, 0, 0]
    assert watch.alarms(moving, moving) == []
    assert watch.alarms({"audio_dit": 0.1}, {"audio_dit": 0.1}) == [] and watch.idle["audio_dit"] == 0
    sentences = [watch.alarms({"video_dit": 0.1}, {"video_dit": 0.0}) for _ in range(3)]
    assert "video_dit did not learn in its last 3 steps" in sentences[-1][0]


def test_a_frozen_audio_tower_raises_the_alarm_in_a_run(trainer):
    """The bridge is dropped and the sound has no weight: the audio tower gets gradients of nothing."""
    ran = trainer(
        objective__audio_weight=0, objective__bridge_dropout=1.0, run__alarm_steps=2, data__held_out=0
    )
    ran.run()
    messages = " ".join(alarm["message"] for alarm in ran.journal.read("alarm"))
    assert "audio_dit did not learn" in messages and "dual_tower_bridge did not learn" in messages
    assert "video_dit did" not in messages


def test_the_journal_forgets_what_will_happen_again(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("step", step=1)
    size = journal.size
    journal.write("step", step=2)
    journal.cut(size)
    journal.write("step", step=2, again=True)
    assert [(event["step"], event.get("again")) for event in journal.read()] == [(1, None), (2, True)]


def test_too_few_clips_to_hold_one_back_is_refused(trainer):
    with pytest.raises(UserError, match=r"3 clips, of which data\.held_out keeps 3 back"):
        trainer(data__held_out=3)


def overfit(settings, *more):
    path = settings().output.parent / "config.yaml"
    path.write_text(settings().model_dump_json())
    return main(["overfit", str(path), *more])


def test_overfit_ends_with_0_when_every_tower_learns(settings, capsys):
    assert overfit(settings, "--steps", "16", "--clip", "b.mp4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "video_dit",
        "video_dit_2",
        "audio_dit",
        "dual_tower_bridge",
    ]
    assert all(line.endswith("learnt") for line in lines)


def test_overfit_ends_with_1_when_nothing_is_learnt(settings, capsys):
    assert overfit(settings, "--steps", "2", "--set", "optimizer.learning_rate=1e-13") == 1
    assert "DID NOT LEARN" in capsys.readouterr().out
    assert Verdict("audio_dit", 1.0, 0.9).learnt and not Verdict("audio_dit", 1.0, 1.0).learnt


def test_the_commands_say_what_is_wrong_in_a_sentence(settings, capsys, tmp_path):
    assert (
        main(["train", "--model", "360p", "--output", str(tmp_path), "--data", str(tmp_path / "none")]) == 2
    )
    assert "there are no clips at" in capsys.readouterr().err
    assert (
        main(
            ["cache", "--model", settings().model, "--data", str(tmp_path), "--output", "x", "--set", "a.b=1"]
        )
        == 2
    )
    assert "a: there is no such setting" in capsys.readouterr().err
