"""A data set of short clips and the golden model, for the trainer's tests."""

import pytest

from lora_trainer.config import read_config
from tests.lora_trainer.clips import make_clip

FLASHES = ((0.2,), (0.4,), (0.1, 0.5))


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder of three clips of 0.75 s at 24, 30 and 25 frames/s. Do not change it."""
    folder = tmp_path_factory.mktemp("clips")
    for name, frame_rate, flashes in zip("abc", (24, 30, 25), FLASHES, strict=True):
        make_clip(
            folder / f"{name}.mp4",
            0.75,
            frame_rate,
            flashes,
            f'Lamp {name} blinks. A beep, "beep", is heard.',
        )
    return folder


@pytest.fixture
def settings(clips, golden, tmp_path):
    """Reads a small config on the golden model; keyword changes use "__" for the dot."""

    def settings(**changes):
        base = {
            "model": str(golden / "checkpoint"),
            "output": str(tmp_path / "run"),
            "data.path": str(clips),
            "data.size": "64x32",
            "data.buckets": False,
            "data.num_frames": [9],
            "run.device": "cpu",
            "run.dtype": "float32",
            "run.steps": 4,
            "run.accumulation": 2,
            "run.checkpoint_every": 2,
            "run.validate_every": 0,
            "optimizer.warmup_steps": 0,
        }
        flat = {key.replace("__", "."): value for key, value in changes.items()}
        return read_config(None, base | flat)

    return settings
