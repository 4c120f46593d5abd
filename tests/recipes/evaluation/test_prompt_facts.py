"""Prompts that the product writes for pocket from short ideas, held against the facts of the ideas."""

import json
from pathlib import Path

import pytest

from mova.catalog import PROMPTS
from mova.prompting.enhancer import Enhancer, EnhanceRequest
from recipes.pocket import captions
from recipes.pocket.evaluation.prompt_facts import (
    BY_WRITER,
    OUTSIDE,
    agrees_with_itself,
    is_handed_over,
    lost_facts,
    read_ideas,
    split_prompt,
    states,
)
from recipes.pocket.world.ball import BALL_COLOURS
from recipes.pocket.world.person import CLOTHES, GARMENTS, HAIR_COLOURS
from recipes.pocket.world.piano import BODIES, TUNES
from recipes.pocket.world.rooms import WALLS
from recipes.pocket.world.speech import PEOPLE, WORDS

IDEAS = read_ideas(Path(__file__).parents[2] / "prompting" / "pocket_ideas.json")
SCENES = json.loads((PROMPTS / "pocket" / "scenes.json").read_text(encoding="utf-8"))


def enhance(text):
    return Enhancer(reads_pocket=True).enhance(EnhanceRequest(text, seed=0))


@pytest.mark.parametrize(("name", "passing", "serving"), [("by hand", 0.98, 0.99), ("held out", 0.95, 0.97)])
def test_ideas_of_the_world_become_prompts_with_all_their_facts(name, passing, serving):
    ideas = [idea for idea in IDEAS[name] if idea.family != OUTSIDE]
    results = [enhance(idea.text) for idea in ideas]
    faults = {
        idea.text: lost
        for idea, result in zip(ideas, results, strict=True)
        if (lost := lost_facts(idea, result))
    }
    handed = [is_handed_over(idea, result) for idea, result in zip(ideas, results, strict=True)]
    unserved = [
        idea.text
        for idea, is_handed in zip(ideas, handed, strict=True)
        if idea.text in faults and not is_handed
    ]
    assert len(ideas) in (95, 319)
    assert len(faults) <= (1 - passing) * len(ideas), faults
    assert len(unserved) <= (1 - serving) * len(ideas), unserved


@pytest.mark.parametrize("name", IDEAS)
def test_ideas_from_outside_the_world_are_handed_back(name):
    outside = [idea.text for idea in IDEAS[name] if idea.family == OUTSIDE]
    assert len(outside) in (28, 80)
    assert [text for text in outside if enhance(text).route in BY_WRITER] == []


def test_facts_are_missed_where_a_prompt_says_otherwise():
    prompt = enhance("a red rubber ball bounces twice, pink wall").text
    ball = split_prompt(prompt, False)
    changes = {
        "colour": ("red", "blue"),
        "material": ("rubber", "glass"),
        "bounces": (2, 7),
        "wall": ("pink", "plaid"),
    }
    for name, (right, wrong) in changes.items():
        assert states(ball, "ball", name, right)
        assert not states(ball, "ball", name, wrong)
    assert agrees_with_itself(ball, "ball")
    assert not agrees_with_itself(split_prompt(prompt.replace(" twice", " four times"), False), "ball")
    face = split_prompt(enhance('a man says "hi"').text, True)
    assert states(face, "face", "person", "man")
    assert not states(face, "face", "person", "robot")
    piano = split_prompt(enhance("play C E G").text, False)
    assert states(piano, "piano", "notes", tuple("CEG"))
    assert not states(piano, "piano", "notes", tuple("CEGB"))


def test_sentences_are_those_of_captions():
    """All but the second line of a dialogue and a single note, which no clip has."""
    face, ball, piano = SCENES["face"], SCENES["ball"], SCENES["piano"]
    wears = [s.replace("{wears}", wear) for s in captions.FACE_FIRST_FRAME for wear in captions.WEARS]
    assert face["first_frame"] in wears
    assert {face["who"], face["smiling"]} <= set(captions.PERSON)
    assert {face["progression"], face["progression blinking"]} <= set(captions.FACE_PROGRESSION)
    assert face["dialogue"].replace("{quote}", '"{quote}"') in captions.DIALOGUE
    assert face["audio"] in captions.FACE_AUDIO
    assert face["hair"] == captions.HAIR
    assert ball["first_frame"] in captions.BALL_FIRST_FRAME
    assert ball["ball"] in captions.BALL
    drifting = {text.replace("{drift}", "{direction}") for text in captions.BALL_PROGRESSION}
    assert {ball["progression"], ball["progression once"]} <= drifting
    assert ball["audio"] in captions.BALL_AUDIO
    assert ball["floor"] == captions.FLOOR
    assert ball["height"].items() <= captions.HEIGHT.items()
    for name, phrase in ball["start"].items():
        assert phrase in captions.START[name]
    for name, phrase in ball["direction"].items():
        assert phrase in captions.DRIFT[name]
    for material, look in captions.LOOK.items():
        stuff = ball["stuff"][material]
        assert stuff["look"] in look
        assert set(stuff["sounds"]) == set(captions.IMPACT[material])
        assert stuff["adjective"] == captions.ADJECTIVE[material]
    assert piano["first_frame"] in captions.PIANO_FIRST_FRAME
    assert piano["piano"] in captions.PIANO
    assert piano["progression"] in captions.PIANO_PROGRESSION
    hints = {piano["progression"] + hint for hint in captions.TUNE_HINT}
    assert piano["progression of a tune"] in hints
    assert piano["audio"] in captions.PIANO_AUDIO
    assert piano["pace"] == captions.PACE
    assert piano["rainbow"] in captions.RAINBOW
    assert {name: tuple(notes) for name, notes in piano["tunes"].items()} == TUNES
    assert SCENES["times"] == list(captions.COUNTS.values())
    assert SCENES["numbers"] == list(captions.NUMBERS.values())
    assert set(PEOPLE) == face["people"].keys()


def test_what_is_said_to_be_practised_is_what_the_world_draws():
    practised = {name: set(values.split("|")) for name, values in SCENES["practised"].items()}
    assert practised == {
        "colour": set(BALL_COLOURS),
        "light": {*BALL_COLOURS, "rainbow"},
        "body": set(BODIES),
        "clothes": set(CLOTHES),
        "hair": set(HAIR_COLOURS),
        "wall": set(WALLS),
        "garment": set(GARMENTS),
    }
    assert set(SCENES["spoken"].split()) == set(WORDS)
