"""The bank of scenes is what its recipe writes, and what is drawn from it is the world's own."""

import numpy as np
import pytest

from mova.prompting.scenes import BANK, FIRST_SKIN, draw_scene, layout_of
from recipes.pocket.evaluation.faces import Place, find_face
from recipes.pocket.scenes import draw_directly, write_bank
from recipes.pocket.world.ball import BALL_COLOURS, MATERIALS
from recipes.pocket.world.person import CLOTHES, GARMENTS, HAIR_COLOURS, STYLES
from recipes.pocket.world.piano import BODIES
from recipes.pocket.world.rooms import FLOORS, WALLS


def test_the_bank_is_what_the_recipe_writes(tmp_path):
    write_bank(tmp_path / "scenes.npz")
    with np.load(tmp_path / "scenes.npz") as made, np.load(BANK) as kept:
        assert set(made) == set(kept)
        assert max(int(np.abs(made[name].astype(int) - kept[name]).max()) for name in made) <= 2


def scenes():
    """Facts of every family, in which each value of the world occurs."""
    rng = np.random.default_rng(0)
    pick = lambda names: list(names)[int(rng.integers(len(names)))]  # noqa: E731
    for person, styles in STYLES.items():
        for style in styles:
            facts = {"person": person, "style": style, "hair": pick(HAIR_COLOURS), "garment": pick(GARMENTS)}
            facts |= {"clothes": pick(CLOTHES), "wall": pick(WALLS), "glasses": pick(("", "glasses"))}
            yield "face", facts | {"beard": pick(("", "beard", "moustache")) if person == "man" else ""}
    for material, colour in zip([*MATERIALS, *MATERIALS], [*BALL_COLOURS, "red", "blue"], strict=True):
        facts = {"material": material, "colour": colour, "floor": pick(FLOORS), "wall": pick(WALLS)}
        yield "ball", facts | {"height": pick(("high", "low"))}
    for body in BODIES:
        yield "piano", {"body": body, "wall": pick(WALLS)}


@pytest.mark.parametrize(("family", "facts"), list(scenes()))
def test_a_scene_from_the_bank_is_what_the_world_draws(family, facts):
    skin = {"skin": str(FIRST_SKIN.get(facts.get("person"), 0)), "iris": "0"}
    own = draw_directly(facts | skin).transpose(1, 2, 0).clip(0, 255)
    difference = np.abs(draw_scene(family, facts).frame - own)
    assert difference.mean() < 0.5
    assert np.percentile(difference, 99.9) < 4


@pytest.mark.parametrize("person", ["man", "woman", "child"])
def test_the_detectors_find_a_drawn_face_at_its_place(person):
    facts = {"person": person, "style": "short", "hair": "black", "garment": "hoodie", "clothes": "red"}
    facts |= {"wall": "peach"}
    layout = layout_of("face", facts)
    place = Place(person, layout["half_head"], layout["x"], layout["y"])
    frames = np.repeat(draw_scene("face", facts).frame[None], 7, 0)
    assert find_face(frames, place).is_whole
