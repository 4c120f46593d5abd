"""Pictures of the page in every state: `python -m tests.browser.screenshots FOLDER` (needs Chromium).

Each state is taken at 1440, 1024 and 390 pixels, light and dark. With MOVA_MODEL set it is that model, else
the tiny one of the tests.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import sync_playwright

from mova.media.clips import write_wav
from tests.browser.page import ROOT, Demo, Pages, serving
from tests.lora_trainer.clips import make_clip, wave

WIDTHS = {
    "desktop": {"width": 1440, "height": 900},
    "tablet": {"width": 1024, "height": 768},
    "phone": {"width": 390, "height": 844},
}
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
        pages = Pages(playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]))
        for width, viewport in WIDTHS.items():
            for scheme in ("light", "dark"):
                options = {"viewport": viewport, "color_scheme": scheme, "reduced_motion": "no-preference"}
                demo = Demo(pages, server.url, **options)
                take(demo, folder / f"{width}-{scheme}")
                demo.close()
        pages.browser.close()


def take(demo: Demo, stem: Path) -> None:
    """Every state, one after the other."""
    page = demo.page

    def shoot(state: str, pause: float = 700) -> None:
        page.wait_for_timeout(pause)
        page.screenshot(path=f"{stem}-{state}.png", full_page=True)

    shoot("01-empty")
    page.locator("#make").click()
    shoot("02-wrong", 1500)
    page.locator("#examples button").nth(1).click()
    page.wait_for_function("() => document.querySelector('#player video').currentTime > 0")
    shoot("03-example", 1500)
    page.locator("#prompt textarea").fill(
        "a dog runs on the beach"
    )  # pocket alone has something to say of it
    shoot("03-dog", 1500)
    demo.open()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "holiday.png").write_bytes(b"no picture")
        demo.add(Path(folder) / "holiday.png")
        page.locator("#added-note .mova-error").wait_for()
    shoot("04-broken-picture")
    demo.open()
    demo.add(ROOT / "tests/golden/image.png")
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#crop img").wait_for()
    demo.open_more()
    page.get_by_text("Adapters (LoRA)").click()
    page.locator("#more-adapters").click()
    shoot("05-filled", 2000)
    page.locator("#more").click()
    page.locator("#make").click()
    page.wait_for_function("() => /step [1-9]/.test(document.querySelector('#status').innerText)")
    shoot("06-running", 0)
    page.locator("#make").wait_for(timeout=240_000)
    shoot("07-clip", 2500)
    page.get_by_text("More with this clip").click()
    shoot("07-more")
    demo.download(stem.with_suffix(".mp4"))
    demo.add(stem.with_suffix(".mp4"))
    page.locator("#load-added").click()
    page.get_by_text("Settings loaded.").wait_for()
    stem.with_suffix(".mp4").unlink()
    shoot("08-restored", 1500)
    page.locator("#make").click()
    page.locator("#stop:enabled").click()
    page.get_by_text("Stopped.").wait_for()
    shoot("09-stopped")
    page.locator("#mine button").first.click()
    page.locator("#delete").click()
    page.get_by_text("Clip removed.").wait_for()
    shoot("09-removed")
    page.locator("#undo").click()
    page.get_by_role("tab", name="Prompt").click()
    shoot("10-idea")
    page.locator("#idea textarea").fill('a baker lifts the bread and says "still warm"')
    page.locator("#write").click()
    page.locator("#candidate-0 textarea").wait_for()
    text = page.locator("#candidate-0 textarea")
    text.fill(text.input_value().replace("The lips", "The camera zooms in. The lips"))
    shoot("11-prompt", 2500)
    page.locator("#writers button").first.click()
    demo.choose("My server")
    page.locator("#server-url :is(input, textarea)").fill("http://127.0.0.1:9/v1")
    page.locator("#test-server").click()
    page.locator("#test-note p").wait_for()
    shoot("12-server")
    page.get_by_role("tab", name="Generate").click()
    page.locator("#prompt textarea").fill("A very long word: " + "Donaudampfschifffahrt" * 9)
    page.locator("#suggest").click()
    page.locator("#suggestion-notes p").first.wait_for()
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
    page.get_by_text("More with this clip").click()
    for number, button in enumerate(("extend", "redo-sound", "redo-picture", "retake"), 19):
        page.locator(f"#{button}").click()
        shoot(f"{number}-{button}", 2000)
    demo.make(preset="Draft", seconds=240)
    shoot("23-retaken", 2000)


def take_training(demo: Demo, shoot: Callable[..., None]) -> None:
    """The train tab from empty to a finished run."""
    page = demo.page
    page.get_by_role("tab", name="Train").click()
    page.get_by_text("Upload clips of one person, thing or style").wait_for()
    shoot("14-train")
    with tempfile.TemporaryDirectory() as folder:
        for name, flash in (("lamp in the hall", 0.2), ("lamp on the desk", 0.5), ("late lamp", 0.6)):
            make_clip(Path(folder) / f"{name}.mp4", 0.9, 25, (flash,), f"A {name} blinks. A beep is heard.")
        (Path(folder) / "broken.mp4").write_bytes(b"no clip")
        page.locator("#train-upload input[type=file]").set_input_files(sorted(Path(folder).iterdir()))
        page.locator(".train-card .mova-error").wait_for()
    shoot("15-clips", 2500)
    page.locator(".train-card", has_text="broken").get_by_role("button", name="Remove").first.click()
    page.locator(".train-card .mova-error").wait_for(state="detached")
    page.get_by_text("Advanced", exact=True).click()
    page.locator("#train-steps input").fill("40")
    page.locator("#train-name :is(input, textarea)").fill("lamp")
    page.wait_for_function("() => !document.querySelector('#train-start').disabled")
    page.locator("#train-start").click()
    page.wait_for_function("() => /step [2-9]/.test(document.querySelector('#train-status')?.innerText)")
    shoot("16-learning", 0)
    page.wait_for_function("() => /Done/.test(document.querySelector('#train-status')?.innerText)")
    page.get_by_text("Publish on Hugging Face").click()
    shoot("17-learnt", 2500)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
