"""Ideas of the pocket model's world, read without a language model: slots over word lists.

Pocket draws one person who talks, one ball that bounces, or one toy piano that plays. `read_idea` finds what
an idea says of these, writes it in sentences of the captions that pocket was trained on, with defaults for
what is left open, and names what it could not keep. Words and sentences are in prompts/pocket/.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any, Literal

from mova.catalog import PROMPTS
from mova.prompting.plan import NO_SUBTITLES
from mova.prompting.prompt_files import load_words
from mova.prompting.quotes import mask_quotes
from mova.text import CJK, language_of

FAMILIES = ("ball", "face", "piano")
MAX_CHARACTERS = 600
MAX_NOTES = 8
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
TOKEN = re.compile(r"<Q+\d+>|[^\W\d_]+(?:'[^\W\d_]+)*|\d+[xX]?|[^\w\s.,:;!?()<>&/…–—'\"，。：！？、-]")
GREETING = re.compile(r"\s*(?:hi|hey|hello|ok|okay)[,!.]+\s+(?=\S)", re.IGNORECASE)
GAP = r"(?:\s*[,、–-]\s*|\s*\.{2,3}\s*|\s+)(?:(?:and|then)\s+)?"
NOTES = re.compile(
    rf"(?<![\w'’#])(?:[A-Ga-g](?:{GAP}[A-Ga-g])*|[A-G]{{2,9}})(?![\w'’#♯♭]|\s+(?:major|minor)\b)"
)
SYLLABLES = {
    "do": "C",
    "re": "D",
    "mi": "E",
    "fa": "F",
    "sol": "G",
    "so": "G",
    "la": "A",
    "ti": "B",
    "si": "B",
}
SUNG = re.compile(rf"\b(?:{'|'.join(SYLLABLES)})(?:{GAP}(?:{'|'.join(SYLLABLES)}))*\b", re.IGNORECASE)
ARTICLE_LAST = re.compile(
    rf"(?:{GAP})?a(?=\s+(?!(?:on|in|at|by|and|then|from|with|before|played|slowly|quickly|fast|glow\w*|lit|are|light|please|thanks|thank|cheers|as|for|if|no|without|just)\b)[^\W\d_])",
    re.I,
)
AFTER_THESE = re.compile(
    r"\b(?:at|on|in|with|of|by|from|like|is)\s+$", re.IGNORECASE
)  # an article is in place
REPORTED = re.compile(
    r"(?:that|nothing|something|anything|about|at|to|for|from|with|into|he|she|they)\b", re.IGNORECASE
)
PEOPLE = {"man": "man", "woman": "woman", "child": "child", "girl": "child", "boy": "child", "anyone": ""}
SHOUTS = ("shouts", "whispers", "yells", "exclaims", "replies")  # what follows is said, not done
ANAPHORS = ("he", "she", "child", "person")  # words for a person who was named before
MATERIALS = ("rubber", "wood", "metal", "glass")
GARMENTS = ("T-shirt", "striped sweater", "hoodie", "shirt with a collar", "garment")
STYLES_BEFORE_HAIR = ("short", "curly", "long", "wavy")
MODIFIERS = frozenset(("adjective", "colour", "smile", "made", *MATERIALS, *STYLES_BEFORE_HAIR))
COLOURED = {
    **dict.fromkeys(("hair", "bob", "bun", "pigtails", "bowl", "tuft", "swept"), "hair"),
    **dict.fromkeys(GARMENTS, "clothes"),
    **{"wall": "wall", "ball": "colour", "piano": "body", "lit": "light", "melody": "light"},
}


@dataclass(frozen=True)
class PocketReading:
    """An idea as pocket's world has it.

    `belongs` says how much of the idea is of that world: the whole; a part (`not_kept` names the rest, each
    with its reason, and `prompt` is what is left); or nothing (`prompt` is empty). `kept` are the facts that
    the prompt states as the idea has them. Those of `unpractised` are stated too, but no clip that pocket
    learnt from had them.
    """

    family: Literal["face", "ball", "piano", ""]
    belongs: Literal["whole", "partly", "not"]
    prompt: str = ""
    kept: tuple[str, ...] = ()
    not_kept: tuple[str, ...] = ()
    unpractised: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """A phrase, the slot of the word lists that it fills, and where it stands."""

    slot: str
    phrase: str
    start: int
    end: int


@dataclass
class Slots:
    """What has been read so far; `lost` are the facts that could not be kept."""

    said: dict[str, Any] = field(default_factory=dict)
    adjectives: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def fill(self, name: str, value: object) -> None:
        if self.said.setdefault(name, value) != value:
            self.lost.append(f"{name} {value}: pocket takes one {name}, here {self.said[name]}")


def read_idea(idea: str) -> PocketReading:
    """What `idea` says of pocket's world. Spoken words stand in quotes, or last after a verb such as "says"."""
    taken = mask_quotes(idea)
    text = _in_english(GREETING.sub("", taken.text, count=1).replace("’", "'"))
    if len(text) > MAX_CHARACTERS:
        return PocketReading(
            "", "not", not_kept=("the idea tells more than one short clip of pocket's holds",)
        )
    slots = Slots(lines=[quote.raw for quote in taken.quotes])
    if not slots.lines:
        text = _take_speech(text, slots)
    text, melodies = _take_notes(text)
    families = _families(text, bool(slots.lines), bool(melodies))
    if not families:
        return PocketReading("", "not", not_kept=tuple(_unknown(text, _items(text, "any"))))
    family = families[0]
    items = _items(text, family)
    slots.lost += _unknown(text, items)
    slots.lost += [f"a {other}: pocket draws one thing in a clip, here a {family}" for other in families[1:]]
    if family != "face":
        slots.lost += [f"{line}: pocket lets people speak, not a {family}" for line in slots.lines]
    if family == "piano" and melodies:
        slots.fill("notes", melodies[0])
        slots.lost += [f"{' '.join(other)}: pocket plays one melody" for other in melodies[1:]]
    read, write = {
        "ball": (_read_ball, _write_ball),
        "face": (_read_face, _write_face),
        "piano": (_read_piano, _write_piano),
    }[family]
    read(text, items, slots)
    if slots.lost and not any(item.slot == family or item.slot in PEOPLE for item in items):
        return PocketReading("", "not", not_kept=tuple(slots.lost))
    kept = [f"{name}: {''.join(value) if name == 'notes' else value}" for name, value in slots.said.items()]
    return PocketReading(
        family,
        "partly" if slots.lost else "whole",
        write(slots),
        (*kept, *slots.adjectives, *slots.lines),
        tuple(slots.lost),
        tuple(_unpractised(slots)),
    )


# Word lists.


@lru_cache(maxsize=1)
def _words() -> dict[str, Any]:
    return json.loads((PROMPTS / "pocket" / "words.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _scenes() -> dict[str, Any]:
    return json.loads((PROMPTS / "pocket" / "scenes.json").read_text(encoding="utf-8"))


def _expand(patterns: str) -> list[str]:
    """The phrases that `patterns` stands for: "(red|blue) ball|orb" is red ball, blue ball, orb."""
    found = []
    for pattern in re.split(r"\|(?![^(]*\))", patterns):
        options = [part.split("|") for part in re.split(r"[()]", pattern)]
        found += [" ".join("".join(parts).split()) for parts in product(*options)]
    return found


@lru_cache(maxsize=4)
def _phrases(family: str) -> dict[str, str]:
    """Each phrase of a family's lists, and of those for all, with its slot."""
    words = _words()
    lists = {**words["any"], "colour": words["colours"], **words.get(family, {})}
    return {phrase: slot for slot, patterns in lists.items() for phrase in _expand(patterns)}


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    return frozenset(word for family in FAMILIES for phrase in _phrases(family) for word in phrase.split())


@lru_cache(maxsize=1)
def _slips() -> dict[str, str]:
    """Words of the lists as they come out when a finger slips, where that makes no other word."""
    slips: dict[str, set[str]] = {}
    for word in (word for word in _vocabulary() if len(word) > 3 and word.isascii() and word.isalpha()):
        for at in range(1, len(word)):
            rest = word[at + 1 :]
            row = next(row for row in KEYBOARD if word[at] in row)
            place = row.index(word[at])
            letters = ["", word[at] * 2, *row[max(0, place - 1) : place], *row[place + 1 : place + 2]]
            made = [word[:at] + letter + rest for letter in letters]
            made += [word[:at] + rest[0] + word[at] + rest[1:]] if rest else []
            for slip in made:
                slips.setdefault(slip, set()).add(word)
    nouns = {
        noun for family in FAMILIES for noun, slot in _phrases(family).items() if slot in (family, *PEOPLE)
    }
    likely = {slip: words if len(words) == 1 else words & nouns for slip, words in slips.items()}
    real = _vocabulary() | set(load_words("pocket/no_slips"))
    return {slip: words.pop() for slip, words in likely.items() if len(words) == 1 and slip not in real}


def _in_english(text: str) -> str:
    """`text` with the Chinese words of pocket's world in English; other ones stay, and are unknown."""
    if not CJK.search(text):
        return text
    words = _words()["chinese"]
    known = "|".join(sorted(words, key=len, reverse=True))
    return re.sub(known, lambda match: f" {words[match[0]]} ", text)


# What stands where.


def _items(text: str, family: str) -> list[Item]:
    """The longest phrases of the family's lists in order. A word of none fills the slot "?"."""
    phrases, known, slips = _phrases(family), _vocabulary(), _slips()
    tokens = [(match[0].lower(), match.start(), match.end()) for match in TOKEN.finditer(text)]
    words = [word if word in known else slips.get(word, word) for word, _, _ in tokens]
    items: list[Item] = []
    at = 0
    while at < len(words):
        count = next(
            (
                count
                for count in range(min(8, len(words) - at), 0, -1)
                if " ".join(words[at : at + count]) in phrases
            ),
            1,
        )
        phrase = " ".join(words[at : at + count])
        slot = phrases.get(phrase, "quote" if phrase.startswith("<") else "?")
        item = Item(slot, phrase, tokens[at][1], tokens[at + count - 1][2])
        if slot == "colour" and items and items[-1].slot == "shade":
            shade = items.pop()
            item = Item(slot, f"{shade.phrase} {phrase}", shade.start, item.end)
        items.append(item)
        at += count
    return items


def _unknown(text: str, items: Sequence[Item]) -> list[str]:
    """Runs of words that no list has, as they stand in `text`."""
    found: list[list[int]] = []
    for index, item in enumerate(items):
        if item.slot not in ("?", "shade"):
            continue
        if found and all(
            between.slot == "glue"
            for between in items[found[-1][-1] : index]
            if between.slot not in ("?", "shade")
        ):
            found[-1].append(index)
        else:
            found.append([index])
    runs = [text[items[run[0]].start : items[run[-1]].end] for run in found]
    return [f"{' '.join(run.split())}: not in pocket's world" for run in runs]


def _families(text: str, has_lines: bool, has_melody: bool) -> list[str]:
    """The families whose things are named, in the order of the idea; else what is said or played tells."""
    tunes = _scenes()["piano"]["tunes"]
    places = []
    for family in FAMILIES:
        for item in _items(text, family):
            if item.slot == family or (item.slot in PEOPLE and item.slot != "anyone"):
                places.append((item.start, family))
            elif item.slot in tunes:
                places.append((len(text), family))
    places += [(len(text), "face")] * has_lines + [(len(text), "piano")] * has_melody
    if not places:
        places = [(0, "face") for item in _items(text, "face") if item.slot == "anyone"]
    return list(dict.fromkeys(family for _, family in sorted(places)))


def _take_speech(text: str, slots: Slots) -> str:
    """`text` up to the words that are spoken without quote marks, which go to `slots.lines`."""
    items = _items(text, "face")
    for index, item in enumerate(items):
        follows = text[item.end :].lstrip()[:1]
        has_person = any(before.slot in PEOPLE for before in items[:index])
        opens = all(before.slot in ("glue", "frame") for before in items[:index])
        speaks = (
            item.slot == "say"
            or item.phrase in SHOUTS
            or (
                item.slot in ("verb", "talk")
                and (
                    follows in (":", ",", "：")
                    or any(after.slot == "words" for after in items[index + 1 : index + 2])
                )
            )
        )
        if not (speaks and (has_person or opens)) and not (
            (has_person or item.slot in PEOPLE) and follows in (":", "：")
        ):
            continue
        end = item.end
        for after in items[index + 1 :]:
            if (
                after.slot not in ("manner", "calm", "brisk", "low", "high", "words")
                or ":" in text[end : after.start]
            ):
                break
            end = after.end
        words = text[end:].strip(" ,:，：-")
        if REPORTED.match(words):
            slots.lost.append(f"{words}: put the words that are spoken in quotes")
        if words and (has_person or item.slot != "talk"):
            slots.lines = [f'"{words}"']
            return text[:end]
    return text


def _take_notes(text: str) -> tuple[str, list[tuple[str, ...]]]:
    """`text` without its melodies, and these. An "a" before a word is an article."""
    is_piano = any(item.slot in ("piano", "play", "melody", "lit") for item in _items(text, "piano"))
    melodies, spans = [], []
    for match in [*NOTES.finditer(text), *SUNG.finditer(text)]:
        start, end, run = match.start(), match.end(), match[0]
        if len(run) > 1 and (run.lower() in _vocabulary() or run.lower() in SYLLABLES):
            continue
        if run[-1] in "aA" and (last := ARTICLE_LAST.search(text, end - 1)) and last.start() == end - 1:
            run = re.sub(rf"(?:{GAP})?a$", "", run, flags=re.IGNORECASE)
            end = start + len(run)
        if run in ("a", "A") and AFTER_THESE.search(text[:start]):
            continue
        letters = re.findall(r"\b[A-Za-z]+\b", re.sub(r"\b(?:and|then)\b", "", run))
        if len(letters) > 1 and letters[0] in "aA" and (letters[0] == "a") == "".join(letters[1:]).isupper():
            start += 2
            letters = letters[1:]
        notes = tuple("".join(SYLLABLES.get(name.lower(), name.upper()) for name in letters))
        is_sung = letters and letters[0].lower() in SYLLABLES
        if len(notes) > (1 if is_piano else 2) or (notes and not is_sung and (is_piano or len(notes) > 1)):
            melodies.append(notes)
            spans.append((start, end))
    for start, end in spans:
        text = f"{text[:start]}{' ' * (end - start)}{text[end:]}"
    return text, melodies


def _head(text: str, items: Sequence[Item], at: int) -> Item | None:
    """What the modifier at `at` describes: the next thing, else the one before it."""
    is_near = at > 0 and text[items[at - 1].end : items[at].start].isspace()
    if (
        is_near
        and items[at - 1].slot == "lit"
        and [item.slot for item in items[at + 1 : at + 2]] != ["piano"]
    ):
        return items[at - 1]
    for across_commas in (False, True):
        for index in range(at + 1, len(items)):
            item = items[index]
            if not across_commas and re.search("[,.;:]", text[items[index - 1].end : item.start]):
                break
            is_joined = (
                item.phrase == "and" and items[index + 1 : index + 2] and items[index + 1].slot in MODIFIERS
            )
            if (
                item.slot in MODIFIERS
                or is_joined
                or (item.phrase == "haired" and items[at].slot == "adjective")
            ):
                continue
            if (
                item.slot in COLOURED
                or item.slot in PEOPLE
                or item.slot in ("beard", "moustache", "cap", "glasses")
            ):
                return item
            break
        if not across_commas:
            before = [
                item
                for item in items[:at]
                if item.slot not in MODIFIERS and item.phrase not in ("and", "is", "in", "are")
            ]
            if items[at - 1].slot == "wear" or (at and items[at - 1].phrase in ("in", "wears")):
                if any(item.slot in PEOPLE for item in before):
                    return Item("garment", "", 0, 0)
            if before and before[-1].slot in ("ball", "piano", "lit", "melody", "rainbow"):
                return before[-1]
    return None


def _describe(text: str, items: Sequence[Item], slots: Slots, family: str) -> None:
    """Colours, adjectives and walls, each with what it describes."""
    coloured = set()
    for at, item in enumerate(items):
        if item.slot not in ("colour", "adjective"):
            continue
        head = _head(text, items, at)
        name = COLOURED.get(head.slot) if head else ""
        if head and item.slot == "adjective" and (head.slot == family or head.slot in PEOPLE):
            slots.adjectives.append(item.phrase)
        elif item.slot == "colour" and head and head.slot in PEOPLE and item.phrase in FAIR_HAIR:
            slots.fill("hair", item.phrase)
        elif item.slot == "colour" and head and head.slot in PEOPLE:
            slots.lost.append(
                f"{item.phrase} {head.phrase}: write {item.phrase} hair, or {item.phrase} clothes"
            )
        elif item.slot == "colour" and name:
            slots.fill(name, item.phrase)
            coloured.add(head)
        elif head or item.phrase not in _words()["any"]["frame"]:
            what = f"{item.phrase} {head.phrase}" if head else item.phrase
            slots.lost.append(
                f"{what}: pocket draws no {what.removesuffix('s')}s" if head else f"{what}: of what?"
            )
    for at, item in enumerate(items):
        if (
            item.slot == "wall"
            and item not in coloured
            and not any(i.slot == "before" for i in items[max(0, at - 3) : at])
        ):
            slots.lost.append(f"{item.phrase}: pocket's walls stand behind, in one colour")


FAIR_HAIR = ("blond", "blonde", "ginger", "grey", "gray", "auburn")  # "black woman" may not mean her hair


def _read_ball(text: str, items: Sequence[Item], slots: Slots) -> None:
    scenes = _scenes()["ball"]
    _describe(text, items, slots, "ball")
    for at, item in enumerate(items):
        if item.slot in MATERIALS:
            head = _head(text, items, at)
            if head is None or head.slot == "ball":
                slots.fill("material", item.slot)
            else:
                slots.lost.append(f"{item.phrase} {head.phrase}: pocket draws no such {head.phrase}")
        elif item.slot in scenes["drift"]:
            slots.fill("direction", item.slot)
        elif item.slot in scenes["height"]:
            slots.fill("height", item.slot)
        elif item.slot in scenes["floor"]:
            slots.fill("floor", item.slot)
        elif item.slot.isdigit():
            slots.fill("bounces", int(item.slot))
        elif item.slot == "sound":
            made_by = next(m for m in MATERIALS if any(s.endswith(item.phrase) for s in scenes[m]["sounds"]))
            slots.fill("sound", item.phrase)
            slots.fill("material", made_by)
    moves = {item.slot for item in items} & {"tossed", "dropped"}
    if moves:
        slots.said["start"] = max(moves)  # "is thrown up and falls" is tossed


def _read_face(text: str, items: Sequence[Item], slots: Slots) -> None:
    _describe(text, items, slots, "face")
    people = [item for item in items if item.slot in PEOPLE and item.slot != "anyone"]
    if not any(item.slot in PEOPLE for item in items):
        worn = [item for item in items if item.slot in COLOURED and item.slot != "wall"]
        slots.lost += [f"{item.phrase}: of whom? name a man, a woman or a child" for item in worn]
    named = [item.phrase for item in people if item.phrase not in ANAPHORS]
    if len(set(named)) > 1 or len({PEOPLE[item.slot] for item in people}) > 1:
        slots.lost.append(
            f"{' and '.join(dict.fromkeys(item.phrase for item in people))}: pocket draws one person"
        )
    if people:
        slots.said["person"] = PEOPLE[people[0].slot]
        slots.said |= {"looks": people[0].slot} if people[0].slot in ("girl", "boy") else {}
    for at, item in enumerate(items):
        if item.slot in STYLES_BEFORE_HAIR:
            head = _head(text, items, at)
            if head and COLOURED.get(head.slot) == "hair":
                slots.fill("style", item.slot)
            elif head and head.slot in PEOPLE and item.slot == "short":
                slots.adjectives.append("short")
            else:
                slots.lost.append(f"{item.phrase}: pocket draws nothing {item.phrase} but hair")
        elif item.slot in _scenes()["face"]["hair"]:
            slots.fill("style", item.slot)
        elif item.slot in GARMENTS:
            slots.fill("garment", item.phrase if item.slot == "garment" else item.slot)
        elif item.slot in ("calm", "brisk"):
            slots.fill("pace", item.slot)
        elif item.slot in ("low", "high"):
            slots.fill("pitch", item.slot)
        elif item.slot in ("beard", "moustache"):
            slots.fill("beard", item.slot)
        elif item.slot in ("glasses", "smile", "blink"):
            slots.said[item.slot] = True
        elif item.slot in ("verb", "manner"):
            verb = item.phrase if item.slot == "verb" else f"says {item.phrase}"
            slots.said.setdefault("verb", re.sub(r"ing$", "s", verb))
            if not slots.lines:
                slots.lost.append(f"{item.phrase}: give the words in quotes")


def _read_piano(text: str, items: Sequence[Item], slots: Slots) -> None:
    tunes = _scenes()["piano"]["tunes"]
    _describe(text, items, slots, "piano")
    for item in items:
        if item.slot in ("slow", "easy", "quick"):
            slots.fill("pace", item.slot)
        elif item.slot == "rainbow":
            slots.fill("light", "rainbow")
        elif item.slot in tunes and "notes" not in slots.said:
            slots.said |= {"tune": item.slot, "notes": tuple(tunes[item.slot])}
        elif item.slot in tunes and not tunes[item.slot].startswith("".join(slots.said["notes"])):
            slots.lost.append(f"{item.phrase}: the idea gives other notes")
    if len(slots.said.get("notes", ())) > MAX_NOTES:
        slots.lost.append(f"{len(slots.said['notes'])} notes: pocket plays up to {MAX_NOTES}")
        slots.said["notes"] = slots.said["notes"][:MAX_NOTES]


# Sentences.


def _prompt(first_frame: str, progression: str, lines: Sequence[str], audio: str) -> str:
    prose = [
        re.sub(r"(^A|\ba) (?=[aeio]|u(?!ni))", r"\1n ", text) for text in (first_frame, progression, audio)
    ]
    blocks = [prose[0], prose[1], "\n".join(lines), f"{prose[2]} {NO_SUBTITLES}"]
    return "\n\n".join(block for block in blocks if block)


def _wall(colour: str) -> str:
    """A wall that sets off `colour`."""
    return _scenes()["walls"].get(colour, _scenes()["plain wall"])


def _write_ball(slots: Slots) -> str:
    scenes, said = _scenes()["ball"], slots.said
    material = said.get("material") or scenes["material of"].get(said.get("colour", "red"), "metal")
    stuff = scenes[material]
    colour = said.get("colour") or stuff["colour"]
    start = said.get("start", "dropped")
    bounces = int(said.get("bounces", stuff["bounces"]))
    sound = next(sound for sound in stuff["sounds"] if sound.endswith(said.get("sound", "")))
    ball = scenes["ball"].format(colour=colour, material=stuff["adjective"])
    values = {
        "ball": " ".join([*slots.adjectives, ball]),
        "look": stuff["look"],
        "height": scenes["height"][said.get("height") or ("low" if start == "tossed" else "high")],
        "floor": scenes["floor"][said.get("floor", stuff["floor"])],
        "wall": said.get("wall") or _wall(colour),
        "start": scenes["start"][start],
        "times": _scenes()["times"][bounces - 1],
        "drift": scenes["drift"][said.get("direction", stuff["direction"])],
        "number": _scenes()["numbers"][bounces - 1],
        "impacts": sound if bounces == 1 else f"{sound}s",
    }
    progression = scenes["progression once" if bounces == 1 else "progression"]
    return _prompt(
        *(text.format(**values) for text in (scenes["first_frame"], progression)),
        (),
        scenes["audio"].format(**values),
    )


def _write_face(slots: Slots) -> str:
    scenes, said = _scenes()["face"], slots.said
    person = said.get("person", "woman")
    looks = {**scenes[person], **scenes.get(said.get("looks", ""), {}), **said}
    hair = [scenes["hair"][looks["style"]].format(hair=looks["hair"])]
    hair += [f"a {said['beard']}"] if "beard" in said else []
    hair += ["glasses"] if "glasses" in said else []
    values = {
        "person": person,
        "who": " ".join(
            [*slots.adjectives, scenes["who smiling" if "smile" in said else "who"].format(person=person)]
        ),
        "hair": " and ".join([", ".join(hair[:-1]), hair[-1]]) if len(hair) > 1 else hair[0],
        "clothes": looks["clothes"],
        "garment": looks["garment"],
        "wall": said.get("wall") or _wall(looks["clothes"]),
        "pitch": f"{said['pitch']} " if "pitch" in said else "",
        "pace": said.get("pace", "calm"),
    }
    leads = [scenes["dialogue"], *[scenes["dialogue after"]] * len(slots.lines[1:])]
    leads[0] = leads[0].replace("says", said.get("verb", "says"))
    lines = [lead.format(person=person, quote=line) for lead, line in zip(leads, slots.lines, strict=False)]
    progression = scenes["progression blinking" if "blink" in said else "progression"]
    return _prompt(
        *(text.format(**values) for text in (scenes["first_frame"], progression)),
        lines,
        scenes["audio"].format(**values),
    )


def _write_piano(slots: Slots) -> str:
    scenes, said = _scenes()["piano"], slots.said
    tune = said.get("tune", "" if "notes" in said else next(iter(scenes["tunes"])))
    notes = said.get("notes") or tuple(scenes["tunes"][tune])
    body, light = said.get("body", "red"), said.get("light", "rainbow")
    values = {
        "piano": " ".join([*slots.adjectives, scenes["piano"].format(body=body)]),
        "wall": said.get("wall") or _wall(body),
        "notes": ", ".join(notes),
        "number": _scenes()["numbers"][len(notes) - 1],
        "light": scenes["rainbow"] if light == "rainbow" else light,
        "pace": scenes["pace"][said.get("pace", "easy")],
        "tune": tune,
    }
    progression = scenes["progression"] + (scenes["tune"] if tune else "")
    audio = scenes["audio" if len(notes) > 1 else "audio of one note"]
    return _prompt(
        *(text.format(**values) for text in (scenes["first_frame"], progression)), (), audio.format(**values)
    )


def _unpractised(slots: Slots) -> list[str]:
    """What the prompt states and pocket's clips never had."""
    practised, said = _scenes()["practised"], slots.said
    found = [
        f"{said[name]} {name}"
        for name, values in practised.items()
        if name in said and said[name] not in values.split("|")
    ]
    if "notes" in said and not 3 <= len(said["notes"]) <= 6:
        found.append(f"{len(said['notes'])} notes")
    words = set(_scenes()["spoken"].split())
    found += [line for line in slots.lines if not set(re.findall(r"\w+", line.lower())) <= words]
    return [*found, *slots.adjectives, *([said["verb"]] if "verb" in said else [])]
