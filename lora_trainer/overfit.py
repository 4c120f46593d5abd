"""A self-test before a long run: on one clip, in a few steps, every trained tower must get better.

Losses are compared at the same timesteps and noises before and after. The bridge has no loss of its own: it
is judged with its LoRA against without. A tower has learnt if its loss falls by more than the fall varies
from noise to noise.
"""

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from lora_trainer.config import EXPERTS, Config, merge
from lora_trainer.latent_cache import Cache
from lora_trainer.loop import OnStep
from lora_trainer.train import Trainer
from lora_trainer.validation import MAX_WINDOWS, fixed_measurements, held_in_measurements, losses_of
from lora_trainer.windows import Window, clips_of, plan_windows
from mova.errors import UserError
from mova.pipeline import MOVAPipeline

STEPS = 60
SETTINGS: dict[str, Any] = {
    "data": {
        "held_out": 0,
        "regularization": None,
        "regularization_count": 0,
        "regularization_share": None,
    },
    "objective": {"text_dropout": 0.0, "bridge_dropout": 0.0, "hold_steps": 1},
    "optimizer": {"schedule": "constant", "warmup_steps": 0},
    "samples": {"every": 0, "clips": []},
    "run": {"accumulation": 1, "batch_size": 1, "validate_every": 0, "checkpoint_every": 10**6},
}

NOISES = MAX_WINDOWS  # of each timestep
LEAST_FALL = 0.001  # of the loss; less is not learning, however steady. Pocket falls by 1 to 7 % in STEPS
Losses = dict[str, list[float]]  # by expert and timestep, one for each noise


@dataclass(frozen=True)
class Verdict:
    """A tower's fixed-noise loss `before` and `after`; for the bridge without and with its LoRA.

    `noise` is the fall that means nothing: two standard errors over the noises, or LEAST_FALL.
    """

    tower: str
    before: float
    after: float
    noise: float

    @property
    def learnt(self) -> bool:
        return self.before - self.after > self.noise

    def __str__(self) -> str:
        change, noise = (100 * part / self.before for part in (self.after - self.before, self.noise))
        return (
            f"{self.tower:18} {self.before:.4f} -> {self.after:.4f}  {change:+.1f} % (noise {noise:.1f} %)  "
            + ("learnt" if self.learnt else "DID NOT LEARN")
        )


def overfit_config(config: Config, steps: int) -> Config:
    """`config` with changes for a short run on one clip: no dropouts, no schedule, both experts alike."""
    changes = merge(SETTINGS, {"run": {"steps": steps}})
    if all(name in config.towers.trained() for name in EXPERTS):
        share = min(0.5, 1 - config.objective.hold_video)
        changes = merge(changes, {"objective": {"high_share": share}})  # SETTINGS stays as it is
    return Config.model_validate(merge(config.model_dump(), changes))


def find_window(config: Config, name: str | None) -> Window:
    """The window to learn: the first with sound, or the first of the clip `name`. Raises UserError."""
    items = clips_of(config)
    named = [item for item in items if item.name == name] if name else items
    windows = plan_windows(config, named) if named else []
    found = next((window for window in windows if name or window.has_sound), None)
    if found is None:
        names = ", ".join(item.name for item in items[:5])
        raise UserError(f"there is no clip {name or 'with sound'}; the data set has {names}")
    return found


def overfit(
    config: Config, cache: Cache, pipeline: MOVAPipeline, on_step: OnStep = lambda _: None
) -> list[Verdict]:
    """Train on the only window of `cache`, and judge each tower. `config` is one of `overfit_config`."""
    trainer = Trainer(config, cache, pipeline)
    before = measure(trainer)
    trainer.run(on_step)
    after, verdicts = measure(trainer), []
    for tower in config.towers.trained():
        if tower == "dual_tower_bridge":
            with trainer.engine.lora.without(tower):
                without = measure(trainer)
            verdicts.append(verdict(tower, objective(config, without), objective(config, after)))
        else:
            verdicts.append(verdict(tower, before[tower], after[tower]))
    return verdicts


def measure(trainer: Trainer) -> dict[str, Losses]:
    """Losses of the window by tower, at several timesteps with NOISES noises each."""
    engine, windows = trainer.engine, trainer.cache.windows * NOISES
    with engine.shown():
        held = held_in_measurements(trainer.config.objective)
        measurements = fixed_measurements(trainer.pipeline, windows, held)
        return losses_of(trainer.pipeline, measurements, engine.load)


def objective(config: Config, losses: dict[str, Losses]) -> Losses:
    """The weighted sum of video and audio losses, measurement by measurement."""
    video, audio = config.objective.weights
    weights = {**dict.fromkeys(EXPERTS, video), "audio_dit": audio}
    total: Losses = {}
    for tower in weights.keys() & losses.keys():
        for timestep, values in losses[tower].items():
            sums = total.get(timestep, [0.0] * NOISES)
            total[timestep] = [old + weights[tower] * new for old, new in zip(sums, values, strict=True)]
    return total


def verdict(tower: str, before: Losses, after: Losses) -> Verdict:
    pairs = [pair for key in before for pair in zip(before[key], after[key], strict=True)]
    mean, falls = fmean(old for old, _ in pairs), [old - new for old, new in pairs]
    noise = max(2 * stdev(falls) / len(falls) ** 0.5, LEAST_FALL * mean)
    return Verdict(tower, before=mean, after=mean - fmean(falls), noise=noise)
