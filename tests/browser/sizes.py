"""The three sizes at which the page is seen, and what holds of every tab and state at each."""

import re

import pytest

SIZES = {
    "desktop": {"viewport": {"width": 1440, "height": 900}},
    "tablet": {"viewport": {"width": 1024, "height": 768}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
TOUCHED = 44  # pixels, the least side of what a finger hits
# Words of the command line and of the machine that no visitor should read.
INSIDE = re.compile(r"\b(?:data|run|samples)\.[a-z_]+|(?<!\w)--[a-z]|\.jsonl")


def check_state(demo, size: str, within: str, outputs: object = "/outputs") -> None:
    """The state needs no sideways scrolling, speaks to visitors, and on a phone is made for fingers.

    It also keeps the rules of WCAG 2.1 A and AA, as far as axe-core tells them.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page, width = demo.page, SIZES[size]["viewport"]["width"]
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    text = page.locator("body").inner_text()
    assert not INSIDE.search(text), INSIDE.search(text)
    assert str(outputs) not in text
    if size == "phone":
        small = page.locator(f"{within} :is(button, label:has(input[type=radio]))").evaluate_all(
            """(found, least) => found.filter(e => e.offsetParent && !e.closest('[role=tablist]'))
                .filter(e => { const box = e.getBoundingClientRect();
                               return box.width < least || box.height < least })
                .map(e => e.outerHTML.slice(0, 120))""",
            TOUCHED,
        )
        assert not small, small
        # An arrow is turned about its middle: as high as a finger's button it would lie at the card's edge.
        stretched = page.locator(f"{within} .label-wrap .icon").evaluate_all(
            "(found, least) => found.filter(e => e.offsetHeight >= least).map(e => e.parentNode.innerText)",
            TOUCHED,
        )
        assert not stretched, stretched
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    broken = [
        (violation["id"], node["target"], node["failureSummary"])
        for violation in axe.run(page, context=within, options=rules).response["violations"]
        for node in violation["nodes"]
    ]
    assert not broken, broken
