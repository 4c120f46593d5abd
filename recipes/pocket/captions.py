"""Captions in MOVA's structure, true to the clip: first frame, progression, dialogue, "The audio shows ...".

A caption is one of four kinds: the full plan, one sentence, a short label as an impatient person types it, or
nothing, which the model needs for guidance.
"""

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from mova.prompting.plan import PromptPlan
from recipes.pocket.world.clip import Scene

COUNTS = {
    1: "once",
    2: "twice",
    3: "three times",
    4: "four times",
    5: "five times",
    6: "six times",
    7: "seven times",
}
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}

HAIR = {
    "short": "short {hair} hair",
    "swept": "{hair} hair swept to the side",
    "curly": "curly {hair} hair",
    "bald": "a bald head and {hair} hair at the sides",
    "long": "long {hair} hair",
    "bob": "{hair} hair in a bob",
    "bun": "{hair} hair in a bun",
    "wavy": "wavy {hair} hair",
    "tuft": "{hair} hair and a cowlick",
    "pigtails": "{hair} pigtails",
    "bowl": "{hair} hair in a bowl cut",
    "cap": "{hair} hair under a baseball cap",
}
PERSON = (
    "cartoon {person}",
    "{person} in flat cartoon style",
    "friendly cartoon {person}",
    "smiling cartoon {person}",
)
FACE_FIRST_FRAME = (
    "A {who} with {hair} {wears} faces the camera in front of a {wall} wall, lips closed.",
    "In a head-and-shoulders shot, a {who} with {hair} {wears} looks ahead before a {wall} wall.",
    "A {who} waits in front of a {wall} wall: {hair}, {wears}, a closed mouth and bright eyes.",
    "A close, eye-level view shows a {who} with {hair}, {wears}, against a {wall} wall in soft light.",
)
WEARS = ("wearing a {clothes} {garment}", "in a {clothes} {garment}", "dressed in a {clothes} {garment}")
FACE_PROGRESSION = (
    "The {person} blinks, raises the brows and speaks, the lips shaping every sound.",
    "The mouth opens and closes with each syllable while the head nods a little.",
    "The {person} talks to the viewer, nodding gently, and the lips close again at the end.",
    "After a moment the {person} begins to speak; the lips open and round with the vowels.",
)
DIALOGUE = (
    'The {person} says, "{quote}"',
    'The {person} in the {clothes} {garment} says: "{quote}"',
    'Looking at the camera, the {person} says "{quote}"',
    'The {person} with {hair} says, "{quote}"',
)
FACE_AUDIO = (
    "The audio shows a {pitch}{person}'s voice speaking English at a {pace} pace in a quiet room.",
    "The audio shows clear speech by a {person}, {pitch_clause}{pace} and close, with no other sound.",
    "The audio shows one {pitch}voice, that of a {person}, at a {pace} pace and without music.",
)
FACE_SENTENCES = (
    'A {who} says "{quote}"',
    'A {person} with {hair} says: "{quote}"',
    'A {person} in a {clothes} {garment} looks at the camera and says "{quote}"',
    'The {person} says, "{quote}" in a {pace} voice.',
)
FACE_LABELS = ('{person} says "{quote}"', 'a {person} saying "{quote}"', '{person}: "{quote}"', '"{quote}"')

BALL = ("{colour} {material} ball", "{colour} ball of {stuff}", "{colour} ball made of {stuff}")
STUFF = {"rubber": "rubber", "wood": "wood", "metal": "metal", "glass": "glass"}
ADJECTIVE = {"rubber": "rubber", "wood": "wooden", "metal": "metal", "glass": "glass"}
LOOK = {
    "rubber": ("matte, with a pale stripe", "soft and striped"),
    "wood": ("with visible grain", "painted over its grain"),
    "metal": ("polished like a mirror", "with a bright reflection"),
    "glass": ("clear, so that the wall shows through", "see-through, with a sparkle"),
}
BALL_FIRST_FRAME = (
    "A {ball}, {look}, hangs {height} above {floor} floor in front of a {wall} wall.",
    "A wide, eye-level shot shows a {ball} in the air {height} above {floor} floor, a {wall} wall behind it.",
    "In a room with a {wall} wall, a {ball} is {height} above {floor} floor, {look}.",
    "A {ball} floats {height} over {floor} floor under soft light; the wall is {wall}.",
)
HEIGHT = {"high": "high", "middle": "some way", "low": "a little way"}
FLOOR = {
    "oak": "an oak",
    "dark wood": "a dark wooden",
    "slate": "a slate",
    "white tile": "a white tiled",
    "terracotta": "a terracotta",
}
BALL_PROGRESSION = (
    "The ball {start}, strikes the floor and bounces {times}, each bounce lower than the last, {drift}.",
    "It {start} and hits the floor {times}, losing height every time, {drift}.",
    "The ball {start}; it hits the floor {times} before the end, {drift}.",
    "The ball {start} and meets the floor {times}, {drift}, its shadow closing in below it.",
)
START = {
    "dropped": ("drops", "falls", "falls from rest"),
    "tossed": ("rises a little, then falls", "is tossed up, falls back", "flies up first, then drops"),
}
DRIFT = {
    "straight down": ("moving straight down and up", "without moving sideways", "keeping to one spot"),
    "left": ("drifting to the left", "moving left", "travelling to the left"),
    "right": ("drifting to the right", "moving right", "travelling to the right"),
}
IMPACT = {
    "rubber": ("soft low thud", "dull rubbery thump", "deep muffled bump"),
    "wood": ("short dry knock", "hollow wooden knock", "crisp wooden tock"),
    "metal": ("bright metallic ring", "long ringing clang", "clear metal chime"),
    "glass": ("high glassy clink", "delicate clink", "sharp tinkling tap"),
}
BALL_AUDIO = (
    "The audio shows {number} {impacts}, the first at about {first} seconds and each quieter than the last.",
    "The audio shows {number} {impacts}, one at each touch of the floor, in an otherwise quiet room.",
    "The audio shows {number} {impacts} growing softer, in time with the hits, and no other sound.",
    "The audio shows {number} {impacts}, heard just when the ball lands, in a still room.",
    "The audio shows {number} {impacts}; each landing is heard, ever more softly, and nothing else.",
)
BALL_SENTENCES = (
    "A {ball} falls and hits the floor {times}.",
    "A {ball} drops and bounces {times} with {impacts}.",
    "A {ball} bounces {times}, {drift}.",
    "A {ball} falls on {floor} floor.",
)
BALL_LABELS = ("{ball} falls", "{ball} bounces {times}", "a bouncing {ball}", "{ball}")

PIANO = ("{body} toy piano", "small {body} toy piano", "cheerful {body} toy piano")
PIANO_FIRST_FRAME = (
    "A {piano} with a smiling face stands on a table before a {wall} wall, its labelled keys up and unlit.",
    "An eye-level shot shows a {piano} on a table, all its lettered keys raised, before a {wall} wall.",
    "On a table by a {wall} wall sits a {piano}; letters name its keys, and none is pressed yet.",
)
PIANO_PROGRESSION = (
    "The keys {notes} sink one after another and glow {light}, and a little note floats up from each.",
    "By itself the piano plays {notes}: each key goes down, lights up {light} and rises again.",
    "Keys {notes} are pressed in this order, each lit {light} while it sounds.",
)
PIANO_AUDIO = (
    "The audio shows a toy piano playing the {number} notes {notes} at {pace} pace, bright and tinkling.",
    "The audio shows {number} clear toy piano tones, {notes}, at {pace} pace, each fading as its key rises.",
    "The audio shows a tinkling toy piano: {notes}, {number} notes at {pace} pace and no other sound.",
)
PIANO_SENTENCES = (
    "A {piano} plays {notes}.",
    "A {piano} plays the notes {notes} and its keys glow {light}.",
    "The keys {notes} of a {piano} light up as they sound.",
    "A {piano} plays {notes} at {pace} pace.",
)
PIANO_LABELS = (
    "toy piano plays {notes}",
    "{body} toy piano: {notes}",
    "{notes} on a toy piano",
    "piano {notes}",
)
TUNE_HINT = (" It is the start of {tune}.", " The melody is {tune}.")
PACE = {"slow": "a slow", "easy": "an easy", "quick": "a quick"}
RAINBOW = ("in rainbow colours", "in the colours of the rainbow")

NO_SUBTITLES_SHARE = 0.7


@dataclass(frozen=True)
class CaptionMix:
    """Shares of the caption kinds; they add up to 1."""

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
        plan = PromptPlan(self.first_frame, self.progression, lines, self.audio, no_subtitles)
        plan.check()
        return plan

    def full(self, no_subtitles: bool) -> str:
        return self.plan(no_subtitles).render()


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
    hair = HAIR[a["style"]].format(hair=a["hair"])
    extra = [
        name
        for name, there in (("a beard", a["beard"] == "beard"), ("a moustache", a["beard"] == "moustache"))
        if there
    ]
    extra += ["glasses"] if a["glasses"] else []
    pitch = "" if a["pitch"] == "middle" else f"{a['pitch']} "
    slots = {
        "person": a["person"],
        "who": _pick(rng, PERSON).format(person=a["person"]),
        "hair": _join([hair, *extra]),
        "clothes": a["clothes"],
        "garment": a["garment"],
        "wears": _pick(rng, WEARS).format(**a),
        "wall": a["wall"],
        "quote": _quote(rng, a["words"]),
        "pitch": pitch,
        "pitch_clause": f"{a['pitch']} in pitch, " if pitch else "",
        "pace": a["pace"],
    }
    return CaptionParts(
        _pick(rng, FACE_FIRST_FRAME).format(**slots),
        _pick(rng, FACE_PROGRESSION).format(**slots),
        _pick(rng, DIALOGUE).format(**slots),
        _pick(rng, FACE_AUDIO).format(**slots),
        _pick(rng, FACE_SENTENCES).format(**slots),
        _pick(rng, FACE_LABELS).format(**slots),
    )


def _describe_ball(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    a = scene.attributes
    material = a["material"]
    number = len(scene.events.impacts)
    impact = _pick(rng, IMPACT[material])
    slots = {
        "ball": _pick(rng, BALL).format(
            colour=a["colour"], material=ADJECTIVE[material], stuff=STUFF[material]
        ),
        "look": _pick(rng, LOOK[material]),
        "start": _pick(rng, START[a["start"]]),
        "height": HEIGHT[a["height"]],
        "floor": FLOOR[a["floor"]],
        "wall": a["wall"],
        "times": COUNTS[number],
        "number": NUMBERS[number],
        "impacts": impact if number == 1 else f"{impact}s",
        "first": f"{scene.events.impacts[0].seconds:.1f}",
        "drift": _pick(rng, DRIFT[a["direction"]]),
    }
    return CaptionParts(
        _pick(rng, BALL_FIRST_FRAME).format(**slots),
        _pick(rng, BALL_PROGRESSION).format(**slots),
        "",
        _pick(rng, BALL_AUDIO).format(**slots),
        _pick(rng, BALL_SENTENCES).format(**slots),
        _pick(rng, BALL_LABELS).format(**slots),
    )


def _describe_piano(rng: np.random.Generator, scene: Scene) -> CaptionParts:
    a = scene.attributes
    notes = a["notes"]
    joined = (", ".join(notes), " ".join(notes), "-".join(notes), f"{', '.join(notes[:-1])} and {notes[-1]}")
    slots = {
        "piano": _pick(rng, PIANO).format(body=a["body"]),
        "body": a["body"],
        "wall": a["wall"],
        "notes": _pick(rng, joined),
        "number": NUMBERS[len(notes)],
        "light": _pick(rng, RAINBOW) if a["light"] == "rainbow" else a["light"],
        "pace": PACE[a["pace"]],
    }
    progression = _pick(rng, PIANO_PROGRESSION).format(**slots)
    if a["tune"]:
        progression += _pick(rng, TUNE_HINT).format(tune=a["tune"])
    return CaptionParts(
        _pick(rng, PIANO_FIRST_FRAME).format(**slots),
        progression,
        "",
        _pick(rng, PIANO_AUDIO).format(**slots),
        _pick(rng, PIANO_SENTENCES).format(**slots),
        _pick(rng, PIANO_LABELS).format(**slots),
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
