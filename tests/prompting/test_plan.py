import json

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mova.errors import UserError
from mova.prompting.plan import (
    NO_SUBTITLES,
    SCHEMA,
    DialogueLine,
    PromptFields,
    PromptPlan,
    SpokenWords,
    read_draft,
    read_fields,
)
from mova.prompting.quotes import mask_quotes
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
        st.sampled_from(["The man says, ", "An old woman in red says, ", ""]),
        st.text(min_size=1, max_size=20),
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
def test_every_plan_that_passes_the_check_reads_back_as_itself(
    first_frame, progression, lines, audio, no_subtitles
):
    try:
        dialogue = tuple(DialogueLine(*line) for line in lines)
        audio = f"The audio shows {audio}".strip() if audio else ""
        plan = PromptPlan(first_frame, progression, dialogue, audio, no_subtitles)
        plan.check()
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
        {"first_frame": "A man.", "dialogue": (DialogueLine("The man says, ", 'a" b'),)},
        {"first_frame": "A man.", "dialogue": (DialogueLine("The man looks at ", "a"),)},
        {"first_frame": 'The man says, "Hi."'},
        {"first_frame": f"A man. {NO_SUBTITLES}", "no_subtitles": False},
    ],
)
def test_a_plan_that_would_read_back_differently_is_refused(fields):
    with pytest.raises(UserError, match="does not read back"):
        PromptPlan(**fields).check()


FIELDS_READ = PromptFields(
    first_frame="A man waits.",
    progression="He turns.",
    dialogue=[SpokenWords(speaker="The man", verb="whispers", words="<Q1>")],
    audio="Rain.",
)
TEXT_READ = 'A man waits.\n\nHe turns.\n\nThe man whispers, "Hi."\n\nThe audio shows rain.'
PLAIN = FIELDS_READ.model_dump()


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(PLAIN),
        f"```json\n{json.dumps(PLAIN, indent=1)}\n```",
        f"Sure! Here it is:\n{json.dumps(PLAIN)}\nAnything else?",
        f'<think>{{"audio": "a draft"}} {{}} {{</think>{json.dumps(PLAIN)}',
        f'{{"audio": "a draft"}} or rather {json.dumps(PLAIN)}',
        json.dumps({"prompt": PLAIN}),
        json.dumps(PLAIN | {"title": "Hi", "mood": 3, "camera": ["none"]}),
        json.dumps(PLAIN | {"progression": ["He turns."]}),
        json.dumps(PLAIN | {"first_frame": "A man\n\n waits."}),
        json.dumps(PLAIN | {"audio": "The audio shows rain."}),
        json.dumps(PLAIN | {"dialogue": [{"speaker": "The man whispers, ", "words": "“<Q1>.”"}]}),
        json.dumps(PLAIN | {"dialogue": [*PLAIN["dialogue"], {"words": "<Q1>"}, {"words": ""}]}),
        json.dumps(PLAIN).replace("A man waits.", "A man\n waits."),  # a line break that JSON does not allow
    ],
)
def test_fields_are_found_in_whatever_is_around_and_in_them(answer):
    assert read_fields(answer).text(mask_quotes('he whispers "Hi."'), no_subtitles=False) == TEXT_READ


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            "I'm sorry, I cannot help.",
            "not one JSON object with the fields first_frame, progression, dialogue",
        ),
        ("", "not one JSON object"),
        ('{"title": "Hi"}', "not one JSON object"),
        ('{"first_frame": "A man",}', "not one JSON object .*: .* near"),
        ('{"first_frame": "A man', "not one JSON object .*: Unterminated string"),
        ("{'first_frame': 'A man'}", "not one JSON object .*: Expecting property name"),
        ('{"audio":[' * 5000, "not one JSON object .*: it is nested too deeply"),
        (json.dumps(PLAIN | {"first_frame": 3}), "in its JSON first_frame must be text"),
        (
            json.dumps(PLAIN | {"dialogue": [{"words": {}}], "audio": {}}),
            r"dialogue\.0\.words, audio must be",
        ),
        (json.dumps(PLAIN | {"dialogue": "<Q1>"}), "in its JSON dialogue must be"),
    ],
)
def test_an_answer_without_usable_fields_is_told_from_one_with_them(answer, problem):
    with pytest.raises(ValueError, match=problem):
        read_fields(answer)


def test_words_that_are_not_the_persons_stand_in_quotes_for_the_rules_to_see():
    fields = PromptFields(dialogue=[SpokenWords(speaker="He", verb="says", words="What a day!")])
    assert fields.text(mask_quotes("a man"), no_subtitles=False) == 'He says, "What a day!"'


def test_words_read_in_the_picture_are_not_spoken_again():
    fields = PromptFields(
        first_frame="A sign reads <Q1>.", dialogue=[SpokenWords(speaker="It", verb="says", words="<Q1>")]
    )
    assert fields.text(mask_quotes('a sign "OPEN"'), no_subtitles=False) == 'A sign reads "OPEN".'


def test_the_schema_has_the_fields_that_are_read():
    assert list(SCHEMA["properties"]) == SCHEMA["required"] == list(PromptFields.model_fields)
    line = SCHEMA["properties"]["dialogue"]["items"]
    assert list(line["properties"]) == line["required"] == list(SpokenWords.model_fields)


def test_a_draft_shows_what_is_written_so_far():
    whole = f"Here: {json.dumps(PLAIN)}"
    masked = mask_quotes('he whispers "Hi."')
    drafts = [read_draft(whole[:end]).text(masked, no_subtitles=False) for end in range(len(whole) + 1)]
    assert drafts[0] == ""
    assert "A man wa" in drafts
    assert drafts[-1] == TEXT_READ
