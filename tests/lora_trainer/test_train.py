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
from lora_trainer.journal import Journal
from lora_trainer.latent_cache import build_cache, read_index
from lora_trainer.learner import GradientMonitor
from lora_trainer.output_lock import own_output
from lora_trainer.overfit import verdict
from lora_trainer.train import Trainer, open_trainer, saved_state
from mova.errors import BackendError, Cancelled, UserError
from mova.media.clips import read_clip
from tests.lora_trainer.loops import adapter_of, same, stop_inside

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
    stop_inside(stopped, 2, 1)
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


def test_one_flipped_bit_in_a_checkpoint_is_noticed_and_named(tmp_path, caplog):
    for step in (1, 2):
        save_state(tmp_path, f"step-00000{step}", {"step": step, "x": torch.zeros(999)}, 2, lambda _: None)
    path = tmp_path / "step-000002" / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    assert torch.load(path)["step"] == 2  # torch does not notice
    assert load_state(tmp_path)["step"] == 1
    assert "step-000002 is damaged" in caplog.text
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000001"]
    assert (tmp_path / "damaged-step-000002" / "state.pt").is_file()


def test_a_checkpoint_without_a_digest_is_read_and_said_to_be(tmp_path, caplog):
    save_state(tmp_path, "step-000001", {"step": 1}, 2, lambda _: None)
    (tmp_path / "step-000001" / "state.sha256").unlink()
    assert load_state(tmp_path)["step"] == 1
    assert "earlier version, without a digest" in caplog.text


def test_a_checkpoint_of_another_version_or_that_may_not_be_read_is_no_reason_to_begin_again(
    tmp_path, monkeypatch
):
    save_state(tmp_path, "step-000001", {"format": 2}, 2, lambda _: None)
    with pytest.raises(UserError, match="another version"):
        load_state(tmp_path)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lora_trainer.checkpoint.read_state", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        load_state(tmp_path)
    assert checkpoints(tmp_path)


def test_without_a_readable_checkpoint_a_resumed_run_begins_with_the_clips_and_settings_of_now(
    settings, clips, tmp_path, caplog
):
    own = tmp_path / "clips"
    shutil.copytree(clips, own)
    changes = {"data__path": str(own), "run__steps": 1}
    with open_trainer(settings(**changes), resume=False):
        pass  # killed before its first checkpoint
    (own / "a.txt").write_text("A storm at sea.")
    with open_trainer(settings(**changes, data__size="32x32"), resume=True) as trainer:
        windows = trainer.cache.windows
        assert {w.caption for w in windows if w.clip == "a.mp4"} == {"A storm at sea."}
        assert {w.height for w in windows} == {32} and {w.width for w in windows} == {32}
        trainer.run()
    assert "begins" not in caplog.text and "holds no checkpoint to resume from" in caplog.text
    # With one the run keeps to the clips that it began with.
    (own / "a.txt").write_text("Calm.")
    with (
        pytest.raises(UserError, match=r"captions have changed since the run began \(a\.mp4\)"),
        open_trainer(settings(**changes, data__size="32x32"), resume=True),
    ):
        pass
    shutil.rmtree(own)
    with open_trainer(settings(**changes, data__size="32x32"), resume=True) as trainer:
        assert trainer.cache.windows == windows


def test_runs_that_share_a_cache_have_their_own_windows(settings, clips, tmp_path):
    shutil.copytree(clips, tmp_path / "other")
    (tmp_path / "other" / "a.txt").write_text("Another lamp.")
    config = settings()
    one = build_cache(config, torch.device("cpu"), torch.float32)
    other = settings(output=str(tmp_path / "second"), data__path=str(tmp_path / "other"))
    assert other.cache == config.cache
    assert build_cache(other, torch.device("cpu"), torch.float32) != one
    assert read_index(config) == one
    assert not (config.cache / "index.json").exists()
    # A run of an earlier version has its index in the cache.
    config.index.rename(config.cache / "index.json")
    assert read_index(config) == one
    (config.cache / "index.json").unlink()


def test_an_output_has_one_owner_who_is_named_and_after_a_kill_none(settings, tmp_path, capsys):
    output = tmp_path / "run"
    code = f"""
import time
from pathlib import Path
from lora_trainer.output_lock import own_output
with own_output(Path({str(output)!r}), "train"):
    print("owns", flush=True)
    time.sleep(100)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "owns\n"
    (tmp_path / "config.yaml").write_text(settings(output=str(output)).model_dump_json())
    for command in (
        ["train"],
        ["train", "--resume"],
        ["cache"],
        ["overfit"],
        ["plan", "--probe"],
        ["doctor", "--fix"],
    ):
        assert main([command[0], str(tmp_path / "config.yaml"), *command[1:]]) == 2, command
        assert f"in use by `train` (process {owner.pid} on " in capsys.readouterr().err, command
    assert not (output / "journal.jsonl").exists()
    owner.kill()
    owner.communicate()
    (output / ".mova-0.part").write_text("half")
    (output / "cache").mkdir()
    (output / "cache" / ".mova-1.part").write_text("half")
    with own_output(output, "train"):
        assert not list(output.rglob("*.part"))
    assert not list(output.glob(".owner*"))


def test_a_refused_run_leaves_no_folder(settings, tmp_path):
    output = tmp_path / "new"
    with (
        pytest.raises(UserError, match="no clips"),
        open_trainer(settings(output=str(output), data__path=str(tmp_path / "none")), resume=False),
    ):
        pass
    assert not output.exists()


def test_what_cannot_be_used_is_refused_before_anything_is_encoded(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("lora_trainer.latent_cache.Encoders", None)
    (tmp_path / "file").write_text("")
    refused = {
        r"samples\.clips\.0\.image: .*nowhere\.png": {
            "samples__clips": [{"prompt": "a", "image": "nowhere.png"}]
        },
        "held_out keeps 3 back": {"data__held_out": 3},
        "needs several processes": {"run__offload": "shards", "run__gradient_checkpointing": True},
        "output: .* is a file": {"output": str(tmp_path / "file")},
        r"data\.cache: .* is a file": {"data__cache": str(tmp_path / "file")},
        "--resume, or choose another output": {"output": str(tmp_path / "run")},
    }
    save_state(tmp_path / "run" / "checkpoints", "step-000001", {"step": 1}, 2, lambda _: None)
    for message, changes in refused.items():
        config = settings(
            **{"output": str(tmp_path / "new"), "data__cache": str(tmp_path / "empty")} | changes
        )
        with pytest.raises(UserError, match=message), open_trainer(config, resume=False):
            pass
    assert not (tmp_path / "empty").exists()


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


def test_overfit_ends_with_1_when_nothing_is_learnt_and_encodes_one_window(settings, capsys, tmp_path):
    cache = tmp_path / "own"
    changes = [f"data.cache={cache}", "optimizer.learning_rate=1e-6", "data.num_frames=[9]"]
    assert overfit(settings, "--steps", "2", *(part for each in changes for part in ("--set", each))) == 1
    assert capsys.readouterr().out.count("DID NOT LEARN") == 4
    assert len([path for path in cache.iterdir() if not path.name.startswith("text-")]) == 1


def test_a_tower_has_learnt_only_if_its_loss_falls_by_more_than_noise():
    before = {"900": [1.0, 1.1, 0.9, 1.0], "500": [0.5, 0.6, 0.5, 0.4]}

    def after(*falls):
        return {
            key: [x - fall for x, fall in zip(values, falls, strict=True)] for key, values in before.items()
        }

    assert verdict("audio_dit", before, after(0.1, 0.1, 0.12, 0.09)).learnt
    assert verdict("audio_dit", before, after(0.01, 0.01, 0.012, 0.009)).learnt
    for falls in (
        (0, 0, 0, 0),
        (1e-4, 1e-4, 1e-4, 1e-4),
        (0.1, -0.08, 0.09, -0.07),
        (-0.1, -0.1, -0.1, -0.1),
    ):
        assert not verdict("audio_dit", before, after(*falls)).learnt, falls


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
