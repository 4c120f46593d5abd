"""Loss and gradients equal a plain, separate computation; experts and timesteps are the released ones."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from lora_trainer.config import Objective
from lora_trainer.objective import draw, expert_range, losses, sample_generator, training_sigmas
from mova.models.dual_tower import DualTower
from mova.scheduler import PairScheduler
from tests.tiny import relative_error

RELEASED = PairScheduler(num_train_timesteps=1000, shift=5.0)


def plain_losses(pipeline, expert, weights, batch, each):
    """Squared errors of a clip, with W + up @ down in place of LoRA layers, by the formulas alone."""
    tower = DualTower(getattr(pipeline, expert), pipeline.audio_dit, pipeline.dual_tower_bridge)
    merged = {}
    for key, down in weights.items():
        name, _, path = key.removesuffix(".lora_A.weight").partition(".")
        if key.endswith("lora_A.weight") and name in (expert, "audio_dit", "dual_tower_bridge"):
            up = weights[key.replace("lora_A", "lora_B")]
            child = "video_dit" if name == expert else name
            merged[f"{child}.{path}.weight"] = tower.get_parameter(f"{child}.{path}.weight") + up @ down
    sigma, sound_sigma = float(each.video_sigma), float(each.audio_sigma)
    noised = batch.video_latents + sigma * (each.video_noise - batch.video_latents)
    sound = batch.audio_latents + sound_sigma * (each.audio_noise - batch.audio_latents)
    arguments = (
        torch.cat((noised, batch.condition), 1),
        sound,
        torch.tensor([1000 * sigma]),
        torch.tensor([1000 * sound_sigma]),
        batch.text,
        24.0,
    )
    video, audio = functional_call(tower, merged, arguments)
    video_loss = ((video + batch.video_latents - each.video_noise) ** 2).sum() / video.numel()
    return video_loss, ((audio + batch.audio_latents - each.audio_noise) ** 2).sum() / audio.numel()


@pytest.mark.parametrize("expert", ["video_dit", "video_dit_2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_a_plain_computation(engine, pipeline, expert, checkpointing):
    ours = engine(objective__audio_weight=0.2, run__gradient_checkpointing=checkpointing, data__held_out=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # at the start the up matrices are zero, and with them the gradients of the others
        for weight in ours.lora.weights.values():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    ours.lora.publish()
    ours.pipeline.residency.activate(expert)
    batch = ours.load(ours.sampler.batch(0))
    shapes = batch.video_latents.shape[1:], batch.audio_latents.shape[1:]
    each = draw(shapes, ours.rows[expert], ours.sigmas, Objective(audio_timestep="independent"), generator)
    video, audio = losses(ours.pipeline.dual_tower, batch, [each], 1000)
    (video.mean() + 0.2 * audio.mean()).backward()
    ours.lora.collect()

    weights = {key: w.detach().clone().requires_grad_() for key, w in ours.lora.weights.items()}
    plain_video, plain_audio = plain_losses(pipeline, expert, weights, batch, each)
    (plain_video + 0.2 * plain_audio).backward()
    assert video.item() == pytest.approx(plain_video.item(), rel=1e-5)
    assert audio.item() == pytest.approx(plain_audio.item(), rel=1e-5)
    learning = {key for key, weight in weights.items() if weight.grad is not None}
    assert learning == {key for key, weight in ours.lora.weights.items() if weight.grad is not None}
    assert len(learning) == 2 * (32 + 24 + 24 + 6)  # matrices of one expert, audio with ffn, bridge
    for key in learning:
        assert relative_error(ours.lora.weights[key].grad, weights[key].grad) < 1e-3, key


def test_the_boundary_is_row_358_of_1000_for_the_released_schedule():
    high = expert_range(RELEASED, 0.9, "video_dit")
    low = expert_range(RELEASED, 0.9, "video_dit_2")
    assert (high, low) == (range(358), range(358, 1000))
    timesteps = RELEASED.timesteps(training_sigmas(RELEASED)[:, 0])
    assert timesteps[high].min() >= 900 > timesteps[low].max()


def test_the_boundary_is_the_checkpoints(golden):
    shifted = PairScheduler(num_train_timesteps=1000, shift=3.0)
    assert len(expert_range(shifted, 0.9, "video_dit")) == 251
    assert len(expert_range(RELEASED, 0.5, "video_dit")) == 834
    assert len(expert_range(RELEASED, 1.0, "video_dit_2")) == 999


def test_video_dit_learns_high_noise_and_video_dit_2_low_noise(engine):
    trained = engine(data__held_out=0)
    for expert, lowest, highest in (("video_dit", 0.9, 1.0), ("video_dit_2", 0.0, 0.9)):
        drawn = [
            draw(
                (torch.Size([1]),) * 2,
                trained.rows[expert],
                trained.sigmas,
                Objective(),
                sample_generator(0, n),
            )
            for n in range(200)
        ]
        sigmas = np.array([float(each.video_sigma) for each in drawn])
        assert lowest <= sigmas.min() and sigmas.max() <= highest
        assert all(each.audio_sigma == each.video_sigma for each in drawn)  # as the released trainer does
    trained.micro_batch()
    assert {key.split(".")[0] for key, w in trained.lora.weights.items() if w.grad is not None} == {
        "video_dit",
        "audio_dit",
        "dual_tower_bridge",
    }


def test_the_papers_recipe_draws_the_audio_timestep_on_its_own(settings):
    paper = settings(recipe="paper").objective
    sigmas, rows = training_sigmas(RELEASED), expert_range(RELEASED, 0.9, "video_dit")
    drawn = [draw((torch.Size([1]),) * 2, rows, sigmas, paper, sample_generator(0, n)) for n in range(400)]
    audio = np.array([float(each.audio_sigma) for each in drawn])
    assert audio.min() < 0.2 and audio.max() > 0.9
    assert np.mean([each.drop_text for each in drawn]) == pytest.approx(paper.text_dropout, abs=0.06)


def test_a_dropped_bridge_leaves_it_without_gradient(engine):
    trained = engine(objective__bridge_dropout=1.0, data__held_out=0)
    trained.micro_batch()
    assert all(weight.grad is None for weight in trained.towers["dual_tower_bridge"])
    assert all(weight.grad is not None for weight in trained.towers["audio_dit"])


def test_muted_clips_teach_no_sound(engine):
    trained = engine(data__held_out=0)
    batch = trained.load(trained.sampler.batch(0))
    generator = sample_generator(0, 0)
    shapes = batch.video_latents.shape[1:], batch.audio_latents.shape[1:]
    each = draw(shapes, trained.rows["video_dit"], trained.sigmas, Objective(), generator)
    batch.has_sound.zero_()
    video, audio = losses(trained.pipeline.dual_tower, batch, [each], 1000)
    assert audio.item() == 0 and video.item() > 0
