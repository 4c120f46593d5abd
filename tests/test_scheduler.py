import pytest
import torch

from mova.errors import UserError
from mova.scheduler import PairScheduler

SCHEDULER = PairScheduler(num_train_timesteps=1000, shift=5.0)
# Steps of the high-noise expert of all, from the reference page of the release.
EXPERTS = {50: 18, 40: 15, 30: 11, 25: 9, 20: 8, 10: 4, 8: 3, 1000: 358}


@pytest.mark.parametrize("steps", [1, 2, 7, 30, 50, 999])
@pytest.mark.parametrize("shift", [0.5, 1.0, 5.0])
def test_sigmas_fall_from_one_to_zero(steps, shift):
    sigmas = SCHEDULER.sigmas(steps, shift, shift)
    assert sigmas.shape == (steps + 1, 2)
    assert sigmas.dtype == torch.float32
    assert sigmas[0].tolist() == [1.0, 1.0]
    assert sigmas[-1].tolist() == [0.0, 0.0]
    assert (sigmas.diff(dim=0) < 0).all()


def test_shift_one_is_linear_and_columns_are_independent():
    sigmas = SCHEDULER.sigmas(4, video_shift=1.0, audio_shift=3.0)
    assert torch.allclose(sigmas[:, 0], torch.tensor([1, 0.75, 0.5, 0.25, 0]))
    assert torch.allclose(sigmas[:, 1], torch.tensor([1, 0.9, 0.75, 0.5, 0]))


@pytest.mark.parametrize(("steps", "high"), EXPERTS.items())
def test_experts_share_the_steps_as_in_the_release(steps, high):
    timesteps = SCHEDULER.timesteps(SCHEDULER.sigmas(steps))[:-1, 0]
    assert (timesteps >= 900).sum() == high


def test_a_timestep_of_exactly_900_stays_with_the_high_noise_expert():
    assert SCHEDULER.timesteps(SCHEDULER.sigmas(14))[5, 0] == 900.0


@pytest.mark.parametrize("steps", [3, 30, 50])
def test_the_true_velocity_leads_from_noise_to_the_sample(steps):
    sample, noise = torch.randn(2, 1, 4, 5)
    x, sigmas = noise, SCHEDULER.sigmas(steps)
    for sigma, following in zip(sigmas[:-1, 0], sigmas[1:, 0], strict=True):
        assert torch.allclose(
            SCHEDULER.denoised(x, SCHEDULER.target(sample, noise), sigma), sample, atol=1e-5
        )
        x = SCHEDULER.step(x, SCHEDULER.target(sample, noise), sigma, following)
        assert torch.allclose(x, SCHEDULER.add_noise(sample, noise, following), atol=1e-5)
    assert torch.allclose(x, sample, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 8, 50])
def test_where_steps_divide_1000_the_sigmas_are_those_of_the_released_table(steps):
    base = torch.linspace(1, 0, 1001)[:-1]
    table = 5 * base / (1 + 4 * base)
    ours = SCHEDULER.sigmas(steps)[:-1, 0]
    nearest = table[(table[None] - ours[:, None]).abs().argmin(dim=1)]
    assert torch.allclose(ours, nearest, atol=2e-7)


@pytest.mark.parametrize("bad", [{"num_inference_steps": 0}, {"num_inference_steps": 1001}])
def test_impossible_step_counts_are_refused(bad):
    with pytest.raises(UserError, match="num_inference_steps"):
        SCHEDULER.sigmas(**bad)


@pytest.mark.parametrize("shift", [0, -1, float("nan"), float("inf")])
def test_impossible_shifts_are_refused_by_name(shift):
    with pytest.raises(UserError, match="audio_shift"):
        SCHEDULER.sigmas(4, audio_shift=shift)


def test_tracks_begin_at_their_starts_and_steps_in_which_both_wait_are_left_out():
    sigmas = SCHEDULER.sigmas(12, audio_shift=2.0)
    assert torch.equal(SCHEDULER.starting_at(sigmas, (1.0, 1.0)), sigmas)
    held = SCHEDULER.starting_at(sigmas, (1.0, 0.0))
    assert torch.equal(held[:, 0], sigmas[:, 0])
    assert not held[:, 1].any()
    later = SCHEDULER.starting_at(sigmas, (0.5, 0.9))
    assert later[0].tolist() == pytest.approx([0.5, 0.9])
    assert (later[0] != later[1]).any()
    following = sigmas[-len(later) + 1 :]
    assert torch.equal(later[1:], following.minimum(torch.tensor([0.5, 0.9])))
