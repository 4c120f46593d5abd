"""The benchmark of a training step, on small towers on the CPU."""

import argparse
import copy
import json

import pytest
import torch

from benchmarks import released_sizes, train_step, training_setup
from mova.models.dit import VideoDiT


def test_the_benchmark_takes_the_steps_that_the_plan_counts(tmp_path, capsys):
    """On small towers: it runs, streamed, and has a row for each length as soon as that is measured."""
    path = tmp_path / "rows.json"
    options = argparse.Namespace(
        tiny=True, frames=[5, 9], settings=["layers"], repeats=1, limit=None, json=path
    )
    train_step.measure_setting(options)
    rows = json.loads(path.read_text())
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in printed] == rows
    assert [row["frames"] for row in rows] == [5, 9]
    assert all(row["seconds"] > 0 and row["planned_seconds"] >= row["floor_seconds"] for row in rows)
    assert train_step.markdown(rows).count("\n") == 4


def test_the_benchmarks_layers_share_host_memory_and_nothing_else():
    sizes = training_setup.configs(tiny=True)["video_dit"]
    weights = released_sizes.draw_repeating(VideoDiT, sizes, torch.device("cpu"), torch.float32)
    tower = released_sizes.build_repeating(VideoDiT, sizes, weights)
    one, other = (tower.blocks[index].self_attn.q.weight for index in (0, 3))
    assert one is not other
    assert one.data_ptr() == other.data_ptr()
    moved = copy.deepcopy(tower).to(torch.float64)  # as `.to(device)` does
    one, other = (moved.blocks[index].self_attn.q.weight for index in (0, 3))
    assert one.data_ptr() != other.data_ptr()
    assert torch.equal(one, other)
    tower.load_state_dict(moved.state_dict())


@pytest.mark.slow
def test_rows_of_several_processes_are_measured_and_a_failure_costs_no_other_setting(tmp_path):
    options = argparse.Namespace(tiny=True, frames=[5], repeats=1, limit=None)
    rows, whole = train_step.in_processes("shards", 2, options)
    assert whole
    assert [(row["setting"], row["ranks"], row["frames"]) for row in rows] == [("shards", 2, 5)]
    assert rows[0]["clips_per_second"] == pytest.approx(2 / rows[0]["seconds"], rel=0.01)
    assert train_step.in_processes("shards", 1, options) == ([], False)  # it needs several
