"""The arithmetic of a run: micro-batches, updates, fixed-noise losses, and the state that decides the rest.

No files and no clock. Sample number n of a run has the same window, timestep, noise and dropouts however
often the run was stopped, and on however many processes it runs.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lora_trainer.batch_sampler import BatchSampler, MixedSampler, expert_at
from lora_trainer.checkpoint import check_same_run
from lora_trainer.config import EXPERTS, Config
from lora_trainer.distributed import Workers
from lora_trainer.journal import KEPT
from lora_trainer.latent_cache import Cache
from lora_trainer.lora import TrainableLora
from lora_trainer.objective import (
    Batch,
    NoiseDraw,
    draw,
    expert_range,
    hold_chances,
    losses,
    sample_generator,
    training_sigmas,
)
from lora_trainer.optimizers import averaged, build_optimizer, set_learning_rates
from lora_trainer.quantised import BASES, quantise
from lora_trainer.validation import Figures, fixed_measurements, held_in_measurements, measure, split
from lora_trainer.windows import Window, check_held_out
from mova.adapters.strengths import TOWERS
from mova.errors import BackendError, UserError
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


class Engine:
    """`step` counts finished optimizer steps, `micro` the micro-batches of the next one that are done."""

    def __init__(
        self, config: Config, cache: Cache, pipeline: MOVAPipeline, workers: Workers | None = None
    ) -> None:
        """`pipeline` comes from `lora_trainer.base_model.load_model`."""
        self.config, self.cache, self.pipeline = config, cache, pipeline
        self.device = pipeline.residency.device
        self.workers = workers or Workers(self.device)
        check_held_out(cache.windows, config.data.held_out)
        if config.run.offload == "shards":
            self.workers.check_several()
        self.learnt, held_out, regularization = split(cache, config.data.held_out)
        self.sampler = self._sampler(regularization)
        parts = {"held_out": held_out, "training": self.learnt}
        if regularization:
            parts[KEPT] = regularization
        held = held_in_measurements(config.objective)
        self.measured = {name: fixed_measurements(pipeline, each, held) for name, each in parts.items()}
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
        self.sigmas = training_sigmas(pipeline.scheduler)
        self.timesteps = pipeline.scheduler.config.num_train_timesteps
        boundary = pipeline.config.boundary_ratio
        self.rows = {name: expert_range(pipeline.scheduler, boundary, name) for name in EXPERTS}
        self.high_share = self._high_share()
        self.step, self.micro = 0, 0
        self.sums = {"video_loss": 0.0, "audio_loss": 0.0}

    @property
    def expert(self) -> str:
        """The expert of the step at hand; it stays for all of its micro-batches."""
        return expert_at(self.step, self.high_share, self.config.objective.hold_steps)

    def micro_batch(self) -> None:
        """Add the gradients of the next micro-batch; if that fails, nothing has happened.

        Raises:
            BackendError: the loss is not finite.
        """
        run = self.config.run
        self.pipeline.residency.activate(self.expert)
        number = (self.step * run.accumulation + self.micro) * self.workers.count + self.workers.rank
        windows = self.sampler.batch(number)
        batch = self.load(windows)
        draws = self._draw(batch, number)
        for index, each in enumerate(draws):
            if each.drop_text:
                batch.text[index] = self.cache.text("").to(batch.text)
        if run.dropout:
            torch.manual_seed(sample_generator(run.seed, number, len(windows)).initial_seed())
        self.lora.set_dropout(run.dropout > 0)
        try:
            video, audio = self._backward(batch, draws, windows)
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
        rate = set_learning_rates(self.optimizer, self.config, self.step)
        expert, sums = self.expert, self.sums
        active = [name for name in self.towers if name == expert or name not in EXPERTS]
        ran = self.workers.any(any(w.grad is not None for w in self.towers[name]) for name in active)
        for name, has_run in zip(active, ran, strict=True):
            if has_run:
                self.workers.add_gradients(self.towers[name])
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

    def measure(self) -> dict[str, Figures]:
        """Fixed-noise losses of the weights that would be saved, for each set of windows."""
        with self.shown():
            return {name: measure(self.pipeline, each, self.load) for name, each in self.measured.items()}

    def load(self, windows: list[Window]) -> Batch:
        """The cached tensors of some windows of one bucket, on the device."""
        latents = [self.cache.latents(window) for window in windows]
        texts = [self.cache.embedding(window.text) for window in windows]
        return Batch(
            **{
                name: torch.stack([each[name] for each in latents]).to(self.device)
                for name in ("video_latents", "condition", "audio_latents")
            },
            text=torch.stack(texts).to(self.device),
            has_sound=torch.tensor([float(window.has_sound) for window in windows], device=self.device),
            frame_rate=windows[0].frame_rate,
        )

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
        weights = self.lora.weights
        return {
            "config": self.config.model_dump(mode="json"),
            "entries": [window.record() for window in self.cache.windows],
            "step": self.step,
            "micro": self.micro,
            "sums": self.sums,
            "weights": {key: weight.detach() for key, weight in weights.items()},
            "gradients": {key: weight.grad for key, weight in weights.items() if weight.grad is not None},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "idle": self.watch.idle,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises UserError if settings or clips differ from those it was made with."""
        check_same_run(state["config"], self.config.model_dump(mode="json"))
        if windows_of_state(state) != tuple(self.cache.windows):
            raise UserError(
                "the clips or captions have changed since the run began; put them back, or start another run "
                "with another output"
            )
        self.step, self.micro, self.sums = state["step"], state["micro"], dict(state["sums"])
        with torch.no_grad():
            for key, weight in self.lora.weights.items():
                weight.copy_(state["weights"][key])
                gradient = state["gradients"].get(key)
                weight.grad = None if gradient is None else gradient.to(weight.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = {key: value.to(self.device) for key, value in state["average"].items()}
        self.watch.idle = dict(state["idle"])
        self.lora.publish()

    def _sampler(self, regularization: list[Window]) -> BatchSampler | MixedSampler:
        run, share = self.config.run, self.config.data.share_of_regularization
        new = BatchSampler(self.learnt, run.batch_size, run.seed)
        if not regularization:
            return new
        return MixedSampler(new, BatchSampler(regularization, run.batch_size, run.seed), share, run.seed)

    def _draw(self, batch: Batch, number: int) -> list[NoiseDraw]:
        shapes = batch.video_latents.shape[1:], batch.audio_latents.shape[1:]
        rows, objective, seed = self.rows[self.expert], self.config.objective, self.config.run.seed
        hold = hold_chances(objective, self.expert, self.high_share)
        # A clip without sound has none to hold, and none to learn for its picture.
        return [
            draw(
                shapes,
                rows,
                self.sigmas,
                objective,
                sample_generator(seed, number, index),
                hold if has_sound else (0.0, 0.0),
            )
            for index, has_sound in enumerate(batch.has_sound.tolist())
        ]

    def _backward(self, batch: Batch, draws: list[NoiseDraw], windows: list[Window]) -> tuple[Tensor, Tensor]:
        """The detached losses of the micro-batch, its gradients being in the layers."""
        objective = self.config.objective
        parts = [each.mean() for each in losses(self.pipeline.dual_tower, batch, draws, self.timesteps)]
        loss = sum(weight * part for weight, part in zip(objective.weights, parts, strict=True) if weight)
        if not torch.isfinite(loss):
            raise BackendError(f"the loss of {windows[0].name} in step {self.step + 1} is {loss.item()}")
        with self.pipeline.residency.backward():
            if loss.requires_grad:  # not so where the bridge alone learns and is dropped
                (loss / (self.config.run.accumulation * self.workers.count)).backward()
        return parts[0].detach(), parts[1].detach()

    def _start_average(self) -> dict[str, Tensor]:
        if not self.config.run.ema_decay:
            return {}
        return {key: weight.detach().clone() for key, weight in self.lora.weights.items()}

    @torch.no_grad()
    def _follow_average(self) -> None:
        """Move the average towards the weights, faster in the first steps, which start from nothing."""
        decay = min(self.config.run.ema_decay, (1 + self.step) / (10 + self.step))
        for key, value in self.average.items():
            value.lerp_(self.lora.weights[key], 1 - decay)

    def _high_share(self) -> float:
        natural = len(self.rows[EXPERTS[0]]) / len(self.sigmas)
        share = self.config.objective.high_noise_share(natural)
        for name, part in zip(EXPERTS, (share, 1 - share), strict=True):
            if part > 0 and not self.rows[name]:
                raise UserError(f"{name} serves no timestep of this checkpoint; set objective.high_share")
            if part == 0 and name in self.towers:
                raise UserError(f"{name} would never run with this checkpoint; switch it off")
        return share


def windows_of_state(state: dict[str, Any]) -> tuple[Window, ...]:
    """The windows that a checkpoint's run began with."""
    return tuple(Window.from_record(record) for record in state["entries"])
