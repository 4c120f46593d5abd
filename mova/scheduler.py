"""Paired flow matching: video and audio are noised along straight lines, each with its own shifted schedule.

x_t = (1 - sigma) x_0 + sigma noise, velocity = noise - x_0, timestep = 1000 sigma. The step from one sigma to
the next uses exactly the sigmas whose timesteps the model was given. The released code looks them up in a
table of 1000 instead, which is the same where the number of steps divides 1000 and up to 1.8e-3 off
otherwise; both add up to the same total.
"""

import torch
from diffusers import UniPCMultistepScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mova.adapters.strengths import EXPERTS
from mova.request import check_fields
from mova.sigmas import shifted


class PairScheduler(SchedulerMixin, ConfigMixin):
    """Shifted sigmas for a video and an audio sample that are denoised together, and the Euler step."""

    config_name = "scheduler_config.json"

    @register_to_config
    def __init__(self, num_train_timesteps: int, shift: float) -> None:
        pass

    def sigmas(
        self, num_inference_steps: int, video_shift: float | None = None, audio_shift: float | None = None
    ) -> Tensor:
        """Sigmas [N + 1, 2] (video, audio), float32, from 1 down to 0. A shift of None is the checkpoint's.

        Raises:
            UserError: the number of steps or a shift is out of range.
        """
        shifts = [self.config.shift if shift is None else shift for shift in (video_shift, audio_shift)]
        check_fields(num_inference_steps=num_inference_steps, video_shift=shifts[0], audio_shift=shifts[1])
        base = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)
        return torch.stack([shifted(base, shift) for shift in shifts], dim=1).float()

    @staticmethod
    def starting_at(sigmas: Tensor, starts: tuple[float, float]) -> Tensor:
        """`sigmas` with each column begun at its start: 0 for a held track, 1 changes nothing.

        A track that starts later waits at its sigma. Steps in which both wait are left out.
        """
        sigmas = sigmas.minimum(sigmas.new_tensor(starts))
        moving = (sigmas[1:] != sigmas[:-1]).any(dim=1)
        return sigmas[int(moving.nonzero()[0]) :]

    def timesteps(self, sigmas: Tensor) -> Tensor:
        return sigmas * self.config.num_train_timesteps

    def experts(self, sigmas: Tensor, boundary_ratio: float) -> list[str]:
        """The expert of each row of `sigmas` [N, 2]: the one for high noise from the boundary on.

        Compared timestep by timestep: no fraction of an index is taken for a timestep.
        """
        boundary = boundary_ratio * self.config.num_train_timesteps
        return [EXPERTS[0] if is_high else EXPERTS[1] for is_high in self.timesteps(sigmas)[:, 0] >= boundary]

    @staticmethod
    def step(sample: Tensor, velocity: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
        """The sample at `next_sigma`, one Euler step on."""
        return sample + velocity * (next_sigma - sigma)

    @staticmethod
    def denoised(sample: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
        """The clean sample that the velocity at `sigma` points to."""
        return sample - velocity * sigma

    @staticmethod
    def add_noise(sample: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """`sample` noised to `sigma` (broadcast over the sample's shape)."""
        return (1 - sigma) * sample + sigma * noise

    @staticmethod
    def target(sample: Tensor, noise: Tensor) -> Tensor:
        """The velocity that the model learns."""
        return noise - sample


class Solver:
    """The steps of one track along its sigmas [N + 1], in order: Euler's, or UniPC's (arXiv 2302.04867).

    UniPC is the library's, of order 2. Its corrector goes back to the sample before the step, so it is off
    for a track of which a part is put back after each step (`corrects`). A track that waits at its sigma
    stays as it is.
    """

    def __init__(self, name: str, sigmas: Tensor, corrects: bool = True) -> None:
        self.name, self.sigmas, self.corrects = name, sigmas, corrects
        self.index = 0
        self.multistep: UniPCMultistepScheduler | None = None

    def step(self, sample: Tensor, velocity: Tensor) -> Tensor:
        """The sample at the next sigma."""
        sigma, next_sigma = self.sigmas[self.index : self.index + 2]
        self.index += 1
        if self.name == "euler":
            return PairScheduler.step(sample, velocity, sigma, next_sigma)
        if sigma == next_sigma:
            return sample
        if self.multistep is None:
            left = self.sigmas[self.index - 1 : -1]
            self.multistep = UniPCMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                disable_corrector=[] if self.corrects else list(range(len(left))),
            )
            self.multistep.set_timesteps(sigmas=left.double().numpy())
            self.multistep.set_begin_index(0)
        return self.multistep.step(velocity, sigma, sample, return_dict=False)[0]
