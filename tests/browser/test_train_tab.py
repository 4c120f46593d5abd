"""Training as a person does it, in Chromium: from clips to an adapter that Generate uses."""

import base64
import hashlib
import json
import time

import itsdangerous
import numpy as np
import pytest

from mova.media.clips import read_settings, write_mp4
from tests.browser.page import Demo, serving
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


def wait_for_text(page, selector, pattern, seconds=60):
    page.wait_for_function(
        "([selector, pattern]) => RegExp(pattern).test(document.querySelector(selector)?.innerText)",
        arg=[selector, pattern],
        timeout=1000 * seconds,
    )


def write_caption(page, row, caption, saved):
    """Type into the table as a person does: wait until the cell is open, and until the text is saved."""
    page.locator(f"#train-table [data-row='{row}'][data-col='1']").dblclick()
    page.wait_for_function(
        "() => document.activeElement.matches('#train-table :is(input, textarea)')", timeout=10_000
    )
    page.keyboard.insert_text(caption)
    page.keyboard.press("Enter")
    for _ in range(100):
        if saved.exists() and saved.read_text() == caption:
            return
        page.wait_for_timeout(100)
    raise AssertionError(
        f"the caption of row {row} was not saved: {page.locator('#train-table').inner_text()}"
    )


@pytest.mark.slow
def test_from_clips_to_an_adapter_in_generate(chromium, server, demo, uploads, tmp_path):
    page, before = demo.page, len(server.log.read_text())  # other tests ask this server for what it refuses
    open_tab(demo)
    page.locator("#train-upload input[type=file]").set_input_files(uploads)
    broken = page.locator(".train-card", has_text="broken.mp4")
    broken.locator(".mova-error").wait_for(timeout=60_000)
    page.get_by_text("1 must be fixed or taken out first").wait_for()
    broken.get_by_role("button", name="Take").click()
    page.wait_for_function("() => document.querySelectorAll('.train-card video').length === 3")
    page.locator("#train-mend").click()
    page.get_by_text("dark.mp4 is used from 0.00 s to 1.00 s.").wait_for()
    page.locator("#train-mend").wait_for(state="hidden")
    player = page.locator(".train-card video").first
    page.wait_for_function("() => document.querySelector('.train-card video').readyState >= 1")
    assert player.evaluate("video => video.duration") == pytest.approx(1.6, abs=0.1)

    (folder,) = [path for path in server.outputs.glob("training/*") if (path / "dark.mp4").exists()]
    for row, (name, caption) in enumerate(CAPTIONS.items()):
        write_caption(page, row, caption, (folder / name).with_suffix(".txt"))
    assert {path.with_suffix(".mp4").name: path.read_text() for path in folder.glob("*.txt")} == CAPTIONS
    wait_for_text(page, "#train-cost", "720 steps")

    page.locator("#train-name :is(input, textarea)").fill("lamp")
    page.get_by_text("Advanced", exact=True).click()
    page.locator("#train-steps input").fill("20")
    page.locator("#train-steps input").blur()
    wait_for_text(page, "#train-cost", " 20 steps")
    assert "At least" in demo.text("#train-cost")
    keep = page.get_by_label("Keep what it can already")
    assert not keep.is_checked()  # the model comes with no examples
    keep.check()
    wait_for_text(page, "#train-cost", "comes with no examples")
    page.get_by_label("What it shall keep").fill("A drum.\nA bell.")
    page.get_by_label("What it shall keep").blur()
    wait_for_text(page, "#train-cost", "The clips to keep take at least")
    page.locator("#train-start").click()
    wait_for_text(page, "#train-status", "Making clips to keep")
    wait_for_text(page, "#train-status", "step [1-9]", seconds=180)
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
        """() => [...document.querySelectorAll('#train-samples figure video')].slice(0, 2)
              .every(video => video.readyState >= 1)"""
    )
    assert page.locator("#train-samples figcaption").first.inner_text() == "Before training"
    said = page.locator("#train-charts svg").evaluate_all("charts => charts.map(chart => chart.ariaLabel)")
    assert [text.partition(":")[0] for text in said] == ["Picture", "Sound"]
    assert all(text.endswith("%") and "-" in text.rpartition(",")[2] for text in said)  # under the base line
    assert page.title() == "MOVA: video with sound"
    assert page.locator("img[src=x]").count() == 0

    other = Demo(chromium, server.url)
    open_tab(other)
    other.page.get_by_text("Clips of one thing").wait_for()
    assert other.page.locator(".train-card, #train-run").count() == 0
    other.close()

    page.locator("#train-use").click()
    page.get_by_text('Adapter "lamp" is chosen').wait_for()
    demo.make()
    settings = read_settings(demo.download(tmp_path / "clip.mp4"))
    assert settings["adapters"][0][0] == "lamp.safetensors"
    assert settings["prompt"] == CAPTIONS["dark.mp4"]
    assert "Traceback" not in server.log.read_text()[before:]


def test_starting_too_early_is_a_sentence(demo):
    page = demo.page
    open_tab(demo)
    page.locator("#train-start").click()
    page.get_by_text("There are no clips yet; add some in step 1").wait_for()
    page.locator("#train-suggest").click()
    page.get_by_text("No server is configured; give an address").wait_for()
    assert page.get_by_text("Sign in with").count() == 0  # one's own machine asks nobody who they are


def signed_in(name, secret):
    """The cookie that gradio gives to who signed in, with the secret of the Space."""
    profile = {"sub": "1", "name": name, "preferred_username": name, "profile": "", "picture": ""}
    info = {"access_token": "hf_x", "scope": "openid", "expires_at": time.time() + 600, "userinfo": profile}
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    session = base64.b64encode(json.dumps({"oauth_info": info}).encode())
    return itsdangerous.TimestampSigner(key).sign(session).decode()


def test_a_space_of_its_own_gpu_lets_its_owner_alone_in(chromium, tmp_path):
    space = {"SYSTEM": "spaces", "SPACE_ID": "anna/mova", "SPACE_HOST": "anna-mova.hf.space"}
    login = {"OAUTH_CLIENT_ID": "x", "OAUTH_CLIENT_SECRET": "s", "OAUTH_SCOPES": "openid profile"}
    provider = {"OPENID_PROVIDER_URL": "https://huggingface.co"}
    with serving(tmp_path, **space, **login, **provider) as server:
        for name in ("", "anna", "bert"):
            visit = Demo(chromium, server.url)
            if name:
                cookie = {"name": "session", "value": signed_in(name, "s"), "url": server.url}
                visit.context.add_cookies([cookie])
                visit.open()
            sign_in = visit.page.get_by_text("Sign in with Hugging Face")
            assert not sign_in.is_visible()  # clips are made without
            visit.page.get_by_role("tab", name="Train").click()
            if not name:
                sign_in.wait_for()
            elif name == "anna":
                visit.page.locator("#train-start").click()
                visit.page.get_by_text("There are no clips yet").wait_for()
            else:
                visit.page.wait_for_timeout(1500)
                visit.page.get_by_text("This Space's GPU trains for anna alone").wait_for()
                assert visit.page.locator("#train-start").count() == 0
            visit.close()
