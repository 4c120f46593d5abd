"""What an idea names is in its prompt: rules that see what is lost, and colours under other names."""

import pytest

from mova.prompting.enhancer import Enhancer, EnhanceRequest
from mova.prompting.plan import NO_SUBTITLES
from mova.prompting.prompt_files import load_words
from mova.prompting.rules import PromptRequirements, check
from mova.prompting.stand_ins import StandIns
from mova.prompting.template import write_template
from mova.prompting.writers import WriterAnswer, WriterRequest

PROMPT = (
    "A {ball} hangs above {floor} floor in front of a {wall} wall.\n\nThe ball drops and bounces twice.\n\n"
    f"The audio shows two short dry knocks. {NO_SUBTITLES}"
)
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
    assert StandIns.of("scarlet " * 7_000, "", []).restore("a green ball") == "a scarlet ball"


def test_each_word_stands_once_in_its_list():
    for name in ("colours", "materials"):
        words = [word.strip() for line in load_words(name) for word in line.split(",")]
        assert len(words) == len(set(words))
        assert all(word == word.lower() for word in words)


def test_stand_ins_are_found_again_where_their_colours_were():
    idea = "An indigo ball, a khaki wall"
    stand_ins = StandIns.of(idea, "", ["indigo", "khaki"])
    assert stand_ins.put(idea) == "A green ball, a pink wall"
    told = "A green ball of glass before a pink wall; the green ball falls. Greenish light, mint green."
    assert stand_ins.restore(told) == (
        "An indigo ball of glass before a khaki wall; the indigo ball falls. Greenish light, mint green."
    )


def test_a_colour_that_was_there_unasked_stands_for_none():
    assert StandIns.of("scarlet ball", "A green ball.", ["scarlet"]).pairs == (("scarlet", "red"),)
    assert StandIns.of("scarlet, red and purple", "A green ball.", []) is None
    assert StandIns.of("a ball", "A green ball.", []) is None


def test_only_lost_colours_get_stand_ins_if_any_is_lost():
    assert StandIns.of("peach wall, sepia ball", "", ["sepia"]).pairs == (("sepia", "green"),)
    assert len(StandIns.of("purple ball of wood", "", ["wood"]).pairs) == 1


class ForgetfulWriter:
    """Knows five colours and takes any other for blue, as a model does that never saw them."""

    identity = "forgetful"
    follows_instructions = False
    sees = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def write(self, ask: WriterRequest, on_text, cancelled) -> WriterAnswer:
        self.asked.append(ask.idea)
        colour = next((word for word in ask.idea.split() if word in ("red", "green", "purple")), "blue")
        if "ball" not in ask.idea:
            return WriterAnswer("", "forgetful")
        text = PROMPT.format(ball=f"{colour} wooden ball", floor="a slate", wall="cream")
        on_text(text)
        return WriterAnswer(text, "forgetful")


def test_a_colour_that_a_small_model_does_not_know_is_asked_for_under_another_name():
    writer, drafts = ForgetfulWriter(), []
    result = Enhancer(writer).enhance(EnhanceRequest("amber ball falls", seed=1), drafts.append)
    assert writer.asked == ["amber ball falls", "green ball falls"]
    assert result.route == "asked again"
    assert result.plan.first_frame.startswith("An amber wooden ball hangs")
    assert drafts[-1] == result.text
    assert not result.failure


def test_an_idea_that_a_small_model_hands_back_is_written_by_the_template():
    result = Enhancer(ForgetfulWriter()).enhance(EnhanceRequest("a dragon flies", seed=1))
    assert result.route == "template"
    assert not result.failure
    assert "outside what this small model knows, so the template wrote" in result.notes[0]
    assert "dragon flies" in result.text


def test_a_small_model_that_sees_nothing_writes_for_no_picture():
    writer = ForgetfulWriter()
    result = Enhancer(writer).enhance(EnhanceRequest("red ball falls", first_frame="A red ball.", seed=1))
    assert result.route == "template"
    assert "cannot see the first frame" in result.notes[0]
    assert writer.asked == []


def test_what_a_small_model_cannot_be_told_otherwise_is_written_by_the_template():
    result = Enhancer(ForgetfulWriter()).enhance(EnhanceRequest("blue bamboo ball falls", seed=1))
    assert result.route == "template"
    assert 'did not keep all of the idea (the idea says "bamboo"' in result.notes[0]
