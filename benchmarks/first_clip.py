"""From `python app.py` to the page and the first clip playing, from click to clip, and what fifty more cost.

    python -m benchmarks.first_clip [--clips 50]

Uses the model that the page chooses for the machine, or MOVA_MODEL; needs Chromium and playwright.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from gradio_client import Client
from playwright.sync_api import Page, sync_playwright

from mova.media.clips import read_clip
from tests.browser.page import Server

MIB = 2**20
READY = "() => document.querySelector('#make:not(:disabled)')"
MOVES = "() => [...document.querySelectorAll('#player video')].some(video => video.currentTime > 0)"
DONE = """() => document.querySelector('#status .mova-error')
  || (/outputs/.test(document.querySelector('#player video').currentSrc)
      && document.querySelector('#player video').currentTime > 0)"""
PROMPT = 'A child in a red shirt looks at the camera and says "banana, moon."'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=0, help="then make so many more, watching memory")
    options = parser.parse_args()
    given = {name: os.environ.get(name, "") for name in ("MOVA_MODEL", "MOVA_SIZE", "MOVA_SECONDS")}
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    say("of what follows, `import gradio` alone:", time.monotonic() - began)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        began = time.monotonic()
        server = Server(Path(folder), **given, OMP_NUM_THREADS=str(os.cpu_count()))
        say("the page answers after", time.monotonic() - began)
        try:
            first_clip(server, page, began, Path(folder))
            browser.close()
            if options.clips:
                watch_memory(server, options.clips)
        finally:
            server.close()


def first_clip(server: Server, page: Page, began: float, folder: Path) -> None:
    page.goto(server.url)
    page.wait_for_function(MOVES, timeout=60_000)
    say("an example moves after", time.monotonic() - began)
    page.wait_for_function(READY, timeout=60_000)
    say("Generate can be pressed after", time.monotonic() - began)
    page.locator("#prompt textarea").fill(PROMPT)
    for clip in ("first", "second"):
        clicked = time.monotonic()
        page.locator("#make").click()
        page.locator("#stop").wait_for()
        page.wait_for_function(READY, timeout=600_000)
        page.wait_for_function(DONE, timeout=60_000)
        if refused := page.locator("#status .mova-error").all_inner_texts():
            sys.exit(refused[0])
        say(f"the {clip} clip plays, after its click,", time.monotonic() - clicked)
        say("and after the start", time.monotonic() - began)
    source = page.evaluate("() => document.querySelector('#player video').currentSrc")
    (folder / "clip.mp4").write_bytes(page.request.get(source).body())
    clip = read_clip(folder / "clip.mp4")
    sys.stdout.write(
        f"{len(clip.frames)} frames, {clip.waveform.shape[1] / clip.sample_rate:.2f} s of sound\n"
    )


def watch_memory(server: Server, clips: int) -> None:
    client = Client(server.url, verbose=False)
    for number in range(1, clips + 1):
        client.predict(image=None, prompt=PROMPT, preset="draft", seed=number, api_name="/generate")
        if number in (1, 5) or number % 10 == 0:
            sys.stdout.write(f"after {number} clips: {memory_of(server)}\n")


def memory_of(server: Server) -> str:
    """Memory of the page and of its processes, as text."""
    page = psutil.Process(server.process.pid)
    worker = sum(child.memory_info().rss for child in page.children(recursive=True))
    return f"page {page.memory_info().rss / MIB:.0f} MiB, model {worker / MIB:.0f} MiB"


def say(what: str, seconds: float) -> None:
    sys.stdout.write(f"{what} {seconds:.1f} s\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
