"""A tiny model of the world's rates."""

import json
import shutil

import pytest
import torch

from mova.pipeline import MOVAPipeline
from recipes.pocket.evaluation.generate import load_pipeline
from recipes.pocket.world.clip import SAMPLE_RATE


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> MOVAPipeline:
    """The golden checkpoint at the world's sample rate.

    In float32 also where the processor would be given bfloat16, whose sums depend on the batch.
    """
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree("tests/golden/checkpoint", folder)
    path = folder / "audio_vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_rate": SAMPLE_RATE}))
    return load_pipeline(folder, "cpu").to(dtype=torch.float32)
