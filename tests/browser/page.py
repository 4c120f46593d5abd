"""The page in a process of its own on the tiny checkpoint, and a browser that uses it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]


class Server:
    """`python app.py` at `url`, writing into `outputs` and `log`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.outputs, self.log = folder / "outputs", folder / "log"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        tiny = {
            "MOVA_MODEL": "tests/golden/checkpoint",
            "MOVA_SIZE": "64x32",
            "MOVA_SECONDS": "0.71",
            "MOVA_OUTPUTS": str(self.outputs),
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
        for _ in range(480):
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

    def choose(self, name: str) -> None:
        """Check a radio button, and let what depends on it follow."""
        button = self.page.get_by_role("radio", name=name)
        for _ in range(20):
            button.click()
            self.page.wait_for_timeout(350)
            if button.is_checked():
                return
        raise AssertionError(f"{name} cannot be chosen")

    def make(self, prompt: str | None = None, preset: str | None = "Quick", seconds: float = 60) -> None:
        """Click and wait for the clip, at most so long."""
        if prompt is not None:
            self.page.locator("#prompt textarea").fill(prompt)
        if preset:
            self.choose(preset)
            self.page.wait_for_timeout(350)
        before = self.page.locator("#mine button").count()
        self.page.locator("#make").click()
        self.page.wait_for_function(
            """before => document.querySelectorAll('#mine button').length > before
                 && document.querySelector('#player video')?.readyState >= 2""",
            arg=before,
            timeout=1000 * seconds,
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
        # A refused validation is answered with 422, and a reload breaks off requests: the browser says so.
        if kind == "error" and not any(part in text for part in ("422", "AbortError", "Connection errored")):
            self.complaints.append(text)


@contextmanager
def visiting(chromium, server: Server):
    """A browser on the page, which must have had nothing to complain of."""
    demo = Demo(chromium, server.url)
    yield demo
    demo.close()
    assert demo.complaints == []
