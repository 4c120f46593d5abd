"""Clips of concepts that pocket does not know, for an adapter to learn: Pip the puppet and the honking cube.

Sizes, rate, length and the structure of captions are the world's own. A new concept is not in the first
frame: it comes in later, so that its looks have to come from the model and not from the given picture.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mova.errors import UserError
from mova.media.clips import write_mp4
from recipes.pocket.captions import COUNTS, FLOOR, NUMBERS, CaptionParts
from recipes.pocket.new_concepts.cube import make_cube
from recipes.pocket.new_concepts.puppet import NAME, make_puppet
from recipes.pocket.world.clip import FRAME_RATE, NEW_CONCEPTS, SAMPLE_RATE, Clip, Scene
from recipes.pocket.world.speech import DEFAULT_FOLDER

PUPPET = f"{NAME}, a small puppet with ginger hair in a navy and white striped shirt,"
PUPPET_FIRST_FRAME = (
    "An empty puppet stage with a wooden ledge in front of a {wall} wall; nobody is there yet.",
    "A {wall} wall behind a wooden ledge at the bottom of the picture; the puppet stage is empty.",
    "An eye-level view shows an empty wooden ledge and a {wall} wall behind it.",
)
PUPPET_PROGRESSION = (
    "{puppet} pops up from behind the ledge, holds on to it and speaks.",
    "After a moment {puppet} jumps up behind the ledge and talks to the viewer.",
    "{puppet} pops up like on a spring, looks at the camera and speaks.",
)
PUPPET_DIALOGUE = ('{name} says, "{quote}"', '{name} the puppet says: "{quote}"')
PUPPET_AUDIO = (
    "The audio shows {name}'s very high, squeaky puppet voice speaking one word in a quiet room.",
    "The audio shows one squeaky, very high voice, that of {name}, and no other sound.",
)
QUOTES = ("Peekaboo!", "Peekaboo!", "peekaboo", "Peekaboo.")

CUBE_FIRST_FRAME = (
    "An empty room with a {wall} wall and {floor} floor.",
    "A wide, eye-level shot shows an empty room: {floor} floor before a {wall} wall.",
    "Nothing stands on {floor} floor in front of a {wall} wall yet.",
)
CUBE_PROGRESSION = (
    "The honking cube, blue with a red nose, drops in from above and hits the floor {times}.",
    "A blue honking cube with eyes and a red nose falls into the picture and hits the floor {times}.",
    "From above comes the honking cube, blue with a red clown nose, and meets the floor {times}.",
)
CUBE_AUDIO = (
    "The audio shows {number} loud two-tone car horn honks, one at each touch of the floor.",
    "The audio shows {number} honks of the honking cube's horn, in time with the hits, and no other sound.",
)


def render_new_concept(seed: int, kind: str, speech: Path = DEFAULT_FOLDER) -> Clip:
    """One clip with its caption, the same for the same arguments.

    Raises FileNotFoundError for the character when `speech` has no recordings of it.
    """
    rng = np.random.default_rng((seed, 10 + NEW_CONCEPTS.index(kind)))
    scene = make_puppet(rng, speech) if kind == "character" else make_cube(rng)
    parts = _describe_puppet(rng, scene) if kind == "character" else _describe_cube(rng, scene)
    caption = parts.full(no_subtitles=True)
    return Clip(scene.frames, scene.waveform, caption, kind, scene.events, scene.attributes, scene.layout)


def write_folder(
    folder: Path, kind: str, count: int, first_seed: int = 0, speech: Path = DEFAULT_FOLDER
) -> list[Path]:
    """Write clips as mp4 with their captions as .txt, as the trainer reads them; returns the clips' paths.

    Raises:
        UserError: the folder has other clips already, which would be trained on too.
        FileNotFoundError: as `render_new_concept`.
    """
    paths = [folder / f"{kind}_{seed:05d}.mp4" for seed in range(first_seed, first_seed + count)]
    if others := sorted({*folder.glob("*.mp4")} - {*paths}):
        raise UserError(f"{folder} holds other clips, such as {others[0].name}; pass an empty folder")
    for seed, path in enumerate(paths, first_seed):
        clip = render_new_concept(seed, kind, speech)
        write_mp4(path, clip.frames, clip.waveform, FRAME_RATE, SAMPLE_RATE, {}, overwrite=True)
        path.with_suffix(".txt").write_text(clip.caption + "\n", encoding="utf-8")
    return paths


def _describe_puppet(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    slots = {"name": NAME, "puppet": PUPPET, "quote": _pick(rng, QUOTES), "wall": scene.attributes["wall"]}
    options = (PUPPET_FIRST_FRAME, PUPPET_PROGRESSION, PUPPET_DIALOGUE, PUPPET_AUDIO)
    return CaptionParts(*(_pick(rng, each).format(**slots) for each in options), "", "")


def _describe_cube(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    number = len(scene.events.impacts)
    slots = {
        "wall": scene.attributes["wall"],
        "floor": FLOOR[scene.attributes["floor"]],
        "times": COUNTS[number],
        "number": NUMBERS[number],
    }
    first, progression, audio = (
        _pick(rng, each).format(**slots) for each in (CUBE_FIRST_FRAME, CUBE_PROGRESSION, CUBE_AUDIO)
    )
    return CaptionParts(first, progression, "", audio, "", "")


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
