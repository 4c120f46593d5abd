"""The page for every reader."""

import pytest

from tests.browser.page import visiting


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
        with visiting(chromium, server, color_scheme=scheme) as demo:
            page = demo.page
            check_contrast(page)
            demo.add(golden / "image.png")
            page.locator("#crop img").wait_for()
            page.locator("#prompt textarea").fill('A man says, "Yes." The audio shows a voice.')
            demo.open_more()
            page.get_by_text("Adapters (LoRA)").click()
            for tab in ("Prompt", "Generate"):
                page.get_by_role("tab", name=tab).click()
                demo.settle()
                note(tab, page)
            demo.make()
            note("clip", page)
    assert found == {}


def check_contrast(page):
    """At least 4.5 for placeholder and active tab, where axe does not look."""
    colours = page.evaluate(
        """() => { const colour = (element, part) => getComputedStyle(element, part).color;
          const ground = element => { for (; element; element = element.parentElement) {
            const fill = getComputedStyle(element).backgroundColor;
            if (fill !== 'rgba(0, 0, 0, 0)') return fill } };
          const prompt = document.querySelector('#prompt textarea');
          const tab = document.querySelector('[role=tab][aria-selected=true]');
          return [[colour(prompt, '::placeholder'), ground(prompt)], [colour(tab), ground(tab)]] }"""
    )

    def light(colour):
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05

    for text, ground in colours:
        low, high = sorted((light(text), light(ground)))
        assert high / low >= 4.5, (text, ground)
