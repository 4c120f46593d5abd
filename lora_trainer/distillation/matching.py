"""Distribution matching: where little noise is left, a model of the student's own states says where to go.

A regression learns the mean of all ends that its states may have, and what is like noise, such as an "s" or
an "h", is lost in the mean. So the last steps learn to go on from x_(k+1), where they led, to where it is
likelier to be the teacher's than the student's (DMD, arXiv 2311.18828):

    end = x_(k+1) + (1 - sigma_(k+1)) (teacher's clean sample - fake score's clean sample) / their scale,

both at x_(k+1) with noise added, up to some sigma between sigma_(k+1) and sigma_k. The fake score is a second
LoRA in the student's layers. It learns to denoise such states all the while, by a loss whose minimum is right
although they are not clean (arXiv 2510.27684).
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lora_trainer.config import EXPERTS
from lora_trainer.distillation.config import DistillConfig
from lora_trainer.distillation.student import Pair, Student, broadcast, step_error, stepped
from lora_trainer.distillation.trajectories import Row, Trajectories
from lora_trainer.distributed import Workers
from lora_trainer.lora import TrainableLora
from lora_trainer.objective import sample_generator
from lora_trainer.optimizers import build_optimizer, restore_training, set_learning_rates, training_state
from mova.errors import BackendError, UserError
from mova.guidance import Guidance
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler

LEAST_ADDED = 0.02  # of the way from one sigma to the one before: noise that is added at least
LEAST_SCALE = 1e-3  # of latents


class FakeScore:
    """A LoRA of the student's shape, shown in its layers in turn, with an optimizer of its own."""

    def __init__(self, lora: TrainableLora, config: DistillConfig, workers: Workers) -> None:
        self.lora, self.config, self.workers = lora, config, workers
        self.weights = {key: nn.Parameter(weight.detach().clone()) for key, weight in lora.weights.items()}
        self.towers: dict[str, list[nn.Parameter]] = {}
        for key, weight in self.weights.items():
            if key.endswith("lora_B.weight"):  # it starts as the base model
                nn.init.zeros_(weight)
            self.towers.setdefault(key.partition(".")[0], []).append(weight)
        self.optimizer = build_optimizer(self.towers, config)
        self.updates = 0

    def shown(self) -> AbstractContextManager[None]:
        """The layers compute with it inside the context."""
        return self.lora.showing(self.weights)

    def update(self) -> None:
        """A step of the optimizer, if a process has gradients. Raises BackendError: they are not finite."""
        self.workers.add_gradients_of(self.towers.values())
        learning = [weight for weight in self.weights.values() if weight.grad is not None]
        if not learning:
            return
        set_learning_rates(self.optimizer, self.config, self.config.matching.score_rate)
        total = nn.utils.clip_grad_norm_(learning, self.config.optimizer.max_gradient_norm)
        if not torch.isfinite(total):
            raise BackendError(f"the gradients of the fake score's update {self.updates + 1} are not finite")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1

    def state(self) -> dict[str, Any]:
        return training_state(self.weights, self.optimizer) | {"updates": self.updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        restore_training(self.weights, self.optimizer, state)
        self.updates = state["updates"]


class Step(NamedTuple):
    """One step of a batch, from `sigma` to `next_sigma` [B, 2], and the condition and texts of its clips."""

    sigma: Tensor
    next_sigma: Tensor
    condition: Tensor
    text: Tensor

    def noised(self, ends: Pair, generator: torch.Generator) -> "Noised":
        """`ends`, at `next_sigma`, with noise added up to some sigma on the way to `sigma`."""
        device, rows = self.sigma.device, len(self.sigma)
        share = LEAST_ADDED + (1 - LEAST_ADDED) * torch.rand(rows, 1, generator=generator).to(device)
        further = self.next_sigma + share * (self.sigma - self.next_sigma)
        noise = tuple(torch.randn(each.shape, generator=generator).to(device) for each in ends)
        pairs = zip(ends, noise, self.next_sigma.unbind(1), further.unbind(1), strict=True)
        return Noised(tuple(noised_on(*each) for each in pairs), noise, further)


class Noised(NamedTuple):
    """States with noise added: of picture and sound, at `sigma` [B, 2]."""

    samples: Pair
    noise: Pair
    sigma: Tensor


class MatchingStudent(Student):
    """A student that in a share of its updates matches its last steps, from fresh noise."""

    def __init__(self, config: DistillConfig, pipeline: MOVAPipeline, workers: Workers | None = None) -> None:
        super().__init__(config, pipeline, workers)
        self.score = FakeScore(self.lora, config, self.workers)
        if not any(map(self.matched, self.sigmas)):
            raise UserError(
                f"none of the student's {config.steps} steps can be matched: those of {EXPERTS[1]} are, from "
                f"a sigma below {pipeline.config.boundary_ratio:g}; take more steps, or leave matching out"
            )

    def follow(self, trajectories: Trajectories) -> None:
        super().follow(trajectories)
        self.high_share *= 1 - self.config.matching.share

    def losses(self, number: int) -> tuple[Tensor, Tensor, str]:
        rows = self.samplers[self.expert].batch(number)
        generator = sample_generator(self.config.run.seed, number, 1)
        matched = self.matched(rows[0].bucket) if self.expert == EXPERTS[1] else []
        share = self.config.matching.share / (1 - self.high_share)
        if not matched or torch.rand((), generator=generator) >= share:
            return super().losses(number)
        step = matched[int(torch.randint(len(matched), (), generator=generator))]
        text, condition = self.trajectories.prompts(rows)
        sigmas = self.sigmas[rows[0].bucket].to(self.device)
        here = Step(*(sigmas[each].expand(len(rows), 2) for each in (step, step + 1)), condition, text)
        states = self._walked(rows, step, here, generator)
        with torch.no_grad():
            moved = self.velocities(*states, condition, text, here.sigma)
        ends = stepped(states, moved, here.sigma, here.next_sigma)
        self._learn_score(ends, here, generator)
        if self.score.updates < self.config.matching.score_alone:
            return super().losses(number)
        clean = stepped(states, moved, here.sigma, torch.zeros_like(here.sigma))
        goals = self._likelier(ends, clean, here, generator)
        velocities = self.velocities(*states, condition, text, here.sigma)
        gaps = (here.sigma - here.next_sigma).unbind(1)
        video, audio = (step_error(*each) for each in zip(velocities, states, goals, gaps, strict=True))
        return video.mean() * self.config.matching.video_weight, audio.mean(), rows[0].name

    def matched(self, kind: str) -> list[int]:
        """The steps that are matched: of the second expert, where the sigma is below its boundary."""
        boundary = self.pipeline.config.boundary_ratio
        mine = self.learnt_steps(EXPERTS[1], kind)
        return [step for step in mine if self.sigmas[kind][step].max() < boundary]

    def update(self) -> dict[str, Any]:
        self.score.update()
        return super().update()

    def state(self) -> dict[str, Any]:
        return super().state() | {"score": self.score.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.score.restore(state["score"])

    def _walked(self, rows: Sequence[Row], step: int, here: Step, generator: torch.Generator) -> Pair:
        """The student's own states before `step`, from fresh noise; a held track stays as it is given."""
        start = self.trajectories.states(rows, torch.zeros(len(rows), dtype=torch.int64))
        noise = (torch.randn(each.shape, generator=generator).to(self.device) for each in start)
        video, audio = (
            given if track == rows[0].bucket else fresh
            for track, given, fresh in zip(("video", "audio"), start, noise, strict=True)
        )
        steps = torch.full((len(rows),), step)
        states = self.own_states((video, audio), rows[0].bucket, steps, here.text, here.condition)
        self.pipeline.residency.activate(self.expert)
        return states

    def _learn_score(self, ends: Pair, here: Step, generator: torch.Generator) -> None:
        """Add the gradients of the fake score's loss at `ends`."""
        noised = here.noised(ends, generator)
        with self.score.shown():
            velocities = self.velocities(*noised.samples, here.condition, here.text, noised.sigma)
            sigmas = here.next_sigma.unbind(1), noised.sigma.unbind(1)
            pairs = zip(velocities, ends, noised.noise, *sigmas, strict=True)
            loss = sum(score_error(*each).mean() for each in pairs)
            with self.pipeline.residency.backward():
                (loss / (self.config.run.accumulation * self.workers.count)).backward()
            self.lora.collect(self.score.weights)

    @torch.no_grad()
    def _likelier(self, ends: Pair, clean: Pair, here: Step, generator: torch.Generator) -> Pair:
        """`ends`, moved from what the fake score makes of them towards what the teacher does.

        The scale of a move is how far the teacher's clean sample is from the student's, `clean`.
        """
        noised = here.noised(ends, generator)
        with self.score.shown():
            fake = self.velocities(*noised.samples, here.condition, here.text, noised.sigma)
        with self.lora.without(*self.towers):
            real = self._guided(noised, here)
        moved = []
        parts = (ends, clean, noised.samples, fake, real, noised.sigma.unbind(1), here.next_sigma.unbind(1))
        for end, own, sample, theirs, wanted, at, after in zip(*parts, strict=True):
            at = broadcast(at, sample)
            scale = (own - PairScheduler.denoised(sample, wanted, at)).abs().flatten(1).mean(1)
            move = (1 - after) / scale.clamp(min=LEAST_SCALE)
            moved.append(end + broadcast(move, end) * at * (theirs - wanted))
        return moved[0], moved[1]

    def _guided(self, noised: Noised, here: Step) -> Pair:
        """The teacher's velocities, guided as it makes trajectories."""
        negative = self.trajectories.negative.expand_as(here.text)
        video, audio = (torch.zeros_like(each) for each in noised.samples)
        for branch in Guidance(*self.config.scales).branches(1.0):
            prompt = here.text if branch.use_prompt else negative
            parts = self.velocities(*noised.samples, here.condition, prompt, noised.sigma, branch.use_bridge)
            video += branch.weight * parts[0]
            audio += branch.audio_weight * parts[1]
        return video, audio


def make_student(config: DistillConfig, pipeline: MOVAPipeline, workers: Workers | None = None) -> Student:
    """The student that `config` asks for: one of trajectories alone, or one that also matches."""
    return (MatchingStudent if config.matching.on else Student)(config, pipeline, workers)


def noised_on(sample: Tensor, noise: Tensor, sigma: Tensor, further: Tensor) -> Tensor:
    """`sample` at `sigma` [B], below 1, with noise added up to `further` [B]."""
    return (
        broadcast((1 - further) / (1 - sigma), sample) * sample
        + broadcast(added(sigma, further), sample) * noise
    )


def added(sigma: Tensor, further: Tensor) -> Tensor:
    """Standard deviation of the noise that is added from `sigma` to `further`."""
    kept = sigma * (1 - further) / (1 - sigma)
    return (further.square() - kept.square()).clamp(min=0).sqrt()


def score_error(velocity: Tensor, sample: Tensor, noise: Tensor, sigma: Tensor, further: Tensor) -> Tensor:
    """Errors [B] of a `velocity` at `noised_on(sample, noise, sigma, further)` as a model of such samples.

    The noise in the whole, of which `noise` is the part that was added, has the same mean as
    `noise` * further / added; the error is that of the velocity it gives, weighted by (added / further)^2. At
    sigma 0 it is the training loss. A held track, at 0 all the while, counts as without error.
    """
    whole = further.where(further > 0, 1)
    weight = added(sigma, further) / whole
    share = 1 + (1 - whole) * (sigma / (1 - sigma)).square() / whole
    wanted = broadcast(share, sample) * noise - broadcast(weight / (1 - sigma), sample) * sample
    error = (broadcast(weight, sample) * velocity - wanted).square().flatten(1).mean(1)
    return error * (further > 0)
