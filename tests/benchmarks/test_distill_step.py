"""The benchmark of a distillation's steps, on small towers on the CPU."""

import pytest
import torch

from benchmarks import distill_step
from lora_trainer.distributed import Workers

TEACHER = [("teacher, guided step", "video_dit"), ("teacher, guided step", "video_dit_2")]
UPDATES = [("update", "video_dit"), ("update", "video_dit_2"), ("update, own state", "video_dit_2")]
MATCHED = [("update, matched", "video_dit_2")]


@pytest.mark.parametrize(("setting", "match"), [("resident", False), ("layers", False), ("layers", True)])
def test_the_benchmark_takes_each_step_that_the_plan_counts(setting, match, tmp_path, capsys):
    workers = Workers(torch.device("cpu"))
    config = distill_step.settings(setting, 5, match, True, tmp_path)
    rows = distill_step.measure_setting(setting, config, True, workers, tmp_path)
    stages = [(row["stage"], row["expert"]) for row in rows]
    assert stages == TEACHER + (MATCHED if match else UPDATES)
    assert all(row["seconds"] > 0 and row["planned_seconds"] > 0 for row in rows)
    planned = [row["planned_seconds"] for row in rows]
    assert planned[-1] > planned[-2]
    assert capsys.readouterr().out.count("\n") == len(rows)
