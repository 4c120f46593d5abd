"""Ideas read for the pocket model by word lists. tests/recipes measures on whole sets of ideas."""

import time

import pytest

from mova.prompting.enhancer import Enhancer, EnhanceRequest
from mova.prompting.plan import PromptPlan
from mova.prompting.pocket import read_idea
from tests.prompting.chat_server import GOOD_ANSWER

PARTLY = [  # idea, family, what is named as lost
    (
        'a man with brown hair and a grey beard says "hi"',
        "face",
        "grey beard: pocket draws beards in the colour",
    ),
    ("red ball and blue ball fall", "ball", "blue"),
    ("ball bounces 12 times", "ball", "12 times"),
    ("red ball falls into a bucket", "ball", "into a bucket"),
    ("a glass wall, red ball", "ball", "glass wall"),
    ("a square ball", "ball", "square"),
    ("a man plays the piano", "face", "a piano"),
    ('a boy says "hi" and a girl answers "bye"', "face", "boy and girl"),
    ('the ball says "hi"', "ball", '"hi"'),
    ("a woman in a hat", "face", "hat"),
    ("man shouts at a dog", "face", "at a dog"),
    ("woman says that she is tired", "face", "that she is tired"),
    ("girl dancing", "face", "dancing"),
    ("piano plays C# D E", "piano", "C#"),
    ("toy piano plays C D E F G A B C D", "piano", "9 notes"),
    ("green ball, no bounce", "ball", "no"),
]
NOTES = [
    ("play C E G", "C, E, G"),
    ("a piano c e g", "C, E, G"),
    ("piano plays c, d, a on a red wall", "C, D, A"),
    ("melody: do re mi", "C, D, E"),
    ("a red piano: E-D-C at a slow pace", "E, D, C"),
    ("keyboard EGBDF", "E, G, B, D, F"),
    ("play E then G and C", "E, G, C"),
    ("ode to joy", "E, E, F, G, G, F"),
    ("c major scale C D E F G A B C", "C, D, E, F, G, A, B, C"),
]


@pytest.mark.parametrize(("idea", "family", "lost"), PARTLY)
def test_what_pocket_cannot_keep_is_named(idea, family, lost):
    reading = read_idea(idea)
    assert (reading.family, reading.belongs) == (family, "partly")
    assert any(lost in fact for fact in reading.not_kept), reading.not_kept
    assert PromptPlan.parse(reading.prompt).render() == reading.prompt


@pytest.mark.parametrize(
    "idea", ["a dragon flies", "hello", 'a cat says "hi"', "violin plays C E G", "", "😀", "一只猫"]
)
def test_an_idea_of_nothing_that_pocket_draws_has_no_prompt(idea):
    reading = read_idea(idea)
    assert (reading.family, reading.belongs, reading.prompt) == ("", "not", "")


@pytest.mark.parametrize(("idea", "notes"), NOTES)
def test_notes_are_read_as_people_write_them(idea, notes):
    reading = read_idea(idea)
    assert reading.belongs == "whole", reading.not_kept
    assert f"plays {notes}:" in reading.prompt


def test_each_colour_goes_to_what_it_describes():
    idea = 'A lady with red hair in a green jumper before a pink wall: "hi"'
    assert {"hair: red", "clothes: green", "garment: striped sweater", "wall: pink"} <= set(
        read_idea(idea).kept
    )
    for idea in ('a man with a grey beard and grey hair says "hi"', 'a man with a grey beard says "hi"'):
        bearded = read_idea(idea)
        assert (bearded.belongs, "hair: grey" in bearded.kept) == ("whole", True)
        assert "short grey hair and a beard" in bearded.prompt
    piano = read_idea("blue keys, a white toy piano, cream wall, C D E")
    assert {"light: blue", "body: white", "wall: cream"} <= set(piano.kept)


def test_a_slip_of_the_finger_is_read_and_another_word_is_not_taken_for_one():
    assert "colour: purple" in read_idea("purple bal fals").kept
    assert "person: girl" in read_idea('gril says "hi"').kept
    assert read_idea("a man walking").not_kept == ("walking: not in pocket's world",)


def test_words_without_quote_marks_are_spoken_as_they_stand():
    assert '"Good morning, you two!"' in read_idea("a woman says Good morning, you two!").prompt
    assert '"I’m here"' in read_idea("a girl says I’m here").prompt
    assert '"hi, how are you?"' in read_idea("a man says hi, how are you?").prompt
    assert read_idea("Hi, play C E G").belongs == "whole"
    assert '"no"' in read_idea("bald man: no").prompt


def test_what_no_clip_of_training_had_is_named():
    assert read_idea("a tiny pink ball").unpractised == ("pink colour", "tiny")
    assert read_idea('man says "hello"').unpractised == ()
    assert read_idea('man says "hello Anna"').unpractised == ('"hello Anna"',)


def test_the_same_idea_is_the_same_prompt():
    assert read_idea("ball bounces") == read_idea("  Ball  bounces. ")


@pytest.mark.parametrize("piece", ["a ", "red ", "C ", "do ", "says ", "a, ", "球", '"', "(", "then "])
def test_an_endless_idea_is_read_in_no_time(piece):
    started = time.process_time()
    read_idea(piece * (60_000 // len(piece)))
    assert time.process_time() - started < 2


def test_an_idea_in_part_of_pocket_goes_to_the_template_and_says_why():
    result = Enhancer(reads_pocket=True).enhance(EnhanceRequest("red ball falls into a bucket", seed=1))
    assert result.route == "template"
    assert "Red ball falls into a bucket" in result.text
    assert not result.failure
    assert "lacks a part of the idea (into a bucket: not in pocket's world)" in result.notes[0]
    assert "connect a server" in result.notes[0]


def test_a_first_frame_is_for_the_template_as_word_lists_see_nothing():
    request = EnhanceRequest("red ball falls", first_frame="A red ball.", seed=1)
    result = Enhancer(reads_pocket=True).enhance(request)
    assert result.route == "template"
    assert "first frame" in result.notes[0]


def test_a_writer_is_asked_for_what_word_lists_lack(scripted):
    scripted.text = GOOD_ANSWER
    enhancer = Enhancer(scripted.writer(), reads_pocket=True)
    assert enhancer.enhance(EnhanceRequest("red ball falls", seed=1)).model == "pocket's word lists"
    result = enhancer.enhance(
        EnhanceRequest('a fisherman on a boat says "Here it comes." as rain starts', seed=1)
    )
    assert result.model not in ("", "pocket's word lists")
    assert result.notes == ()
