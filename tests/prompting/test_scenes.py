"""The bank of scenes: whole, small, and in the colours that are asked for."""

from itertools import product

import numpy as np
import pytest

from mova.prompting.phrases import load_lists
from mova.prompting.pocket import read_idea
from mova.prompting.scenes import (
    BANK,
    VARIANTS,
    ball_parts,
    draw_scene,
    face_parts,
    layout_of,
    piano_parts,
    rgb_of,
)

FACE = {
    "person": "man",
    "style": "short",
    "hair": "brown",
    "garment": "hoodie",
    "clothes": "blue",
    "wall": "cream",
}
BALL = {"material": "wood", "colour": "red", "height": "high", "floor": "oak", "wall": "cream"}
PIANO = {"body": "red", "wall": "cream"}
PRACTISED = {name: values.split("|") for name, values in load_lists("scenes")["practised"].items()}


@pytest.fixture(scope="module")
def part_names():
    with np.load(BANK) as arrays:
        return {name.partition(":")[0] for name in arrays if name.endswith(":add")}


def test_the_bank_is_small():
    assert BANK.stat().st_size < 1_000_000


def test_every_person_ball_and_piano_of_the_world_has_its_parts(part_names):
    lists = load_lists("scenes")
    people, styles = lists["face"]["people"], lists["face"]["hair"]
    for variant in range(VARIANTS):
        for person, style, garment, clothes, glasses in product(
            people, styles, PRACTISED["garment"], ("white", "red"), ("", "glasses")
        ):
            for beard in ("", "beard", "moustache") if person == "man" else ("",):
                facts = {"person": person, "style": style, "garment": garment, "clothes": clothes}
                facts |= {"beard": beard, "glasses": glasses}
                assert {*face_parts(facts, variant)} <= part_names
        ball = lists["ball"]
        for material, floor, height in product(ball["stuff"], ball["floor"], ball["height"]):
            facts = {"material": material, "floor": floor, "height": height, "colour": "red"}
            assert {*ball_parts(facts, variant)} <= part_names
        assert {*piano_parts({}, variant)} <= part_names


@pytest.mark.parametrize(
    ("family", "facts", "thing", "place"),
    [
        ("face", FACE, "wall", (4, 4)),
        ("face", FACE, "clothes", (125, 70)),
        ("face", FACE, "hair", (30, 112)),
        ("ball", BALL, "wall", (4, 112)),
        ("piano", PIANO, "body", (50, 90)),
        ("piano", PIANO, "wall", (4, 112)),
    ],
)
def test_every_colour_of_the_world_is_drawn_as_its_own(family, facts, thing, place):
    table = {"body": "body", "wall": "wall", "clothes": "clothes", "hair": "hair"}[thing]
    for colour in PRACTISED[table]:
        shown = draw_scene(family, facts | {thing: colour})
        assert shown.differs == ()
        assert np.abs(shown.frame[place] - rgb_of(thing, colour)).max() < 32, colour


def test_the_same_facts_are_the_same_picture_and_a_variant_is_another():
    pictures = [draw_scene("face", FACE, variant).frame for variant in range(VARIANTS)]
    assert np.array_equal(pictures[0], draw_scene("face", FACE).frame)
    assert len({picture.tobytes() for picture in pictures}) == VARIANTS
    assert pictures[0].shape == (128, 224, 3)


def test_another_colour_than_the_worlds_is_drawn_where_it_has_a_value_and_said_where_not():
    pink = draw_scene("ball", BALL | {"colour": "pink"})
    assert pink.differs == ()
    assert not np.array_equal(pink.frame, draw_scene("ball", BALL).frame)
    celadon = draw_scene("ball", BALL | {"colour": "celadon"})
    assert celadon.differs == ("celadon colour: drawn red",)
    assert np.array_equal(celadon.frame, draw_scene("ball", BALL).frame)


@pytest.mark.parametrize(
    ("idea", "differs"),
    [
        ('a woman in a navy dress says "hi"', "dress: drawn as a T-shirt"),
        ('a girl with a beard says "hi"', "beard: drawn without"),
        ("a tiny red ball falls", "tiny: not seen in the picture"),
    ],
)
def test_what_the_bank_lacks_is_drawn_nearest_and_said(idea, differs):
    reading = read_idea(idea)
    assert differs in draw_scene(reading.family, reading.scene).differs


def test_the_layout_is_where_the_ball_is():
    layout = layout_of("ball", BALL)
    frame = draw_scene("ball", BALL | {"material": "rubber"}).frame[:80, 60:160].astype(float)
    red = frame[..., 0] - frame[..., 1:].max(-1) > 90
    rows, columns = np.nonzero(red)
    assert abs(rows.mean() - layout["y"]) < 2
    assert abs(60 + columns.mean() - layout["x"]) < 2
