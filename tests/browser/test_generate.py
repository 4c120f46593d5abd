"""Making clips as a person does, in Chromium."""

import json
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
    assert page.locator(".mova-strip img").is_visible()
    assert "matches" not in demo.text("#result") and "no technical fault" not in demo.text("#result")
    page.get_by_text("More with this clip").click()
    page.locator("#figures").get_by_text(f"Seed {seed}").wait_for()
    assert (
        len(demo.text("#figures").splitlines()) >= 2
    )  # what was measured, in words, is there when asked for
    demo.open_more()
    assert page.locator("#seed input").input_value() == str(seed)
    page.locator("#random-seed input").uncheck()
    demo.make(preset=None)
    again = read_clip(demo.download(tmp_path / "again.mp4"))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.waveform, again.waveform)
    page.locator("#reuse").click()
    page.locator("#go-on").click()
    page.locator("#crop img").wait_for()
    demo.settle()
    assert not page.locator("#fit").is_visible()  # it has the clip's shape: nothing is cut


def test_a_picture_shows_its_crop_and_a_new_shape_shows_another(demo, golden):
    page = demo.page
    demo.add(golden / "image.png")
    page.locator("#crop img").wait_for()
    demo.open_more()
    wide = page.locator("#crop img").get_attribute("src")
    demo.choose("Tall")
    page.wait_for_function("before => document.querySelector('#crop img')?.src !== before", arg=wide)
    page.wait_for_function("() => document.querySelector('#cost-note').innerText.includes('32×64')")
    assert "About" in demo.text("#cost-note")
    page.locator("#prompt textarea").fill(PROMPT)
    page.get_by_text("2 spoken words, about").wait_for()  # more than the tiny model's clip has time for
    page.locator("#prompt textarea").fill("A bell. " * 300)
    page.get_by_text("Ignored: ").wait_for()


def test_stop_takes_effect_and_the_next_clip_is_made(demo, server):
    page = demo.page
    demo.start_long_clip(PROMPT)
    page.wait_for_function("() => /step [1-9]/.test(document.querySelector('#status').innerText)")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    assert page.locator("#mine button").count() == 0
    assert not [path for path in server.outputs.rglob("stop")]
    demo.make()


def test_a_reload_keeps_the_clips_and_finds_a_run_again(demo):
    page = demo.page
    demo.make(PROMPT)
    page.locator("#mine button").first.wait_for()
    demo.start_long_clip(PROMPT)
    page.wait_for_function("() => /step [1-9]/.test(document.querySelector('#status').innerText)")
    demo.open()
    page.get_by_role("button", name="Stop").wait_for()
    page.wait_for_function("() => document.querySelectorAll('#mine button').length == 2")
    page.locator("#mine button").nth(1).click()
    page.locator("#delete").click()
    page.wait_for_function("() => document.querySelectorAll('#mine button').length == 1")


def test_three_clips_are_made_and_kept_and_the_best_of_them_plays(demo):
    page = demo.page
    demo.open_more()
    demo.choose("Best of 3")
    page.locator("#remarks").get_by_text("for 3 clips on this machine").wait_for()
    page.wait_for_timeout(700)
    demo.open()
    demo.open_more()
    assert page.get_by_role("radio", name="Best of 3").is_checked()
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#make").click()
    page.locator("#status").get_by_text("clip 2 of 3").wait_for()
    page.locator("#notes").get_by_text("the other two are in Your clips").wait_for()
    page.wait_for_function("() => document.querySelectorAll('#mine button').length == 3")
    kept = page.locator("#mine button").evaluate_all("tiles => tiles.map(tile => tile.dataset.key)")
    assert any(clip in demo.video_source() for clip in kept)


def test_a_clip_dropped_on_the_page_is_asked_about_and_loads_its_settings(demo, tmp_path):
    page = demo.page
    demo.make('He says, "Now." The audio shows a voice.')
    clip = demo.download(tmp_path / "clip.mp4")
    seed = read_settings(clip)["seed"]
    demo.open()
    page.locator("#prompt textarea").fill("Another prompt.")
    page.evaluate(
        """bytes => { const transfer = new DataTransfer();
           transfer.items.add(new File([new Uint8Array(bytes)], 'clip.mp4', {type: 'video/mp4'}));
           for (const kind of ['dragover', 'drop']) document.body.dispatchEvent(
             new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: transfer})) }""",
        list(clip.read_bytes()),
    )
    page.get_by_text("What to do with it").wait_for()
    demo.settle()
    assert page.locator("#prompt textarea").input_value() == "Another prompt."
    page.locator("#load-added").click()
    page.get_by_text("Settings loaded.").wait_for()
    assert page.locator("#prompt textarea").input_value().startswith('He says, "Now."')
    demo.open_more()
    assert page.locator("#seed input").input_value() == str(seed)
    assert not page.locator("#random-seed input").is_checked()
    page.get_by_text(f"Seed {seed} locked: same clip again.").wait_for()
    page.locator("#prompt textarea").fill("Another prompt.")
    page.wait_for_function(
        "() => document.querySelector('#random-seed input').checked"
    )  # no later clip is pinned
    (tmp_path / "other.mp4").write_bytes(b"no clip")
    demo.add(tmp_path / "other.mp4")
    page.locator("#added-note").get_by_text("other.mp4").wait_for()


def test_each_wrong_field_has_its_sentence_beside_it(demo):
    page = demo.page
    page.locator("#make").click()
    page.locator("#prompt").get_by_text("The prompt is empty; say what is seen and what is heard").wait_for()
    page.locator("#prompt textarea").fill(PROMPT)
    demo.open_more()
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
        page.locator("#remarks").get_by_text(sentence).wait_for()
        demo.settle()
        page.locator("#make").click()
        page.locator(field.split()[0]).get_by_text(sentence).wait_for()
        page.locator(field).fill("")


def test_a_slider_in_motion_asks_no_more_often_than_it_moved(demo):
    asked = Counter()

    def count(request):
        if "queue/join" in request.url:
            asked[request.post_data_json["trigger_id"]] += 1

    demo.page.on("request", count)
    demo.open_more()
    slider = demo.page.locator("#seconds input[type=range]")
    slider.focus()
    for _ in range(8):
        slider.press("ArrowLeft")
        demo.page.wait_for_timeout(30)
    demo.settle()
    by_slider = max(asked.values())  # the rest is what the page asks when it opens
    assert 1 <= by_slider <= 8


def test_two_browsers_never_see_each_others_clips(chromium, server, demo):
    demo.make("First browser. The audio shows a hum.")
    other = Demo(chromium, server.url)
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
    page.locator("#suggestion-notes p").first.wait_for()
    page.locator("#mine button").first.click()
    demo.settle()
    assert page.title() == "MOVA: video with sound"
    assert page.locator("#result img[src=x], #mine img[src=x], #suggestion-notes img").count() == 0


def test_no_key_stays_in_the_browser_or_in_the_log(demo, server):
    page = demo.page
    page.get_by_role("tab", name="Prompt").click()
    page.locator("#writers button").first.click()
    demo.choose("My server")
    page.locator("#server-url input, #server-url textarea").first.fill("http://127.0.0.1:9/v1")
    page.locator("#server-key input").fill("sk-very-secret-1234")
    page.locator("#test-server").click()
    page.get_by_text("nothing answers at").wait_for()
    stored = page.evaluate("() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert "very-secret" not in stored + page.content() + server.log.read_text()
    assert "very-secret" not in json.dumps([str(path) for path in server.outputs.rglob("*")])
