"""Nonsense in a setting is refused by `train` before anything else: by name, exit code 2, nothing written."""

from pathlib import Path

import pytest

from lora_trainer.__main__ import main

CHECKPOINT = Path(__file__).parents[1] / "golden" / "checkpoint"
NONSENSE = [
    ("model", '""'),
    ("model", "17"),
    ("output", '"a\\u0000b"'),
    ("preset", "song"),
    ("preset", "[1]"),
    ("recipe", "null"),
    ("recipe", '"paper "'),
    ("data", "clips"),
    ("data.path", "[]"),
    ("data.size", "640"),
    ("data.size", "641x352"),
    ("data.size", "-64x32"),
    ("data.num_frames", "[100]"),
    ("data.num_frames", '"many"'),
    ("data.frame_rate", "0"),
    ("data.frame_rate", "NaN"),
    ("data.frame_rate", "1e999"),
    ("data.buckets", "maybe"),
    ("data.loudness", "3"),
    ("data.without_sound", "ignore"),
    ("data.held_out", "-1"),
    ("data.held_out", "0.5"),
    ("data.regularization_count", "1e9"),
    ("data.regularization_share", "1.5"),
    ("data.caption_prefix", "7"),
    ("towers.video_dit.rank", "0"),
    ("towers.video_dit.rank", "1e6"),
    ("towers.video_dit.alpha", "-1"),
    ("towers.audio_dit.targets", "whatever"),
    ("towers.audio_dit.learning_rate_scale", "Infinity"),
    ("towers.image_dit", "{}"),
    ("objective.video_weight", "-1"),
    ("objective.text_dropout", "2"),
    ("objective.high_share", "half"),
    ("objective.hold_steps", "0"),
    ("optimizer.name", "sgd"),
    ("optimizer.learning_rate", "-1e-4"),
    ("optimizer.learning_rate", "fast"),
    ("optimizer.betas", "[0.9]"),
    ("optimizer.betas", "[0.9, 1]"),
    ("optimizer.max_gradient_norm", "0"),
    ("samples.every", "-5"),
    ("samples.num_frames", "18"),
    ("samples.guidance_scale", "1e9"),
    ("samples.clips", '[{"image": "a.png"}]'),
    ("run.steps", "0"),
    ("run.steps", "1.5"),
    ("run.batch_size", "true false"),
    ("run.seed", "-1"),
    ("run.dtype", "float16"),
    ("run.base", "2bit"),
    ("run.offload", "cloud"),
    ("run.ema_decay", "1"),
    ("run.dropout", "-0.1"),
    ("run.tracker", "notebook"),
    ("run.gradient_checkpointing", "[]"),
    ("run.stepz", "100"),
    ("runs", "{}"),
    ("run.", "100"),
]


@pytest.mark.parametrize(("key", "value"), NONSENSE)
def test_nonsense_is_refused_by_its_name_and_nothing_is_written(tmp_path, monkeypatch, capsys, key, value):
    monkeypatch.chdir(tmp_path)
    given = ["--model", str(CHECKPOINT), "--data", "clips", "--output", "run"]
    assert main(["train", *given, "--set", f"{key}={value}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert f" {key}" in printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


def test_every_setting_that_is_wrong_is_named_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = ["run.steps=0", "data.size=1x1", "optimizer.name=sgd", "towers.audio_dit.rank=-3"]
    changes = [part for change in wrong for part in ("--set", change)]
    assert main(["train", "--model", str(CHECKPOINT), "--data", "clips", "--output", "run", *changes]) == 2
    messages = capsys.readouterr().err
    assert all(change.partition("=")[0] in messages for change in wrong)
    assert not list(tmp_path.iterdir())
