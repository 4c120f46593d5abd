"""Ideas of the pocket model's world, read without a language model: slots over word lists.

Pocket draws one person who talks, one ball that bounces, or one toy piano that plays. `read_idea` finds what
an idea says of these, writes it in sentences of the captions that pocket was trained on, with defaults for
what is left open, and names what it could not keep. Words and sentences are in prompts/pocket/.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mova.prompting.phrases import (
    FAMILIES,
    Item,
    cut_phrases,
    in_english,
    load_lists,
    take_notes,
    take_speech,
    unknown_words,
)
from mova.prompting.plan import NO_SUBTITLES
from mova.prompting.quotes import mask_quotes

MAX_CHARACTERS = 600
MAX_NOTES = 8
PRACTISED_NOTES = range(3, 7)
GREETING = re.compile(r"\A\s*(?:hi|hey|hello|ok|okay)[,!.]+\s+(?=\S)", re.IGNORECASE)
REPORTED = re.compile(
    r"(?:that|nothing|something|anything|about|at|to|for|from|with|into|he|she|they)\b", re.I
)
PEOPLE = ("person", "anyone")
ANAPHORS = ("he", "she", "child", "person")  # words for a person who was named before
HINTS = {"girl": "pigtails", "boy": "bowl"}
FAIR_HAIR = ("blond", "blonde", "ginger", "grey", "gray", "auburn")  # "black woman" may not mean her hair
# Slots whose phrases say a fact by themselves.
FACTS = (
    "style",
    "beard",
    "glasses",
    "garment",
    "pitch",
    "pace",
    "direction",
    "height",
    "floor",
    "bounces",
    "light",
)
# What may stand between a word and the thing that it describes.
MODIFIERS = ("adjective", "colour", "smile", "made", "material", "before hair")
# What a colour before a thing is the colour of.
COLOURED = {
    **{"hair": "hair", "style": "hair", "garment": "clothes", "wall": "wall", "ball": "colour"},
    **{"piano": "body", "lit": "light", "melody": "light", "light": "light"},
}
# What the first frame shows of the facts.
SEEN = {
    "face": ("person", "style", "hair", "garment", "clothes", "beard", "glasses", "wall"),
    "ball": ("material", "colour", "height", "floor", "wall"),
    "piano": ("body", "wall"),
}


@dataclass(frozen=True)
class PocketReading:
    """An idea as pocket's world has it.

    `belongs` says how much of the idea is of that world: the whole; a part (`not_kept` names the rest, each
    with its reason, and `prompt` is what is left); or nothing (`prompt` is empty). `kept` are the facts that
    the prompt states as the idea has them. Those of `unpractised` are stated too, but no clip that pocket
    learnt from had them. `scene` are the facts of the prompt's first frame, with the defaults.
    """

    family: Literal["face", "ball", "piano", ""]
    belongs: Literal["whole", "partly", "not"]
    prompt: str = ""
    kept: tuple[str, ...] = ()
    not_kept: tuple[str, ...] = ()
    unpractised: tuple[str, ...] = ()
    scene: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Slots:
    """The state of a reading; `lost` are the facts that could not be kept."""

    said: dict[str, Any] = field(default_factory=dict)
    adjectives: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def fill(self, name: str, value: object) -> None:
        if self.said.setdefault(name, value) != value:
            self.lost.append(f"{name} {value}: pocket takes one {name}, here {self.said[name]}")


def read_idea(idea: str) -> PocketReading:
    """Read `idea` for pocket. Spoken words stand in quotes, or at its end after a verb such as "says"."""
    taken = mask_quotes(idea)
    text = in_english(GREETING.sub("", taken.text, count=1))
    if len(text) > MAX_CHARACTERS:
        return PocketReading(
            "", "not", not_kept=("the idea tells more than one short clip of pocket's holds",)
        )
    slots = Slots(lines=[quote.raw for quote in taken.quotes])
    if not slots.lines:
        text, words = take_speech(text)
        slots.lines += [f'"{words}"'] if words else []
        slots.lost += [f"{words}: put the words that are spoken in quotes"] if REPORTED.match(words) else []
    text, melodies = take_notes(text)
    families = _families(text, bool(slots.lines), bool(melodies))
    family = families[0] if families else ""
    items = cut_phrases(text, family or "any")
    slots.lost += [f"{words}: not in pocket's world" for words in unknown_words(text, items)]
    if not family:
        return PocketReading("", "not", not_kept=tuple(slots.lost))
    slots.lost += [f"a {other}: pocket draws one thing in a clip, here a {family}" for other in families[1:]]
    if family != "face":
        slots.lost += [f"{line}: pocket lets people speak, not a {family}" for line in slots.lines]
    if family == "piano" and melodies:
        slots.fill("notes", melodies[0])
        slots.lost += [f"{' '.join(other)}: pocket plays one melody" for other in melodies[1:]]
    _describe(text, items, family, slots)
    _state(items, family, slots)
    read, complete, write = {
        "ball": (_read_ball, _complete_ball, _write_ball),
        "face": (_read_face, _complete_face, _write_face),
        "piano": (_read_piano, _complete_piano, _write_piano),
    }[family]
    read(items, slots)
    if slots.lost and not any(item.slot in (family, *PEOPLE) for item in items):
        return PocketReading("", "not", not_kept=tuple(slots.lost))
    whole = complete(slots)
    facts = {**slots.said, "notes": "".join(slots.said["notes"])} if "notes" in slots.said else slots.said
    kept = [name if name == value else f"{name}: {value}" for name, value in facts.items()]
    return PocketReading(
        family,
        "partly" if slots.lost else "whole",
        write(slots, whole),
        (*kept, *slots.adjectives, *slots.lines),
        tuple(slots.lost),
        tuple(_unpractised(slots)),
        {name: whole[name] for name in SEEN[family] if name in whole}
        | {"adjectives": " ".join(slots.adjectives)},
    )


def _families(text: str, has_lines: bool, has_melody: bool) -> list[str]:
    """The families whose things are named, in the order of the idea; else what is said or played tells."""
    places = []
    for family in FAMILIES:
        for item in cut_phrases(text, family):
            if item.slot in (family, "person"):
                places.append((item.start, family))
            elif item.slot == "tune":
                places.append((len(text), family))
    places += [(len(text), "face")] * has_lines + [(len(text), "piano")] * has_melody
    if not places:
        places = [(0, "face") for item in cut_phrases(text, "face") if item.slot == "anyone"]
    return list(dict.fromkeys(family for _, family in sorted(places)))


def _described(text: str, items: Sequence[Item], at: int) -> Item | None:
    """The thing that the word at `at` describes: the next in its clause, one before it, or a later one."""
    before = items[at - 1] if at else Item("", "", "", 0, 0)
    is_lit = before.slot == "lit" and text[before.end : items[at].start].isspace()
    if is_lit and [item.slot for item in items[at + 1 : at + 2]] != ["piano"]:
        return before
    thing, has_comma = None, False
    for index in range(at + 1, len(items)):
        item, following = items[index], [item.slot for item in items[index + 1 : index + 2]]
        has_comma |= bool(re.search("[,.;:]", text[items[index - 1].end : item.start]))
        is_joined = item.phrase == "and" and following and following[0] in MODIFIERS
        if item.slot in MODIFIERS or is_joined or (item.phrase == "haired" and items[at].slot == "adjective"):
            continue
        thing = item if item.slot in (*COLOURED, *PEOPLE, "beard", "glasses") else None
        break
    if thing and not has_comma:
        return thing
    earlier = [
        item
        for item in items[:at]
        if item.slot not in MODIFIERS and item.phrase not in ("and", "is", "in", "are")
    ]
    if (before.slot == "wear" or before.phrase == "in") and any(item.slot in PEOPLE for item in earlier):
        return Item("garment", "", "clothes", before.start, before.end)
    if earlier and earlier[-1].slot in ("ball", "piano", "lit", "melody", "light"):
        return earlier[-1]
    things = [item for item in earlier if item.slot in ("ball", "piano", *PEOPLE)]
    return thing or (things[-1] if things and at == len(items) - 1 else None)


def _describe(text: str, items: Sequence[Item], family: str, slots: Slots) -> None:
    """Fill the slots that colours, adjectives and materials tell of the things that they describe."""
    behind, beards = set(), {}
    for at, item in enumerate(items):
        if item.slot not in ("colour", "adjective", "material", "before hair"):
            continue
        thing = _described(text, items, at)
        name = COLOURED.get(thing.slot) if thing else None
        if thing and thing.slot in PEOPLE and item.slot == "colour":
            name = "hair" if item.phrase in FAIR_HAIR else None
        if thing and thing.phrase.endswith("cap"):
            name = None
        behind |= {thing} if name == "wall" else set()
        what = f"{item.phrase} {thing.phrase}" if thing else item.phrase
        match item.slot:
            case "colour" if thing and thing.slot == "beard":
                beards[item.phrase] = what
            case "colour" if name:
                slots.fill(name, item.phrase)
            case "adjective" if thing and thing.slot in (family, *PEOPLE):
                slots.adjectives.append(item.phrase)
            case "material" if not thing or thing.slot == "ball":
                slots.fill("material", item.value)
            case "before hair" if name == "hair":
                slots.fill("style", item.phrase)
            case "before hair" if thing and thing.slot in PEOPLE and item.phrase == "short":
                slots.adjectives.append(item.phrase)
            case "colour" if thing and thing.slot in PEOPLE:
                slots.lost.append(f"{what}: write {item.phrase} hair, or {item.phrase} clothes")
            case "adjective" if item.phrase == "simple":
                pass
            case _:
                slots.lost.append(
                    f"{what}: pocket draws no {what.removesuffix('s')}s" if thing else f"{what}: of what?"
                )
    for colour, what in beards.items():  # pocket draws a beard in the colour of the hair
        if slots.said.setdefault("hair", colour) != colour:
            slots.lost.append(
                f"{what}: pocket draws beards in the colour of the hair, here {slots.said['hair']}"
            )
    for at, item in enumerate(items):
        stands_behind = item in behind or any(near.slot == "before" for near in items[max(0, at - 3) : at])
        if item.slot == "wall" and not stands_behind:
            slots.lost.append(f"{item.phrase}: pocket's walls stand behind, in one colour")


def _state(items: Sequence[Item], family: str, slots: Slots) -> None:
    """Fill the slots of phrases that are facts by themselves."""
    for at, item in enumerate(items):
        if item.slot in FACTS:
            slots.fill(item.slot, item.value)
        is_another = item.slot in (family, "person") and at and items[at - 1].phrase in ("a", "an")
        if is_another and any(other.slot == family or other.phrase == item.phrase for other in items[:at]):
            slots.lost.append(f"a second {item.phrase}: pocket draws one thing in a clip")


def _read_ball(items: Sequence[Item], slots: Slots) -> None:
    stuff = load_lists("scenes")["ball"]["stuff"]
    for item in items:
        if item.slot == "sound":
            sound = item.phrase.removesuffix("s")
            slots.fill("sound", sound)
            slots.fill("material", next(name for name in stuff if sound in " ".join(stuff[name]["sounds"])))
    starts = {item.value for item in items if item.slot == "start"}
    if starts:
        slots.said["start"] = max(starts)  # "is thrown up and falls" is tossed


def _read_face(items: Sequence[Item], slots: Slots) -> None:
    people = [item for item in items if item.slot == "person"]
    if not any(item.slot in PEOPLE for item in items):
        worn = [item for item in items if item.slot in ("hair", "style", "garment", "beard", "glasses")]
        slots.lost += [f"{item.phrase}: of whom? name a man, a woman or a child" for item in worn]
    kinds = {"child" if item.value in HINTS else item.value for item in people}
    if len(kinds) > 1 or len({item.phrase for item in people} - set(ANAPHORS)) > 1:
        slots.lost.append(f"{' and '.join(dict.fromkeys(i.phrase for i in people))}: pocket draws one person")
    if people:
        slots.said["person"] = people[0].value
    for item in items:
        if item.slot in ("smile", "blink"):
            slots.said[item.slot] = item.phrase
        elif item.slot in ("verb", "manner"):
            verb = item.phrase if item.slot == "verb" else f"says {item.phrase}"
            slots.said.setdefault("verb", re.sub(r"ing$", "s", verb))
            slots.lost += [] if slots.lines else [f"{item.phrase}: give the words in quotes"]


def _read_piano(items: Sequence[Item], slots: Slots) -> None:
    tunes = load_lists("scenes")["piano"]["tunes"]
    for item in items:
        if item.slot == "tune" and "notes" not in slots.said:
            slots.said |= {"tune": item.value, "notes": tuple(tunes[item.value])}
        elif item.slot == "tune" and "tune" not in slots.said:
            shorter, longer = sorted((tunes[item.value], "".join(slots.said["notes"])), key=len)
            slots.lost += [] if longer.startswith(shorter) else [f"{item.phrase}: the idea gives other notes"]
    notes = slots.said.get("notes", ())
    if len(notes) > MAX_NOTES:
        slots.lost.append(f"{len(notes)} notes: pocket plays up to {MAX_NOTES}")
        slots.said["notes"] = notes[:MAX_NOTES]


def _complete_ball(slots: Slots) -> dict[str, Any]:
    """All facts of a ball, those that the idea leaves open by default."""
    ball, said = load_lists("scenes")["ball"], slots.said
    material = said.get("material") or ball["material of"].get(said.get("colour", "red"), "metal")
    a = {"start": "dropped", **ball["stuff"][material], "material": material, **said}
    height = "low" if a["start"] == "tossed" else "high"
    return {"height": height, "wall": _wall(a["colour"]), **a}


def _write_ball(slots: Slots, a: dict[str, Any]) -> str:
    scenes, said = load_lists("scenes"), slots.said
    ball = scenes["ball"]
    bounces = int(a["bounces"])
    sound = next(sound for sound in a["sounds"] if sound.endswith(said.get("sound", "")))
    values = {
        "ball": " ".join(
            [*slots.adjectives, ball["ball"].format(colour=a["colour"], material=a["adjective"])]
        ),
        "look": a["look"],
        "wall": a["wall"],
        "times": scenes["times"][bounces - 1],
        "number": scenes["numbers"][bounces - 1],
        "impacts": sound if bounces == 1 else f"{sound}s",
        **{name: ball[name][a[name]] for name in ("height", "floor", "start", "direction")},
    }
    return _render(ball, values, progression="progression once" if bounces == 1 else "progression")


def _complete_face(slots: Slots) -> dict[str, Any]:
    """All facts of a person, those that the idea leaves open by default."""
    face, said = load_lists("scenes")["face"], slots.said
    looks = said.get("person", "woman")
    person = "child" if looks in HINTS else looks
    hints = {"style": HINTS[looks]} if looks in HINTS else {}
    hints |= {"hair": "grey"} if {"old", "elderly"} & set(slots.adjectives) and person != "child" else {}
    a = {"pace": "calm", **face["people"][person], **hints, **said, "person": person}
    return {"wall": _wall(a["clothes"]), **a}


def _write_face(slots: Slots, a: dict[str, Any]) -> str:
    face, said, person = load_lists("scenes")["face"], slots.said, a["person"]
    hair = [face["hair"][a["style"]].format(hair=a["hair"])]
    hair += [f"a {said['beard']}"] if "beard" in said else []
    hair += ["glasses"] if "glasses" in said else []
    values = {
        **{"person": person, "clothes": a["clothes"], "garment": a["garment"], "pace": a["pace"]},
        "who": " ".join(
            [*slots.adjectives, face["smiling" if "smile" in said else "who"].format(person=person)]
        ),
        "hair": " and ".join(part for part in (", ".join(hair[:-1]), hair[-1]) if part),
        "wall": a["wall"],
        "pitch": f"{said['pitch']} " if "pitch" in said else "",
    }
    leads = [
        face["dialogue"].replace("says", said.get("verb", "says")),
        *[face["dialogue after"]] * len(slots.lines),
    ]
    lines = [lead.format(person=person, quote=line) for lead, line in zip(leads, slots.lines, strict=False)]
    return _render(
        face, values, lines, progression="progression blinking" if "blink" in said else "progression"
    )


def _complete_piano(slots: Slots) -> dict[str, Any]:
    """All facts of a piano, those that the idea leaves open by default, but for its notes."""
    a = {"body": "red", "light": "rainbow", "pace": "easy", **slots.said}
    return {"wall": _wall(a["body"]), **a}


def _write_piano(slots: Slots, a: dict[str, Any]) -> str:
    scenes, said = load_lists("scenes"), slots.said
    piano = scenes["piano"]
    tune = said.get("tune", "" if "notes" in said else next(iter(piano["tunes"])))
    notes = said.get("notes") or tuple(piano["tunes"][tune])
    values = {
        "piano": " ".join([*slots.adjectives, piano["piano"].format(body=a["body"])]),
        "wall": a["wall"],
        "notes": ", ".join(notes),
        "number": scenes["numbers"][len(notes) - 1],
        "light": piano["rainbow"] if a["light"] == "rainbow" else a["light"],
        "pace": piano["pace"][a["pace"]],
        "tune": tune,
    }
    progression = "progression of a tune" if tune else "progression"
    return _render(
        piano, values, progression=progression, audio="audio" if len(notes) > 1 else "audio of one note"
    )


def _wall(colour: str) -> str:
    """A wall that sets off `colour`."""
    scenes = load_lists("scenes")
    return scenes["walls"].get(colour, scenes["plain wall"])


def _render(
    sentences: dict[str, Any],
    values: dict[str, str],
    lines: Sequence[str] = (),
    progression: str = "progression",
    audio: str = "audio",
) -> str:
    prose = [sentences[name].format(**values) for name in ("first_frame", progression, audio)]
    first_frame, progression, audio = (
        re.sub(r"(^A|\ba) (?=[aeio]|u(?!ni))", r"\1n ", text) for text in prose
    )
    blocks = [first_frame, progression, "\n".join(lines), f"{audio} {NO_SUBTITLES}"]
    return "\n\n".join(block for block in blocks if block)


def _unpractised(slots: Slots) -> Iterator[str]:
    """Facts that the prompt states and pocket's clips never had."""
    scenes, said = load_lists("scenes"), slots.said
    for name, values in scenes["practised"].items():
        if name in said and said[name] not in values.split("|"):
            yield f"{said[name]} {name}"
    if "notes" in said and len(said["notes"]) not in PRACTISED_NOTES:
        yield f"{len(said['notes'])} notes"
    words = set(scenes["spoken"].split())
    yield from (line for line in slots.lines if not set(re.findall(r"\w+", line.lower())) <= words)
    yield from [*slots.adjectives, *([said["verb"]] if "verb" in said else [])]
