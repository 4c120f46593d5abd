"""Euler and UniPC for one track, against the plain computation and against what they solve."""

import pytest
import torch

from mova.scheduler import PairScheduler, Solver
from tests.plain_solvers import PlainEuler, PlainUniPC, integrate
from tests.tiny import relative_error

SCHEDULER = PairScheduler(num_train_timesteps=1000, shift=5.0)
MEAN, WIDTH = 0.7, 0.4


def velocity(x, sigma):
    """Of samples from N(MEAN, WIDTH^2): the mean of noise - sample, given x."""
    spread = (1 - sigma) ** 2 * WIDTH**2 + sigma**2
    centred = x - (1 - sigma) * MEAN
    return (sigma - (1 - sigma) * WIDTH**2) / spread * centred - MEAN


def noise():
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 12, 50])
@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("start", [1.0, 0.5])
@pytest.mark.parametrize("corrects", [True, False])
def test_unipc_is_the_plain_computation(steps, shift, start, corrects):
    sigmas = SCHEDULER.sigmas(steps, shift, shift)
    sigmas = SCHEDULER.starting_at(sigmas, (start, start))[:, 0]
    made = integrate(Solver("unipc", sigmas, corrects), noise(), velocity)
    plain = integrate(PlainUniPC(sigmas, corrects), noise().double(), velocity)
    assert relative_error(made, plain.float()) < 2e-4


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_euler_is_the_plain_computation_bit_for_bit(steps):
    sigmas = SCHEDULER.sigmas(steps)[:, 0]
    made, plain = (
        integrate(each(sigmas), noise(), velocity) for each in (lambda s: Solver("euler", s), PlainEuler)
    )
    assert torch.equal(made, plain)


@pytest.mark.parametrize("corrects", [True, False])
def test_unipc_comes_closer_than_euler_in_as_many_steps(corrects):
    truth = MEAN + WIDTH * noise()
    sigmas = SCHEDULER.sigmas(20, video_shift=1.0)[:, 0]
    errors = {
        name: relative_error(integrate(Solver(name, sigmas, corrects), noise(), velocity), truth)
        for name in ("euler", "unipc")
    }
    assert errors["unipc"] < errors["euler"] / 5


@pytest.mark.parametrize("name", ["euler", "unipc"])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_the_true_velocity_leads_from_noise_to_the_sample(name, steps):
    sample = torch.rand(2, 3, 4, 5)
    end = integrate(Solver(name, SCHEDULER.sigmas(steps)[:, 0]), noise(), lambda *_: noise() - sample)
    assert torch.allclose(end, sample, atol=1e-5)


def test_a_held_track_stays_bit_for_bit_and_one_that_waits_begins_when_it_moves():
    held = Solver("unipc", torch.zeros(4))
    assert all(torch.equal(held.step(noise(), noise()), noise()) for _ in range(3))
    sigmas = SCHEDULER.sigmas(6)[:, 0].clamp(max=0.7)
    assert (sigmas[:4] == 0.7).all()
    waiting = integrate(Solver("unipc", sigmas), noise(), velocity)
    assert torch.equal(waiting, integrate(Solver("unipc", sigmas[3:]), noise(), velocity))
