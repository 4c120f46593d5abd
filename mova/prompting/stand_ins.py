"""Colours under other names: for a small model that loses a colour it was not trained on.

As quotes are taken out and put back, so are colours: "scarlet ball, khaki wall" is asked for as "green ball,
pink wall", and what comes back is told in the idea's own words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mova.prompting.rules import colour_words

# Colours that any model knows.
COMMON = ("green", "red", "purple")
BEHIND = ("pink", "lavender")  # for what stands behind: models know few dark walls
SHADES = ("mint", "pale", "dark", "light")  # before a colour they make another one
PLACE = re.compile(r"\s+(?:wall|background|backdrop)\b", re.IGNORECASE)


@dataclass(frozen=True)
class StandIns:
    """Pairs of a word of the idea and the colour that stands for it."""

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, idea: str, text: str, lost: Sequence[str]) -> "StandIns | None":
        """Stand-ins for the colours that `text`, an answer to `idea`, has `lost`; for all if it lost none.

        None if there is no such colour or more than there are stand-ins. A colour that `text` has already is
        none: it would be found in the next answer whether understood or not.
        """
        found = {match["word"].lower(): match for match in _pattern(colour_words()).finditer(idea)}
        asked = [word for word in found if word in lost] or list(found)
        used = {*found, *re.findall(r"\w+", text.lower())}
        pairs = []
        for word in asked:
            options = BEHIND if PLACE.match(idea, found[word].end()) else COMMON
            free = next((option for option in options if option not in used), None)
            if free is None:
                return None
            used.add(free)
            pairs.append((word, free))
        return cls(tuple(pairs)) if pairs else None

    def put(self, idea: str) -> str:
        """`idea` with the stand-ins."""
        return _replaced(idea, dict(self.pairs))

    def restore(self, text: str) -> str:
        """`text` in the words of the idea, articles put right; "mint green" is another colour and stays."""
        return _replaced(
            text, {stand_in: word for word, stand_in in self.pairs}, rf"(?<!{' )(?<!'.join(SHADES)} )"
        )


def _replaced(text: str, by: dict[str, str], before: str = "") -> str:
    def other(match: re.Match[str]) -> str:
        article, gap, word = match["article"] or "", match["gap"] or "", by[match["word"].lower()]
        if article.lower() in ("a", "an"):
            article = article[0] + "n" * (word[0] in "aeiou")
        return f"{article}{gap}{word}"

    article = r"(?:\b(?P<article>[Aa]n?)(?P<gap> ))?"
    return _pattern(tuple(by), article + before).sub(other, text)


def _pattern(words: tuple[str, ...], before: str = "") -> re.Pattern[str]:
    return re.compile(rf"{before}\b(?P<word>{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
