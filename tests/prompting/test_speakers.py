"""Who speaks, as the template names it: a noun phrase or nobody, and lips where there are lips."""

import pytest

from mova.prompting.plan import PromptPlan
from mova.prompting.rules import PromptRequirements
from mova.prompting.speakers import noun_phrase
from mova.prompting.template import write_template

PHRASES = [
    ("a baker lifts the bread and", "a baker"),
    ("Two girls jump and", "Two girls"),
    ("two old men", "two old men"),
    ("a man with red glasses", "a man"),
    ("old man smiles and", "old man"),
    ("the smiling woman in white", "the smiling woman"),
    ("a man walking down the street", "a man"),
    ("a waitress", "a waitress"),
    ("Anna lifts the cup and", "Anna"),
    ("In a kitchen a baker", "a baker"),
    ("On the hill Anna", ""),
    ("he", ""),
    ("two run and", ""),
    ("", ""),
    ("一个男人", "一个男人"),
]
OPENINGS = [
    (
        'a baker lifts the bread and says "still warm"',
        "The shot opens on a baker, lips closed, about to speak.",
    ),
    ('old man says "no"', "The shot opens on the old man, lips closed, about to speak."),
    ('Anna: "We should go."', "The shot opens on Anna, lips closed, about to speak."),
    ('he says "no"', "The shot opens on the speaker, lips closed, about to speak."),
    ('a parrot on a perch says "hi"', "The shot opens on a parrot, a moment before the words are heard."),
    ('"is anybody there?"', "The shot opens a moment before the words are heard."),
    ('On the hill Anna says "look"', "The shot opens a moment before the words are heard."),
]
WITHOUT_LIPS = [
    'a dog barks "woof"',
    'a parrot says "hi"',
    '"hello"',
    'a sign reads "OPEN"',
    "rain on a roof",
]


@pytest.mark.parametrize(("name", "phrase"), PHRASES)
def test_of_a_speaker_the_noun_phrase_is_taken_and_nothing_else(name, phrase):
    assert noun_phrase(name) == phrase


@pytest.mark.parametrize(("idea", "opening"), OPENINGS)
def test_the_template_opens_on_a_noun_phrase_or_on_nobody(idea, opening):
    assert PromptPlan.parse(write_template(PromptRequirements(idea))).first_frame == opening


@pytest.mark.parametrize("idea", WITHOUT_LIPS)
def test_no_lips_are_shown_where_no_person_speaks(idea):
    text = write_template(PromptRequirements(idea))
    assert "lips" not in text
    assert ("spoken words" in text) == ("says" in idea or idea[0] == '"')
    assert "in step with the lips" in write_template(PromptRequirements('a nurse says "hi"'))
