"""The student: one LoRA that goes from noise to the teacher's end in a few forwards without guidance.

At one of the teacher's kept states, x_k at sigma_k, the student's velocity is to lead to the next one:

    loss = mean squared error of v(x_k, sigma_k) against (x_k - x_(k+1)) / (sigma_k - sigma_(k+1))

for picture and sound. Later in the run a share of the states x_k are those where the student's own steps led
from the same noise, so that it learns to come back to the teacher's path.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_trainer.batch_sampler import BatchSampler
from lora_trainer.config import EXPERTS
from lora_trainer.distillation.config import DistillConfig
from lora_trainer.distillation.trajectories import Row, Trajectories, student_sigmas
from lora_trainer.distributed import Workers
from lora_trainer.learner import Learner
from lora_trainer.objective import sample_generator
from lora_trainer.validation import Figures
from mova.adapters.sources import read_adapter
from mova.errors import UserError
from mova.models.dual_tower import DualTower
from mova.pipeline import MOVAPipeline
from mova.placement import compile_blocks
from mova.scheduler import PairScheduler

Pair = tuple[Tensor, Tensor]  # of picture [B, 16, T, h, w] and sound [B, C, L]


class Student(Learner):
    """A `Learner` of trajectories, which `follow` gives it."""

    config: DistillConfig

    def __init__(self, config: DistillConfig, pipeline: MOVAPipeline, workers: Workers | None = None) -> None:
        super().__init__(config, pipeline, workers)
        if config.start_from is not None:
            self.lora.load(read_adapter(config.start_from), config.start_from)
            self.average = self._start_average()
        scheduler = pipeline.scheduler
        self.sigmas = {
            held or "": student_sigmas(scheduler, config, held) for held in (None, "video", "audio")
        }
        boundary = pipeline.config.boundary_ratio
        self.experts = {kind: scheduler.experts(each[:-1], boundary) for kind, each in self.sigmas.items()}
        if config.run.compile:
            for video in (pipeline.video_dit, pipeline.video_dit_2):
                tower = DualTower(video, pipeline.audio_dit, pipeline.dual_tower_bridge)
                compile_blocks(tower, dynamic=False)  # batches, their part that walks its own path, no LoRA

    def follow(self, trajectories: Trajectories) -> None:
        """Learn from `trajectories`, all but the held-out ones. Raises UserError if an expert has no step."""
        rows, held_out = trajectories.rows, self.config.prompts.held_out
        measured = {(2 * index + 1) * len(rows) // (2 * held_out) for index in range(held_out)}
        learnt = [row for row in rows if row.number not in measured]
        self.trajectories = trajectories
        self.measured = {
            "held_out": [row for row in rows if row.number in measured],
            "training": learnt[: max(1, held_out)],
        }
        self.samplers = {
            expert: BatchSampler(mine, self.config.run.batch_size, self.config.run.seed)
            for expert in EXPERTS
            if (mine := [row for row in learnt if expert in self.experts[row.bucket]])
        }
        high = sum(self.experts[row.bucket].count(EXPERTS[0]) for row in learnt)
        self.high_share = high / (len(learnt) * self.config.steps)
        for name, share in zip(EXPERTS, (self.high_share, 1 - self.high_share), strict=True):
            if share == 0 and name in self.towers:
                raise UserError(
                    f"none of the student's {self.config.steps} steps is {name}'s (sigmas "
                    f"{self.sigmas[''][:, 0].tolist()}); take more steps, or set towers.{name}.train to false"
                )

    @property
    def position(self) -> float:
        run = self.config.run
        spent = 0.0 if run.minutes is None else self.workers.first(self.elapsed) / (60 * run.minutes)
        return max(float(self.step), spent * run.steps)

    @property
    def learns_from_itself(self) -> bool:
        return self.position >= self.config.objective.own_from * self.config.run.steps

    @property
    def rate_scale(self) -> float:
        own_rate = self.config.objective.own_rate if self.learns_from_itself else 1.0
        return super().rate_scale * own_rate

    def losses(self, number: int) -> tuple[Tensor, Tensor, str]:
        expert, objective = self.expert, self.config.objective
        rows = self.samplers[expert].batch(number)
        kind, generator = rows[0].bucket, sample_generator(self.config.run.seed, number)
        mine = torch.tensor(self.learnt_steps(expert, kind))
        steps = mine[torch.randint(len(mine), (len(rows),), generator=generator)]
        chance = torch.rand((), generator=generator).item()
        own = int(objective.own_share * len(rows) + chance) if self.learns_from_itself else 0

        text, condition = self.trajectories.prompts(rows)
        video, audio = self.trajectories.states(rows, steps)
        ends = self.trajectories.states(rows, steps + 1)
        if own:  # rows are shuffled, so the first ones are any
            start = self.trajectories.states(rows[:own], torch.zeros_like(steps[:own]))
            mine_video, mine_audio = self.own_states(start, kind, steps[:own], text[:own], condition[:own])
            video, audio = torch.cat((mine_video, video[own:])), torch.cat((mine_audio, audio[own:]))
            self.pipeline.residency.activate(expert)

        sigma, next_sigma = (self.sigmas[kind][each].to(self.device) for each in (steps, steps + 1))
        velocities = self.velocities(video, audio, condition, text, sigma)
        errors = [
            step_error(*each)
            for each in zip(velocities, (video, audio), ends, (sigma - next_sigma).unbind(1), strict=True)
        ]
        return errors[0].mean(), errors[1].mean(), rows[0].name

    def learnt_steps(self, expert: str, kind: str) -> list[int]:
        """The steps of `expert` that learn from trajectories of this kind."""
        return [step for step, each in enumerate(self.experts[kind]) if each == expert]

    @torch.no_grad()
    def own_states(self, start: Pair, kind: str, steps: Tensor, text: Tensor, condition: Tensor) -> Pair:
        """Latents where the student's own path from `start` is before each row's step [B].

        All rows run as far as the furthest: batches of one size, which compiled layers need.
        """
        sigmas, experts = self.sigmas[kind].to(self.device), self.experts[kind]
        at, own = start, start
        for step in range(int(steps.max())):
            self.pipeline.residency.activate(experts[step])
            sigma, next_sigma = (sigmas[each].expand(len(steps), 2) for each in (step, step + 1))
            at = stepped(at, self.velocities(*at, condition, text, sigma), sigma, next_sigma)
            here = (steps == step + 1).to(self.device)
            video, audio = (torch.where(broadcast(here, x), x, old) for x, old in zip(at, own, strict=True))
            own = video, audio
        return own

    def velocities(
        self,
        video: Tensor,
        audio: Tensor,
        condition: Tensor,
        text: Tensor,
        sigma: Tensor,
        use_bridge: bool = True,
    ) -> Pair:
        """Velocities at `sigma` [B, 2] by the weights that the layers show."""
        timesteps = self.pipeline.scheduler.timesteps(sigma)
        return self.pipeline.dual_tower(
            torch.cat((video, condition), dim=1),
            audio,
            *timesteps.unbind(1),
            text,
            self.config.prompts.frame_rate,
            use_bridge,
        )

    def measure(self) -> dict[str, Figures]:
        """Errors of each step at the teacher's states, and of the end of the student's own path."""
        with self.shown():
            return {name: self._errors(rows) for name, rows in self.measured.items() if rows}

    @torch.no_grad()
    def _errors(self, rows: Sequence[Row]) -> Figures:
        """By tower and timestep, and "end" by track; with a suffix for trajectories with a held track."""
        figures: Figures = {}
        for kind in self.sigmas:
            mine, suffix = [row for row in rows if row.bucket == kind], f"_{kind}_held" if kind else ""
            size = self.config.run.batch_size
            for part in (mine[start : start + size] for start in range(0, len(mine), size)):
                for tower, timestep, error in self._errors_of(part):
                    bins = figures.setdefault(f"{tower}{suffix}", {})
                    bins[timestep] = bins.get(timestep, 0.0) + error.sum().item() / len(mine)
        return figures

    def _errors_of(self, rows: Sequence[Row]) -> Iterator[tuple[str, str, Tensor]]:
        """(tower, timestep, errors [B]) of the tracks that are made, and of the end of the student's path."""
        kind, trajectories = rows[0].bucket, self.trajectories
        sigmas = self.sigmas[kind].to(self.device)
        text, condition = trajectories.prompts(rows)
        for step, expert in enumerate(self.experts[kind]):
            self.pipeline.residency.activate(expert)
            steps = torch.full((len(rows),), step)
            states, ends = trajectories.states(rows, steps), trajectories.states(rows, steps + 1)
            velocities = self.velocities(*states, condition, text, sigmas[steps])
            gaps = (sigmas[steps] - sigmas[steps + 1]).unbind(1)
            errors = map(step_error, velocities, states, ends, gaps)
            for tower, error, track in zip((expert, "audio_dit"), errors, ("video", "audio"), strict=True):
                if track != kind:
                    yield tower, f"{sigmas[step].max() * 1000:.0f}", error
        last = torch.full((len(rows),), self.config.steps)
        start, ends = (trajectories.states(rows, each) for each in (torch.zeros_like(last), last))
        own = self.own_states(start, kind, last, text, condition)
        for track, mine, end in zip(("video", "audio"), own, ends, strict=True):
            if track != kind:
                yield "end", track, (mine - end).square().flatten(1).mean(1)

    def samples_record(self) -> list[Any]:
        groups = dict.fromkeys(row.group.states.name for row in self.trajectories.rows)
        return list(groups)

    def check_samples(self, state: dict[str, Any]) -> None:
        if state["entries"] != self.samples_record():
            raise UserError(
                "the prompts, the model or the teacher's settings have changed since the run began; put them "
                "back, or start another run with another output"
            )

    def state(self) -> dict[str, Any]:
        return super().state() | {"elapsed": self.elapsed}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.elapsed = state["elapsed"]


def step_error(velocity: Tensor, start: Tensor, end: Tensor, gap: Tensor) -> Tensor:
    """Mean squared errors [B] of `velocity` against what leads from `start` to `end` over `gap` [B] in sigma.

    A held track, whose gap is 0, counts as without error.
    """
    gap = broadcast(gap, start)
    wanted = (start - end) / gap.where(gap > 0, 1)
    return ((velocity - wanted).square() * (gap > 0)).flatten(1).mean(1)


def stepped(states: Pair, velocities: Pair, sigma: Tensor, next_sigma: Tensor) -> Pair:
    """Where a step from `sigma` [B, 2] to `next_sigma` leads."""
    pairs = zip(states, velocities, sigma.unbind(1), next_sigma.unbind(1), strict=True)
    video, audio = (PairScheduler.step(x, v, broadcast(a, x), broadcast(b, x)) for x, v, a, b in pairs)
    return video, audio


def broadcast(values: Tensor, over: Tensor) -> Tensor:
    """`values` [B] with the axes of `over` [B, ...]."""
    return values.view(-1, *[1] * (over.ndim - 1))
