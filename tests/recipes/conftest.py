"""Shared by the recipe's tests: a word bank spoken once a session, and a tiny model of the world's rates."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mova.pipeline import MOVAPipeline
from recipes.pocket.evaluation.generate import load_pipeline
from recipes.pocket.new_concepts.puppet import PUPPET_CAST
from recipes.pocket.world.clip import SAMPLE_RATE
from recipes.pocket.world.speech import WORLD, build_bank, espeak_is_installed


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the word banks."""
    if not espeak_is_installed():
        pytest.skip("espeak-ng is not installed: no words to speak")
    folder = tmp_path_factory.mktemp("speech")
    for cast in (WORLD, PUPPET_CAST):
        build_bank(folder, cast)
    return folder


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
