"""What all training has in common: a LoRA in a frozen model, micro-batches, updates, and their state.

No files and no clock. Everything random follows from the number of a sample, so the state holds no random
numbers, and a run does not depend on how often it was stopped.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lora_trainer.batch_sampler import expert_at
from lora_trainer.checkpoint import check_same_run
from lora_trainer.config import EXPERTS, RunConfig
from lora_trainer.distributed import Workers
from lora_trainer.lora import TrainableLora
from lora_trainer.optimizers import (
    averaged,
    build_optimizer,
    learning_rate_scale,
    restore_training,
    set_learning_rates,
    training_state,
)
from lora_trainer.quantised import BASES, quantise
from mova.adapters.strengths import TOWERS
from mova.errors import BackendError
from mova.pipeline import MOVAPipeline

NOTHING = 1e-12


def norm(tensors: Iterable[Tensor]) -> float:
    """The L2 norm of all tensors together."""
    return float(torch.nn.utils.get_total_norm([tensor.detach() for tensor in tensors]))


class GradientMonitor:
    """Counts for each tower the steps in a row in which it ran but did not learn."""

    def __init__(self, towers: Iterable[str], patience: int) -> None:
        self.idle = dict.fromkeys(towers, 0)
        self.patience = patience

    def alarms(self, gradients: dict[str, float], updates: dict[str, float]) -> list[str]:
        """Sentences about towers that have just reached `patience` steps without learning.

        The dictionaries have the towers that ran in this step; NaN counts as not learning.
        """
        found = []
        for tower, gradient in gradients.items():
            learns = gradient > NOTHING and updates[tower] > NOTHING and math.isfinite(gradient)
            self.idle[tower] = 0 if learns else self.idle[tower] + 1
            if self.idle[tower] == self.patience:
                found.append(
                    f"{tower} did not learn in its last {self.patience} steps (gradient {gradient:.2g}, "
                    f"update {updates[tower]:.2g}); check its loss weight and learning rate, or switch it off"
                )
        return found


class Learner(ABC):
    """`step` counts finished optimizer steps, `micro` the micro-batches of the next one that are done.

    What is learnt, and from what, is up to `losses`.
    """

    high_share: float  # of the steps, which are the first expert's

    def __init__(self, config: RunConfig, pipeline: MOVAPipeline, workers: Workers | None = None) -> None:
        """`pipeline` comes from `lora_trainer.base_model.load_model`; its base is frozen as `config` says."""
        self.config, self.pipeline = config, pipeline
        self.device = pipeline.residency.device
        self.workers = workers or Workers(self.device)
        if config.run.offload == "shards":
            self.workers.check_several()
        trained = config.towers.trained()
        self.lora = TrainableLora({name: getattr(pipeline, name) for name in trained}, config)
        if config.run.base in BASES:
            for name in TOWERS:
                quantise(getattr(pipeline, name), config.run.base, self.device)
        pipeline.residency.settle()
        self.lora.make_weights()
        pipeline.dual_tower.gradient_checkpointing = config.run.gradient_checkpointing
        self.towers = {name: list(self.lora.of_tower(name).values()) for name in trained}
        self.optimizer = build_optimizer(self.towers, config)
        self.average = self._start_average()
        self.watch = GradientMonitor(self.towers, config.run.alarm_steps)
        self.step, self.micro = 0, 0
        self.elapsed = 0.0  # seconds of all steps, which the loop counts
        self.sums = {"video_loss": 0.0, "audio_loss": 0.0}

    @property
    def expert(self) -> str:
        """The expert of the step at hand; it stays for all of its micro-batches."""
        return expert_at(self.step, self.high_share, self.config.objective.hold_steps)

    @abstractmethod
    def losses(self, number: int) -> tuple[Tensor, Tensor, str]:
        """Losses (0-d) of picture and sound of a micro-batch, counted over the run and all processes.

        The name is that of a sample in it.
        """

    @abstractmethod
    def measure(self) -> dict[str, dict[str, dict[str, float]]]:
        """Figures that can be compared over the run, of the weights that would be saved."""

    @abstractmethod
    def samples_record(self) -> list[Any]:
        """What is learnt from, for the state: a run resumes with the same."""

    @property
    def position(self) -> float:
        """Where the run is, in steps of `run.steps`: what the schedules follow."""
        return float(self.step)

    @property
    def rate_scale(self) -> float:
        """The factor on all learning rates."""
        return learning_rate_scale(self.position, self.config.run.steps, self.config.optimizer)

    def micro_batch(self) -> None:
        """Add the gradients of the next micro-batch; if that fails, nothing has happened.

        Raises:
            BackendError: the loss is not finite.
        """
        run = self.config.run
        self.pipeline.residency.activate(self.expert)
        number = (self.step * run.accumulation + self.micro) * self.workers.count + self.workers.rank
        self.lora.set_dropout(run.dropout > 0)
        try:
            video, audio = self._backward(number)
        except BaseException:
            self.lora.drop_gradients()
            raise
        finally:
            self.lora.set_dropout(False)
        self.lora.collect()
        self.sums["video_loss"] += video.item() / run.accumulation
        self.sums["audio_loss"] += audio.item() / run.accumulation
        self.micro += 1

    def update(self) -> dict[str, Any]:
        """Clip, step and publish when all micro-batches are done: the step's losses and norms.

        Raises:
            BackendError: the gradients are not finite; the weights are as before.
        """
        rate = set_learning_rates(self.optimizer, self.config, self.rate_scale)
        expert, sums = self.expert, self.sums
        active = [name for name in self.towers if name == expert or name not in EXPERTS]
        self.workers.add_gradients_of(self.towers[name] for name in active)
        learning = {name: [w for w in self.towers[name] if w.grad is not None] for name in active}
        gradients = {name: norm(w.grad for w in weights) for name, weights in learning.items()}
        everything = [w for weights in learning.values() for w in weights]
        total = torch.nn.utils.clip_grad_norm_(everything, self.config.optimizer.max_gradient_norm)
        if not torch.isfinite(total):
            raise BackendError(f"the gradients of step {self.step + 1} are not finite")
        before = {name: [w.detach().clone() for w in weights] for name, weights in learning.items()}
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        changes = {
            name: [w.detach() - old for w, old in zip(learning[name], before[name], strict=True)]
            for name in learning
        }
        self.lora.publish()
        self._follow_average()
        self.step, self.micro, self.sums = self.step + 1, 0, dict.fromkeys(sums, 0.0)
        means = self.workers.add(torch.tensor(list(sums.values()), dtype=torch.float64)) / self.workers.count
        return {
            "step": self.step,
            "expert": expert,
            "learning_rate": rate,
            **dict(zip(sums, means.tolist(), strict=True)),
            "gradient_norms": gradients,
            "update_norms": {name: norm(values) for name, values in changes.items()},
        }

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The layers compute with the weights that would be saved: averaged, if there is an average."""
        with averaged(self.optimizer, self.config.optimizer), self.lora.showing(self.average or None):
            yield
        self.lora.publish()

    @contextmanager
    def saved_weights(self) -> Iterator[dict[str, Tensor]]:
        """The weights that go into the adapter's file."""
        with averaged(self.optimizer, self.config.optimizer):
            yield self.average or {key: weight.detach() for key, weight in self.lora.weights.items()}

    def state(self) -> dict[str, Any]:
        """Everything that decides what comes next."""
        return {
            "config": self.config.model_dump(mode="json"),
            "entries": self.samples_record(),
            "step": self.step,
            "micro": self.micro,
            "sums": self.sums,
            "average": self.average,
            "idle": self.watch.idle,
        } | training_state(self.lora.weights, self.optimizer)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises UserError if settings or clips differ from those it was made with."""
        check_same_run(state["config"], self.config.model_dump(mode="json"))
        self.check_samples(state)
        self.step, self.micro, self.sums = state["step"], state["micro"], dict(state["sums"])
        restore_training(self.lora.weights, self.optimizer, state)
        self.average = {key: value.to(self.device) for key, value in state["average"].items()}
        self.watch.idle = dict(state["idle"])
        self.lora.publish()

    @abstractmethod
    def check_samples(self, state: dict[str, Any]) -> None:
        """Raise UserError if `state` was made with other samples."""

    def _backward(self, number: int) -> tuple[Tensor, Tensor]:
        """The detached losses of the micro-batch, its gradients being in the layers."""
        video, audio, name = self.losses(number)
        pairs = zip(self.config.objective.weights, (video, audio), strict=True)
        loss = sum(weight * part for weight, part in pairs if weight)
        if not torch.isfinite(loss):
            raise BackendError(f"the loss of {name} in step {self.step + 1} is {loss.item()}")
        with self.pipeline.residency.backward():
            if loss.requires_grad:  # not so where the bridge alone learns and is dropped
                (loss / (self.config.run.accumulation * self.workers.count)).backward()
        return video.detach(), audio.detach()

    def _start_average(self) -> dict[str, Tensor]:
        if not self.config.run.ema_decay:
            return {}
        return {key: weight.detach().clone() for key, weight in self.lora.weights.items()}

    @torch.no_grad()
    def _follow_average(self) -> None:
        """Move the average towards the weights, faster in the first steps, which start from nothing."""
        decay = min(self.config.run.ema_decay, (1 + self.step) / (10 + self.step))
        if self.average:
            weights = [self.lora.weights[key] for key in self.average]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)
