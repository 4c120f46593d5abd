"""Rules on what an idea names outright: colours, materials, notes and bare spoken words are kept."""

import re
from collections.abc import Iterator
from functools import lru_cache

from mova.prompting.brief import Brief, Violation
from mova.prompting.edits import prose_of
from mova.prompting.templates import load_words
from mova.prompting.words import CJK, content_words

LISTS = ("colours", "materials")
PLACE = re.compile(r"\b(?:floor|ground|wall|background|backdrop)\b|地|墙|背景")
BACKDROP = re.compile(r"\b(?:\w+ ){1,2}(?:floor|ground|wall|background|backdrop)\b|\bwall is \w+")
NOTE_GAP = r"(?:\s*(?:[,、–-]|\.{2,3})\s*|\s+)(?:(?:and|then)\s+)?"
NOTES = re.compile(rf"(?<![A-Za-z0-9_'’])[A-G](?:{NOTE_GAP}[A-G])+(?![A-Za-z0-9_'’#♯♭])")
PLAYED = re.compile(r"\b(?:notes?|keys?|pianos?|keyboard|melody|tune|plays?|playing)\b", re.IGNORECASE)
FEW_NOTES = 3  # fewer are taken for notes only where something is played
SAID = re.compile(r"\b(?:says?|saying)(?: the words?)?:? +([^<>:,.;!?\n]{1,60}?) *[.!?]*$", re.IGNORECASE)
REPORTED = re.compile(r"(?:that|nothing|something|anything|it|to|how|what|why)\b", re.IGNORECASE)
LAST = 120  # characters of an idea in which such words end it
FEW_WORDS = 4  # more after a verb of speaking tell what is said rather than say it


def named(text: str, brief: Brief) -> Iterator[Violation]:
    for word in lost_names(text, brief):
        yield _lost("named", word)


def notes(text: str, brief: Brief) -> Iterator[Violation]:
    idea = brief.taken.text
    told = {_letters(match[0]) for match in NOTES.finditer(text)}
    for match in NOTES.finditer(idea):
        played = _letters(match[0])
        if (len(played) >= FEW_NOTES or PLAYED.search(idea)) and played not in told:
            yield Violation("notes", "error", f"the notes {match[0]} are missing; keep them in their order")


def bare_words(text: str, brief: Brief) -> Iterator[Violation]:
    """What someone says at the end of an idea without any quote marks, as in: girl says hello."""
    said = SAID.search(brief.idea[-LAST:]) if not brief.quotes else None
    if said is None or REPORTED.match(said[1]) or len(said[1].split()) > FEW_WORDS or CJK.search(said[1]):
        return
    words = content_words(said[1])
    if not words <= content_words(text):
        yield _lost("bare_words", said[1])


def lost_names(text: str, brief: Brief) -> list[str]:
    """The colours and materials of the idea that `text` lacks.

    What is said of a backdrop that nobody asked for says nothing of the ball before it.
    """
    asked: dict[tuple[str, ...], str] = {}
    for match in _any_name().finditer(brief.prose):
        asked.setdefault(_group_of()[match[0]], match[0])
    if not asked:
        return []
    prose = prose_of(text)
    if not PLACE.search(brief.prose):
        prose = BACKDROP.sub(" ", prose)
    return [said for group, said in asked.items() if not any(_pattern(word).search(prose) for word in group)]


@lru_cache
def colour_words() -> tuple[str, ...]:
    """Every word for a colour, longest first."""
    words = {word.strip() for line in load_words("colours") for word in line.split(",")}
    return tuple(sorted((word for word in words if word.isascii()), key=lambda word: (-len(word), word)))


def _lost(rule: str, words: str) -> Violation:
    return Violation(rule, "error", f'the idea says "{words}" and the prompt does not; keep it')


@lru_cache
def _group_of() -> dict[str, tuple[str, ...]]:
    """The words for the same colour or material as each word."""
    groups = [tuple(word.strip() for word in line.split(",")) for name in LISTS for line in load_words(name)]
    return {word: group for group in groups for word in group}


@lru_cache
def _any_name() -> re.Pattern[str]:
    words = sorted(_group_of(), key=len, reverse=True)
    return re.compile("|".join(_pattern(word).pattern for word in words))


@lru_cache(maxsize=512)
def _pattern(word: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word))


def _letters(run: str) -> str:
    return "".join(re.findall("[A-G]", run))
