"""The page at every width, by keyboard, and the enhance and train tabs."""

import pytest

from tests.browser.page import Demo

IDEA = 'a baker lifts the bread and says "still warm"'


def test_a_phone_needs_no_sideways_scrolling(chromium, server):
    demo = Demo(chromium, server.url, viewport={"width": 390, "height": 800}, has_touch=True)
    page = demo.page
    for tab in ("Generate", "Write a prompt", "Train"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, tab
    page.get_by_role("tab", name="Generate").click()
    page.get_by_text("More settings").click()
    page.get_by_text("Adapters (LoRA)").click()
    page.wait_for_timeout(300)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    demo.close()
    assert demo.complaints == []


def test_every_field_has_a_name(demo):
    page = demo.page
    page.get_by_text("More settings").click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')]
            .filter(e => e.offsetParent && e.type !== 'file')
            .filter(e => !(e.labels?.length || e.ariaLabel || e.title || e.innerText.trim()
                           || e.getAttribute('aria-labelledby')))
            .map(e => e.outerHTML.slice(0, 160))"""
    )
    assert nameless == []


def test_the_page_keeps_the_rules_of_accessibility(chromium, server, golden):
    """WCAG 2.1 A and AA as far as axe-core tells them, in every tab, light and dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = {}

    def note(state, page):
        for violation in axe.run(page, options=rules).response["violations"]:
            for node in violation["nodes"]:
                found[f"{scheme}, {state}: {violation['id']} at {node['target']}"] = node["failureSummary"]

    for scheme in ("light", "dark"):
        demo = Demo(chromium, server.url, color_scheme=scheme)
        page = demo.page
        page.locator("#first-frame input[type=file]").set_input_files(golden / "image.png")
        page.locator("#crop img").wait_for()
        page.locator("#prompt textarea").fill('A man says, "Yes." The audio shows a voice.')
        page.get_by_text("More settings").click()
        page.get_by_text("Adapters (LoRA)").click()
        page.wait_for_timeout(800)
        for tab in ("Generate", "Write a prompt"):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_timeout(300)
            note(tab, page)
        page.get_by_role("tab", name="Generate").click()
        demo.make()
        note("clip", page)
        demo.close()
    assert found == {}


def test_the_keyboard_goes_through_the_form_in_the_order_it_is_read(demo):
    page = demo.page
    page.locator("#prompt textarea").focus()
    reached = []
    for _ in range(16):
        page.keyboard.press("Tab")
        place, outline = page.evaluate(
            """() => { const element = document.activeElement;
                return [element.closest('[id]')?.id, getComputedStyle(element).outlineStyle] }"""
        )
        reached.append(place)
        assert outline != "none", place
    order = ["suggest", "preset", "shape", "seconds", "make"]
    assert [place for place in dict.fromkeys(reached) if place in order] == order


def test_an_idea_is_written_edited_repaired_and_sent(demo):
    page = demo.page
    page.get_by_role("tab", name="Write a prompt").click()
    page.locator("#idea-seconds input").first.fill("1.4")
    page.locator("#idea textarea").fill(IDEA)
    page.locator("#write").click()
    candidate = page.locator("#candidate-0 textarea")
    candidate.wait_for(timeout=20_000)
    assert "still warm" in demo.text("#kept")
    assert '"still warm"' in candidate.input_value()
    marks = page.locator("#marked-0 mark.mova-added")
    marks.first.wait_for(timeout=10_000)
    added = marks.all_inner_texts()
    assert not any("still warm" in text for text in added)
    candidate.press("End")
    candidate.fill(candidate.input_value().replace("warm", "cold"))
    page.locator("#faults-0 .mova-error").first.wait_for(timeout=10_000)
    repair = page.locator("[id^=repair-0-]:visible").first
    repair.click()
    page.wait_for_function(
        "() => document.querySelector('#candidate-0 textarea').value.includes('still warm')", timeout=10_000
    )
    prompt = candidate.input_value()
    page.locator("#use-0").click()
    page.wait_for_function(
        "text => document.querySelector('#prompt textarea').value === text", arg=prompt, timeout=10_000
    )
    page.get_by_role("tab", name="Write a prompt").click()
    page.locator("#idea textarea").fill("")
    page.locator("#write").click()
    page.get_by_text("The idea is empty").wait_for(timeout=10_000)


def test_the_train_tab_explains_itself_and_shows_a_clip_that_was_kept_for_it(demo, server):
    page = demo.page
    page.get_by_role("tab", name="Train").click()
    page.get_by_text("Clips of one thing").wait_for()
    page.get_by_role("tab", name="Generate").click()
    demo.make("A drum. The audio shows a drum.")
    page.locator("#train-on").click()
    page.get_by_text("Kept; 1 clip waits").wait_for(timeout=10_000)
    captions = [path.read_text() for path in server.outputs.glob("training/*/*.txt")]
    assert "A drum. The audio shows a drum." in captions
    page.get_by_role("tab", name="Train").click()
    page.locator("#train-table [data-row='0']").get_by_text("A drum. The audio").first.wait_for()
    page.locator(".train-card video").wait_for(timeout=60_000)
