"""The world: a seed in, a clip with its caption and its true events out."""

from pathlib import Path

import numpy as np

from recipes.pocket.captions import CaptionMix, write_caption
from recipes.pocket.world.ball import make_ball
from recipes.pocket.world.clip import FAMILIES, SPLITS, Clip, Scene
from recipes.pocket.world.face import make_face
from recipes.pocket.world.piano import make_piano
from recipes.pocket.world.speech import DEFAULT_FOLDER

DEFAULT_MIX = CaptionMix()


def render(
    seed: int,
    family: str | None = None,
    split: str = "train",
    speech: Path = DEFAULT_FOLDER,
    mix: CaptionMix = DEFAULT_MIX,
) -> Clip:
    """One clip, the same for the same arguments on any machine with the same word bank.

    Without a family the seed chooses one. "heldout" draws only the colour-material pairs, word pairs and
    melodies that "train" never draws. Raises FileNotFoundError for a face when `speech` has no word bank.
    """
    family = family or choose_family(seed)
    if family not in FAMILIES or split not in SPLITS:
        raise ValueError(
            f"got family={family!r}, split={split!r}; expected one of {FAMILIES} and one of {SPLITS}"
        )
    scene = make_scene(seed, family, split, speech)
    caption = write_scene_caption(seed, family, split, scene, mix)
    return Clip(scene.frames, scene.waveform, caption, family, scene.events, scene.attributes, scene.layout)


def make_scene(
    seed: int, family: str, split: str = "train", speech: Path = DEFAULT_FOLDER, pictures: bool = True
) -> Scene:
    """The clip without a caption.

    Without pictures it takes a twentieth of the time. Events and attributes are the same; the noise and the
    tuning of a strike are drawn after the pictures, so they differ.
    """
    rng = _rng(seed, family, split, 0)
    match family:
        case "face":
            return make_face(rng, split, speech, pictures)
        case "ball":
            return make_ball(rng, split, pictures)
        case _:
            return make_piano(rng, split, pictures)


def write_scene_caption(
    seed: int, family: str, split: str, scene: Scene, mix: CaptionMix = DEFAULT_MIX
) -> str:
    """The caption that `render` gives the clip."""
    return write_caption(_rng(seed, family, split, 1), family, scene, mix)


def choose_family(seed: int, families: tuple[str, ...] = FAMILIES) -> str:
    return families[int(np.random.default_rng((seed, 2)).integers(len(families)))]


def _rng(seed: int, family: str, split: str, purpose: int) -> np.random.Generator:
    """Scenes and captions draw from their own streams: new paraphrases leave the pictures as they were."""
    return np.random.default_rng((seed, FAMILIES.index(family), SPLITS.index(split), purpose))
