"""A self-test before a long run: on one clip, in a few steps, every trained tower must get better.

The losses compared have the same timesteps and noise before and after. The bridge has no loss of its own:
what it learnt is judged by taking it away again.
"""

from dataclasses import dataclass, replace
from typing import Any

from lora_trainer.config import EXPERTS, Config, merge
from lora_trainer.latent_cache import Cache
from lora_trainer.train import OnStep, Trainer
from lora_trainer.validation import Figures, mean
from mova.errors import UserError
from mova.pipeline import MOVAPipeline

STEPS = 60
SETTINGS: dict[str, Any] = {
    "data": {"held_out": 0, "keep": None, "keep_count": 0, "keep_share": None},
    "objective": {"text_dropout": 0.0, "bridge_dropout": 0.0, "hold_steps": 1},
    "optimizer": {"schedule": "constant", "warmup_steps": 0},
    "samples": {"every": 0, "clips": []},
    "run": {"accumulation": 1, "batch_size": 1, "validate_every": 0, "checkpoint_every": 10**6},
}


@dataclass(frozen=True)
class Verdict:
    """A tower's fixed-noise loss `before` and `after`; for the bridge without and with what it learnt."""

    tower: str
    before: float
    after: float

    @property
    def learnt(self) -> bool:
        return self.after < self.before

    def __str__(self) -> str:
        change = 100 * (self.after / self.before - 1)
        return f"{self.tower:18} {self.before:.4f} -> {self.after:.4f}  {change:+.1f} %  " + (
            "learnt" if self.learnt else "DID NOT LEARN"
        )


def overfit_config(config: Config, steps: int) -> Config:
    """`config` with what makes a short run on one clip: no dropouts, no schedule, both experts alike."""
    changes = merge(SETTINGS, {"run": {"steps": steps}})
    if all(name in config.towers.trained() for name in EXPERTS):
        changes["objective"]["high_share"] = 0.5
    return Config.model_validate(merge(config.model_dump(), changes))


def one_clip(cache: Cache, name: str | None) -> Cache:
    """The cache with one window only: the first with sound, or the first of the clip `name`."""
    fitting = [entry for entry in cache.entries if (entry.clip == name if name else entry.has_sound)]
    if not fitting:
        clips = ", ".join(sorted({entry.clip for entry in cache.entries})[:5])
        raise UserError(f"there is no clip {name or 'with sound'} in the cache; there are {clips}, ...")
    return replace(cache, entries=(fitting[0],))


def overfit(
    config: Config, cache: Cache, pipeline: MOVAPipeline, on_step: OnStep = lambda _: None
) -> list[Verdict]:
    """Train on the only window of `cache`, and judge each tower. `config` is one of `overfit_config`."""
    trainer = Trainer(config, cache, pipeline)
    trainer.run(on_step=on_step)
    before, after = trainer.base["training"], trainer.engine.measure()["training"]
    verdicts = []
    for tower in config.towers.trained():
        if tower == "dual_tower_bridge":
            with trainer.engine.lora.without(tower):
                without = trainer.engine.measure()["training"]
            verdicts.append(Verdict(tower, total(config, without), total(config, after)))
        else:
            verdicts.append(Verdict(tower, mean(before, tower), mean(after, tower)))
    return verdicts


def total(config: Config, figures: Figures) -> float:
    """The objective over the fixed measurements."""
    video = sum(mean(figures, name) for name in EXPERTS if name in figures) / 2
    audio = mean(figures, "audio_dit") if "audio_dit" in figures else 0.0
    return config.objective.video_weight * video + config.objective.audio_weight * audio
