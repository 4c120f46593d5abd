"""Making clips as a person does, in Chromium."""

import json
import time
from collections import Counter

import numpy as np

from mova.media.clips import read_clip, read_settings
from tests.browser.page import Demo

PROMPT = 'A woman says, "Hello there." The audio shows her voice.'


def test_text_alone_makes_a_clip_and_its_seed_makes_it_again_bit_for_bit(demo, tmp_path):
    page = demo.page
    demo.make(PROMPT)
    first = read_clip(demo.download(tmp_path / "first.mp4"))
    seed = read_settings(tmp_path / "first.mp4")["seed"]
    assert f"Seed {seed}" in demo.text("#figures")
    assert len(demo.text("#figures").splitlines()) >= 2  # what was measured, in words
    assert page.locator("#strip img").count() == 1
    page.get_by_text("More settings").click()
    assert page.locator("#seed input").input_value() == str(seed)
    page.locator("#random-seed input").uncheck()
    demo.make(preset=None)
    again = read_clip(demo.download(tmp_path / "again.mp4"))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.waveform, again.waveform)
    page.locator("#reuse").click()
    page.locator("#go-on").click()
    page.locator("#first-frame img").wait_for()
    page.wait_for_timeout(700)
    assert not page.locator("#crop-box").is_visible()  # it has the clip's shape: nothing is cut


def test_a_picture_shows_its_crop_and_a_new_shape_shows_another(demo, golden):
    page = demo.page
    page.locator("#first-frame input[type=file]").set_input_files(golden / "image.png")
    page.locator("#crop img").wait_for()
    wide = page.locator("#crop img").get_attribute("src")
    demo.choose("Tall")
    page.wait_for_function(
        "before => document.querySelector('#crop img')?.src !== before", arg=wide, timeout=10_000
    )
    page.wait_for_function("() => document.querySelector('#cost-note').innerText.includes('32×64')")
    assert "About" in demo.text("#cost-note")
    page.locator("#prompt textarea").fill(PROMPT)
    page.wait_for_function("() => document.querySelector('#meters').innerText.includes('of 512 tokens')")
    assert "2 spoken words" in demo.text("#meters")


def test_stop_takes_effect_and_the_next_clip_is_made(demo, server):
    page = demo.page
    page.locator("#prompt textarea").fill(PROMPT)
    demo.choose("Full")
    page.wait_for_timeout(700)
    page.locator("#make").click()
    page.wait_for_function(
        "() => /step [1-9]/.test(document.querySelector('#status').innerText)", timeout=30_000
    )
    assert page.locator("#status img").count() == 1
    clicked = time.monotonic()
    page.locator("#stop").click()
    page.get_by_text("Stopped. Nothing was kept.").wait_for(timeout=15_000)
    assert time.monotonic() - clicked < 10
    assert not [path for path in server.outputs.rglob("stop")]
    demo.make()


def test_a_reload_keeps_the_clips_and_finds_a_run_again(demo):
    page = demo.page
    demo.make(PROMPT)
    page.locator("#mine button").first.wait_for()
    demo.choose("Full")
    page.wait_for_timeout(700)
    page.locator("#make").click()
    page.wait_for_function(
        "() => /step [1-9]/.test(document.querySelector('#status').innerText)", timeout=30_000
    )
    demo.open()
    page.locator("#player video").wait_for(timeout=60_000)
    page.wait_for_function("() => document.querySelectorAll('#mine button').length == 2", timeout=30_000)
    page.locator("#mine button").nth(1).click()
    page.locator("#delete").click()
    page.wait_for_function("() => document.querySelectorAll('#mine button').length == 1", timeout=30_000)


def test_a_clip_dropped_on_the_page_restores_its_settings(demo, tmp_path):
    page = demo.page
    demo.make('He says, "Now." The audio shows a voice.')
    clip = demo.download(tmp_path / "clip.mp4")
    seed = read_settings(clip)["seed"]
    demo.open()
    page.evaluate(
        """bytes => { const transfer = new DataTransfer();
           transfer.items.add(new File([new Uint8Array(bytes)], 'clip.mp4', {type: 'video/mp4'}));
           for (const kind of ['dragover', 'drop']) document.body.dispatchEvent(
             new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer})) }""",
        list(clip.read_bytes()),
    )
    page.get_by_text("The clip's settings are in the form.").wait_for(timeout=15_000)
    assert page.locator("#prompt textarea").input_value().startswith('He says, "Now."')
    page.get_by_text("More settings").click()
    assert page.locator("#seed input").input_value() == str(seed)
    assert not page.locator("#random-seed input").is_checked()
    (tmp_path / "other.mp4").write_bytes(b"no clip")
    page.locator("input:has(+ #restore)").set_input_files(tmp_path / "other.mp4")
    page.get_by_text("other.mp4 is damaged or not an mp4 clip").wait_for(timeout=15_000)


def test_each_wrong_field_has_its_sentence_beside_it(demo):
    page = demo.page
    page.locator("#make").click()
    page.locator("#prompt").get_by_text("The prompt is empty; say what is seen and what is heard").wait_for()
    page.locator("#prompt textarea").fill(PROMPT)
    page.get_by_text("More settings").click()
    page.locator("#random-seed input").uncheck()
    for field, value, sentence in (
        ("#exact-size :is(input, textarea)", "100x100", "nearest: 96x96"),
        ("#exact-size :is(input, textarea)", "big", "is not WIDTHxHEIGHT"),
        ("#exact-size :is(input, textarea)", "2048x2048", "over four times the size"),
        ("#video-shift input", "1000", "video_shift=1000"),
        ("#seed input", "-5", "seed=-5"),
    ):
        page.locator(field).fill(value)
        page.locator(field).blur()
        # The estimate says it too, and its answer takes away what stands beside the field: let it come first.
        page.locator("#cost-note").get_by_text(sentence).wait_for(timeout=10_000)
        page.wait_for_timeout(350)
        page.locator("#make").click()
        page.locator(field.split()[0]).get_by_text(sentence).wait_for(timeout=10_000)
        page.locator(field).fill("")


def test_a_slider_in_motion_asks_no_more_often_than_it_moved(demo):
    asked = Counter()

    def count(request):
        if "queue/join" in request.url:
            asked[request.post_data_json["trigger_id"]] += 1

    demo.page.on("request", count)
    slider = demo.page.locator("#seconds input[type=range]")
    slider.focus()
    for _ in range(8):
        slider.press("ArrowLeft")
        demo.page.wait_for_timeout(30)
    demo.page.wait_for_timeout(3000)
    by_slider = max(asked.values())  # the rest is what the page asks when it opens
    assert 2 <= by_slider <= 16  # the meters and the estimate at each move


def test_two_browsers_never_see_each_others_clips(chromium, server, demo):
    other = Demo(chromium, server.url)
    demo.make("First browser. The audio shows a hum.")
    demo.page.locator("#mine button").first.wait_for()
    other.open()
    assert other.page.locator("#mine button").count() == 0
    names = [each.page.evaluate("() => localStorage.getItem('mova-visitor')") for each in (demo, other)]
    assert names[0] != names[1]
    # A name that was not issued here is replaced by a new one.
    other.page.evaluate("() => localStorage.setItem('mova-visitor', 'made up')")
    other.open()
    assert other.page.locator("#mine button").count() == 0
    other.close()
    assert [text for text in other.complaints if "reading from localStorage" not in text] == []


def test_markup_in_a_prompt_is_text_everywhere(demo):
    page = demo.page
    evil = '<img src=x onerror="document.title=1"> She says, "<b>Hi</b>." The audio shows <i>a</i> hum.'
    demo.make(evil)
    page.locator("#suggest").click()
    page.locator("#suggestion-notes p").first.wait_for(timeout=20_000)
    page.locator("#mine button").first.click()
    page.wait_for_timeout(500)
    assert page.title() == "MOVA: video with sound"
    assert page.locator("#result img[src=x], #mine img[src=x], #suggestion-notes img").count() == 0


def test_no_key_stays_in_the_browser_or_in_the_log(demo, server):
    page = demo.page
    page.get_by_role("tab", name="Write a prompt").click()
    demo.choose("A server of yours")
    page.locator("#server-url input, #server-url textarea").first.fill("http://127.0.0.1:9/v1")
    page.locator("#server-key input").fill("sk-very-secret-1234")
    page.locator("#test-server").click()
    page.get_by_text("nothing answers at").wait_for(timeout=30_000)
    stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert "very-secret" not in stored + page.content() + server.log.read_text()
    assert "very-secret" not in json.dumps([str(path) for path in server.outputs.rglob("*")])
