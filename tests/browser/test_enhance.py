"""Prompts by a server and by a language model here, as a person has them written."""

import pytest

from tests.prompting.chat_server import GOOD_ANSWER, GOOD_PROMPT, IDEA, KEY, error

QUOTE = "Here it comes."


def ask(demo, idea=IDEA):
    page = demo.page
    page.get_by_role("tab", name="Write a prompt").click()
    page.locator("#idea textarea").fill(idea)
    return page


def test_a_server_is_tested_and_writes_candidates_with_the_quote_kept(demo, scripted):
    page = ask(demo)
    demo.choose("A server of yours")
    page.locator("#server-url :is(input, textarea)").fill(scripted.url)
    page.locator("#server-key input").fill(KEY)
    page.locator("#test-server").click()
    page.get_by_text("It works: scripted answered.").wait_for(timeout=15_000)
    scripted.always = error(401, "wrong key")
    page.locator("#test-server").click()
    page.locator("#test-note .mova-error").wait_for(timeout=15_000)
    scripted.reset()
    other = GOOD_ANSWER.replace("grey morning", "pale evening")
    scripted.steps.extend(
        [lambda handler: handler.answer(GOOD_ANSWER), lambda handler: handler.answer(other)]
    )
    demo.choose("Two")
    page.locator("#write").click()
    for number, prompt in enumerate((GOOD_PROMPT, GOOD_PROMPT.replace("grey morning", "pale evening"))):
        page.locator(f"#candidate-{number} textarea").wait_for(timeout=20_000)
        text = page.locator(f"#candidate-{number} textarea").input_value()
        assert text == prompt
    asked = [body for path, _, body in scripted.requests if path.endswith("/completions")]
    assert all(QUOTE not in str(body) for body in asked)  # a model never sees what it must not change
    assert {headers.get("authorization") for _, headers, _ in scripted.requests} == {f"Bearer {KEY}"}
    marks = page.locator("#marked-0 mark.mova-added")
    marks.first.wait_for(timeout=10_000)
    assert not any(QUOTE in text for text in marks.all_inner_texts())


def test_a_server_that_fails_leaves_a_prompt_and_says_why(demo, scripted):
    page = ask(demo)
    demo.choose("A server of yours")
    page.locator("#server-url :is(input, textarea)").fill(scripted.url)
    scripted.always = error(404, "no such model")
    page.locator("#write").click()
    page.locator("#candidate-0 textarea").wait_for(timeout=20_000)
    assert f'"{QUOTE}"' in page.locator("#candidate-0 textarea").input_value()
    assert page.locator("#enhance-status .mova-warning").count() == 1


@pytest.mark.slow
def test_a_language_model_here_writes_and_its_prompt_goes_to_generate(demo, tmp_path):
    from tests.prompting.tiny_models import make_text_model

    model = make_text_model(tmp_path / "model", GOOD_ANSWER)
    page = ask(demo)
    demo.choose("A language model, here")
    page.locator("#write").click()
    page.get_by_text("Choose a model, or give the repo id of one").wait_for(timeout=10_000)
    page.locator("#local-model input").fill(str(model))
    page.keyboard.press("Enter")
    page.locator("#write").click()
    candidate = page.locator("#candidate-0 textarea")
    candidate.wait_for(timeout=60_000)
    assert candidate.input_value() == GOOD_PROMPT
    assert "Written by model." in demo.text("#enhance-status")
    page.locator("#use-0").click()
    page.wait_for_function(
        "() => document.querySelector('#prompt textarea').value.startsWith('A fisherman')", timeout=10_000
    )
