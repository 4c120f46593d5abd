"""The benchmark of a distillation's steps, on small towers on the CPU."""

import pytest
import torch

from benchmarks import distill_step
from lora_trainer.distributed import Workers


@pytest.mark.parametrize("setting", ["resident", "layers"])
def test_the_benchmark_takes_each_step_that_the_plan_counts(setting, tmp_path, capsys):
    workers = Workers(torch.device("cpu"))
    rows = distill_step.measure_setting(setting, 5, True, workers, tmp_path)
    assert [(row["stage"], row["expert"]) for row in rows] == [
        ("teacher, guided step", "video_dit"),
        ("teacher, guided step", "video_dit_2"),
        ("update", "video_dit"),
        ("update", "video_dit_2"),
        ("update, own state", "video_dit_2"),
    ]
    assert all(row["seconds"] > 0 and row["planned_seconds"] > 0 for row in rows)
    assert rows[4]["planned_seconds"] > rows[3]["planned_seconds"]
    assert capsys.readouterr().out.count("\n") == 5
