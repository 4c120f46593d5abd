"""The plan of a distillation, on the released sizes and on the golden model."""

import pytest

from lora_trainer.__main__ import main
from lora_trainer.distillation.config import read_distill_config
from lora_trainer.distillation.plan import (
    distill_inputs,
    estimate_distillation,
    forward_seconds,
    micro_batch_seconds,
    steps_of,
    trajectory_bytes,
)
from lora_trainer.distillation.run import open_distillation
from lora_trainer.plan.inputs import find_card
from mova.machine import GIB
from tests.lora_trainer.distillation.conftest import prompts, settings  # noqa: F401 - fixtures
from tests.lora_trainer.plan.test_estimate import release  # noqa: F401 - a fixture


@pytest.fixture
def planned(release, tmp_path):  # noqa: F811
    def planned(gpu="H200", gpus=1, count=1024, **changes):
        base = {
            "model": str(release),
            "output": str(tmp_path),
            "prompts.path": "none",
            "prompts.num_frames": 97,
        }
        flat = {key.replace("__", "."): value for key, value in changes.items()}
        config = read_distill_config(None, base | flat)
        card, inputs = find_card(config, gpu, gpus), distill_inputs(config)
        return config, card, inputs, estimate_distillation(config, card, inputs, count)

    return planned


def test_each_expert_has_its_steps_at_the_released_schedule(planned):
    config, _, inputs, _ = planned()
    sigmas = {name: [sigma for _, sigma in steps] for name, steps in steps_of(config, inputs).items()}
    assert sigmas["video_dit"] == pytest.approx([1, 0.9375])
    assert sigmas["video_dit_2"] == pytest.approx([5 / 6, 0.625])


def test_time_is_the_teachers_forwards_and_the_students_updates(planned):
    config, card, inputs, plan = planned(run__steps=1000)
    one = forward_seconds(config, card, inputs)
    assert plan.seconds["trajectories"] == pytest.approx(1024 * 28 * 2 * one)
    plain = micro_batch_seconds(config, card, inputs, "video_dit_2", 0.0)
    own = micro_batch_seconds(config, card, inputs, "video_dit_2", 1.0)
    assert own - plain == pytest.approx(2.5 * one)  # before step 3 or 4 of the path
    assert 3 * one < plain < 6 * one
    held = planned(run__steps=1000, prompts__hold_audio=0.5)[3]
    assert held.seconds["trajectories"] == pytest.approx(1.5 * plan.seconds["trajectories"])


def test_matching_costs_the_teachers_and_the_fake_scores_forwards_in_a_share_of_the_updates(planned):
    config, card, inputs, plan = planned()
    matching = planned(matching__on=True, matching__share=0.75, objective__own_from=0.0)
    one = forward_seconds(config, card, inputs)

    def micro(expert, own, matched=False):
        return micro_batch_seconds(matching[0], card, inputs, expert, own, matched)

    # On the own path 2.5 forwards on average, and the step itself; the teacher's two; the fake score's.
    matched = micro("video_dit_2", 0.5, True)
    assert matched == pytest.approx(2 * micro("video_dit_2", 0.0) + 6.5 * one)
    others = (micro("video_dit", 0.5) + micro("video_dit_2", 0.5)) / 2
    assert matching[3].step_seconds == pytest.approx(0.75 * matched + 0.25 * others)
    weights, optimizer = plan.device["LoRA in float32"], plan.device["optimizer"]
    assert matching[3].device["fake score, with gradients"] == 2 * weights + optimizer
    assert matching[3].disk["checkpoints"] > 1.5 * plan.disk["checkpoints"]


def test_more_cards_share_trajectories_and_a_smaller_base_takes_less_memory(planned):
    one, eight = planned()[3], planned(gpus=8)[3]
    assert eight.seconds["trajectories"] == pytest.approx(one.seconds["trajectories"] / 8)
    assert eight.step_seconds == one.step_seconds
    fp8 = planned(run__base="fp8")[3]
    assert sum(fp8.device.values()) < sum(one.device.values()) - 25 * GIB
    assert one.fits and not planned("H100")[3].fits and planned("H100", run__base="fp8")[3].fits


def test_the_disk_takes_what_the_files_take(settings, golden):  # noqa: F811
    config = settings()
    inputs = distill_inputs(config)
    with open_distillation(config, resume=False):
        held = sum(path.stat().st_size for path in config.cache.glob("*.safetensors"))
    expected = 5 * trajectory_bytes(config, find_card(config, None), inputs)
    texts = 5 * 2 * 512 * 32 * 4  # counted at their longest
    assert expected - texts < held < expected


def test_the_command_prints_the_plan_and_makes_nothing(release, tmp_path, capsys):  # noqa: F811
    output = tmp_path / "run"
    base = ["distill", "--model", str(release), "--prompts", "none", "--output", str(output), "--count", "64"]
    assert main([*base, "--plan", "--gpu", "H200", "--frames", "97", "--price", "4"]) == 0
    said = capsys.readouterr().out
    assert "video_dit_2                    steps at sigma 0.8333, 0.6250" in said
    assert "money" in said and "It fits." in said
    assert main([*base, "--plan", "--gpu", "4090", "--frames", "97"]) == 1
    assert "run.offload=experts" in capsys.readouterr().out
    assert not output.exists()
