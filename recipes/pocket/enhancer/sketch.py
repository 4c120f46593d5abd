"""Scenes without pictures and sound: attributes as the world draws them, and defaults for those left open.

The defaults are a fixed function of what is said, so that one idea has one prompt: walls that set off the
colour of what stands before them, as many bounces as the material has, a known tune where no notes are named.
"""

import numpy as np

from recipes.pocket.world.ball import BALL_COLOURS, DIRECTIONS, MATERIALS
from recipes.pocket.world.clip import Attributes, Events, Impact, Note, Scene
from recipes.pocket.world.face import choose_words
from recipes.pocket.world.person import choose_person
from recipes.pocket.world.piano import BODIES, KEYS, TUNES, choose_melody, tune_name
from recipes.pocket.world.rooms import FLOORS, WALLS
from recipes.pocket.world.speech import PEOPLE

NO_FRAMES = np.zeros((0, 0, 0, 3), np.uint8)
NO_SOUND = np.zeros(0, np.float32)
CONTRAST = {
    **{"red": "sky blue", "orange": "mint green", "yellow": "lavender", "green": "peach", "blue": "cream"},
    **{"purple": "lemon yellow", "white": "pink", "pink": "mint green", "turquoise": "lemon yellow"},
}
PLAIN_WALL = "pale grey"
MATERIAL_OF = {
    **{"red": "rubber", "green": "rubber", "orange": "wood", "blue": "metal", "yellow": "glass"},
    "purple": "glass",
}
COLOUR_OF = {"rubber": "red", "wood": "orange", "metal": "blue", "glass": "purple"}
FLOOR_OF = {"rubber": "oak", "wood": "slate", "metal": "terracotta", "glass": "dark wood"}
DIRECTION_OF = {"rubber": "right", "wood": "straight down", "metal": "left", "glass": "straight down"}
BOUNCES = {"rubber": 3, "wood": 2, "metal": 3, "glass": 4}  # what the world's balls mostly do
FIRST_HIT = {("dropped", "high"): 0.43, ("dropped", "middle"): 0.37, ("dropped", "low"): 0.32}  # seconds
FIRST_HIT_TOSSED = 0.62
STYLE_OF = {"man": "short", "woman": "long", "child": "cap"}
HAIR_OF = {"man": "brown", "woman": "black", "child": "blond"}
CLOTHES_OF = {"man": "blue", "woman": "green", "child": "red"}
GARMENT_OF = {"man": "hoodie", "woman": "striped sweater", "child": "T-shirt"}
BODY, PIANO_PACE = "red", "easy"
TUNE = "Twinkle, Twinkle"


def sketch(rng: np.random.Generator, family: str, split: str = "train") -> Attributes:
    """The attributes of a scene of the world, without its physics."""
    return {"face": _face, "ball": _ball, "piano": _piano}[family](rng, split)


def fill_in(family: str, said: Attributes) -> Scene:
    """The scene that has what is said and defaults beside it."""
    if family == "ball":
        return _scene(said, _ball_defaults(said))
    return _scene(said, _face_defaults(said) if family == "face" else _piano_defaults(said))


def _face(rng: np.random.Generator, split: str) -> Attributes:
    kind = PEOPLE[int(rng.integers(3))]
    person = choose_person(rng, kind)
    return {
        "person": kind,
        "words": choose_words(rng, split),
        "hair": person.hair,
        "style": person.style,
        "clothes": person.clothes,
        "garment": person.garment,
        "wall": _one_of(rng, WALLS),
        "pitch": ("low", "middle", "high")[int(rng.integers(3))],
        "pace": ("calm", "brisk")[int(rng.integers(2))],
        "glasses": person.glasses,
        "beard": person.beard,
    }


def _ball(rng: np.random.Generator, split: str) -> Attributes:  # noqa: ARG001 - sketches share one signature
    """A ball of any colour and material: the pairs that clips hold out are ordinary words in ideas."""
    return {
        "colour": _one_of(rng, BALL_COLOURS),
        "material": MATERIALS[int(rng.integers(len(MATERIALS)))],
        "direction": DIRECTIONS[int(rng.integers(3))],
        "start": ("dropped", "tossed")[int(rng.integers(2))],
        "bounces": int(rng.integers(1, 8)),
        "wall": _one_of(rng, WALLS),
        "floor": _one_of(rng, FLOORS),
        "height": ("high", "middle", "low")[int(rng.integers(3))],
    }


def _piano(rng: np.random.Generator, split: str) -> Attributes:
    notes = choose_melody(rng, split)
    return {
        "notes": notes,
        "tune": tune_name(notes),
        "pace": ("slow", "easy", "quick")[int(rng.integers(3))],
        "light": "rainbow" if rng.random() < 0.5 else _one_of(rng, BALL_COLOURS),
        "body": _one_of(rng, BODIES),
        "wall": _one_of(rng, WALLS),
    }


def _ball_defaults(said: Attributes) -> Attributes:
    colour = str(said.get("colour") or COLOUR_OF[str(said.get("material", "rubber"))])
    material = str(said.get("material") or MATERIAL_OF.get(colour, "metal"))
    start = str(said.get("start", "dropped"))
    return {
        "colour": colour,
        "material": material,
        "direction": DIRECTION_OF[material],
        "start": start,
        "bounces": BOUNCES[material],
        "wall": CONTRAST.get(colour, PLAIN_WALL),
        "floor": FLOOR_OF[material],
        "height": "low" if start == "tossed" else "high",
    }


def _face_defaults(said: Attributes) -> Attributes:
    kind = str(said.get("person", "woman"))
    clothes = str(said.get("clothes", CLOTHES_OF[kind]))
    return {
        "person": kind,
        "words": ("hello",),
        "hair": HAIR_OF[kind],
        "style": STYLE_OF[kind],
        "clothes": clothes,
        "garment": GARMENT_OF[kind],
        "wall": CONTRAST.get(clothes, PLAIN_WALL),
        "pitch": "middle",
        "pace": "calm",
        "glasses": False,
        "beard": "",
    }


def _piano_defaults(said: Attributes) -> Attributes:
    notes = tuple(said.get("notes", TUNES[TUNE]))
    body = str(said.get("body", BODY))
    return {
        "notes": notes,
        "tune": "" if "notes" in said else TUNE,
        "pace": PIANO_PACE,
        "light": "rainbow",
        "body": body,
        "wall": CONTRAST.get(body, PLAIN_WALL),
    }


def _scene(said: Attributes, defaults: Attributes) -> Scene:
    a = {**defaults, **said}
    events = Events()
    if "bounces" in a:
        seconds = FIRST_HIT.get((str(a["start"]), str(a["height"])), FIRST_HIT_TOSSED)
        events = Events(impacts=(Impact(seconds, 0.0, 0),) * int(a["bounces"]))
    if "notes" in a:
        events = Events(notes=tuple(Note(0.0, 0.0, name, KEYS.index(name), 0) for name in a["notes"]))
    return Scene(NO_FRAMES, NO_SOUND, events, a, {})


def _one_of(rng: np.random.Generator, names: dict[str, object]) -> str:
    return list(names)[int(rng.integers(len(names)))]
