"""Distillations on the golden model: a few prompts, a small config, trajectories that all tests share."""

import numpy as np
import pytest
from PIL import Image

from lora_trainer.distillation.config import read_distill_config
from lora_trainer.distillation.run import open_distillation
from mova.adapters.strengths import TOWERS


@pytest.fixture(scope="session")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    generator = np.random.default_rng(0)
    for name in ("lamp", "bell", "door"):
        picture = generator.integers(0, 255, (40, 80, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"A {name} in a room. A sound is heard.")
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """Trajectories of all tests: the same ones are made once."""
    return tmp_path_factory.mktemp("trajectories")


@pytest.fixture
def settings(prompts, golden, tmp_path):
    """Reads a small config on the golden model; keyword changes use "__" for the dot."""

    def settings(**changes):
        base = {
            "model": str(golden / "checkpoint"),
            "output": str(tmp_path / "run"),
            "prompts.path": str(prompts),
            "prompts.size": "64x32",
            "prompts.num_frames": 9,
            "prompts.held_out": 1,
            "prompts.count": 5,
            "teacher.steps": 8,
            "teacher.batch_size": 2,
            "run.device": "cpu",
            "run.dtype": "float32",
            "run.steps": 4,
            "run.batch_size": 2,
            "run.checkpoint_every": 2,
            "run.validate_every": 0,
            "run.gradient_checkpointing": False,
            "optimizer.learning_rate": 1e-2,
            "optimizer.warmup_steps": 1,
            "samples.count": 0,
        }
        base |= {f"towers.{name}.rank": 2 for name in TOWERS}
        return read_distill_config(
            None, base | {key.replace("__", "."): value for key, value in changes.items()}
        )

    return settings


@pytest.fixture
def distil(settings, shared_cache):
    """Opens a distillation, as a context, with changes to the settings."""

    def distil(resume=False, **changes):
        return open_distillation(settings(prompts__cache=str(shared_cache), **changes), resume)

    return distil
