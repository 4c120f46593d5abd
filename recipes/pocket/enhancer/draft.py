"""An idea in the making: the scene it is of, and what has been said of it so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recipes.pocket.enhancer.hand import expand, keep, pick
from recipes.pocket.world.clip import Attributes

Fixed = dict[str, str | int | bool | tuple[str, ...]]


@dataclass
class Draft:
    """`fixed` is what the typed text says; `hints` are defaults that it suggests, as "girl" does pigtails.

    `needed` are words that its prompt must have beside the attributes. `quotes` counts the placeholders used;
    `words` are spoken words that stand in the text without quote marks.
    """

    rng: np.random.Generator
    attributes: Attributes
    held_out: bool = False
    fixed: Fixed = field(default_factory=dict)
    hints: Attributes = field(default_factory=dict)
    needed: list[str] = field(default_factory=list)
    adjective: str = ""
    verb: str = ""
    quotes: int = 0
    words: str = ""

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[str]) -> str:
        return pick(self.rng, options)

    def expand(self, template: str) -> str:
        return expand(self.rng, template)

    def fix(self, name: str) -> str:
        """The attribute's value, from now on said."""
        value = self.attributes[name]
        self.fixed[name] = value
        return str(value)

    def quote(self) -> str:
        """The next placeholder."""
        self.quotes += 1
        return keep(f"<Q{self.quotes}>")


def with_article(draft: Draft, noun: str) -> str:
    """`noun` with one of the articles that people type, or none."""
    article = draft.pick(("a", "a", "a", "", "", "", "the"))
    if article == "a" and noun[0] in "aeiou":
        article = "an"
    return f"{article} {noun}" if article else noun
