"""Captions in MOVA's structure, true to the clip: first frame, progression, dialogue, "The audio shows ...".

A caption is one of four kinds: the full plan, one sentence, a short label as an impatient person types it, or
nothing, which the model needs for guidance.
"""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from mova.prompting.plan import PromptPlan
from pocket import phrases
from pocket.clip import Scene


@dataclass(frozen=True)
class CaptionMix:
    """How often each kind is drawn; the shares add up to 1."""

    full: float = 0.60
    sentence: float = 0.22
    label: float = 0.12
    empty: float = 0.06

    def __post_init__(self) -> None:
        total = self.full + self.sentence + self.label + self.empty
        if abs(total - 1) > 1e-6:
            raise ValueError(f"caption shares add up to {total}, expected 1")


@dataclass(frozen=True)
class CaptionParts:
    """One clip described in every length."""

    first_frame: str
    progression: str
    dialogue: str  # empty when nobody speaks
    audio: str
    sentence: str
    label: str

    def plan(self, no_subtitles: bool) -> PromptPlan:
        """The caption as the product reads and writes prompts."""
        lines = PromptPlan.parse(self.dialogue).dialogue
        return PromptPlan(self.first_frame, self.progression, lines, self.audio, no_subtitles)

    def full(self, no_subtitles: bool) -> str:
        return self.plan(no_subtitles).render()


NO_SUBTITLES_SHARE = 0.7


def write_caption(rng: np.random.Generator, family: str, scene: Scene, mix: CaptionMix) -> str:
    kind = rng.choice(4, p=(mix.full, mix.sentence, mix.label, mix.empty))
    if kind == 3:
        return ""
    parts = describe(rng, family, scene)
    return (parts.full(bool(rng.random() < NO_SUBTITLES_SHARE)), parts.sentence, parts.label)[kind]


def describe(rng: np.random.Generator, family: str, scene: Scene) -> CaptionParts:
    """Every part of a caption for this scene, with paraphrases drawn from `rng`."""
    parts = {"face": _describe_face, "ball": _describe_ball, "piano": _describe_piano}[family](rng, scene)
    return CaptionParts(*(re.sub(r"\b([Aa]) (?=orange\b)", r"\1n ", text) for text in astuple(parts)))


def _describe_face(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    a = scene.attributes
    hair = phrases.HAIR[a["style"]].format(hair=a["hair"])
    extra = [
        name
        for name, there in (("a beard", a["beard"] == "beard"), ("a moustache", a["beard"] == "moustache"))
        if there
    ]
    extra += ["glasses"] if a["glasses"] else []
    pitch = "" if a["pitch"] == "middle" else f"{a['pitch']} "
    slots = {
        "person": a["person"],
        "who": _pick(rng, phrases.PERSON).format(person=a["person"]),
        "hair": _join([hair, *extra]),
        "clothes": a["clothes"],
        "garment": a["garment"],
        "wears": _pick(rng, phrases.WEARS).format(**a),
        "wall": a["wall"],
        "quote": _quote(rng, a["words"]),
        "pitch": pitch,
        "pitch_clause": f"{a['pitch']} in pitch, " if pitch else "",
        "pace": a["pace"],
    }
    return CaptionParts(
        _pick(rng, phrases.FACE_FIRST_FRAME).format(**slots),
        _pick(rng, phrases.FACE_PROGRESSION).format(**slots),
        _pick(rng, phrases.DIALOGUE).format(**slots),
        _pick(rng, phrases.FACE_AUDIO).format(**slots),
        _pick(rng, phrases.FACE_SENTENCES).format(**slots),
        _pick(rng, phrases.FACE_LABELS).format(**slots),
    )


def _describe_ball(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    a = scene.attributes
    material = a["material"]
    number = len(scene.events.impacts)
    impact = _pick(rng, phrases.IMPACT[material])
    slots = {
        "ball": _pick(rng, phrases.BALL).format(
            colour=a["colour"], material=phrases.ADJECTIVE[material], stuff=phrases.STUFF[material]
        ),
        "look": _pick(rng, phrases.LOOK[material]),
        "start": _pick(rng, phrases.START[a["start"]]),
        "height": phrases.HEIGHT[a["height"]],
        "floor": phrases.FLOOR[a["floor"]],
        "wall": a["wall"],
        "times": phrases.COUNTS[number],
        "number": phrases.NUMBERS[number],
        "impacts": impact if number == 1 else f"{impact}s",
        "first": f"{scene.events.impacts[0].seconds:.1f}",
        "drift": _pick(rng, phrases.DRIFT[a["direction"]]),
    }
    return CaptionParts(
        _pick(rng, phrases.BALL_FIRST_FRAME).format(**slots),
        _pick(rng, phrases.BALL_PROGRESSION).format(**slots),
        "",
        _pick(rng, phrases.BALL_AUDIO).format(**slots),
        _pick(rng, phrases.BALL_SENTENCES).format(**slots),
        _pick(rng, phrases.BALL_LABELS).format(**slots),
    )


def _describe_piano(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    a = scene.attributes
    notes = a["notes"]
    joined = (", ".join(notes), " ".join(notes), "-".join(notes), f"{', '.join(notes[:-1])} and {notes[-1]}")
    slots = {
        "piano": _pick(rng, phrases.PIANO).format(body=a["body"]),
        "body": a["body"],
        "wall": a["wall"],
        "notes": _pick(rng, joined),
        "number": phrases.NUMBERS[len(notes)],
        "light": _pick(rng, phrases.RAINBOW) if a["light"] == "rainbow" else a["light"],
        "pace": phrases.PACE[a["pace"]],
    }
    progression = _pick(rng, phrases.PIANO_PROGRESSION).format(**slots)
    if a["tune"]:
        progression += _pick(rng, phrases.TUNE_HINT).format(tune=a["tune"])
    return CaptionParts(
        _pick(rng, phrases.PIANO_FIRST_FRAME).format(**slots),
        progression,
        "",
        _pick(rng, phrases.PIANO_AUDIO).format(**slots),
        _pick(rng, phrases.PIANO_SENTENCES).format(**slots),
        _pick(rng, phrases.PIANO_LABELS).format(**slots),
    )


def _quote(rng: np.random.Generator, words: Sequence[str]) -> str:
    """The words as people type them: with or without capital, commas and a final mark."""
    text = _pick(rng, (" ", " ", ", ")).join(words)
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return text + _pick(rng, ("", ".", ".", "!"))


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
