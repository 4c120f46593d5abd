"""Ideas are read by code that knows nothing of how they were written."""

import re
from difflib import get_close_matches
from itertools import islice, pairwise

import numpy as np
import pytest

from mova.prompting.plan import PromptPlan
from mova.prompting.quotes import mask_quotes, restore_quotes
from mova.prompting.rules import PromptRequirements
from recipes.pocket.enhancer.hand import expand, syllables, type_out
from recipes.pocket.enhancer.ideas import OUTSIDE, Idea, draw_idea, write_idea
from recipes.pocket.enhancer.sketch import fill_in, sketch
from recipes.pocket.enhancer.vocabulary import CHINESE_WORDS, EXTRA_COLOURS_HELD_OUT, NOUNS_HELD_OUT
from recipes.pocket.evaluation.prompt_facts import (
    agrees_with_itself,
    keeps_quotes,
    split_prompt,
    states,
    wanted_facts,
)
from recipes.pocket.world.clip import SPLITS
from recipes.pocket.world.face import pair_is_held_out
from recipes.pocket.world.piano import melody_is_held_out, tune_name
from recipes.pocket.world.render import make_scene


def draw(split: str, count: int) -> list[Idea]:
    return [draw_idea(seed, split) for seed in range(count)]


@pytest.fixture(scope="module")
def ideas() -> list[Idea]:
    return [idea for split in SPLITS for idea in draw(split, 1200)]


def assert_consistent(idea: Idea) -> None:
    parts = split_prompt(idea.target, bool(idea.quotes or idea.words))
    assert parts is not None, idea
    for name, value in wanted_facts(idea.fixed, idea.words).items():
        assert states(parts, idea.family, name, value), (name, value, idea)
    assert agrees_with_itself(parts, idea.family), idea
    assert keeps_quotes(idea.text, len(idea.quotes)), idea
    assert keeps_quotes(idea.target, len(idea.quotes)), idea
    assert idea.adjective in parts.first_frame


def test_a_prompt_states_what_its_idea_fixes(ideas):
    inside = [idea for idea in ideas if idea.family != OUTSIDE]
    assert len(inside) > 1800
    for idea in inside:
        assert_consistent(idea)


def test_ideas_of_rendered_scenes_say_only_what_is_true_of_them():
    rng = np.random.default_rng(0)
    scenes = [("ball", make_scene(seed, "ball")) for seed in range(4)]
    scenes += [("piano", make_scene(seed, "piano")) for seed in range(4)]
    for family, scene in scenes * 10:
        idea = write_idea(rng, family, scene.attributes)
        assert_consistent(idea)
        for name, value in idea.fixed.items():
            true = scene.attributes[name]
            assert true in value if name == "floor" else true == value


def test_fixed_colours_stand_in_the_text(ideas):
    for idea in ideas:
        if idea.family == "ball" and "colour" in idea.fixed:
            colour, words = idea.fixed["colour"], re.findall(r"\w+", idea.text.lower())
            assert get_close_matches(colour, words, cutoff=0.55) or CHINESE_WORDS[colour] in idea.text, idea


def test_facts_are_missed_where_a_prompt_says_otherwise(ideas):
    changes = {"colour": "magenta-ish", "wall": "plaid", "notes": ("B",) * 9, "person": "robot", "bounces": 7}
    for name, other in changes.items():
        idea = next(idea for idea in ideas if name in idea.fixed and idea.fixed[name] != other)
        parts = split_prompt(idea.target, bool(idea.quotes or idea.words))
        assert not states(parts, idea.family, name, other)
    ball = next(idea for idea in ideas if idea.family == "ball" and " twice" in idea.target)
    parts = split_prompt(ball.target.replace(" twice", " four times"), False)
    assert not agrees_with_itself(parts, "ball")


def test_prompts_read_back_as_plans(ideas):
    for idea in islice((idea for idea in ideas if idea.quotes and idea.target), 200):
        plan = PromptPlan.parse(restore_quotes(idea.target, mask_quotes(idea.typed)))
        assert plan.first_frame
        assert plan.progression
        assert len(plan.dialogue) == len(idea.quotes)
        assert plan.no_subtitles
        assert PromptRequirements(idea.typed).taken.text == idea.text


def test_ideas_outside_the_world_have_no_prompt(ideas):
    outside = [idea for idea in ideas if idea.family == OUTSIDE]
    assert 300 < len(outside) < 700
    assert not any(idea.target for idea in outside)


def test_training_never_shows_what_is_held_out():
    for idea in draw("train", 3000):
        words = idea.words.split()
        if idea.family == "face" and set(words) <= {"hello", "goodbye", "yes", "no", "wow", "mama"}:
            assert not any(pair_is_held_out(a, b) for a, b in pairwise(words) if a != b)
        assert not set(NOUNS_HELD_OUT) & set(re.findall(r"\w+", idea.text.lower()))
        assert not set(EXTRA_COLOURS_HELD_OUT) & {str(value) for value in idea.fixed.values()}


def test_held_out_melodies_are_those_of_the_world(ideas):
    notes = [idea.fixed["notes"] for idea in draw("heldout", 600) if "notes" in idea.fixed]
    assert len(notes) > 60
    assert all(melody_is_held_out(melody) or tune_name(melody) for melody in notes)


def test_an_idea_depends_on_its_seed_alone():
    assert draw_idea(7) == draw_idea(7)
    assert len({idea.text for idea in draw("train", 300)}) > 280


def test_what_is_left_open_is_filled_with_defaults_of_what_is_said():
    assert fill_in("ball", {"colour": "green"}).attributes["material"] == "rubber"
    assert fill_in("ball", {"material": "metal"}).attributes["colour"] == "blue"
    assert fill_in("piano", {}).attributes["tune"] == "Twinkle, Twinkle"
    assert fill_in("face", {"person": "man"}).attributes["garment"] == "hoodie"


def test_sketches_have_every_attribute_of_a_rendered_scene():
    rng = np.random.default_rng(0)
    for family in ("ball", "piano"):
        assert sketch(rng, family).keys() == make_scene(0, family).attributes.keys()


def test_templates_expand_from_the_inside():
    rng = np.random.default_rng(0)
    texts = {expand(rng, "(a (b|c)|d|) {x}", {"x": lambda: "y"}) for _ in range(60)}
    assert texts == {"a b y", "a c y", "d y", " y"}


def test_slips_leave_known_words_and_kept_pieces_alone():
    rng = np.random.default_rng(0)
    typed = {type_out(rng, "says \ue000<Q1> abcd\ue001", frozenset({"says"})) for _ in range(300)}
    assert all("<Q1> abcd" in text for text in typed)
    assert any("says" not in text.lower() for text in typed)
    assert all(syllables(rng).isalpha() for _ in range(50))
