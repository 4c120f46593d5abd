"""Short ideas as people type them, each with the full prompt it should become.

An idea fixes some attributes of a scene; its target is the caption of the scene that has them, with defaults
for those left open. Quoted words are placeholders, `<Q1>`, as `mova.prompting.quotes` takes them out. An idea
outside the world has an empty target: whoever asked then writes without this model.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from recipes.pocket import captions
from recipes.pocket.captions import CaptionParts, describe
from recipes.pocket.enhancer import ball, face, piano, vocabulary
from recipes.pocket.enhancer.ball import write_ball
from recipes.pocket.enhancer.draft import Draft, Fixed
from recipes.pocket.enhancer.face import write_face
from recipes.pocket.enhancer.hand import expand, keep, pick, syllables, type_out
from recipes.pocket.enhancer.outside import write_outside
from recipes.pocket.enhancer.piano import write_piano
from recipes.pocket.enhancer.sketch import fill_in, sketch
from recipes.pocket.world.ball import BALL_COLOURS
from recipes.pocket.world.clip import FAMILIES, Attributes, Scene
from recipes.pocket.world.piano import BODIES, KEYS, TUNES, tune_name
from recipes.pocket.world.speech import PEOPLE, WORDS

OUTSIDE = "outside"
OUTSIDE_SHARE, CHINESE_SHARE, FRAME_SHARE = 0.2, 0.04, 0.16
SAYING_SHARE = 0.7  # of the words that people speak; the others are those of the word bank
WISH_SHARE = 0.3  # of the scenes that have what the world has not: its colours, counts, garments, lengths
QUOTE_MARKS = ('""', '""', "“”", "«»", "「」")
QUOTED_MARK = re.compile(r'"(<Q\d+>)"')  # a plan quotes what is said; a mark stands for words with quotes
STILL = "without moving"  # words that make a video model freeze its picture
LINE_STARTS = ("Then the {person} says, ", "The {person} adds, ", "The {person} says: ")
PHRASINGS, TRIES = 16, 3200


@dataclass(frozen=True)
class Idea:
    """`text` with placeholders, the `target` prompt with them too, and the attributes that `text` fixes.

    `quotes` are the words behind the placeholders, with their marks; `words` those that `text` has bare.
    """

    text: str
    target: str
    family: str
    fixed: Fixed = field(default_factory=dict)
    quotes: tuple[str, ...] = ()
    words: str = ""
    adjective: str = ""

    @property
    def typed(self) -> str:
        """The idea as its writer typed it, with the quotes in their places."""
        text = self.text
        for index, quote in enumerate(self.quotes):
            text = text.replace(f"<Q{index + 1}>", quote)
        return text


def draw_idea(seed: int, split: str = "train") -> Idea:
    """An idea of the world or outside it.

    "heldout" draws templates, words, things, colours and melodies that "train" never has.
    """
    rng = np.random.default_rng((seed, 7, split == "heldout"))
    if rng.random() < OUTSIDE_SHARE:
        return draw_outside(rng, split == "heldout")
    return draw_inside(rng, FAMILIES[int(rng.integers(3))], split)


def draw_inside(rng: np.random.Generator, family: str, split: str = "train") -> Idea:
    attributes = sketch(rng, family, split)
    if family == "face" and rng.random() < SAYING_SHARE:
        attributes["words"] = (_saying(rng, split),)
    if rng.random() < WISH_SHARE:
        attributes = _wish(rng, family, attributes, split)
    return write_idea(rng, family, attributes, split == "heldout")


def draw_outside(rng: np.random.Generator, held_out: bool = False) -> Idea:
    """An idea that the world cannot show, now and then an idea of the world with something foreign in it."""
    near = None
    while near is None or near.words:  # what follows bare words would be words too
        near = draw_inside(rng, FAMILIES[int(rng.integers(3))], "heldout" if held_out else "train")
    draft = write_outside(rng, near.text.rstrip(".!"), held_out)
    text = type_out(rng, draft, frozenset())
    quotes = tuple(keep_marks(rng, pick(rng, vocabulary.SAYINGS)) for _ in range(text.count("<Q")))
    return Idea(text, "", OUTSIDE, quotes=quotes)


def write_idea(rng: np.random.Generator, family: str, attributes: Attributes, held_out: bool = False) -> Idea:
    """An idea of a scene with these attributes, saying only what is true of it, and its prompt."""
    draft = Draft(rng, attributes, held_out)
    text = _chinese(draft, family) if rng.random() < CHINESE_SHARE else ""
    if not text:
        text = {"face": write_face, "ball": write_ball, "piano": write_piano}[family](draft)
        if rng.random() < FRAME_SHARE and not draft.words:
            frames = vocabulary.FRAMES_HELD_OUT if held_out else vocabulary.FRAMES
            text = expand(rng, pick(rng, frames), {"idea": lambda: text})
    quotes = _quotes(draft, held_out)
    typed = type_out(rng, text, frozenset(_known_words()))
    target = write_target(draft, family)
    return Idea(typed, target, family, draft.fixed, quotes, draft.words, draft.adjective)


def keep_marks(rng: np.random.Generator, words: str) -> str:
    marks = pick(rng, QUOTE_MARKS)
    return f"{marks[0]}{words}{marks[1]}"


def write_target(draft: Draft, family: str) -> str:
    """The prompt for what the draft says. The same sayings give the same prompt."""
    said = {name: value[0] if name == "floor" else value for name, value in draft.fixed.items()}
    scene = fill_in(family, {**draft.hints, **said})
    for seed in range(_phrasing(family, scene.attributes), TRIES, PHRASINGS):
        rng = np.random.default_rng((seed, 13))
        parts = describe(rng, family, scene)
        if family == "face":
            parts = replace(parts, dialogue=_dialogue(rng, draft, scene, parts.dialogue))
        if family == "piano" and len(scene.attributes["notes"]) == 1:
            parts = _one_note(rng, scene, parts)
        first_frame = _with_adjective(draft, family, scene, parts.first_frame)
        written = replace(parts, first_frame=first_frame).full(no_subtitles=True)
        target = QUOTED_MARK.sub(r"\1", written)
        if all(word in target for word in draft.needed) and STILL not in target:
            return target
    raise ValueError(f"no caption of {scene.attributes} has all of {draft.needed}")


def _phrasing(family: str, a: Attributes) -> int:
    """Which of the phrasings a scene gets: by its looks, so that nothing is left to chance."""
    name, known = {"ball": ("colour", BALL_COLOURS), "face": ("person", PEOPLE), "piano": ("body", BODIES)}[
        family
    ]
    return list(known).index(str(a[name])) if a[name] in known else len(known)


def _dialogue(rng: np.random.Generator, draft: Draft, scene: Scene, line: str) -> str:
    """The spoken lines: the scene's own line with the idea's words, and one more for each further quote."""
    if not draft.quotes and not draft.words:
        return ""
    lead = line.partition('"')[0]
    if draft.verb:
        lead = lead.replace(" says", f" {draft.verb}")
    lines = [f'{lead}"{draft.words}"' if draft.words else f'{lead}"<Q1>"']
    for index in range(1, draft.quotes):
        start = pick(rng, LINE_STARTS).format(**scene.attributes)
        lines.append(f'{start}"<Q{index + 1}>"')
    return "\n".join(lines)


def _one_note(rng: np.random.Generator, scene: Scene, parts: CaptionParts) -> CaptionParts:
    a = scene.attributes
    light = pick(rng, captions.RAINBOW) if a["light"] == "rainbow" else a["light"]
    slots = {"notes": a["notes"][0], "light": light, "pace": captions.PACE[str(a["pace"])]}
    progression = pick(rng, vocabulary.ONE_NOTE_PROGRESSION).format(**slots)
    return replace(parts, progression=progression, audio=pick(rng, vocabulary.ONE_NOTE_AUDIO).format(**slots))


def _with_adjective(draft: Draft, family: str, scene: Scene, first_frame: str) -> str:
    if not draft.adjective or f" {draft.adjective} " in first_frame:
        return first_frame
    a = scene.attributes
    noun = {
        "ball": a.get("colour"),
        "face": r"(?:\w+ )?cartoon|\w+ in flat",
        "piano": rf"(?:\w+ )?{a.get('body')} toy",
    }[family]
    article = "n" if draft.adjective[0] in "aeiou" else ""
    return re.sub(
        rf"\b([Aa])n? (?=(?:{noun})\b)", rf"\g<1>{article} {draft.adjective} ", first_frame, count=1
    )


def _quotes(draft: Draft, held_out: bool) -> tuple[str, ...]:
    sayings = vocabulary.SAYINGS_HELD_OUT if held_out else vocabulary.SAYINGS
    spoken = " ".join(draft.attributes.get("words", ()))
    said = [spoken if draft.chance(0.5) else draft.pick(sayings) for _ in range(draft.quotes)]
    return tuple(keep_marks(draft.rng, words) for words in said)


def _chinese(draft: Draft, family: str) -> str:
    words = vocabulary.CHINESE_WORDS

    def said(name: str) -> str:
        return draft.expand(words[draft.fix(name)])

    needs = {"face": ("person",), "ball": ("colour", "material"), "piano": ()}[family]
    if any(draft.attributes[name] not in words for name in needs):
        return ""
    slots = {
        "colour": lambda: said("colour"),
        "material": lambda: said("material"),
        "person": lambda: said("person"),
        "quote": draft.quote,
        "notes": lambda: keep(draft.pick((" ", " ", ", ", "", "、")).join(draft.attributes["notes"])),
    }
    if family == "piano":
        draft.fix("notes")
    return expand(draft.rng, draft.pick(vocabulary.CHINESE[family]), slots)


def _wish(rng: np.random.Generator, family: str, a: Attributes, split: str) -> Attributes:
    """The attributes as people ask for them who do not know what the world has."""
    a = dict(a)
    colours = vocabulary.EXTRA_COLOURS_HELD_OUT
    if split == "train":  # its own among them: the world has no red wall and no orange piano
        colours = tuple(BALL_COLOURS) if rng.random() < 0.3 else vocabulary.EXTRA_COLOURS

    def extra(share: float, name: str, options: Sequence[str]) -> None:
        if rng.random() < share:
            a[name] = pick(rng, options)

    extra(0.3, "wall", colours)
    match family:
        case "ball":
            extra(0.8, "colour", colours)
        case "face":
            a["style"] = pick(rng, vocabulary.COMMON_STYLES)
            extra(0.3, "hair", colours)
            extra(0.4, "clothes", colours)
            extra(0.4, "garment", vocabulary.EXTRA_GARMENTS)
        case _:
            extra(0.4, "body", colours)
            extra(0.3, "light", colours)
            a["notes"] = _wished_notes(rng) if split == "train" else a["notes"]
            a["tune"] = tune_name(a["notes"])
    return a


def _wished_notes(rng: np.random.Generator) -> tuple[str, ...]:
    if rng.random() < 0.5:
        tune = list(TUNES.values())[int(rng.integers(len(TUNES)))]
        return tune if rng.random() < 0.7 else tune[: int(rng.integers(3, 5))]
    count = int(rng.choice((1, 2, 2, 7, 8)))
    return tuple(KEYS[int(index)] for index in rng.integers(len(KEYS), size=count))


def _saying(rng: np.random.Generator, split: str) -> str:
    """Words to say: a common phrase, or any words in a row, so that copying is learnt and no vocabulary."""
    if split == "heldout":
        return pick(rng, vocabulary.SAYINGS_HELD_OUT)
    if rng.random() < 0.35:
        return pick(rng, vocabulary.SAYINGS)
    count = int(rng.integers(1, 8)) if rng.random() < 0.4 else int(rng.integers(1, 4))
    words = [syllables(rng) if rng.random() < 0.5 else pick(rng, _known_words()) for _ in range(count)]
    if rng.random() < 0.2:
        words[0] = words[0].capitalize()
    if count > 2 and rng.random() < 0.2:
        words[0] += ","
    return " ".join(words) + pick(rng, ("", "", "", "", "!", "?", "."))


@lru_cache(maxsize=1)
def _known_words() -> tuple[str, ...]:
    """Every word of the templates: a slip of the finger must not turn one into another."""
    values = [
        value
        for module in (ball, face, piano, vocabulary)
        for name, value in vars(module).items()
        if name.isupper() and "HELD_OUT" not in name
    ]
    return tuple(sorted(set(re.findall(r"[a-z]{2,}", f"{values} {WORDS}"))))
