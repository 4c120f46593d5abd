"""Pictures of the page in every state: `python -m tests.browser.screenshots FOLDER` (needs Chromium).

Each state is taken at 1440 and 390 pixels, light and dark. With MOVA_MODEL set it is that model, else the
tiny one of the tests.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import sync_playwright

from mova.media.clips import write_wav
from tests.browser.page import ROOT, Demo, serving
from tests.lora_trainer.clips import make_clip, wave

WIDTHS = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
PROMPT = (
    'A woman at a kitchen table looks up and smiles. She says, "Good morning." '
    "The audio shows her calm voice and a kettle."
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {name: value for name, value in os.environ.items() if name.startswith("MOVA_")}
    if "MOVA_MODEL" in chosen:
        chosen |= {name: chosen.get(name, "") for name in ("MOVA_SIZE", "MOVA_SECONDS")}
    with (
        tempfile.TemporaryDirectory() as temporary,
        serving(Path(temporary), **chosen) as server,
        sync_playwright() as playwright,
    ):
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for width, viewport in WIDTHS.items():
            for scheme in ("light", "dark"):
                demo = Demo(browser, server.url, viewport=viewport, color_scheme=scheme)
                take(demo, folder / f"{width}-{scheme}")
                demo.close()
        browser.close()


def take(demo: Demo, stem: Path) -> None:
    """Every state, one after the other."""
    page = demo.page

    def shoot(state: str, pause: float = 700) -> None:
        page.wait_for_timeout(pause)
        page.screenshot(path=f"{stem}-{state}.png", full_page=True)

    def give_picture(path: Path) -> None:
        page.locator("#first-frame input[type=file]").set_input_files(path)

    shoot("01-empty")
    page.locator("#make").click()
    shoot("02-wrong", 1500)
    page.locator("#examples button").first.click()
    page.wait_for_function("() => document.querySelector('#player video')?.readyState >= 2")
    shoot("03-example", 1500)
    demo.open()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "holiday.png").write_bytes(b"no picture")
        give_picture(Path(folder) / "holiday.png")
        page.locator("#crop-box .mova-error").wait_for()
    shoot("04-broken-picture")
    demo.open()
    give_picture(ROOT / "tests/golden/image.png")
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#crop img").wait_for()
    page.get_by_text("More settings").click()
    page.get_by_text("Adapters (LoRA)").click()
    page.locator("#more-adapters").click()
    shoot("05-filled", 2000)
    page.get_by_text("More settings").click()
    page.locator("#make").click()
    page.wait_for_function(
        "() => /step [1-9]/.test(document.querySelector('#status').innerText)", timeout=60_000
    )
    shoot("06-running", 0)
    page.wait_for_function("() => document.querySelector('#player video')?.readyState >= 2", timeout=120_000)
    shoot("07-clip", 2500)
    demo.download(stem.with_suffix(".mp4"))
    page.locator("input:has(+ #restore)").set_input_files(stem.with_suffix(".mp4"))
    page.get_by_text("settings are in the form").wait_for()
    stem.with_suffix(".mp4").unlink()
    shoot("08-restored", 1500)
    page.locator("#make").click()
    page.locator("#stop:enabled").click()
    page.get_by_text("Stopped. Nothing was kept.").wait_for(timeout=60_000)
    shoot("09-stopped")
    page.get_by_role("tab", name="Write a prompt").click()
    shoot("10-idea")
    page.locator("#idea textarea").fill('a baker lifts the bread and says "still warm"')
    page.locator("#write").click()
    page.locator("#candidate-0 textarea").wait_for(timeout=30_000)
    text = page.locator("#candidate-0 textarea")
    text.fill(text.input_value().replace("The lips", "The camera zooms in. The lips"))
    shoot("11-prompt", 2500)
    demo.choose("A server of yours")
    page.locator("#server-url :is(input, textarea)").fill("http://127.0.0.1:9/v1")
    page.locator("#test-server").click()
    page.locator("#test-note p").wait_for(timeout=30_000)
    shoot("12-server")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#prompt textarea").fill("A very long word: " + "Donaudampfschifffahrt" * 9)
    page.locator("#suggest").click()
    page.locator("#suggestion-notes p").first.wait_for(timeout=30_000)
    shoot("13-wording")
    take_training(demo, shoot)
    take_added(demo, shoot)


def take_added(demo: Demo, shoot: Callable[..., None]) -> None:
    """A sound that is added, and the visitor's newest clip in each of the four ways."""
    page = demo.page
    demo.open()
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "voice.wav"
        write_wav(sound, wave(1.5, (0.3, 0.9)), 48_000)
        page.locator("input:has(+ #add)").set_input_files(sound)
        page.locator("#tracks b").first.wait_for()
        shoot("18-sound", 1500)
    page.locator("#remove-added").click()
    page.locator("#mine button").first.click()
    for number, button in enumerate(("extend", "redo-sound", "redo-picture", "retake"), 19):
        page.locator(f"#{button}").click()
        shoot(f"{number}-{button}", 2000)
    demo.make(preset="Quick", seconds=240)
    shoot("23-retaken", 2000)


def take_training(demo: Demo, shoot: Callable[..., None]) -> None:
    """The train tab from empty to a finished run."""
    page = demo.page
    page.get_by_role("tab", name="Train").click()
    page.get_by_text("Clips of one thing").wait_for()
    shoot("14-train")
    with tempfile.TemporaryDirectory() as folder:
        for name, flash in (("lamp in the hall", 0.2), ("lamp on the desk", 0.5), ("late lamp", 0.6)):
            make_clip(Path(folder) / f"{name}.mp4", 0.9, 25, (flash,), f"A {name} blinks. A beep is heard.")
        (Path(folder) / "broken.mp4").write_bytes(b"no clip")
        page.locator("#train-upload input[type=file]").set_input_files(sorted(Path(folder).iterdir()))
        page.locator(".train-card .mova-error").wait_for(timeout=60_000)
    shoot("15-clips", 2500)
    page.locator(".train-card", has_text="broken").get_by_role("button", name="Take").click()
    page.locator(".train-card .mova-error").wait_for(state="detached", timeout=60_000)
    page.get_by_text("Advanced", exact=True).click()
    page.locator("#train-steps input").fill("40")
    page.locator("#train-name :is(input, textarea)").fill("lamp")
    page.wait_for_timeout(3000)
    page.locator("#train-start").click()
    page.wait_for_function(
        "() => /step [2-9]/.test(document.querySelector('#train-status')?.innerText)", timeout=90_000
    )
    shoot("16-learning", 0)
    page.wait_for_function(
        "() => /Done/.test(document.querySelector('#train-status')?.innerText)", timeout=90_000
    )
    page.get_by_text("Put it on the Hugging Face Hub").click()
    shoot("17-learnt", 2500)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
