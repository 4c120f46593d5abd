"""A person's typing: choices between ways to say it, pieces left as they are, slips of the finger."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

OPEN, CLOSE = "\ue000", "\ue001"  # around what a slip must not touch
GROUP = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"\{(\w+)\}")
PIECE = re.compile(f"{OPEN}[^{CLOSE}]*{CLOSE}|[a-z]{{4,}}")
ONSETS = (*"bcdfghjklmnprstvwz" * 2, *re.findall("..", "blchdrflghgrklphshspstthtr"))
CODAS = ("",) * 12 + tuple("lmnrst")
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SLIP_SHARE, SECOND_SLIP = 0.16, 0.25

Slots = Mapping[str, Callable[[], str]]


def listed(text: str) -> tuple[str, ...]:
    """The entries of a list written as a|b|c."""
    return tuple(text.split("|"))


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def syllables(rng: np.random.Generator) -> str:
    """A word that means nothing."""
    count = int(rng.integers(1, 5))
    parts = [pick(rng, ONSETS) + pick(rng, "aeiouy") + pick(rng, CODAS) for _ in range(count)]
    word = "".join(parts) + pick(rng, ("", "", "n", "s", "r", "t", "ck", "ng"))
    return word.capitalize() if rng.random() < 0.2 else word


def keep(text: str) -> str:
    """`text` marked as a piece that slips and changes of case leave alone."""
    return f"{OPEN}{text}{CLOSE}"


def expand(rng: np.random.Generator, template: str, slots: Slots | None = None) -> str:
    """`template` with each (a|b|) chosen from, inner ones first, then its {slots} filled."""
    while match := GROUP.search(template):
        chosen = pick(rng, match[1].split("|"))
        template = template[: match.start()] + chosen + template[match.end() :]
    return SLOT.sub(lambda match: (slots or {})[match[1]](), template)


def type_out(rng: np.random.Generator, text: str, known: frozenset[str]) -> str:
    """`text` as it comes from the keyboard: a case, a final mark, now and then a slip, never into `known`."""
    text = re.sub(r" {2,}", " ", text).strip(" ,")
    if not text:
        return ""
    if rng.random() < SLIP_SHARE:
        text = _slip(rng, text, known)
        if rng.random() < SECOND_SLIP:
            text = _slip(rng, text, known)
    text = _cased(rng, text)
    if not text.endswith((".", "?", "!", CLOSE)) or text.endswith(f">{CLOSE}"):
        text += ("", "", "", "", "", "", "", ".", ".", "!")[int(rng.integers(10))]
    return text.replace(OPEN, "").replace(CLOSE, "")


def _cased(rng: np.random.Generator, text: str) -> str:
    chance = rng.random()
    if chance < 0.62:
        return text
    if chance < 0.93:
        return text[:1].upper() + text[1:]
    change = str.upper if chance < 0.97 else str.title
    return re.sub(
        f"{OPEN}[^{CLOSE}]*{CLOSE}|[^{OPEN}]+", lambda m: m[0] if m[0][0] == OPEN else change(m[0]), text
    )


def _slip(rng: np.random.Generator, text: str, known: frozenset[str]) -> str:
    words = [match for match in PIECE.finditer(text) if match[0][0] != OPEN]
    if not words:
        return text
    match = words[int(rng.integers(len(words)))]
    word = match[0]
    at = int(rng.integers(1, len(word) - 1))
    slipped = (
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + _neighbour(rng, word[at]) + word[at + 1 :],
    )[int(rng.integers(4))]
    return text if slipped in known else text[: match.start()] + slipped + text[match.end() :]


def _neighbour(rng: np.random.Generator, letter: str) -> str:
    """A letter whose key is beside that of `letter`."""
    row = next(row for row in KEYBOARD if letter in row)
    at = row.index(letter)
    return row[at - 1] if at and (at == len(row) - 1 or rng.random() < 0.5) else row[at + 1]
