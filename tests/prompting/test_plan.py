import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mova.errors import UserError
from mova.prompting.plan import NO_SUBTITLES, DialogueLine, PromptPlan
from recipes.pocket.captions import describe
from recipes.pocket.world.render import make_scene

PIECES = st.sampled_from(
    [
        "A man waits",
        "The man says, ",
        '"Hi."',
        "“Bonjour, ça va ?”",
        "「你好」",
        "她说：",
        ". ",
        "\n",
        "\n\n",
        " ",
        "The audio shows rain.",
        "In the background, a dog barks.",
        NO_SUBTITLES,
        '"',
        "”",
        "'",
        "A sign reads ",
        ":",
        "🎈",
        "\u200fשלום",
        "\x1c",
        "\u2028",
        "İ",
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join))
FIELDS = st.one_of(
    st.sampled_from(["", "A man waits.", "He walks to the door.", "A sign reads “OPEN”"]),
    st.text(max_size=20).map(lambda text: " ".join(text.split())),
)
LINES = st.lists(
    st.tuples(
        st.sampled_from(["The man", "An old woman in red", ""]), st.text(min_size=1, max_size=20), st.just("")
    ),
    max_size=3,
)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example('"0"THE AUDIO:SAY"0"')
def test_reading_a_text_loses_nothing_but_whitespace(text):
    plan = PromptPlan.parse(text)
    assert "".join(plan.render().split()) == "".join(text.split())
    assert PromptPlan.parse(plan.render()) == plan


@settings(max_examples=300, deadline=None)
@given(FIELDS, FIELDS, LINES, FIELDS, st.booleans())
def test_every_plan_reads_back_as_itself(first_frame, progression, lines, audio, no_subtitles):
    try:
        dialogue = tuple(DialogueLine.said(*line) for line in lines)
        audio = f"The audio shows {audio}".strip() if audio else ""
        plan = PromptPlan(first_frame, progression, dialogue, audio, no_subtitles)
    except UserError:
        assume(False)
    assert PromptPlan.parse(plan.render()) == plan


@pytest.mark.parametrize("family", ["ball", "piano"])
def test_captions_of_the_procedural_world_are_plans(family):
    rng = np.random.default_rng(0)
    for seed in range(12):
        parts = describe(rng, family, make_scene(seed, family))
        for no_subtitles in (True, False):
            text = parts.full(no_subtitles)
            plan = PromptPlan.parse(text)
            assert plan == PromptPlan(
                parts.first_frame, parts.progression, (), parts.audio, no_subtitles=no_subtitles
            )
            assert plan.render() == text


@pytest.mark.parametrize(
    ("dialogue", "speaker"),
    [
        ('The man says, "hello, moon"', "The man"),
        ('The child in the red hoodie says: "Good morning!"', "The child in the red hoodie"),
        ('Looking at the camera, the woman says "yes."', "Looking at the camera, the woman"),
        ('The man with curly black hair says, "no"', "The man with curly black hair"),
    ],
)
def test_captions_of_talking_faces_have_a_line_with_its_speaker(dialogue, speaker):
    text = f"A man waits.\n\nThe lips open.\n\n{dialogue}\n\nThe audio shows a voice. {NO_SUBTITLES}"
    plan = PromptPlan.parse(text)
    assert [line.speaker for line in plan.dialogue] == [speaker]
    assert plan.render() == text


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ('The man says, "Hello."', "English"),
        ("他说：“你好。”", "Chinese"),
        ('She answers in French, "Oui."', "French"),
        ("The girl says, 「こんにちは」", "Japanese"),
        ('He says "Привет"', "Russian"),
    ],
)
def test_a_line_knows_its_language(line, language):
    assert PromptPlan.parse(line).dialogue[0].language == language


def test_text_on_a_sign_is_no_dialogue():
    plan = PromptPlan.parse('A street at night.\n\nA neon sign reads: "OPEN"')
    assert plan.dialogue == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"audio": "rain on a roof"},
        {"progression": "He waits."},
        {"first_frame": "A man.\n\nA dog."},
        {"first_frame": 'The man says, "Hi."'},
        {"first_frame": f"A man. {NO_SUBTITLES}", "no_subtitles": False},
    ],
)
def test_a_plan_that_would_read_back_differently_is_refused(fields):
    with pytest.raises(UserError, match="does not read back"):
        PromptPlan(**fields)


def test_a_line_whose_words_would_be_cut_is_refused():
    with pytest.raises(UserError, match="does not read as one spoken line"):
        DialogueLine("The man says, ", 'a" b')
