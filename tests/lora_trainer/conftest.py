"""Small runs on the golden model, whose clips are encoded once."""

import pytest

from mova.adapters.strengths import TOWERS


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def settings(clips, golden, tmp_path, cache_folder):
    """Reads a small config on the golden model; keyword changes use "__" for the dot."""
    from lora_trainer.config import read_config

    def settings(**changes):
        base = {
            "model": str(golden / "checkpoint"),
            "output": str(tmp_path / "run"),
            "data.path": str(clips),
            "data.cache": str(cache_folder),
            "data.size": "64x32",
            "data.buckets": False,
            "data.num_frames": [9],
            "run.device": "cpu",
            "run.dtype": "float32",
            "run.steps": 4,
            "run.accumulation": 2,
            "run.checkpoint_every": 2,
            "run.validate_every": 0,
            "run.gradient_checkpointing": False,
            "optimizer.learning_rate": 1e-2,
            "optimizer.warmup_steps": 1,
            "objective.high_share": 0.5,
        }
        base |= {f"towers.{name}.rank": 2 for name in TOWERS}
        flat = {key.replace("__", "."): value for key, value in changes.items()}
        return read_config(None, base | flat)

    return settings


@pytest.fixture
def parts(settings):
    """(config, cache, a fresh pipeline) with changes to the settings."""
    from lora_trainer.base_model import choose_device, load_model
    from lora_trainer.latent_cache import build_cache, checkpoint_folder

    def parts(**changes):
        config = settings(**changes)
        place = choose_device(config)
        return (
            config,
            build_cache(config, *place),
            load_model(checkpoint_folder(config), *place, config.run.offload),
        )

    return parts


@pytest.fixture
def engine(parts):
    """An engine on fresh towers, with changes to the settings."""
    from lora_trainer.engine import Engine

    return lambda **changes: Engine(*parts(**changes))


def run_steps(engine, count):
    """Optimizer steps; the last one's record."""
    for _ in range(count):
        while engine.micro < engine.config.run.accumulation:
            engine.micro_batch()
        record = engine.update()
    return record
