"""The page without a mouse: each tab is walked in the order it is read, and used by keys alone."""

from tests.browser.test_enhance import BAKER
from tests.browser.test_train_tab import faulty_clips, wait_for_findings, wait_for_text

CONTROLS = """within => { window.controls = [...document.querySelectorAll(
    ':is(button, input, textarea, select, summary, a[href], audio[controls], video[controls])')].filter(
    e => e.closest(within) && e.checkVisibility({visibilityProperty: true}) && !e.disabled);
  return window.controls.map(e => e.closest('[id]:not([id^=component], [id^=html], [id^=range_id])').id) }"""
# The prompt's box changes its colour, and a video's own controls show which of them it is.
FOCUSED = """() => [window.controls.indexOf(document.activeElement),
                    document.activeElement.matches('#prompt textarea, video')
                    || getComputedStyle(document.activeElement).outlineStyle !== 'none']"""


def check_walk(page, within, order):
    """Tab and Shift-Tab reach each control once and in order, show where they are, and get out again.

    `order` has the ids that the controls stand in.
    """
    for _ in range(100):  # what was asked for may still unfold
        places = page.evaluate(CONTROLS, within)
        if list(dict.fromkeys(places)) == order:
            break
        page.wait_for_timeout(50)
    assert list(dict.fromkeys(places)) == order
    everyone = list(range(len(places)))
    for key, first, expected in (("Tab", 0, everyone), ("Shift+Tab", -1, everyone[::-1])):
        page.evaluate("first => window.controls.at(first).focus()", first)
        page.keyboard.press("Shift")  # from here on the keyboard leads, and the focus is shown
        reached = []
        while len(reached) < 5 * len(places):
            number, is_shown = page.evaluate(FOCUSED)
            if number < 0:
                break
            assert is_shown, places[number]
            reached.append(number)
            page.keyboard.press(key)
        assert list(dict.fromkeys(reached)) == expected, key


def go(page, selector, key="Tab"):
    """Press Tab until the focus is there."""
    for _ in range(80):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"no key leads to {selector}")


def press(page, selector, key="Enter"):
    go(page, selector)
    page.keyboard.press(key)


def open_by_keys(page, tab):
    page.locator("#prompt textarea").focus()
    go(page, f"#{tab}-tab-button", "Shift+Tab")
    page.keyboard.press("Enter")
    page.locator(f"#{tab}-tab").wait_for()


def wait_for_focus(page, selector):
    page.wait_for_function("selector => document.activeElement.matches(selector)", arg=selector)


def test_the_generate_tab_is_walked_in_the_order_it_is_read(demo):
    chips = ["chip-0", "chip-1", "chip-2"]
    order = ["prompt", "add", "preset", "more", "suggest", "make", *chips, "examples", "player"]
    check_walk(demo.page, "#generate-tab", order)


def test_a_prompt_is_written_and_used_by_keys_alone(demo):
    page = demo.page
    open_by_keys(page, "prompt")
    go(page, "#idea textarea")
    page.keyboard.type(BAKER)
    press(page, "#write")
    page.get_by_role("radio", name="Variant 3").wait_for()
    wait_for_focus(page, "#write")
    for name in ("writers", "variants", "idea-more"):
        press(page, f"#{name} button")
    demo.settle()
    order = ["idea", "write", "writers", "writer", "variants", "count", "idea-more", "idea-image"]
    check_walk(page, "#prompt-tab", [*order, "idea-seconds", "variant", "candidate-0", "use-0"])
    page.locator("#write").focus()
    press(page, "#variant label:nth-of-type(2) input", "Space")
    page.wait_for_function("() => document.querySelector('#candidate-0 textarea').value.includes('close')")
    go(page, "#candidate-0 textarea")
    text = page.locator("#candidate-0 textarea")
    text.fill(text.input_value().replace("red ", ""))
    page.locator("#kept .mova-missing", has_text="red coat").wait_for()
    demo.settle()  # the words are drawn again with each answer
    press(page, "#kept .mova-missing button")
    page.wait_for_function("() => document.querySelector('#candidate-0 textarea').value.includes('is red')")
    demo.settle()
    press(page, "#use-0")
    wait_for_focus(page, "#make")
    assert page.locator("#prompt textarea").input_value() == text.input_value()


def test_clips_are_added_removed_and_captioned_by_keys_alone(demo, tmp_path):
    page = demo.page
    clips = faulty_clips(tmp_path, "two shots by keys.mp4")
    page.once("filechooser", lambda chooser: chooser.set_files(clips))
    open_by_keys(page, "train")
    press(page, "#train-upload button")
    wait_for_findings(page)
    demo.settle()
    press(page, "#train-advanced button")
    order = ["train-upload", "train-suggest", "train-clips", "train-server", "train-name", "train-preset"]
    settings = ["steps", "rank", "learning-rate", "accumulation", "seconds", "recipe", "trigger", "price"]
    advanced = [f"train-{name}" for name in ("prompt", *settings, "keep-prompts", "even-volume")]
    check_walk(page, "#train-tab", [*order, "train-keep", "train-advanced", *advanced])

    remove = "[data-act=remove][data-name='broken.mp4']"
    page.locator("#train-upload button").focus()
    press(page, remove)
    page.locator("#train-undo button").wait_for()
    wait_for_focus(page, "#train-clips button")  # of the card that took its place
    go(page, "#train-undo button", "Shift+Tab")
    page.keyboard.press("Enter")
    wait_for_focus(page, remove)
    demo.settle()
    page.locator("#train-upload button").focus()
    press(page, remove)
    page.locator("#train-undo button").wait_for()
    press(page, "[data-act=picture_only]")
    page.get_by_text("silent.mp4 teaches the picture only.").wait_for()
    for name in ("silent.mp4", "two shots by keys.mp4"):
        page.locator("#train-upload button").focus()
        go(page, f"[data-caption='{name}']")
        page.keyboard.type(f"A lamp blinks in {name}.")
    page.keyboard.press("Tab")
    wait_for_text(page, "#train-cost", "About|At least")
    page.wait_for_function("() => !document.querySelector('#train-start').disabled")
    go(page, "#train-start")
