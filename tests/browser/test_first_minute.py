"""The first minute of a visitor: what is seen, what plays, and where answers appear, at three sizes."""

import pytest

from mova.media.clips import write_wav
from tests.browser.page import visiting
from tests.browser.sizes import SIZES, check_state
from tests.lora_trainer.clips import make_clip, wave

PROMPT = 'A man says, "Yes." The audio shows a voice.'
SEEN = """selector => {
  const box = document.querySelector(selector).getBoundingClientRect();
  const bar = document.querySelector('#make, #stop');
  const bottom = getComputedStyle(bar).position === 'fixed' ? bar.getBoundingClientRect().top : innerHeight;
  const height = Math.min(box.bottom, bottom) - Math.max(box.top, 0);
  return height / Math.min(box.height, bottom) }"""


@pytest.fixture(params=SIZES)
def visit(request, chromium, server):
    with visiting(chromium, server, **SIZES[request.param]) as demo:
        yield demo


@pytest.fixture(params=SIZES)
def lively(request, chromium, server):
    """A visit with all that moves."""
    with visiting(chromium, server, reduced_motion="no-preference", **SIZES[request.param]) as demo:
        yield demo


def box(demo, selector):
    return demo.page.locator(selector).bounding_box()


def wait_seen(demo, selector):
    """Wait until at least 80% of it is in view."""
    demo.page.locator(selector).wait_for()
    demo.page.wait_for_function(f"selector => ({SEEN})(selector) >= 0.8", arg=selector)


def is_narrow(demo):
    width, _ = demo.page.viewport_size.values()
    return demo.page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_first_screen_moves_and_an_example_plays_with_sound_at_once_where_one_looks(lively):
    page = lively.page
    height = page.viewport_size["height"]
    for selector in ("#mova-line", "#prompt", "#make", "#player"):
        place = box(lively, selector)
        assert place["y"] >= 0 and place["y"] + place["height"] <= height, selector
    make = box(lively, "#make")
    if page.viewport_size["width"] > 720:
        assert make["y"] <= 260
    else:
        assert make["height"] == 56 and make["y"] + make["height"] > height - 16
    page.wait_for_function(
        """() => [...document.querySelectorAll('#player video, #examples video')].slice(0, 4)
          .filter(video => !video.paused && video.currentTime > 0 && video.muted).length >= 2""",
    )
    assert is_narrow(lively)

    tile = page.locator("#examples button", has_text="Piano plays Twinkle")
    tile.scroll_into_view_if_needed()
    tile.click()
    src, is_paused, is_muted = page.evaluate(  # the click itself starts it, no answer of the server does
        """() => { const video = document.querySelector('#player video');
          return [video.src, video.paused, video.muted] }"""
    )
    assert "piano-1" in src and not is_paused and not is_muted
    page.wait_for_function("() => document.querySelector('#player video').currentTime > 0")
    wait_seen(lively, "#player")
    page.wait_for_function("() => document.querySelector('#prompt textarea').value.startsWith('On a table')")
    assert is_narrow(lively)


def test_every_answer_comes_into_view(visit, tmp_path):
    page = visit.page
    bottom = "() => scrollTo(0, document.body.scrollHeight)"
    page.evaluate(bottom)
    page.locator("#make").click()
    page.locator("#prompt").get_by_text("The prompt is empty").wait_for()
    wait_seen(visit, "#prompt")
    page.locator("#prompt textarea").fill(PROMPT)
    visit.choose_preset("Fast")
    page.evaluate(bottom)
    page.locator("#make").evaluate("button => button.click()")
    page.get_by_role("button", name="Stop").wait_for()
    wait_seen(visit, "#status")
    page.wait_for_function("() => document.querySelector('#mine .mova-tile')")
    wait_seen(visit, "#player")
    assert visit.page.evaluate("() => document.querySelector('#mova-live').textContent") == "Clip ready."
    own = page.locator("#mine .mova-tile").first
    own.scroll_into_view_if_needed()
    own.click()
    wait_seen(visit, "#player")
    page.locator("#extend").click()
    page.get_by_text("What to do with it").wait_for()
    wait_seen(visit, "#added")
    page.evaluate(bottom)
    page.locator("#load-added").click()
    page.get_by_text("Settings loaded.").wait_for()
    wait_seen(visit, "#prompt")
    assert is_narrow(visit)


@pytest.mark.parametrize("visit", ["phone"], indirect=True)
def test_what_is_added_is_a_card_with_one_choice_and_remove(visit, tmp_path, golden):
    page = visit.page
    visit.add(golden / "image.png")
    page.locator("#picture img").wait_for()
    page.locator("#remove-picture").click()
    page.locator("#picture").wait_for(state="hidden")
    write_wav(tmp_path / "voice.wav", wave(0.7, (0.2,)), 48_000)
    visit.add(tmp_path / "voice.wav")
    page.get_by_text("Your sound gets a picture").wait_for()
    page.get_by_role("button", name="Make the picture").wait_for()
    visit.add(make_clip(tmp_path / "clip.mp4", 0.7, 24, (0.3,), None, height=32, width=64))
    for choice, act in (("Fix a part", "Fix the part"), ("Redo the sound", "Make the sound")):
        visit.choose(choice)
        page.get_by_role("button", name=act).wait_for()
        check_state(visit, "phone", "#composer")
    page.locator("#remove-added").click()
    page.get_by_role("button", name="Generate", exact=True).wait_for()


def test_a_run_keeps_the_focus_on_its_button_and_its_clip_plays_with_sound(chromium, server):
    with visiting(chromium, server, reduced_motion="no-preference", **SIZES["desktop"]) as demo:
        page = demo.page
        page.locator("#prompt textarea").fill(PROMPT)
        demo.choose_preset("Draft")
        page.locator("#make").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement.id === 'stop'")
        page.wait_for_function("() => document.activeElement.id === 'make'")
        page.wait_for_function(
            """() => { const video = document.querySelector('#player video');
              return video.controls && !video.muted && (video.ended || !video.paused) }"""
        )


def test_stills_for_those_who_want_no_motion(demo):
    page = demo.page
    page.wait_for_function(
        """() => { const tiles = [...document.querySelectorAll('.mova-tile video')];
          return tiles.length && tiles.every(video => 'seen' in video.dataset) }"""
    )
    demo.settle()
    assert page.evaluate("() => [...document.querySelectorAll('video')].every(video => video.paused)")
    page.locator("#player").get_by_role("button", name="Play with sound").click()
    page.wait_for_function("() => !document.querySelector('#player video').paused")


@pytest.mark.parametrize("visit", ["phone"], indirect=True)
def test_a_finger_finds_every_button_of_the_phone_and_each_has_a_name(visit):
    page = visit.page
    visit.make(PROMPT)
    visit.open_more()
    page.get_by_text("Adapters (LoRA)").click()
    page.get_by_text("More with this clip").click()
    visit.settle()
    check_state(visit, "phone", "#more-actions")
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select, summary, label:has(input)')]
          .filter(e => e.checkVisibility() && e.getBoundingClientRect().width > 1 && !e.closest('footer'))
          .filter(e => !(e.type === 'range' || (e.tagName === 'INPUT' && e.closest('label:has(span)'))))
          .map(e => [e.id || e.ariaLabel || e.innerText, Math.round(e.getBoundingClientRect().width),
                     Math.round(e.getBoundingClientRect().height)])
          .filter(([, width, height]) => width < 44 || height < 44)"""
    )
    assert small == []
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')]
            .filter(e => e.offsetParent && e.type !== 'file')
            .filter(e => !(e.labels?.length || e.ariaLabel || e.title || e.innerText.trim()
                           || e.getAttribute('aria-labelledby')))
            .map(e => e.outerHTML.slice(0, 160))"""
    )
    assert nameless == []
    assert is_narrow(visit)


def test_a_reload_or_a_second_tab_finds_the_form_and_the_run_at_once(demo):
    page = demo.page
    page.locator("#prompt textarea").fill(PROMPT)
    demo.choose_preset("Exact")
    demo.open_more()
    demo.set_steps(100)
    demo.choose("Tall")
    page.wait_for_function("() => document.querySelector('#cost-note').innerText.includes('32×64')")
    page.reload()
    page.wait_for_function(f"() => document.querySelector('#prompt textarea')?.value === {PROMPT!r}")
    assert "Exact" in page.locator("#preset input").input_value()
    demo.open_more()
    assert page.get_by_role("radio", name="Tall").is_checked()
    page.locator("#make").click()
    page.get_by_role("button", name="Stop").wait_for()
    second = demo.context.new_page()
    for each in (page, second):
        each.goto(demo.url)
        each.wait_for_selector("#prompt textarea")
        each.wait_for_function(
            f"""() => document.querySelector('#stop') && document.querySelector('#status .mova-run')
              && document.querySelector('#prompt textarea').value === {PROMPT!r}""",
        )
    second.locator("#stop").click()
    page.get_by_text("Stopped.").wait_for()
    second.close()


def test_the_tab_is_in_the_address_and_back_returns(demo):
    page = demo.page
    page.get_by_role("tab", name="Train").click()
    page.wait_for_url("**/?tab=train")
    page.get_by_role("tab", name="Prompt").click()
    page.wait_for_url("**/?tab=prompt")
    page.go_back()
    page.locator("#train-tab").wait_for()
    page.go_back()
    page.locator("#composer").wait_for()
    page.goto(f"{demo.url}/?tab=train")
    page.locator("#train-tab").wait_for()
    page.go_back()
    page.locator("#composer").wait_for()


def test_a_removed_clip_comes_back_within_ten_seconds_and_is_compared_with_the_next(demo):
    page = demo.page
    demo.make(PROMPT)
    assert not page.locator("#compare").is_visible()
    page.locator("#delete").click()
    page.get_by_text("Clip removed.").wait_for()
    assert page.locator("#mine .mova-tile").count() == 0 and not page.locator("#actions").is_visible()
    page.locator("#undo").click()
    page.locator("#mine .mova-tile").wait_for()
    page.locator("#actions").wait_for()
    first = demo.video_source()
    demo.make(PROMPT)
    page.locator("#compare").click()
    other = page.locator(".mova-before video")
    other.wait_for()
    assert other.evaluate("video => video.currentSrc || video.src") == first != demo.video_source()
    page.locator("#compare").click()
    other.wait_for(state="hidden")
    page.locator("#delete").click()
    page.get_by_text("Clip removed.").wait_for()
    page.locator("#undo-box").wait_for(state="hidden")
