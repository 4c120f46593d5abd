"""Distribution matching on the golden model: the fake score's loss, the student's, and whole runs."""

import pytest
import torch

from lora_trainer.batch_sampler import expert_at
from lora_trainer.distillation.config import DistillConfig
from lora_trainer.distillation.matching import noised_on, score_error
from lora_trainer.distillation.run import open_distillation
from lora_trainer.objective import sample_generator
from mova.adapters.strengths import EXPERTS, TOWERS
from mova.errors import BackendError, Cancelled, UserError
from mova.scheduler import PairScheduler
from tests.lora_trainer.loops import adapter_of, same, stop_inside
from tests.lora_trainer.two_processes import in_two_processes

MATCHING = {"matching__on": True, "matching__score_alone": 1, "run__steps": 6, "matching__video_weight": 1.0}


@pytest.mark.parametrize(("sigma", "further"), [(0.0, 0.4), (0.625, 0.7), (0.625, 0.82), (0.83, 0.9)])
def test_the_fake_scores_loss_is_least_at_the_score_of_what_it_is_shown(sigma, further):
    """Samples of a normal distribution, at `sigma` already: its score, and so the velocity, is known."""
    count, spread = 400_000, 0.7
    generator = torch.Generator().manual_seed(0)
    sample = spread * torch.randn(count, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(sample.shape, generator=generator, dtype=torch.float64)
    at = torch.full((count,), sigma, dtype=torch.float64), torch.full((count,), further, dtype=torch.float64)
    shown = noised_on(sample, noise, *at)
    losses = [score_error(slope * shown, sample, noise, *at).mean() for slope in (-1.0, 0.0, 1.0)]
    best = (losses[0] - losses[2]) / (2 * (losses[0] + losses[2] - 2 * losses[1]))  # of a parabola
    kept = (1 - further) / (1 - sigma)
    variance = (kept * spread) ** 2 + further**2 - (kept * sigma) ** 2
    assert shown.var().item() == pytest.approx(variance, rel=0.02)
    assert best.item() == pytest.approx((further / variance - 1) / (1 - further), abs=0.03)


def test_of_clean_samples_it_is_the_training_loss():
    velocity, sample, noise = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.3, 0.9])
    clean = torch.zeros(2)
    noised = PairScheduler.add_noise(sample, noise, sigma.view(-1, 1, 1))
    assert torch.allclose(noised_on(sample, noise, clean, sigma), noised)
    expected = (velocity - PairScheduler.target(sample, noise)).square().mean((1, 2))
    assert torch.allclose(score_error(velocity, sample, noise, clean, sigma), expected)
    assert not score_error(velocity, sample, noise, clean, clean).any()  # a held track


def with_weights(student):
    """Give the student and the fake score weights that differ from the base model's and from each other's."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weights in (student.lora.weights, student.score.weights):
            for key, weight in weights.items():
                if "lora_B" in key:
                    weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    student.lora.publish()


@pytest.mark.parametrize("held", [None, "video"])
def test_a_loss_is_that_of_a_plain_computation(distil, held):
    """Clean samples by hand, forward by forward: of the teacher with guidance, and of the fake score."""
    changes = MATCHING | {"matching__score_alone": 0, "prompts__hold_video": 0.5}
    with distil(run__batch_size=4, prompts__count=8, prompts__held_out=0, **changes) as d:
        student, pipeline = d.engine, d.engine.pipeline
        with_weights(student)
        student.step = next(step for step in range(9) if expert_at(step, student.high_share, 1) == EXPERTS[1])
        assert student.expert == EXPERTS[1]
        learnt, shown = [], []
        walked, likelier, collect = student._walked, student._likelier, student.lora.collect
        paths = []
        student._walked = lambda *given: paths.append(walked(*given)) or paths[-1]
        student._likelier = lambda *given: learnt.append((given, likelier(*given))) or learnt[-1][1]
        student.lora.collect = lambda weights: shown.append(weights) or collect(weights)
        for number in range(40):
            rows = student.samplers[EXPERTS[1]].batch(number)
            losses = student.losses(number)
            if learnt and rows[0].held == held:
                break
            learnt.clear()
            shown.clear()
        student.lora.collect = collect
        (ends, clean, (sigma, next_sigma, condition, text), _), goals = learnt[0]
        assert shown == [student.score.weights]
        assert any(weight.grad is not None for weight in student.score.weights.values())
        # The draws again: whether it matches, the step, the noise of the start, the fake score's, the goals'.
        generator = sample_generator(d.config.run.seed, number, 1)
        torch.rand((), generator=generator)
        torch.randint(2, (), generator=generator)
        for states in student.trajectories.states(rows, torch.zeros(4, dtype=torch.int64)):
            torch.randn(states.shape, generator=generator)
        for _ in range(2):
            share = 0.02 + 0.98 * torch.rand(4, 1, generator=generator)
            noise = [torch.randn(end.shape, generator=generator) for end in ends]
        at = next_sigma + share * (sigma - next_sigma)

        def shaped(values, over):
            return values.view(-1, *[1] * (over.ndim - 1))

        def forward(states, prompt):
            with torch.no_grad():
                return pipeline.dual_tower(
                    torch.cat((states[0], condition), 1), states[1], *(1000 * at).unbind(1), prompt, 24.0
                )

        states = []
        for end, drawn, a, b in zip(ends, noise, next_sigma.unbind(1), at.unbind(1), strict=True):
            a, b = shaped(a, end), shaped(b, end)
            kept = (1 - b) / (1 - a)
            states.append(kept * end + (b**2 - (kept * a) ** 2).clamp(min=0).sqrt() * drawn)
        student.lora.publish(student.score.weights)
        fake = forward(states, text)
        student.lora.publish()
        with student.lora.without(*student.towers):
            guided, plain = (
                forward(states, text),
                forward(states, student.trajectories.negative.expand_as(text)),
            )
            real = [p + 5.0 * (g - p) for g, p in zip(guided, plain, strict=True)]
        with torch.no_grad():
            velocities = student.velocities(*paths[-1], condition, text, sigma)
        for column, (end, own, state) in enumerate(zip(ends, clean, states, strict=True)):
            b, s, t = (shaped(each[:, column], end) for each in (at, sigma, next_sigma))
            theirs, wanted = state - b * fake[column], state - b * real[column]
            scale = shaped((own - wanted).abs().flatten(1).mean(1).clamp(min=1e-3), end)
            goal = end + (1 - t) * (wanted - theirs) / scale
            assert torch.allclose(goals[column], goal, atol=1e-4)
            if (s == 0).all():  # held
                assert losses[column] == 0
                continue
            start = paths[-1][column]
            assert torch.allclose(start - s * velocities[column], own, atol=1e-4)
            assert torch.allclose(start - (s - t) * velocities[column], end, atol=1e-4)
            expected = (velocities[column] - (start - goal) / (s - t)).square().mean()
            assert losses[column].item() == pytest.approx(expected.item(), rel=1e-3)


def test_where_the_fake_score_is_the_teacher_nothing_is_to_be_learnt(distil):
    unguided = {"teacher__guidance_scale": 1.0, "teacher__bridge_guidance_scale": 1.0}
    with distil(**MATCHING | {"matching__score_alone": 0}, **unguided) as d:
        student = d.engine
        student.step = 1
        matched = [student.losses(number)[:2] for number in range(8)]
        assert min(max(pair) for pair in matched) < 1e-8


def test_the_second_experts_low_steps_are_matched_and_all_learn_from_trajectories(distil):
    with distil(prompts__hold_video=0.4, prompts__hold_audio=0.4, prompts__count=10, **MATCHING) as d:
        student = d.engine
        assert {kind: student.matched(kind) for kind in student.sigmas} == {
            "": [2, 3],
            "video": [2, 3],
            "audio": [2, 3],
        }
        d.run()
        assert student.score.updates >= 2
        assert student.lora.weights.keys() == student.score.weights.keys()
        moved = (weight.abs().max() for key, weight in student.score.weights.items() if "lora_B" in key)
        assert max(moved) > 0


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_share_of_the_updates_matches(distil, share):
    with distil(**MATCHING, matching__share=share) as d:
        student, count, matched = d.engine, 120, []
        student._learn_score = lambda *_: matched.append(student.step)  # alone: the loss is of trajectories
        for step in range(count):
            student.step = step
            with torch.no_grad():
                student.losses(step)
        assert len(matched) == pytest.approx(share * count, abs=0.15 * count)
        assert {expert_at(step, student.high_share, 1) for step in matched} == {EXPERTS[1]}


def test_without_a_weight_of_the_picture_the_sound_alone_is_matched(distil):
    changes = MATCHING | {"matching__score_alone": 0, "matching__share": 1.0, "matching__video_weight": 0.0}
    with distil(**changes) as d:
        student = d.engine
        with_weights(student)
        student.step = 1
        video, audio, _ = student.losses(0)
        assert video == 0 < audio


def test_a_stopped_run_resumes_bit_for_bit(distil, tmp_path):
    with distil(output=str(tmp_path / "whole"), run__accumulation=2, **MATCHING) as whole:
        expected = adapter_of(whole)
        score = {key: weight.detach().clone() for key, weight in whole.engine.score.weights.items()}
    with distil(run__accumulation=2, **MATCHING) as stopped:
        stop_inside(stopped, 4, 1)
        with pytest.raises(Cancelled, match="stopped at step 4"):
            stopped.run()
    with distil(resume=True, run__accumulation=2, **MATCHING) as again:
        assert same(adapter_of(again), expected)
        assert all(torch.equal(again.engine.score.weights[key], weight) for key, weight in score.items())


def weights_of_a_run(folder):
    config = DistillConfig.model_validate_json((folder / "config.json").read_text())
    with open_distillation(config, resume=False) as distillation:
        distillation.run()
        weights = distillation.engine.lora.weights, distillation.engine.score.weights
        return [{key: weight.detach() for key, weight in each.items()} for each in weights]


def test_two_processes_share_a_run(settings, shared_cache, tmp_path):
    """Also in updates in which one process matches and the other does not."""
    changes = MATCHING | {"prompts__hold_video": 0.4, "prompts__count": 10, "run__steps": 8}
    config = settings(prompts__cache=str(shared_cache), **changes)
    first, second = in_two_processes(weights_of_a_run, tmp_path, config)
    for one, other in zip(first, second, strict=True):
        assert same(one, other)
    assert max(weight.abs().max() for key, weight in first[1].items() if "lora_B" in key) > 0


@pytest.mark.parametrize("offload", ["experts", "layers"])
def test_frozen_weights_that_come_and_go_change_no_bit(distil, tmp_path, offload):
    changes = MATCHING | {"run__gradient_checkpointing": True}
    with distil(output=str(tmp_path / "whole"), **changes) as resident:
        expected = adapter_of(resident)
    with distil(run__offload=offload, **changes) as moving:
        assert same(adapter_of(moving), expected)


def test_a_fake_score_that_breaks_down_ends_the_run_with_a_sentence(distil):
    with distil(**MATCHING) as d:
        with torch.no_grad():
            for weight in d.engine.score.weights.values():
                weight.fill_(float("nan"))
        with pytest.raises(BackendError, match="fake score's update 1 are not finite; nothing was saved yet"):
            d.run()


def test_a_run_starts_from_an_adapter_of_its_own_layers_and_ranks(distil, tmp_path):
    with distil(output=str(tmp_path / "first"), run__ema_decay=0.0) as first:
        path = first.run()
        last = first.journal.read("validation")[-1]["held_out"]
    with distil(output=str(tmp_path / "second"), start_from=str(path), run__steps=1) as second:
        second.run()
        base = second.journal.read("base")[0]["held_out"]
    for name, figures in last.items():
        assert base[name] == pytest.approx(figures, rel=1e-3)
    ranks = {f"towers__{name}__rank": 3 for name in TOWERS}
    with (
        pytest.raises(UserError, match=r"has rank 2 for .*, which has rank 3 here"),
        distil(start_from=str(path), **ranks),
    ):
        pass
    with (
        pytest.raises(UserError, match="has layers that this run does not train"),
        distil(start_from=str(path), towers__dual_tower_bridge__train=False),
    ):
        pass
    alphas = {f"towers__{name}__alpha": 4.0 for name in TOWERS}
    with distil(output=str(tmp_path / "third"), start_from=str(path), run__steps=1, **alphas) as third:
        third.run()
        scaled = third.journal.read("base")[0]["held_out"]
    assert scaled["end"] == pytest.approx(last["end"], rel=1e-3)


def test_a_student_without_a_step_to_match_is_refused(distil):
    with pytest.raises(UserError, match="none of the student's 1 steps can be matched"):
        distil(steps=1, **MATCHING).__enter__()
