"""The page in a process of its own on the tiny checkpoint, and a real Chromium that uses it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mova.media import write_mp4

ROOT = Path(__file__).parents[2]
EXAMPLE = {
    "id": "bell",
    "family": "things",
    "title": "A bell",
    "prompt": 'A bell rings and a man says, "Good." The audio shows a bell and a calm voice.',
    "model": "tiny",
    "seed": 11,
    "num_inference_steps": 4,
    "height": 32,
    "width": 64,
    "num_frames": 9,
    "image": "bell.png",
    "clip": "bell.mp4",
}


@pytest.fixture(scope="session")
def chromium():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium here: install it, or name it in CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
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


class Server:
    """`python app.py` at `url`, writing into `outputs` and `log`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.outputs, self.log = folder / "outputs", folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        tiny = {
            "MOVA_MODEL": "tests/golden/checkpoint",
            "MOVA_SIZE": "64x32",
            "MOVA_SECONDS": "0.71",
            "MOVA_OUTPUTS": str(self.outputs),
            "MOVA_TRAIN_TAB": "1",
            "GRADIO_SERVER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        self.file = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=ROOT,
            env=os.environ | tiny | environment,
            stdout=self.file,
            stderr=subprocess.STDOUT,
        )
        self.wait()

    def wait(self) -> None:
        for _ in range(240):
            assert self.process.poll() is None, self.log.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/config", timeout=5):
                    return
            except OSError:
                time.sleep(0.25)
        raise TimeoutError(self.log.read_text())

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.file.close()


@contextmanager
def serving(folder: Path, **environment: str):
    server = Server(folder, **environment)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory, examples):
    with serving(tmp_path_factory.mktemp("page"), MOVA_EXAMPLES=str(examples)) as server:
        yield server


class Demo:
    """A browser with storage of its own, on the page. `complaints` are errors on its console."""

    def __init__(self, chromium, url: str, **context) -> None:
        self.context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}} | context)
        self.page = self.context.new_page()
        self.url, self.complaints = url, []
        self.page.on("console", lambda line: self._note(line.type, line.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.open()

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.get_by_role("button", name="Make the clip").wait_for(timeout=30_000)
        self.page.wait_for_function(
            "() => localStorage.getItem('mova-visitor') && document.querySelector('#cost-note p')",
            timeout=60_000,
        )

    def make(self, prompt: str | None = None, preset: str | None = "Quick") -> None:
        """Click and wait for the clip."""
        if prompt is not None:
            self.page.locator("#prompt textarea").fill(prompt)
        if preset:
            self.page.get_by_label(preset).check()
            self.page.wait_for_timeout(700)
        before = self.video_source()
        self.page.locator("#make").click()
        self.page.wait_for_function(
            """before => { const video = document.querySelector('#player video');
               return video && video.currentSrc && video.currentSrc !== before && video.readyState >= 2
                 && !document.querySelector('#make').disabled }""",
            arg=before,
            timeout=60_000,
        )

    def video_source(self) -> str:
        return self.page.evaluate("() => document.querySelector('#player video')?.currentSrc || ''")

    def download(self, path: Path) -> Path:
        """The clip that the player shows."""
        path.write_bytes(self.context.request.get(self.video_source()).body())
        return path

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def close(self) -> None:
        self.context.close()

    def _note(self, kind: str, text: str) -> None:
        # A refused validation is answered with 422, which the browser reports by itself.
        if kind == "error" and "422" not in text:
            self.complaints.append(text)


@pytest.fixture
def demo(chromium, server):
    demo = Demo(chromium, server.url)
    yield demo
    demo.close()
    assert demo.complaints == []
