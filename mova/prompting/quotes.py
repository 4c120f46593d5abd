"""Quoted words: found, taken out before a model writes, and put back after it.

A model that never sees the words cannot change them. Between leaving and coming back a quote is a
placeholder, `<Q1>`, and placeholders that come back bent (`"<Q1>."`, `&lt;q1&gt;`, `[Q1]`) are still
understood.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from mova.text import clean_prompt

PAIRS = {
    "“": "”",
    "”": "”",  # both ends typed alike
    "„": "“”",
    "«": "»",
    "‹": "›",
    "「": "」",
    "『": "』",
    "‘": "’",
    "＂": "＂",
}
OPENING_MARKS = frozenset(PAIRS) | {'"', "'"}
QUOTE_MARKS = OPENING_MARKS | frozenset("".join(PAIRS.values()))
BEFORE_OPENING = re.compile(r"[\s(\[{<—–:,，：、。-]")
# A straight single mark is mostly an apostrophe: it opens a quote only where speech is announced.
BEFORE_SINGLE = re.compile(
    r"(?:[:,，：]|\b(?:says?|said|asks?|shouts?|whispers?|answers?|replies|yells?))\s*$", re.I
)
PARAGRAPH_BREAK = re.compile(r"\n\s*\n")
MAX_MARKS = 64  # of a kind, looked at for the end of one quote
MAX_QUOTE = 4000  # characters; longer ones are not speech of a clip, and searching further would take long


@dataclass(frozen=True)
class Quote:
    """`text` between `opening` and `closing`, found at [start, end) of a longer text.

    A quote that its writer never closed runs to the end of its line and has `closed` False; `raw` closes it.
    """

    text: str
    opening: str
    closing: str
    start: int
    end: int
    closed: bool = True

    @property
    def raw(self) -> str:
        """The quote with its marks, on one line."""
        return f"{self.opening}{' '.join(self.text.split())}{self.closing}"


@dataclass(frozen=True)
class MaskedText:
    """A text whose quotes were replaced by placeholders `<tag1>`, `<tag2>`, ..."""

    text: str
    quotes: tuple[Quote, ...] = ()
    tag: str = "Q"
    pattern: re.Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        marks = re.escape("".join(sorted(QUOTE_MARKS)))
        tagged = rf"{self.tag}\s?(\d{{1,4}})"
        body = (
            rf"(?:<\s*{tagged}\s*/?>|&lt;\s*{tagged}\s*&gt;|\[\s*{tagged}\s*\]|\{{+\s*{tagged}\s*\}}+|"
            rf"\({tagged}\))"
        )
        pattern = rf"(?:[{marks}]\s*)?{body}(?:\s*[.,!?。，！？]?\s?[{marks}])?"
        object.__setattr__(self, "pattern", re.compile(pattern, re.IGNORECASE))

    def placeholder(self, index: int) -> str:
        """The placeholder of the quote at `index`, counted from 0."""
        return f"<{self.tag}{index + 1}>"

    def indices(self, text: str) -> list[int]:
        """The quotes whose placeholders are in `text`, counted from 0, in the order of the text."""
        found = (int(next(filter(None, match.groups()))) - 1 for match in self.pattern.finditer(text))
        return [index for index in found if 0 <= index < len(self.quotes)]


@lru_cache(maxsize=128)  # a check looks at the same text some forty times
def find_quotes(text: str) -> tuple[Quote, ...]:
    """Every outermost quote of `text` in order: straight, curly, guillemets and CJK marks.

    Quotes inside a quote belong to it. Apostrophes and inch marks are no quotes.
    """
    found, position = [], 0
    while position < len(text):
        if text[position] in OPENING_MARKS and (quote := _quote_at(text, position)):
            found.append(quote)
            position = quote.end
        else:
            position += 1
    return tuple(found)


def mask_quotes(text: str) -> MaskedText:
    """`text` with each quote replaced by a placeholder that occurs nowhere else in it."""
    tag = "Q"
    while re.search(rf"[<\[({{]\s*{tag}\s?\d", text, re.IGNORECASE):
        tag += "Q"
    pieces, position, quotes = [], 0, find_quotes(text)
    for index, quote in enumerate(quotes):
        pieces += [text[position : quote.start], f"<{tag}{index + 1}>"]
        position = quote.end
    return MaskedText("".join([*pieces, text[position:]]), tuple(quotes), tag)


def restore_quotes(answer: str, masked: MaskedText) -> str:
    """`answer` with the quotes in the places of their placeholders.

    A placeholder's second mention, and one that stands for no quote, is dropped; what is missing stays
    missing, for the rules to see.
    """
    used: set[int] = set()

    def restore(match: re.Match) -> str:
        index = int(next(group for group in match.groups() if group)) - 1
        if index in used or not 0 <= index < len(masked.quotes):
            return ""
        used.add(index)
        return masked.quotes[index].raw

    return masked.pattern.sub(restore, answer)


def locate(text: str, quotes: tuple[Quote, ...]) -> list[int | None]:
    """Start of each quote in `text`, looking for one after the other; None for one that is not there.

    Words are compared as the text encoder will read them. A quote that stands before its predecessor is
    found too, so that positions out of order mean quotes out of order.
    """
    places: list[int | None] = []
    position = 0
    cleaned: dict[str, int] | None = None
    for quote in quotes:
        place = text.find(quote.raw, position)
        if place < 0:
            place = text.find(quote.raw)
        if place < 0:
            if cleaned is None:
                cleaned = {clean_prompt(found.text): found.start for found in reversed(find_quotes(text))}
            place = cleaned.get(clean_prompt(quote.text), -1)
        places.append(place if place >= 0 else None)
        position = place + len(quote.raw) if place >= 0 else position
    return places


def blank(text: str, quotes: Sequence[Quote] | None = None, keep_stops: bool = False) -> str:
    """`text` with its quotes overwritten by as many fillers: only the prose is left to read.

    With `keep_stops` the full stop and the mark at the end of a quote stay, as they may end a sentence
    around it.
    """
    for quote in find_quotes(text) if quotes is None else quotes:
        kept = len(quote.closing) + (quote.text[-1] in STOPS) if keep_stops and quote.closed else 0
        end = quote.end - kept
        text = f"{text[: quote.start]}{FILLER * (end - quote.start)}{text[end:]}"
    return text


STOPS = ".!?…。！？"
FILLER = "\ue000"


def _quote_at(text: str, start: int) -> Quote | None:
    mark = text[start]
    stop = PARAGRAPH_BREAK.search(text, start, start + MAX_QUOTE)
    limit = stop.start() if stop else min(len(text), start + MAX_QUOTE)
    if mark == '"':
        return _straight(text, start, limit)
    if mark == "'":
        return _single(text, start, limit)
    if mark == "‘" and start and text[start - 1].isalnum():
        return None
    end = _matching(text, start, limit, mark, PAIRS[mark])
    if end is not None:
        return Quote(text[start + 1 : end], mark, text[end], start, end + 1) if end > start + 1 else None
    return _unclosed(text, start, limit, PAIRS[mark][-1]) if mark in "“「『" else None


def _matching(text: str, start: int, limit: int, mark: str, closing: str) -> int | None:
    depth = 1
    for position in _marks(text, start, limit, mark + closing):
        character = text[position]
        if character in closing and not (character == "’" and text[position + 1 : position + 2].isalnum()):
            depth -= 1
            if not depth:
                return position
        elif character == mark:
            depth += 1
    return None


def _marks(text: str, start: int, limit: int, marks: str) -> Iterator[int]:
    """Positions of any of `marks` behind `start`: the next MAX_MARKS of them."""
    found = re.compile(f"[{re.escape(marks)}]").finditer(text, start + 1, limit)
    return (match.start() for match in islice(found, MAX_MARKS))


def _straight(text: str, start: int, limit: int) -> Quote | None:
    before, after = text[start - 1 : start], text[start + 1 : start + 2]
    if not after or after.isspace() or before.isdigit():  # a stray mark, or inches
        return None
    marks = list(_marks(text, start, limit, '"'))
    depth, end = 1, None
    for position in marks:
        opens = BEFORE_OPENING.match(text[position - 1]) and not text[position + 1 : position + 2].isspace()
        depth += 1 if opens and position + 1 < len(text) and text[position + 1].isalnum() else -1
        if not depth:
            end = position
            break
    if end is None and marks:  # nested marks that do not close: take the nearest
        end = marks[0]
    if end is None:
        return _unclosed(text, start, limit, '"')
    return Quote(text[start + 1 : end], '"', '"', start, end + 1) if end > start + 1 else None


def _single(text: str, start: int, limit: int) -> Quote | None:
    after = text[start + 1 : start + 2]
    if not after.isalnum() or not BEFORE_SINGLE.search(text[max(0, start - 20) : start]):
        return None
    for position in _marks(text, start, limit, "'"):
        before, after = text[position - 1], text[position + 1 : position + 2]
        if not before.isspace() and not after.isalnum():
            return Quote(text[start + 1 : position], "'", "'", start, position + 1)
    return None


def _unclosed(text: str, start: int, limit: int, closing: str) -> Quote | None:
    line_end = text.find("\n", start, limit)
    end = limit if line_end < 0 else line_end
    if end == start + MAX_QUOTE:
        return None
    words = text[start + 1 : end].rstrip()
    return Quote(words, text[start], closing, start, start + 1 + len(words), closed=False) if words else None
