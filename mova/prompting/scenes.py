"""First frames of pocket's world, drawn from a bank of parts in the colours that an idea names.

`assets/scenes.npz` holds the parts as the world's renderer draws them (`python -m recipes.pocket scenes`):
what each lets through, its own light, and its share of each colour. They are laid over each other in the
order of `face_parts`, `ball_parts` and `piano_parts`, to pictures as those that pocket's clips began with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

BANK = Path(__file__).parents[2] / "assets" / "scenes.npz"
HEIGHT, WIDTH = 128, 224
WEIGHT = 160  # of a colour's share 1 in the bank
VARIANTS = 15  # pictures of one idea: three rooms, five skins
ROOMS, SKINS, IRISES = 3, 5, 4
FIRST_SKIN = {"man": 2, "woman": 3, "child": 0}
BEHIND = ("long", "bob", "wavy", "pigtails")  # hair that falls behind the neck
SPELLINGS = {"gray": "grey", "pale gray": "pale grey", "blonde": "blond", "golden": "gold"}
# Adjectives that every picture shows.
SHOWN = ("friendly", "happy", "cheerful", "smiling", "round", "shiny", "simple", "perfect", "plain", "single")
PLAIN_GARMENT = "T-shirt"
COLOURED = ("wall", "hair", "clothes", "colour", "body")


@dataclass(frozen=True)
class Scene:
    """A first frame, uint8 [H, W, 3], and what it does not show of its facts, each with the reason."""

    frame: np.ndarray
    differs: tuple[str, ...] = ()


def draw_scene(family: str, facts: Mapping[str, str], variant: int = 0) -> Scene:
    """The first frame of these facts, as `mova.prompting.pocket.PocketReading.scene` has them.

    A `variant` is another room and, of a person, another skin; what the facts say stays.
    """
    shown, differs = _known(family, facts)
    names = {"face": face_parts, "ball": ball_parts, "piano": piano_parts}[family](shown, variant)
    person = shown.get("person", "man")
    colours = {name: rgb_of(name, shown[name]) for name in COLOURED if name in shown}
    colours |= {
        "skin": rgb_of("skin", str((FIRST_SKIN[person] + variant) % SKINS)),
        "iris": rgb_of("iris", str(variant % IRISES)),
    }
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for name in names:
        _lay(canvas, name, colours)
    return Scene(canvas.round().clip(0, 255).astype(np.uint8), tuple(differs))


def face_parts(facts: Mapping[str, str], variant: int = 0) -> list[str]:
    """The names of a face's parts, from the wall to the eyes."""
    person, style = facts["person"], facts["style"]
    size = "child" if person == "child" else "adult"
    body = f"body/{person}/{facts['garment']}"
    is_white = (facts["garment"], facts["clothes"]) == ("striped sweater", "white")
    return [
        f"room/{size}/{variant % ROOMS}",
        *([f"hair behind/{size}/{style}"] if style in BEHIND else []),
        f"{body}/white" if is_white else body,  # its stripes are blue
        f"head/{person}/{facts.get('beard', '')}",
        f"hair/{size}/{style}",
        f"features/{person}/{facts.get('glasses', '')}",
    ]


def ball_parts(facts: Mapping[str, str], variant: int = 0) -> list[str]:
    """The names of a ball's parts, from the wall to the ball."""
    height, material, colour = facts["height"], facts["material"], facts["colour"]
    shadow = f"shadow/{height}/{colour}" if material == "glass" else ""  # glass throws its colour
    return [
        f"room/ball/{variant % ROOMS}",
        f"floor/{facts['floor']}",
        shadow if f"{shadow}:add" in _bank() else f"shadow/{height}",
        f"ball/{height}/{material}",
    ]


def piano_parts(facts: Mapping[str, str], variant: int = 0) -> list[str]:
    """The names of a piano's parts, from the wall to the keys."""
    del facts
    return [f"room/piano/{variant % ROOMS}", "piano"]


def layout_of(family: str, facts: Mapping[str, str]) -> dict[str, float]:
    """Places of the things in a drawn scene, in pixels, as the detectors of recipes/pocket want them."""
    key = {"face": facts.get("person"), "ball": facts.get("height"), "piano": "piano"}[family]
    start = f"layout={key}="
    return {
        name.removeprefix(start): float(value) for name, value in _bank().items() if name.startswith(start)
    }


def rgb_of(thing: str, colour: str) -> np.ndarray | None:
    """The colour of that name on such a thing, float32 [3], or None.

    The world's own; else another thing's of the world; else that of CSS.
    """
    from PIL import ImageColor  # the command line starts without it

    colour = SPELLINGS.get(colour, colour)
    for table in (thing, "clothes", "body", "hair", "wall"):
        if (own := _bank().get(f"{table}={colour}")) is not None:
            return own.astype(np.float32)
    named = ImageColor.colormap.get(colour.replace(" ", ""))
    return None if named is None else np.array(ImageColor.getrgb(named), np.float32)


def _known(family: str, facts: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The facts with what can be drawn in place of what cannot, and sentences on that."""
    shown = dict(facts)
    seen = {*SHOWN, *(("old", "elderly") if facts.get("hair") == "grey" else ())}
    seen |= {"little", "young", "small"} if facts.get("person") == "child" else set()
    adjectives = facts.get("adjectives", "").split()
    differs = [f"{adjective}: not seen in the picture" for adjective in adjectives if adjective not in seen]
    for name in COLOURED:
        if name in facts and rgb_of(name, facts[name]) is None:
            shown[name] = _first_colour(name)
            differs.append(f"{facts[name]} {name}: drawn {shown[name]}")
    if family == "face" and f"body/{shown['person']}/{shown['garment']}:add" not in _bank():
        differs.append(f"{shown['garment']}: drawn as a {PLAIN_GARMENT}")
        shown["garment"] = PLAIN_GARMENT
    if shown.get("beard") and f"head/{shown['person']}/{shown['beard']}:add" not in _bank():
        differs.append(f"{shown.pop('beard')}: drawn without")
    return shown, differs


def _first_colour(thing: str) -> str:
    return next(name for name in _bank() if name.startswith(f"{thing}=")).partition("=")[2]


def _lay(canvas: np.ndarray, name: str, colours: Mapping[str, np.ndarray]) -> None:
    """Lay a part over float32 [H, W, 3] in place."""
    bank = _bank()
    top, left = map(int, bank[f"{name}:place"])
    added = bank[f"{name}:add"].astype(np.float32)
    for colour, rgb in colours.items():
        share = bank.get(f"{name}:{colour}")
        if share is not None:
            added += share * (rgb / WEIGHT)
    area = canvas[top : top + added.shape[0], left : left + added.shape[1]]
    area *= bank[f"{name}:through"] / np.float32(255)
    area += added
    np.clip(area, 0, 255, out=area)


@lru_cache(maxsize=1)
def _bank() -> dict[str, np.ndarray]:
    with np.load(BANK) as arrays:
        return dict(arrays)
