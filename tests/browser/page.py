"""The page in a process of its own on the tiny checkpoint, and a browser that uses it."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]


class Server:
    """`python app.py`, or other `arguments`, at `url`, writing into `outputs` and `log`."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
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
            [sys.executable, *(arguments or ["app.py"])],
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
def serving(folder: Path, *arguments: str, **environment: str):
    server = Server(folder, *arguments, **environment)
    try:
        yield server
    finally:
        server.close()


class Pages:
    """Pages of a browser by their options; a visitor who leaves hands theirs on without what they stored.

    Loading a page again takes half as long as opening a new one.
    """

    def __init__(self, browser) -> None:
        self.browser, self.left = browser, defaultdict(list)

    def take(self, options: dict):
        left = self.left[repr(options)]
        return left.pop() if left else self.browser.new_context(**options).new_page()

    def hand_on(self, options: dict, page, origin: str) -> None:
        page.goto("about:blank")
        session = page.context.new_cdp_session(page)
        session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "local_storage"})
        session.detach()
        page.context.clear_cookies()
        self.left[repr(options)].append(page)


class Demo:
    """A visitor of the page, with reduced motion by default. `complaints` are errors on the console."""

    def __init__(self, pages: Pages, url: str, **options) -> None:
        defaults = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        self.pages, self.options = pages, defaults | options
        self.page = pages.take(self.options)
        self.page.set_default_timeout(240_000)
        self.context = self.page.context
        self.url, self.complaints, self.asked = url, [], set()
        self.listeners = {
            "console": lambda line: self._note(line.type, line.text),
            "pageerror": lambda error: self._note("error", str(error)),
            "request": lambda request: "/queue/" in request.url and self.asked.add(request),
            "requestfinished": lambda request: self.asked.discard(request),
            "requestfailed": lambda request: self.asked.discard(request),
        }
        for event, listener in self.listeners.items():
            self.page.on(event, listener)
        self.open()

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator("#make, #stop").wait_for()
        self.page.wait_for_function(
            "() => localStorage.getItem('mova-visitor') && document.querySelector('#cost-note p')",
        )

    def settle(self) -> None:
        """Wait until the server has answered all that the page asked; a run it answers to its end."""
        quiet, until = 0, time.monotonic() + 120
        while quiet < 2:
            assert time.monotonic() < until, [request.url for request in self.asked]
            is_asking = self.page.evaluate(
                """() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))
                  .then(() => window.movaTurn !== window.movaAsked)"""
            )
            quiet = 0 if self.asked or is_asking else quiet + 1

    def choose(self, name: str) -> None:
        """Check a radio button, and let what depends on it follow."""
        button = self.page.get_by_role("radio", name=name)
        for _ in range(20):
            button.click()
            self.settle()
            if button.is_checked():
                return
        raise AssertionError(f"{name} cannot be chosen")

    def choose_preset(self, name: str) -> None:
        """Choose a quality, and let what depends on it follow."""
        self.page.locator("#preset input").click()
        self.page.get_by_role("option", name=name).click()
        self.settle()

    def add(self, path: Path) -> None:
        """Add a picture, a sound or a video."""
        self.page.locator("input:has(+ #add)").set_input_files(path)

    def open_more(self) -> None:
        self.page.locator("#more[aria-expanded=false]").click()

    def make(self, prompt: str | None = None, preset: str | None = "Draft") -> None:
        """Click and wait for the clip."""
        if prompt is not None:
            self.page.locator("#prompt textarea").fill(prompt)
        if preset:
            self.choose_preset(preset)
        before = self.page.locator("#mine button").count()
        self.page.locator("#make").click()
        self.page.wait_for_function(
            """before => document.querySelectorAll('#mine button').length > before
                 && document.querySelector('#player video')?.readyState >= 2
                 && document.querySelector('#make')""",
            arg=before,
        )

    def start_long_clip(self, prompt: str) -> None:
        """Click for a clip that takes longer than anything that a test does meanwhile."""
        self.page.locator("#prompt textarea").fill(prompt)
        self.choose_preset("Exact")
        self.open_more()
        self.set_steps(100)
        self.page.locator("#make").click()
        self.page.get_by_role("button", name="Stop").wait_for()

    def set_steps(self, steps: int) -> None:
        self.page.locator("#steps input[type=number]").fill(str(steps))
        self.page.keyboard.press("Tab")

    def video_source(self) -> str:
        return self.page.evaluate("() => document.querySelector('#player video')?.currentSrc || ''")

    def download(self, path: Path) -> Path:
        """The clip that the player shows."""
        path.write_bytes(self.context.request.get(self.video_source()).body())
        return path

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def close(self) -> None:
        for event, listener in self.listeners.items():
            self.page.remove_listener(event, listener)
        self.pages.hand_on(self.options, self.page, self.url)

    def _note(self, kind: str, text: str) -> None:
        # A refused validation is answered with 422, and a reload breaks off requests: the browser says so.
        if kind == "error" and not any(part in text for part in ("422", "AbortError", "Connection errored")):
            self.complaints.append(text)


@contextmanager
def visiting(pages: Pages, server: Server, **options):
    """A visitor of the page, which must have had nothing to complain of."""
    demo = Demo(pages, server.url, **options)
    yield demo
    demo.close()
    assert not demo.complaints, demo.complaints
