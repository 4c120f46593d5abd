"""What an idea names is in its prompt: rules that see what is lost."""

import pytest

from mova.prompting.prompt_files import load_words
from mova.prompting.rules import PromptRequirements, check
from mova.prompting.template import write_template

LOST = [  # idea, prompt, rule, the words that are missed
    ("scarlet ball falls", "A red ball falls.", "named", "scarlet"),
    ("a ball made of wood", "A glass ball above a dark wooden floor.", "named", "wood"),
    ("cream wall, red ball", "A blue ball before a cream wall.", "named", "red"),
    ("一个红色的球", "A blue ball falls.", "named", "红色"),
    ("play C E G", "The keys C, G and E sink.", "notes", "C E G"),
    ("notes D and F", "The keys D, F and A sink.", "notes", "D and F"),
    ("girl says spaghetti", 'The girl says, "spaspetti"', "unquoted_speech", "spaghetti"),
    ("a man saying: hurry up!", "A man speaks.", "unquoted_speech", "hurry up"),
]
KEPT = [
    ("a steel ball, grey", "A gray ball of metal falls."),
    ("red rubber ball on wooden floor", "A red rubber ball falls on an oak floor."),
    ("一个红色的球", "A red ball falls."),
    ("play C E G. A toy piano", "The keys C-E-G sink. A note floats up."),
    ("用玩具钢琴弹C E G", "The keys C, E and G sink."),
    ("notes: D, then F", "The keys D and F sink."),
    ("Vitamin B and C on a table", "A bottle of tablets on a table."),
    ('girl says "spaghetti"', 'The girl says, "spaghetti"'),
    ("a man says nothing", "A man looks up."),
    ("a man says that the shop is closed", "A man speaks."),
    ("she says hurry up", "She says to hurry, and looks up."),
    ("the sun rose", "The sun climbs over the hill."),
    ('a sign reads "red"', 'A sign reads "red".'),
]


def lost(idea: str, prompt: str) -> list[tuple[str, str]]:
    named = ("named", "notes", "unquoted_speech")
    return [(v.rule, v.message) for v in check(prompt, PromptRequirements(idea)) if v.rule in named]


@pytest.mark.parametrize(("idea", "prompt", "rule", "words"), LOST)
def test_a_prompt_without_what_the_idea_names_is_told_what_it_lacks(idea, prompt, rule, words):
    ((found, message),) = lost(idea, prompt)
    assert found == rule
    assert words in message


@pytest.mark.parametrize(("idea", "prompt"), KEPT)
def test_the_same_thing_in_other_words_is_not_lost(idea, prompt):
    assert lost(idea, prompt) == []


@pytest.mark.parametrize(("idea", "prompt", "rule", "words"), LOST)
def test_the_template_loses_nothing(idea, prompt, rule, words):
    assert lost(idea, write_template(PromptRequirements(idea))) == []


def test_an_endless_idea_is_searched_in_no_time():
    idea = "says " * 12_000
    assert lost(idea, "Someone speaks.") == []


def test_each_word_stands_once_in_its_list():
    for name in ("colours", "materials"):
        words = [word.strip() for line in load_words(name) for word in line.split(",")]
        assert len(words) == len(set(words))
        assert all(word == word.lower() for word in words)
