"""The loss of a training sample: noise it, predict the velocity, compare.

x_t = (1 - sigma) x_0 + sigma noise; the target is noise - x_0; the loss of each track is the mean squared
error. A held track has sigma 0, so the model is given it clean, and no loss. Everything random comes from a
generator seeded with the sample's own number, so a run does not depend on what ran before: resuming needs no
generator state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lora_trainer.config import EXPERTS, Objective
from mova.models.dual_tower import DualTower
from mova.scheduler import PairScheduler


@dataclass(frozen=True)
class NoiseDraw:
    """Random draws of one training sample: sigmas (0-d) and noises of the sample's shapes, on the CPU.

    A sigma of 0 is that of a held track.
    """

    video_sigma: Tensor
    audio_sigma: Tensor
    video_noise: Tensor
    audio_noise: Tensor
    drop_text: bool = False
    drop_bridge: bool = False


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket: latents [B, ...], texts [B, 512, D], and 1 where there is sound [B]."""

    video_latents: Tensor
    condition: Tensor
    audio_latents: Tensor
    text: Tensor
    has_sound: Tensor
    frame_rate: float


def sample_generator(seed: int, *numbers: int) -> torch.Generator:
    """The generator of one sample, independent of all others."""
    state = np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def training_sigmas(scheduler: PairScheduler) -> Tensor:
    """Sigmas [N, 2] that training draws from: the schedule of as many steps as the model was trained with."""
    return scheduler.sigmas(scheduler.config.num_train_timesteps)[:-1]


def expert_range(scheduler: PairScheduler, boundary_ratio: float, expert: str) -> range:
    """Rows of `training_sigmas` that `expert` serves; as released, 0.9 of the timesteps is row 358."""
    experts = scheduler.experts(training_sigmas(scheduler), boundary_ratio)
    high = experts.count(EXPERTS[0])
    return range(high) if expert == EXPERTS[0] else range(high, len(experts))


def hold_chances(objective: Objective, expert: str, high_share: float) -> tuple[float, float]:
    """Chances that a sample of `expert` has its picture, or its sound, held.

    Over all samples they come to the shares of `objective`; `high_share` is `video_dit`'s of the steps.
    """
    video = audio = 0.0
    if objective.hold_video and expert == EXPERTS[1]:
        video = min(1.0, objective.hold_video / (1 - high_share))
    if objective.hold_audio:
        audio = objective.hold_audio / (1 - objective.hold_video) * (1 - video)
    return video, audio


def draw(
    shapes: tuple[torch.Size, torch.Size],
    rows: range,
    sigmas: Tensor,
    objective: Objective,
    generator: torch.Generator,
    hold: tuple[float, float] = (0.0, 0.0),
) -> NoiseDraw:
    """A random timestep among `rows`, noise for latents of these shapes (video, audio), and dropouts.

    `hold` are the chances that picture or sound are held. The sound of a held picture has a timestep of the
    whole schedule: when it is made, one expert serves all of it.
    """
    row = rows[int(torch.randint(len(rows), (), generator=generator))]
    audio_row = int(torch.randint(len(sigmas), (), generator=generator))
    text, bridge = torch.rand(2, generator=generator).tolist()
    noises = [torch.randn(shape, generator=generator) for shape in shapes]
    chance = torch.rand((), generator=generator).item()  # last: the other draws are those of runs without
    video_held = chance < hold[0]
    audio_held = hold[0] <= chance < sum(hold)
    is_independent = video_held or objective.audio_timestep == "independent"
    clean = sigmas.new_zeros(())
    return NoiseDraw(
        clean if video_held else sigmas[row, 0],
        clean if audio_held else sigmas[audio_row if is_independent else row, 1],
        *noises,
        text < objective.text_dropout,
        bridge < objective.bridge_dropout,
    )


def losses(
    tower: DualTower, batch: Batch, draws: Sequence[NoiseDraw], timesteps: int
) -> tuple[Tensor, Tensor]:
    """Mean squared errors [B] of the video's and of the audio's velocity, float32.

    `timesteps` is the checkpoint's number of training timesteps. Held tracks and muted sound have loss 0. The
    bridge is skipped for the whole batch if the first draw says so.
    """
    device = batch.video_latents.device
    video_sigma, audio_sigma, video_noise, audio_noise = (
        torch.stack([getattr(each, name) for each in draws]).to(device)
        for name in ("video_sigma", "audio_sigma", "video_noise", "audio_noise")
    )
    noised = PairScheduler.add_noise(batch.video_latents, video_noise, video_sigma.view(-1, 1, 1, 1, 1))
    audio_noised = PairScheduler.add_noise(batch.audio_latents, audio_noise, audio_sigma.view(-1, 1, 1))
    video, audio = tower(
        torch.cat((noised, batch.condition), dim=1),
        audio_noised,
        video_sigma * timesteps,
        audio_sigma * timesteps,
        batch.text,
        batch.frame_rate,
        not draws[0].drop_bridge,
    )
    video_error = (video - PairScheduler.target(batch.video_latents, video_noise)).square().mean((1, 2, 3, 4))
    audio_error = (audio - PairScheduler.target(batch.audio_latents, audio_noise)).square().mean((1, 2))
    return video_error * (video_sigma > 0), audio_error * (audio_sigma > 0) * batch.has_sound
