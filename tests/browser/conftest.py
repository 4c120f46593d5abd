"""A real Chromium on the page with the tiny checkpoint."""

import json
import os
import shutil

import numpy as np
import pytest

from mova.media import write_mp4
from tests.browser.demo import EXAMPLE, Demo, serving


@pytest.fixture(scope="session")
def launch():
    """Starts a Chromium with these arguments."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium here: install it, or name it in CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        yield lambda *arguments: running.chromium.launch(
            executable_path=path, args=["--no-sandbox", *arguments]
        )


@pytest.fixture(scope="session")
def chromium(launch):
    browser = launch()
    yield browser
    browser.close()


@pytest.fixture
def camera_chromium(launch):
    """A browser whose camera shows a test picture."""
    browser = launch("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def examples(tmp_path_factory, golden):
    """A folder with one example, whose clip has a tone of 440 Hz."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copy(golden / "image.png", folder / "bell.png")
    frames = np.random.default_rng(0).integers(0, 255, (24, 32, 64, 3), np.uint8)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    write_mp4(folder / "bell.mp4", frames, tone, 24, 16000, {"prompt": EXAMPLE["prompt"]})
    (folder / "examples.json").write_text(json.dumps([EXAMPLE]))
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory, examples):
    with serving(tmp_path_factory.mktemp("page"), MOVA_EXAMPLES=str(examples)) as server:
        yield server


@pytest.fixture
def demo(chromium, server):
    demo = Demo(chromium, server.url)
    yield demo
    demo.close()
    assert demo.complaints == []
