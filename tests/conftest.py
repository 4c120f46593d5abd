"""Fixtures that several test files share."""

import os
import shutil
import signal
from pathlib import Path

import pytest

# For these networks a second thread only waits for the first; on a busy machine it made runs 40 times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a shell started the tests in the background, Ctrl-C would be ignored by the processes they start, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden data; its `checkpoint/` is a tiny MOVA."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def checkpoint_copy(tmp_path, golden) -> Path:
    """A copy of the golden checkpoint to damage."""
    return Path(shutil.copytree(golden / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def pipeline(golden):
    """The golden checkpoint in float32 on the CPU. Shared: a test that changes it must change it back."""
    import torch

    from mova.pipeline import MOVAPipeline

    pipeline = MOVAPipeline.from_pretrained(golden / "checkpoint", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def golden_tensors(golden):
    """Reads the tensors of a golden file by its stem."""
    from safetensors.torch import load_file

    return lambda stem: load_file(golden / f"{stem}.safetensors")
