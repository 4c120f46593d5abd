"""Fixtures that several test files share."""

import os
import shutil
import signal
import threading
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
def fresh(golden):
    """Loads the golden checkpoint on the CPU as a pipeline of the test's own; in float32 by default."""

    def load(dtype=None):
        import torch

        from mova.pipeline import MOVAPipeline

        pipeline = MOVAPipeline.from_pretrained(golden / "checkpoint", torch_dtype=dtype or torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


@pytest.fixture(scope="session")
def pipeline(fresh):
    """The golden checkpoint in float32 on the CPU. Shared: a test that changes it must change it back."""
    return fresh()


@pytest.fixture
def multiplying(monkeypatch):
    """Layers in 8 bits multiply e4m3 on the CPU too, as they do on a card: torch can, slowly."""
    import torch

    from mova.models import fp8

    always = torch.compiler.assume_constant_result(lambda device: True)
    monkeypatch.setattr(fp8, "multiplies_fp8", always)


@pytest.fixture(scope="session")
def golden_tensors(golden):
    """Reads the tensors of a golden file by its stem."""
    from safetensors.torch import load_file

    return lambda stem: load_file(golden / f"{stem}.safetensors")


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """The folder of pocket's word banks."""
    from recipes.pocket.new_concepts.puppet import PUPPET_CAST
    from recipes.pocket.world.speech import WORLD, build_bank, espeak_is_installed

    if not espeak_is_installed():
        pytest.skip("espeak-ng is not installed: no words to speak")
    folder = tmp_path_factory.mktemp("speech")
    for cast in (WORLD, PUPPET_CAST):
        build_bank(folder, cast)
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder of three clips of 0.75 s at 24, 30 and 25 frames/s. Do not change it."""
    from tests.lora_trainer.clips import make_clip

    folder = tmp_path_factory.mktemp("clips")
    flashes = ((0.2,), (0.4,), (0.1, 0.5))
    for name, frame_rate, times in zip("abc", (24, 30, 25), flashes, strict=True):
        caption = f'Lamp {name} blinks. A beep, "beep", is heard.'
        make_clip(folder / f"{name}.mp4", 0.75, frame_rate, times, caption)
    return folder


@pytest.fixture(scope="session")
def running_server():
    from tests.prompting.chat_server import ScriptedServer

    server = ScriptedServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def scripted(running_server):
    """A scripted server of chat completions."""
    running_server.reset()
    return running_server
