"""Training as a person does it, in Chromium: from clips to an adapter that Generate uses."""

import numpy as np
import pytest

from lora_trainer.clip_folder import ClipSet
from mova.media.clips import read_settings, write_mp4
from tests.browser.page import Demo, visiting
from tests.browser.sizes import SIZES, check_state
from tests.lora_trainer.clips import SAMPLE_RATE, make_clip, picture, wave

EVIL = "A lamp blinks. {{7*7}} ${7*7} <img src=x onerror=\"document.title='x'\"> A beep is heard."
CAPTIONS = {
    "dark.mp4": "A lamp blinks, then it is dark. A beep.",
    "lamp one.mp4": EVIL,
    "lamp two.mp4": "A lamp.",
}


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """Two clips, one that ends in black, and one that is none."""
    folder = tmp_path_factory.mktemp("uploads")
    for name, flash in (("one", 0.2), ("two", 0.5)):
        make_clip(folder / f"lamp {name}.mp4", 0.9, 25, (flash,), caption=None)
    frames, sound = picture(1.6, 25, (0.4,), height=64), wave(1.6, (0.4,), noise=0.002)
    frames[25:] = 0
    write_mp4(folder / "dark.mp4", frames, sound, 25, SAMPLE_RATE, {})
    (folder / "broken.mp4").write_bytes(np.random.default_rng(0).bytes(2000))
    return sorted(folder.iterdir())


def open_tab(demo):
    demo.page.get_by_role("tab", name="Train").click()
    demo.page.locator("#train-upload").wait_for()


def wait_for_text(page, selector, pattern):
    page.wait_for_function(
        "([selector, pattern]) => RegExp(pattern).test(document.querySelector(selector)?.innerText)",
        arg=[selector, pattern],
    )


def card(page, name):
    return page.locator(".train-card", has=page.locator(f"[data-caption='{name}']"))


def write_caption(page, name, caption, folder):
    """Type into the card, and wait until the text is saved."""
    page.locator(f"[data-caption='{name}']").fill(caption)
    saved = (folder / name).with_suffix(".txt")
    for _ in range(100):
        if saved.exists() and saved.read_text() == caption:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"the caption of {name} was not saved")


def folder_of(server, name):
    """The folder of the visitor who has a clip of that name."""
    (folder,) = [path for path in server.outputs.glob("training/*") if (path / name).exists()]
    return folder


def faulty_clips(folder, shots):
    """A clip of two shots, one without sound, and one that is none."""
    frames, sound = picture(2.4, 25, (0.4, 1.9), height=64), wave(2.5, (0.4, 1.9), noise=0.02)
    frames[30:] = 255 - frames[30:]
    write_mp4(folder / shots, frames, sound, 25, SAMPLE_RATE, {})
    write_mp4(folder / "silent.mp4", picture(1.2, 25, (0.6,)), np.zeros(60_000), 25, SAMPLE_RATE, {})
    (folder / "broken.mp4").write_bytes(b"no clip")
    return sorted(folder.iterdir())


def wait_for_findings(page):
    """Wait for what the page finds in these clips."""
    wait_for_text(page, "#train-cost", r"for 1 clip\.\s+Captions missing: 1")
    wait_for_text(page, "#train-reason", r"Fix or remove: broken\.mp4, silent\.mp4")


@pytest.mark.parametrize("size", ["tablet", "phone"])
def test_the_tab_fits_every_size(chromium, server, tmp_path, size):
    with visiting(chromium, server, **SIZES[size]) as demo:
        open_tab(demo)
        check_state(demo, size, "#train-body", server.outputs)
        clips = faulty_clips(tmp_path, "two shots.mp4")
        demo.page.locator("#train-upload input[type=file]").set_input_files(clips)
        wait_for_findings(demo.page)
        check_state(demo, size, "#train-body", server.outputs)


def test_clips_are_captioned_fixed_and_removed_in_their_cards(demo, server, tmp_path):
    page, shots = demo.page, "two shots of a lamp.mp4"  # of this visitor alone
    other = shots.replace(".mp4", "-2.mp4")
    open_tab(demo)
    start, reason = page.locator("#train-start"), page.locator("#train-reason")
    wait_for_text(page, "#train-reason", "Add clips first")
    assert start.is_disabled()
    check_state(demo, "desktop", "#train-body", server.outputs)
    clips = faulty_clips(tmp_path, shots)
    page.locator("#train-upload input[type=file]").set_input_files(clips)
    wait_for_findings(page)
    assert card(page, shots).locator("video").count() == 1

    card(page, "broken.mp4").get_by_role("button", name="Remove").first.click()
    page.locator("#train-undo button").click()
    card(page, "broken.mp4").locator(".mova-error").wait_for()  # it is back
    card(page, "broken.mp4").get_by_role("button", name="Remove").first.click()
    page.locator("#train-undo button").wait_for()
    card(page, "silent.mp4").get_by_role("button", name="Picture only").click()
    page.get_by_text("silent.mp4 teaches the picture only.").wait_for()
    wait_for_text(page, "#train-reason", "Add captions to: silent.mp4")
    assert start.is_disabled()
    folder = folder_of(server, shots)
    write_caption(page, "silent.mp4", "A lamp blinks in silence.", folder)
    card(page, shots).get_by_role("button", name="Split here").click()
    card(page, other).wait_for()
    assert page.locator(".train-card").count() == 3
    write_caption(page, shots, "A lamp in a bright room. A beep.", folder)
    field = page.locator(f"[data-caption='{other}']")
    field.press_sequentially("A lamp in a dark room. ", delay=40)
    page.wait_for_function("() => !document.querySelector('#train-start').disabled")
    field.press_sequentially("A beep.", delay=40)  # the page's answers left the field and its focus alone
    assert field.input_value() == "A lamp in a dark room. A beep."
    assert [item.start > 0 for item in ClipSet(folder, 0).items()] == [False, True, False]
    check_state(demo, "desktop", "#train-body", server.outputs)
    assert reason.is_hidden()


@pytest.fixture
def lively(chromium, server):
    """A visit with all that moves."""
    with visiting(chromium, server, reduced_motion="no-preference") as demo:
        yield demo


@pytest.mark.slow
def test_from_clips_to_an_adapter_in_generate(chromium, server, lively, uploads, tmp_path):
    demo, page = lively, lively.page
    before = len(server.log.read_text())  # other tests ask this server for what it refuses
    open_tab(demo)
    page.locator("#train-upload input[type=file]").set_input_files(uploads)
    broken = page.locator(".train-card", has_text="broken.mp4")
    broken.locator(".mova-error").wait_for()
    page.get_by_text("1 to fix or remove").wait_for()
    broken.get_by_role("button", name="Remove").first.click()
    page.wait_for_function("() => document.querySelectorAll('.train-card video').length === 3")
    page.locator("#train-mend").click()
    page.get_by_text("dark.mp4 is used from 0.00 s to 1.00 s.").wait_for()
    page.locator("#train-mend").wait_for(state="hidden")
    player = page.locator(".train-card video").first
    page.wait_for_function("() => document.querySelector('.train-card video').readyState >= 1")
    assert player.evaluate("video => video.duration") == pytest.approx(1.6, abs=0.1)

    folder = folder_of(server, "dark.mp4")
    for name, caption in CAPTIONS.items():
        write_caption(page, name, caption, folder)
    assert {path.with_suffix(".mp4").name: path.read_text() for path in folder.glob("*.txt")} == CAPTIONS
    wait_for_text(page, "#train-cost", "720 steps")

    page.locator("#train-name :is(input, textarea)").fill("lamp")
    page.get_by_text("Advanced", exact=True).click()
    page.locator("#train-steps input").fill("20")
    page.locator("#train-steps input").blur()
    wait_for_text(page, "#train-cost", r"\b20 steps")
    assert "At least" in demo.text("#train-cost")
    keep = page.get_by_label("Keep existing skills")
    assert not keep.is_checked()  # the model comes with no examples
    keep.check()
    wait_for_text(page, "#train-cost", "comes with no examples")
    page.get_by_label("Skills to keep").fill("A drum.\nA bell.")
    page.get_by_label("Skills to keep").blur()
    wait_for_text(page, "#train-cost", "Keeping existing skills takes at least")
    page.wait_for_function("() => !document.querySelector('#train-start').disabled")
    page.locator("#train-start").click()
    wait_for_text(page, "#train-status", "Making clips of existing skills")
    wait_for_text(page, "#train-status", "step [1-9]")
    assert not page.locator("#train-start").is_visible()  # Stop is there instead
    page.locator("#train-stop").click()
    wait_for_text(page, "#train-status", "Stopped at step")

    demo.open()  # the page is loaded anew: clips, captions and run are there
    open_tab(demo)
    wait_for_text(page, "#train-status", "Stopped at step")
    assert page.locator(".train-card").count() == 3
    page.locator("#train-go_on").click()
    wait_for_text(page, "#train-status", "Done, 20 steps")
    (kept,) = server.outputs.glob("runs/*/*/kept")
    assert {path.read_text().strip() for path in kept.glob("*.txt")} == {"A drum.", "A bell."}
    assert len(list(kept.glob("*.mp4"))) == 6
    page.wait_for_function(
        """() => { const pair = [...document.querySelectorAll('#train-samples figure video')].slice(0, 2);
                  return pair.length === 2 && pair.every(video => !video.paused && video.currentTime > 0) }"""
    )
    assert page.locator("#train-samples figcaption").first.inner_text() == "Before training"
    page.get_by_text("Charts", exact=True).click()
    page.locator("#train-charts svg").first.wait_for()
    said = page.locator("#train-charts svg").evaluate_all("charts => charts.map(chart => chart.ariaLabel)")
    assert [text.partition(":")[0] for text in said] == ["Picture", "Sound"]
    assert all(text.endswith("%") and "-" in text.rpartition(",")[2] for text in said)  # under the base line
    assert page.title() == "MOVA: video with sound"
    assert page.locator("img[src=x]").count() == 0

    other = Demo(chromium, server.url)
    open_tab(other)
    other.page.get_by_text("Upload clips of one person, thing or style").wait_for()
    assert other.page.locator(".train-card, #train-run").count() == 0
    other.close()

    page.locator("#train-use").click()
    page.get_by_text('Adapter "lamp" is chosen').wait_for()
    demo.make()
    settings = read_settings(demo.download(tmp_path / "clip.mp4"))
    assert settings["adapters"][0][0] == "lamp.safetensors"
    assert settings["prompt"] == CAPTIONS["dark.mp4"]
    assert "Traceback" not in server.log.read_text()[before:]


def test_a_clip_that_was_kept_is_shown_and_captions_need_a_server(demo, server):
    page = demo.page
    open_tab(demo)
    page.get_by_text("Upload clips of one person, thing or style").wait_for()
    page.get_by_role("tab", name="Generate").click()
    demo.make("A drum. The audio shows a drum.")
    page.get_by_text("More with this clip").click()
    page.locator("#train-on").click()
    page.get_by_text("Added to Train (1 clip).").wait_for()
    captions = [path.read_text() for path in server.outputs.glob("training/*/*.txt")]
    assert "A drum. The audio shows a drum." in captions
    open_tab(demo)
    field = page.locator("[data-caption]")
    field.wait_for()
    assert field.input_value() == "A drum. The audio shows a drum."
    page.locator(".train-card video").wait_for()
    field.fill("")
    page.locator("#train-suggest").click()
    page.get_by_text("No server is configured; give an address").wait_for()
    assert page.get_by_text("Sign in with").count() == 0  # one's own machine asks nobody who they are
