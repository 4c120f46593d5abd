"""Training on clips: which windows, timesteps and noises a micro-batch has, and its losses.

Sample number n of a run has the same window, timestep, noise and dropouts however often the run was stopped,
and on however many processes it runs.
"""

from typing import Any

import torch
from torch import Tensor

from lora_trainer.batch_sampler import BatchSampler, MixedSampler
from lora_trainer.config import EXPERTS, Config
from lora_trainer.distributed import Workers
from lora_trainer.journal import KEPT
from lora_trainer.latent_cache import Cache
from lora_trainer.learner import Learner
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
from lora_trainer.validation import Figures, fixed_measurements, held_in_measurements, measure, split
from lora_trainer.windows import Window, check_held_out
from mova.errors import UserError
from mova.pipeline import MOVAPipeline


class Engine(Learner):
    """A `Learner` of the clips in a cache."""

    def __init__(
        self, config: Config, cache: Cache, pipeline: MOVAPipeline, workers: Workers | None = None
    ) -> None:
        """`pipeline` comes from `lora_trainer.base_model.load_model`."""
        self.config: Config = config
        self.cache = cache
        check_held_out(cache.windows, config.data.held_out)
        self.learnt, held_out, regularization = split(cache, config.data.held_out)
        self.sampler = self._sampler(regularization)
        parts = {"held_out": held_out, "training": self.learnt}
        if regularization:
            parts[KEPT] = regularization
        held = held_in_measurements(config.objective)
        self.measured = {name: fixed_measurements(pipeline, each, held) for name, each in parts.items()}
        self.sigmas = training_sigmas(pipeline.scheduler)
        self.timesteps = pipeline.scheduler.config.num_train_timesteps
        boundary = pipeline.config.boundary_ratio
        self.rows = {name: expert_range(pipeline.scheduler, boundary, name) for name in EXPERTS}
        self.high_share = self._high_share()
        super().__init__(config, pipeline, workers)

    def losses(self, number: int) -> tuple[Tensor, Tensor, str]:
        run, windows = self.config.run, self.sampler.batch(number)
        batch = self.load(windows)
        draws = self._draw(batch, number)
        for index, each in enumerate(draws):
            if each.drop_text:
                batch.text[index] = self.cache.text("").to(batch.text)
        if run.dropout:
            torch.manual_seed(sample_generator(run.seed, number, len(windows)).initial_seed())
        video, audio = losses(self.pipeline.dual_tower, batch, draws, self.timesteps)
        return video.mean(), audio.mean(), windows[0].name

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

    def samples_record(self) -> list[Any]:
        return [window.record() for window in self.cache.windows]

    def check_samples(self, state: dict[str, Any]) -> None:
        if windows_of_state(state) != tuple(self.cache.windows):
            raise UserError(
                "the clips or captions have changed since the run began; put them back, or start another run "
                "with another output"
            )

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

    def _high_share(self) -> float:
        natural = len(self.rows[EXPERTS[0]]) / len(self.sigmas)
        share = self.config.objective.high_noise_share(natural)
        for name, part in zip(EXPERTS, (share, 1 - share), strict=True):
            if part > 0 and not self.rows[name]:
                raise UserError(f"{name} serves no timestep of this checkpoint; set objective.high_share")
            if part == 0 and name in self.config.towers.trained():
                raise UserError(f"{name} would never run with this checkpoint; switch it off")
        return share


def windows_of_state(state: dict[str, Any]) -> tuple[Window, ...]:
    """The windows that a checkpoint's run began with."""
    return tuple(Window.from_record(record) for record in state["entries"])
