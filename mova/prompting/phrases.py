"""Cut an idea into phrases of pocket's word lists: slips of the finger put right, speech and melodies taken out.

A slot of prompts/pocket/words.json is a kind of phrase ("glue"), or a fact with its value ("floor=oak").
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from mova.catalog import PROMPTS
from mova.prompting.prompt_files import load_words
from mova.text import CJK

FAMILIES = ("ball", "face", "piano")
MAX_PHRASE = 8  # words
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
TOKEN = re.compile(r"<Q+\d+>|[^\W\d_]+(?:'[^\W\d_]+)*|\d+[xX]?|[^\w\s.,:;!?()<>&/…–—'\"，。：！？、-]")
GAP = r"(?:\s*[,、–-]\s*|\s*\.{2,3}\s*|\s+)(?:(?:and|then)\s+)?"
NOTES = re.compile(
    rf"(?<![\w'#])(?:[A-Ga-g](?:{GAP}[A-Ga-g])*|[A-G]{{2,9}})(?![\w'#♯♭]|\s+(?:major|minor)\b)"
)
SYLLABLES = dict(zip(("do", "re", "mi", "fa", "sol", "la", "ti", "so", "si"), "CDEFGABGB", strict=True))
SUNG = re.compile(rf"\b(?:{'|'.join(SYLLABLES)})(?:{GAP}(?:{'|'.join(SYLLABLES)}))+\b", re.IGNORECASE)
AFTER_A_NOTE = (
    r"(?:on|in|at|by|and|then|from|with|before|played|slowly|quickly|fast|glow\w*|lit|are|light|please|"
    r"thanks|thank|cheers|as|for|if|no|without|just)\b"
)
LAST_ARTICLE = re.compile(rf"a\s+(?!{AFTER_A_NOTE})[^\W\d_]", re.IGNORECASE)
BEFORE_AN_ARTICLE = re.compile(r"\b(?:at|on|in|with|of|by|from|like|is)\s+$", re.IGNORECASE)
SPOKEN_ALONE = ("shouts", "whispers", "yells", "exclaims", "replies")  # what follows them is said, not done


@dataclass(frozen=True)
class Item:
    """A phrase of an idea, the slot that it fills with its value, and where it stands."""

    slot: str
    value: str
    phrase: str
    start: int
    end: int


@lru_cache(maxsize=2)
def load_lists(name: str) -> dict[str, Any]:
    """The JSON file prompts/pocket/`name`.json."""
    return json.loads((PROMPTS / "pocket" / f"{name}.json").read_text(encoding="utf-8"))


def expand(patterns: str) -> list[str]:
    """The phrases that `patterns` stands for: "(red|blue) ball|orb" is red ball, blue ball, orb."""
    found = []
    for pattern in re.split(r"\|(?![^(]*\))", patterns):
        options = [part.split("|") for part in re.split(r"[()]", pattern)]
        found += [" ".join("".join(parts).split()) for parts in product(*options)]
    return found


@lru_cache(maxsize=8)
def phrases_of(family: str) -> dict[str, str]:
    """Each phrase of a family's lists, and of those for all, with its slot."""
    words = load_lists("words")
    lists = {**words["any"], "colour": words["colours"], **words.get(family, {})}
    return {phrase: slot for slot, patterns in lists.items() for phrase in expand(patterns)}


@lru_cache(maxsize=1)
def known_words() -> frozenset[str]:
    return frozenset(word for family in FAMILIES for phrase in phrases_of(family) for word in phrase.split())


@lru_cache(maxsize=1)
def slips() -> dict[str, str]:
    """Words of the lists as they come out when a finger slips, where that makes no other word."""
    found: dict[str, set[str]] = {}
    for word in (word for word in known_words() if len(word) > 3 and word.isascii() and word.isalpha()):
        for at in range(1, len(word)):
            before, letter, after = word[:at], word[at], word[at + 1 :]
            row = next(row for row in KEYBOARD if letter in row)
            place = row.index(letter)
            made = [before + other + after for other in ("", letter * 2, *row[max(0, place - 1) : place + 2])]
            made += [before + after[0] + letter + after[1:]] if after else []
            for slip in made:
                found.setdefault(slip, set()).add(word)
    slots = [entry for family in FAMILIES for entry in phrases_of(family).items()]
    things = {phrase for phrase, slot in slots if slot in FAMILIES or slot.startswith("person=")}
    likely = {slip: words if len(words) == 1 else words & things for slip, words in found.items()}
    real = known_words() | set(load_words("pocket/no_slips"))
    return {slip: words.pop() for slip, words in likely.items() if len(words) == 1 and slip not in real}


def in_english(text: str) -> str:
    """`text` with the Chinese words of pocket's world in English; other ones stay, and are unknown."""
    if not CJK.search(text):
        return text
    words = load_lists("words")["chinese"]
    known = "|".join(sorted(words, key=len, reverse=True))
    return re.sub(known, lambda match: f" {words[match[0]]} ", text)


def cut_phrases(text: str, family: str) -> list[Item]:
    """The longest phrases of the family's lists in order. A word of none fills the slot "?"."""
    phrases, known, typed = phrases_of(family), known_words(), slips()
    tokens = list(TOKEN.finditer(text))
    words = [token[0].lower() for token in tokens]
    words = [word if word in known else typed.get(word, word) for word in words]
    items: list[Item] = []
    at = 0
    while at < len(words):
        counts = range(min(MAX_PHRASE, len(words) - at), 1, -1)
        count = next((count for count in counts if " ".join(words[at : at + count]) in phrases), 1)
        phrase, start = " ".join(words[at : at + count]), tokens[at].start()
        slot, _, value = phrases.get(phrase, "quote" if phrase[0] == "<" else "?").partition("=")
        if slot == "colour" and items and items[-1].slot == "shade":  # as in "dark green"
            shade = items.pop()
            phrase, start = f"{shade.phrase} {phrase}", shade.start
        items.append(Item(slot, value or phrase, phrase, start, tokens[at + count - 1].end()))
        at += count
    return items


def unknown_words(text: str, items: Sequence[Item]) -> list[str]:
    """Runs of words that no list has, as they stand in `text`."""
    runs: list[list[Item]] = [[]]
    for item in items:
        if item.slot in ("?", "shade"):
            runs[-1].append(item)
        elif item.slot != "glue" and runs[-1]:
            runs.append([])
    return [" ".join(text[run[0].start : run[-1].end].split()) for run in runs if run]


def take_speech(text: str) -> tuple[str, str]:
    """`text` up to words that are spoken without quote marks, and these, as in: girl says hello."""
    items = cut_phrases(text, "face")
    for index, item in enumerate(items):
        has_colon = text[item.end :].lstrip()[:1] in (":", "：", ",")
        has_person = any(before.slot in ("person", "anyone") for before in items[:index])
        opens = all(before.slot in ("glue", "frame") for before in items[:index])
        names_words = any(after.slot == "words" for after in items[index + 1 : index + 2])
        speaks = item.slot == "say" or item.phrase in SPOKEN_ALONE
        speaks |= item.slot in ("verb", "talk") and (has_colon or names_words)
        is_label = text[item.end :].lstrip()[:1] in (":", "：") and (
            has_person or item.slot in ("person", "anyone")
        )
        if not is_label and not (speaks and (has_person or (opens and item.slot != "talk"))):
            continue
        end = item.end
        for after in items[index + 1 :]:
            if after.slot not in ("manner", "pace", "pitch", "words") or ":" in text[end : after.start]:
                break
            end = after.end
        words = text[end:].strip(" ,:，：-")
        if words:
            return text[:end], words
    return text, ""


def take_notes(text: str) -> tuple[str, list[tuple[str, ...]]]:
    """`text` without its melodies, and these. An "a" before a word is an article."""
    is_piano = any(item.slot in ("piano", "play", "melody", "lit") for item in cut_phrases(text, "piano"))
    melodies = []
    for match in [*NOTES.finditer(text), *SUNG.finditer(text)]:
        start, run = match.start(), match[0]
        if len(run) > 1 and (run.lower() in known_words() or run.lower() in SYLLABLES):
            continue
        if run in ("a", "A") and BEFORE_AN_ARTICLE.search(text[:start]):
            continue
        if LAST_ARTICLE.match(text, match.end() - 1):
            run = re.sub(rf"(?:{GAP})?a$", "", run, flags=re.IGNORECASE)
        letters = [word for word in re.findall(r"[A-Za-z]+", run) if word.lower() not in ("and", "then")]
        others = "".join(letters[1:])
        if others and letters[0] in ("a", "A") and (letters[0] == "a") == others.isupper():
            start, run, letters = start + 1, run[1:], letters[1:]
        notes = tuple("".join(SYLLABLES.get(word.lower(), word.upper()) for word in letters))
        if len(notes) > 1 or (notes and is_piano):
            melodies.append(notes)
            text = f"{text[:start]}{' ' * len(run)}{text[start + len(run) :]}"
    return text, melodies
