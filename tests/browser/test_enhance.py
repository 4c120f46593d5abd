"""The prompt tab as a person uses it: versions of an idea, by each writer, edited and taken to Generate."""

import threading

import pytest

from tests.browser.page import visiting
from tests.browser.sizes import SIZES, check_state
from tests.prompting.chat_server import GOOD_ANSWER, GOOD_PROMPT, IDEA, KEY, error

QUOTE = "Here it comes."
BAKER = 'a baker in a red coat lifts the bread and says "still warm"'


def ask(demo, idea=IDEA, writer=None):
    page = demo.page
    page.get_by_role("tab", name="Prompt").click()
    page.locator("#idea textarea").fill(idea)
    if writer:
        page.locator("#writers button").first.click()
        demo.choose(writer)
    return page


def wait_for_value(page, selector, condition):
    page.wait_for_function(f"() => {{ const value = document.querySelector('{selector}')?.value || ''; "
                           f"return {condition} }}")  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
def test_the_tab_fits_every_size_and_an_empty_idea_is_a_sentence(chromium, server, size):
    with visiting(chromium, server, **SIZES[size]) as demo:
        page = ask(demo, "")
        page.locator("#write").click()
        page.get_by_text("The idea is empty").wait_for()
        check_state(demo, size, "#prompt-tab")
        page.locator("#idea textarea").fill(BAKER)
        page.locator("#write").click()
        text = page.locator("#candidate-0 textarea")
        text.wait_for()
        text.fill(text.input_value().replace("warm", "cold").replace("red ", ""))
        page.locator("#kept .mova-missing", has_text="red coat").wait_for()
        check_state(demo, size, "#prompt-tab")


def test_an_idea_is_written_edited_repaired_and_sent(demo, golden):
    page = ask(demo, BAKER)
    page.locator("#idea-more button").first.click()
    page.locator("#idea-seconds input").first.fill("0.6")
    page.keyboard.press("Tab")
    page.locator("#idea-image input[type=file]").set_input_files(golden / "image.png")
    page.locator("#idea-image img").first.wait_for()
    page.locator("#write").click()
    page.get_by_role("radio", name="Variant 3").wait_for()
    text = page.locator("#candidate-0 textarea")
    first = text.input_value()
    assert page.get_by_text("about to speak").count() <= 1  # the marks under the field are of no account
    page.locator("#kept .mova-kept", has_text="still warm").wait_for()
    marks = page.locator("#marked-0 mark.mova-added")
    marks.first.wait_for()
    assert not any("still warm" in marked for marked in marks.all_inner_texts())
    field, under = text.bounding_box(), page.locator("#marked-0 .mova-text").bounding_box()
    assert all(abs(field[side] - under[side]) < 2 for side in ("x", "y", "width"))
    demo.choose("Variant 2")
    wait_for_value(page, "#candidate-0 textarea", "value.includes('The view is close')")

    text.fill(text.input_value().replace("warm", "cold").replace("red ", ""))
    missing = page.locator("#kept .mova-missing", has_text="red coat")
    missing.wait_for()
    demo.settle()  # the words are drawn again with each answer
    assert page.locator("#kept .mova-kept").count() == 0
    missing.get_by_role("button").click()
    wait_for_value(page, "#candidate-0 textarea", "value.includes('The coat is red.')")
    page.locator("#faults-0 button").first.click()
    wait_for_value(page, "#candidate-0 textarea", "value.includes('still warm')")
    demo.choose("Variant 1")
    wait_for_value(page, "#candidate-0 textarea", "!value.includes('The coat is red.')")
    assert text.input_value() == first
    demo.choose("Variant 2")
    wait_for_value(page, "#candidate-0 textarea", "value.includes('The coat is red.')")  # edits are kept

    prompt = text.input_value()
    page.locator("#use-0").click()
    page.wait_for_function("text => document.querySelector('#prompt textarea').value === text", arg=prompt)
    page.locator("#crop img").wait_for()
    page.locator("#more").click()
    wait_for_value(page, "#seconds input", "Math.abs(value - 0.6) < 0.05")


def test_a_server_is_tested_and_writes_with_the_quote_kept_and_its_failure_leaves_a_prompt(demo, scripted):
    page = ask(demo, writer="My server")
    address = page.locator("#server-url :is(input, textarea)")
    address.fill(scripted.url)
    page.locator("#server-key input").fill(KEY)
    page.locator("#test-server").click()
    page.get_by_text("Connected: scripted").wait_for()
    address.press_sequentially("/")
    page.get_by_text("Connected: scripted").wait_for(state="detached")
    address.fill(scripted.url)
    scripted.always = error(401, "wrong key")
    page.locator("#test-server").click()
    page.locator("#test-note .mova-error").wait_for()
    scripted.reset()
    other = GOOD_ANSWER.replace("grey morning", "pale evening")
    second = threading.Event()
    scripted.steps.extend(
        [
            lambda handler: handler.answer(GOOD_ANSWER),
            lambda handler: second.wait(60) and handler.answer(other),
        ]
    )
    page.locator("#variants button").first.click()
    page.locator("#count label", has_text="2").click()
    page.locator("#write").click()
    text = page.locator("#candidate-0 textarea")
    wait_for_value(page, "#candidate-0 textarea", "value")
    assert not text.is_enabled()  # the second would overwrite what is typed
    second.set()
    page.get_by_role("radio", name="Variant 2").wait_for()
    assert text.input_value() == GOOD_PROMPT
    demo.choose("Variant 2")
    wait_for_value(page, "#candidate-0 textarea", "value.includes('pale evening')")
    assert text.input_value() == GOOD_PROMPT.replace("grey morning", "pale evening")
    asked = [body for path, _, body in scripted.requests if path.endswith("/completions")]
    assert all(QUOTE not in str(body) for body in asked)  # a model never sees what it must not change
    assert {headers.get("authorization") for _, headers, _ in scripted.requests} == {f"Bearer {KEY}"}

    scripted.always = error(404, "no such model")
    page.locator("#write").click()
    page.locator("#enhance-status .mova-warning").wait_for()
    assert f'"{QUOTE}"' in text.input_value()
    assert text.input_value() not in (GOOD_PROMPT, GOOD_PROMPT.replace("grey morning", "pale evening"))


@pytest.mark.slow
def test_a_language_model_here_writes_and_its_prompt_goes_to_generate(demo, tmp_path):
    from tests.prompting.tiny_models import make_text_model

    model = make_text_model(tmp_path / "model", GOOD_ANSWER)
    page = ask(demo, writer="Local LLM")
    page.locator("#write").click()
    page.get_by_text("Choose a model, or give a repo id").wait_for()
    page.locator("#local-model input").fill(str(model))
    page.keyboard.press("Enter")
    page.locator("#variants button").first.click()
    page.locator("#count label", has_text="1").click()
    page.locator("#write").click()
    candidate = page.locator("#candidate-0 textarea")
    candidate.wait_for()
    assert candidate.input_value() == GOOD_PROMPT
    assert "Written by model." in demo.text("#enhance-status")
    page.locator("#use-0").click()
    page.wait_for_function("() => document.querySelector('#prompt textarea').value.startsWith('A fisherman')")
