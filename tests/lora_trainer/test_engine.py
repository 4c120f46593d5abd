"""Steps: which expert, which clips, what is frozen; every way of splitting a run gives the same bits."""

import gc
import itertools
from collections import Counter

import pytest
import torch

from lora_trainer.base_model import load_model
from lora_trainer.batch_sampler import BatchSampler, expert_at
from lora_trainer.checkpoint import load_state, save_state
from lora_trainer.config import EXPERTS, Optimizer
from lora_trainer.engine import Engine
from lora_trainer.optimizers import learning_rate_scale
from lora_trainer.validation import swapped_experts
from mova.conversion import convert
from mova.errors import BackendError, UserError
from tests.lora_trainer.conftest import run_steps
from tests.lora_trainer.two_processes import in_two_processes
from tests.lora_trainer.two_processes import parts as parts_there


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def through_a_file(state, tmp_path):
    save_state(tmp_path / "checkpoints", "step-000001", state, 1, lambda _: None)
    return load_state(tmp_path / "checkpoints")


VARIANTS = {
    "adamw": {"run.ema_decay": 0.9},
    "dropout": {"run.dropout": 0.3, "run.batch_size": 2, "run.gradient_checkpointing": True},
    "schedule_free": {"optimizer.name": "schedule_free"},
    "prodigy": {"optimizer.name": "prodigy", "optimizer.learning_rate": None},
    "held": {"objective.hold_video": 0.4, "objective.hold_audio": 0.4, "run.batch_size": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopping_inside_an_accumulation_and_resuming_changes_no_bit(engine, tmp_path, variant):
    changes = {key.replace(".", "__"): value for key, value in VARIANTS[variant].items()}
    changes |= {"towers__audio_dit__targets": "attention", "objective__text_dropout": 0.5}
    whole = engine(**changes)
    record = run_steps(whole, 3)

    first = engine(**changes)
    run_steps(first, 1)
    first.micro_batch()
    first.measure()  # looking must not change a run
    resumed = engine(**changes)
    resumed.restore(through_a_file(first.state(), tmp_path))
    assert resumed.micro == 1
    assert run_steps(resumed, 2) == record
    assert equal(resumed.lora.weights, whole.lora.weights)
    assert equal(resumed.average, whole.average)
    with resumed.saved_weights() as ours, whole.saved_weights() as theirs:
        assert equal(ours, theirs)


def take_two_steps(folder):
    engine = Engine(*parts_there(folder))
    assert engine.workers.count == 2
    run_steps(engine, 2)
    return {key: weight.detach() for key, weight in engine.lora.weights.items()}


def test_two_processes_take_the_same_steps_as_one(engine, settings, tmp_path):
    """Two processes with accumulation 1 see the samples of one with accumulation 2."""
    whole = engine()
    run_steps(whole, 2)
    first, second = in_two_processes(take_two_steps, tmp_path, settings(run__accumulation=1))
    assert equal(first, second)
    for key, weight in whole.lora.weights.items():
        assert torch.allclose(first[key], weight, atol=1e-6), key


def test_the_expert_stays_within_a_step_and_both_get_their_share(engine):
    trained = engine(run__accumulation=3, objective__hold_steps=2)
    seen = []
    for _ in range(2):
        for _ in range(3):
            seen.append(trained.expert)
            trained.micro_batch()
        trained.update()
    assert seen == ["video_dit"] * 6
    assert trained.expert == "video_dit_2"
    for share, hold in ((0.358, 1), (0.5, 3), (0.358, 4)):
        counts = Counter(expert_at(step, share, hold) for step in range(1000 * hold))
        assert counts["video_dit"] == round(1000 * share) * hold
    assert {expert_at(step, 1.0, 1) for step in range(9)} == {"video_dit"}
    assert {expert_at(step, 0.0, 1) for step in range(9)} == {"video_dit_2"}


def test_an_experts_lora_changes_only_in_its_own_steps_and_the_base_never(engine):
    trained = engine()
    base = {
        k: p.detach().clone() for k, p in trained.pipeline.video_dit.named_parameters() if "lora" not in k
    }
    before = {key: weight.detach().clone() for key, weight in trained.lora.weights.items()}
    record = run_steps(trained, 1)
    changed = {
        key.split(".")[0] for key, w in trained.lora.weights.items() if not torch.equal(w, before[key])
    }
    assert changed == {"video_dit", "audio_dit", "dual_tower_bridge"} == set(record["gradient_norms"])
    assert all(norm > 0 for norm in record["gradient_norms"].values())
    assert all(norm > 0 for norm in record["update_norms"].values())
    assert all(torch.equal(p, base[k]) for k, p in trained.pipeline.video_dit.named_parameters() if k in base)


def test_every_window_comes_once_an_epoch_whatever_the_batch_size(parts):
    _, cache, _ = parts()
    windows = list(cache.windows)
    for batch_size in (1, 2, 4):
        order = BatchSampler(windows, batch_size, seed=0)
        count = len(order.epoch(0))
        for epoch in range(3):
            names = [window.name for n in range(count) for window in order.batch(epoch * count + n)]
            assert sorted(names) == sorted(window.name for window in windows)
    names = [
        [e.name for n in range(12) for e in BatchSampler(windows, 1, seed).batch(n)] for seed in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2]
    assert names[0][:6] != names[0][6:]


def test_accumulating_equals_one_larger_batch(engine):
    one, two = engine(run__accumulation=2), engine(run__accumulation=1, run__batch_size=2)
    one.micro_batch()
    one.micro_batch()
    # The larger batch takes the same windows, and its samples' draws are numbered otherwise.
    two.sampler.batch = lambda _: [entry for n in range(2) for entry in one.sampler.batch(n)]
    draws = [one._draw(one.load(one.sampler.batch(n)), n)[0] for n in range(2)]
    two._draw = lambda *_: draws
    two.micro_batch()
    for key, weight in one.lora.weights.items():
        if weight.grad is not None:
            assert torch.allclose(weight.grad, two.lora.weights[key].grad, atol=1e-5), key


@pytest.mark.parametrize("offload", ["experts", "layers"])
def test_frozen_weights_that_come_and_go_change_no_bit(engine, offload):
    resident, moving = (
        engine(run__offload=kind, run__gradient_checkpointing=True) for kind in ("none", offload)
    )
    assert run_steps(resident, 3) == run_steps(moving, 3)
    assert equal(resident.lora.weights, moving.lora.weights)
    assert resident.measure() == moving.measure()


def test_a_loss_that_is_no_number_stops_with_the_windows_name_and_leaves_the_state(engine):
    trained = engine()

    class Broken(type(trained.cache)):
        def latents(self, window):
            tensors = super().latents(window)
            tensors["video_latents"][0, 0, 0, 0] = float("nan")
            return tensors

    trained.cache = Broken(trained.cache.folder, trained.cache.windows, trained.cache.texts)
    with pytest.raises(BackendError, match=r"the loss of [abc]\.mp4@.* in step 1 is nan"):
        trained.micro_batch()
    assert trained.micro == 0
    assert all(weight.grad is None for weight in trained.lora.weights.values())


def test_resuming_with_other_settings_is_refused_and_names_them(engine):
    state = engine().state()
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.01 then, 0\.5 now"):
        engine(optimizer__learning_rate=0.5).restore(state)
    engine(run__steps=9, run__checkpoint_every=7).restore(state)


def test_an_expert_that_would_never_run_is_refused(engine):
    with pytest.raises(UserError, match="video_dit_2 would never run"):
        engine(objective__high_share=1.0)


def test_the_learning_rate_warms_up_and_falls_to_its_last_share():
    cosine = Optimizer(warmup_steps=4, final_scale=0.1)
    rates = [learning_rate_scale(step, 20, cosine) for step in range(21)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0 and rates[20] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))
    assert {
        learning_rate_scale(s, 20, Optimizer(schedule="constant", warmup_steps=0)) for s in range(20)
    } == {1.0}


def test_each_tower_has_its_own_learning_rate(engine):
    trained = engine(towers__dual_tower_bridge__learning_rate_scale=2.0, optimizer__warmup_steps=0)
    run_steps(trained, 1)
    rates = {group["name"]: group["lr"] for group in trained.optimizer.param_groups}
    assert rates["dual_tower_bridge"] == pytest.approx(2 * rates["audio_dit"])


def test_updates_too_small_for_bfloat16_are_not_lost(engine):
    trained = engine(run__dtype="bfloat16", optimizer__learning_rate=1e-6, optimizer__schedule="constant")
    before = {key: weight.detach().clone() for key, weight in trained.lora.weights.items()}
    layers = {key: weight.detach().clone() for key, weight in trained.lora.layer_weights.items()}
    run_steps(trained, 1)
    down = [key for key in before if "lora_A" in key and key.startswith("audio_dit")]
    assert {trained.lora.layer_weights[key].dtype for key in down} == {torch.bfloat16}
    run_steps(trained, 2)
    assert not any(torch.equal(trained.lora.weights[key], before[key]) for key in down)
    assert any(torch.equal(trained.lora.layer_weights[key], layers[key]) for key in down)


def test_steps_leave_no_tensors_behind(engine):
    trained = engine()

    def tensors():
        gc.collect()
        return sum(type(thing) in (torch.Tensor, torch.nn.Parameter) for thing in gc.get_objects())

    run_steps(trained, 4)  # by now both experts have their optimizer's state
    before = tensors()
    run_steps(trained, 4)
    assert tensors() == before


def test_swapped_experts_are_noticed(engine):
    ranks = {f"towers__{name}__rank": 32 for name in EXPERTS}
    rates = {"optimizer__schedule": "constant", "optimizer__learning_rate": 2e-2}
    trained = engine(preset="look", run__accumulation=1, data__held_out=0, run__steps=99, **ranks, **rates)
    entry = trained.learnt[0]
    trained.sampler.batch = lambda _: [entry]
    pipeline, noticed = trained.pipeline, False
    while not noticed and trained.step < 48:  # random weights have to become experts first
        run_steps(trained, 6)
        right = swapped_experts(pipeline, trained.load, entry)
        pipeline.video_dit, pipeline.video_dit_2 = pipeline.video_dit_2, pipeline.video_dit
        noticed = swapped_experts(pipeline, trained.load, entry) and not right
        pipeline.video_dit, pipeline.video_dit_2 = pipeline.video_dit_2, pipeline.video_dit
    assert noticed


@pytest.mark.filterwarnings("ignore")
def test_an_8_bit_base_gives_the_gradients_of_the_rounded_weights(engine):
    stored, rounded = engine(run__base="fp8"), engine()
    for tower in rounded.lora.towers.values():
        for path, module in tower.named_modules():
            if path.endswith("base_layer"):
                module.weight.data = module.weight.data.to(torch.float8_e4m3fn).float()
                module.bias.data = module.bias.data.to(torch.float8_e4m3fn).float()
    names = [n for n, p in stored.pipeline.audio_dit.named_parameters() if p.dtype == torch.float8_e4m3fn]
    assert len(names) == 2 * 30
    for each in (stored, rounded):
        each.micro_batch()
    for key, weight in rounded.lora.weights.items():
        if weight.grad is not None:
            assert torch.allclose(stored.lora.weights[key].grad, weight.grad, atol=1e-6), key


def test_a_checkpoint_in_fp8_is_refused_with_the_one_to_train_on(golden, tmp_path):
    convert(str(golden / "checkpoint"), tmp_path / "small", lambda line: None)
    with pytest.raises(UserError, match=r"is in fp8, .* train on the checkpoint that it was made from"):
        load_model(tmp_path / "small", torch.device("cpu"), torch.float32, "none")
