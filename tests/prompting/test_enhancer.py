"""Whatever a server answers, the prompt keeps the words, is plain text, within limits and never empty."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mova.errors import Cancelled, UserError
from mova.prompting.enhancer import MAX_IDEA, Enhancer, EnhanceRequest, added_spans
from mova.prompting.plan import NO_SUBTITLES, PromptPlan
from mova.prompting.quotes import locate, mask_quotes
from mova.prompting.rules import check
from mova.text import clean_prompt, count_words, plain_text
from tests.prompting.chat_server import GOOD_ANSWER, GOOD_FIELDS, GOOD_PROMPT, IDEA

CASES = json.loads((Path(__file__).parent / "cases.json").read_text(encoding="utf-8"))
WRITTEN = [case for case in CASES if not case.get("refused")]
LONG = "He walks on and looks about. " * 60


def names(cases: list[dict]) -> list[str]:
    return [case["name"] for case in cases]


def test_there_are_enough_cases():
    assert len({case["name"] for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", WRITTEN, ids=names(WRITTEN))
def test_the_template_keeps_every_word(case):
    result = Enhancer().enhance(EnhanceRequest(case["idea"]))
    cleaned = clean_prompt(result.text)  # a word may begin a sentence there
    words = map(clean_prompt, case["words"])
    assert all(word in cleaned or f". {word.capitalize()}" in f". {cleaned}" for word in words)
    places = locate(result.text, mask_quotes(plain_text(case["idea"])).quotes)
    assert None not in places
    assert places == sorted(places)
    assert PromptPlan.parse(result.text) == result.plan
    assert result.text == plain_text(result.text)
    allowed = {"length", "language"} if case.get("long") else {"language"}
    assert {v.rule for v in result.violations if v.severity == "error"} <= allowed
    assert result.route == "template"


@pytest.mark.parametrize("case", [c for c in WRITTEN if not c.get("long")], ids=lambda case: case["name"])
def test_a_helpful_server_keeps_every_quote(scripted, case):
    """The server tells the idea's own scene and uses its marks, as a good model does."""
    brief = Enhancer().brief(EnhanceRequest(case["idea"]))
    spoken = [("The speaker", "says", brief.masked.placeholder(i)) for i in range(len(brief.quotes))]
    dialogue = [dict(zip(("speaker", "verb", "words"), line, strict=True)) for line in spoken]
    told = brief.masked.text.replace(NO_SUBTITLES, "").split()
    words = [word for word in told if word.strip(",.").isalpha() and word.isascii()]
    prose = " ".join(words[:12])
    first_frame = GOOD_FIELDS["first_frame"].replace("grey", prose or "grey")
    scripted.text = json.dumps(GOOD_FIELDS | {"first_frame": first_frame, "dialogue": dialogue})
    result = Enhancer(scripted.writer()).enhance(EnhanceRequest(case["idea"], seed=1))
    places = locate(result.text, brief.quotes)
    assert None not in places
    assert places == sorted(places)
    assert result.plan.audio
    assert result.route == "answer"


@pytest.mark.parametrize("idea", ["", "  \n\t ", "\x00\x07"])
def test_an_empty_idea_is_refused_with_a_sentence(idea):
    with pytest.raises(UserError, match="say in a few words"):
        Enhancer().enhance(EnhanceRequest(idea))


def test_an_endless_idea_is_refused_with_a_sentence():
    with pytest.raises(UserError, match=f"give up to {MAX_IDEA}"):
        Enhancer().enhance(EnhanceRequest("x" * (MAX_IDEA + 1)))


PIECES = st.sampled_from(
    [
        "<Q1>",
        "<Q2>",
        '"<Q1>."',
        "<Q9>",
        "&lt;Q2&gt;",
        "A man and a woman stand on a hill in the evening sun. ",
        "They look at each other and the wind moves their coats. ",
        "The man says, ",
        'She shouts, "Help!" ',
        "“oh”",
        "\n\n",
        "\n",
        "The audio shows wind and low voices. ",
        "The camera zooms in. ",
        "a static, motionless scene",
        "```json\n",
        "## Prompt\n",
        "- ",
        "**bold**",
        "<think>",
        "</think>",
        "<b>",
        "</b><script>alert(1)</script>",
        "Here is the prompt:\n",
        "I'm sorry, I cannot",
        NO_SUBTITLES,
        LONG,
        '"',
        "”",
        "「",
        "'",
        "\x00",
        "\u202e",
        "你好，世界。",
        "{{idea}}",
        "\\n",
        "🎈",
        " ",
    ]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=25).map("".join))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "first_frame": TEXTS,
        "progression": st.one_of(TEXTS, st.lists(TEXTS, max_size=3), st.none(), st.integers()),
        "dialogue": st.one_of(
            st.none(),
            st.lists(
                st.fixed_dictionaries({"words": PIECES}, optional={"speaker": PIECES, "verb": PIECES}),
                max_size=4,
            ),
        ),
        "audio": TEXTS,
        "title": TEXTS,
    },
)
ANSWERS = st.one_of(
    TEXTS,
    FIELDS.map(json.dumps),
    st.tuples(TEXTS, FIELDS, TEXTS).map(lambda t: t[0] + json.dumps(t[1]) + t[2]),
)
IDEAS = st.sampled_from(
    [
        'A man says "Where\'s the dog?" and a woman on the hill answers “In the garden—look!”',
        "男人说：「你好，世界！」女人说：“再见。”",
        'on a hill he says "a "b" c" near the sign "<i>X</i>"',
        "a man and a woman on a hill",
    ]
)


@pytest.mark.slow
@settings(
    max_examples=150,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking asks the server for minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ANSWERS, IDEAS)
def test_whatever_the_server_answers(scripted, answer, idea):
    scripted.reset()
    scripted.text = answer
    result = Enhancer(scripted.writer()).enhance(EnhanceRequest(idea, seed=1))
    quotes = mask_quotes(idea).quotes
    places = locate(result.text, quotes)
    assert None not in places
    assert places == sorted(places)
    assert count_words(result.text) <= 250
    assert len(result.text) <= 3600
    assert result.text.strip()
    assert result.text == plain_text(result.text)
    text = result.text
    for quote in quotes:
        text = text.replace(quote.raw, "")
    assert not any(mark in text for mark in ("<b>", "<script", "<think>", "```", "**", "{{", "<Q"))
    assert result.plan.audio
    assert result.text.endswith(NO_SUBTITLES)
    assert PromptPlan.parse(result.text) == result.plan
    assert len(scripted.requests) <= 4  # an empty stream is asked for once more, as a whole


def test_a_second_question_names_the_problems(scripted):
    scripted.steps.append(lambda h: h.answer(GOOD_ANSWER.replace(", ", "; ", 1)))
    result = Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=1))
    assert result.route == "asked again"
    assert result.text == GOOD_PROMPT
    again = scripted.requests[1][2]["messages"]
    assert [message["role"] for message in again] == ["system", "user", "assistant", "user"]
    assert "not one JSON object with the fields first_frame" in again[-1]["content"]
    assert "Expecting" in again[-1]["content"]


def test_an_answer_about_something_else_is_not_used(scripted):
    scripted.text = "0:0:0:0:0:0:0. 0{{"
    result = Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=1))
    assert result.route == "template"
    scripted.text = (
        GOOD_ANSWER.replace("fisherman", "dancer").replace("boat", "stage").replace("rain", "applause")
    )
    assert "nothing in common" in Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=1)).failure


def test_the_persons_words_never_reach_the_model(scripted):
    Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=1))
    assert "Here it comes" not in str(scripted.requests[0][2])
    assert "<Q1>" in scripted.requests[0][2]["messages"][1]["content"]


def test_repaired_answers_say_what_was_repaired(scripted):
    scripted.text = GOOD_ANSWER.replace("Drops dot", "The camera pans left. Drops dot")
    result = Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=1))
    assert result.route == "repaired"
    assert [repair.rule for repair in result.repairs] == ["camera"]
    assert result.text == GOOD_PROMPT
    assert result.violations == ()


def test_what_was_added_is_marked():
    idea = "a red ball falls"
    text = "In one room a red rubber ball falls down."
    assert [text[slice(*span)] for span in added_spans(idea, text)] == ["In one room", "rubber", "down"]


def test_drafts_show_the_words(scripted):
    drafts: list[str] = []
    Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=1), drafts.append)
    assert drafts[-1] == GOOD_PROMPT.removesuffix(f" {NO_SUBTITLES}")
    assert drafts[0]
    assert drafts[-1].startswith(drafts[0])
    assert "{" not in "".join(drafts)


def test_a_seed_is_always_reported(scripted):
    assert Enhancer().enhance(EnhanceRequest(IDEA)).seed != Enhancer().enhance(EnhanceRequest(IDEA)).seed
    assert Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA, seed=7)).seed == 7


def test_cancelling_is_passed_on(scripted):
    with pytest.raises(Cancelled):
        Enhancer(scripted.writer()).enhance(EnhanceRequest(IDEA), cancelled=lambda: True)


def test_nothing_heavy_is_imported_with_the_package():
    code = (
        "import sys, mova.prompting.enhancer, mova.cli.enhance, mova.prompting.first_frame;"
        "heavy = {'torch', 'transformers', 'openai', 'httpx', 'diffusers', 'gradio', 'tokenizers', 'PIL'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "piece", ["{", '{"audio":[', '"a ', "“a ", "「", "<think>", "<", "says '", "* ", "\n"]
)
def test_text_made_to_be_slow_is_not(scripted, piece):
    text = piece * (8000 // len(piece))
    scripted.steps.extend(
        [lambda h: h.answer(text), lambda h: h.answer(json.dumps(GOOD_FIELDS | {"progression": text}))]
    )
    started = time.monotonic()
    result = Enhancer(scripted.writer(timeout=30.0)).enhance(EnhanceRequest(IDEA, seed=1))
    assert '"Here it comes."' in result.text
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("reads_pocket", [True, False])
@pytest.mark.parametrize(
    "idea", ['a man says "hello"', "girl says hello", "ball", "play C E G", "a dragon flies"]
)
def test_candidates_differ_without_a_model_too_and_keep_the_idea(idea, reads_pocket):
    enhancer = Enhancer(reads_pocket=reads_pocket)
    results = list(enhancer.candidates(EnhanceRequest(idea, seed=1), 3))
    assert len({result.text for result in results}) == 3
    assert len({result.route for result in results}) == 1
    brief = enhancer.brief(EnhanceRequest(idea))
    assert not any(v.severity == "error" for result in results for v in check(result.text, brief))


def test_an_idea_that_is_a_prompt_already_has_one_version():
    assert [r.text for r in Enhancer().candidates(EnhanceRequest(GOOD_PROMPT), 3)] == [GOOD_PROMPT]


def test_what_pocket_can_draw_of_an_idea_is_a_candidate_and_the_rest_is_named():
    request = EnhanceRequest("red ball falls into a bucket")
    template, drawn = list(Enhancer(reads_pocket=True).candidates(request, 2))
    assert (template.route, drawn.route) == ("template", "answer")
    assert template.not_kept == drawn.not_kept == ("into a bucket: not in pocket's world",)
    assert "red rubber ball" in drawn.text and "bucket" in template.text
    assert Enhancer(reads_pocket=True).enhance(EnhanceRequest("a dragon flies")).is_outside


@pytest.mark.parametrize(
    ("idea", "language", "says"),
    [
        ("一个红色的球掉下来", "Chinese", "in English"),
        ("一只橘猫跳上窗台，看着外面的雨", "Chinese", "write it in English"),
        (
            "El hombre mira el cielo y se vuelve hacia la casa con una sonrisa",
            "Spanish",
            "write it in English",
        ),
    ],
)
def test_an_idea_in_another_language_gets_a_remark(idea, language, says):
    note = Enhancer(reads_pocket=True).enhance(EnhanceRequest(idea)).notes[-1]
    assert language in note and says in note
