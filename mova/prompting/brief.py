"""What a prompt must live up to, and how it fails to."""

from dataclasses import dataclass, field, replace
from typing import Literal

from mova.prompting.quotes import Taken, take_out
from mova.prompting.tokens import TokenMeter

CLIP_SECONDS = 193 / 24
MAX_WORDS = 250


@dataclass(frozen=True)
class Violation:
    """One broken rule. `span` is where in the text; `fix` is the whole text put right, or None.

    An "error" keeps a text from being used as it is; a "warning" is for the person to judge.
    """

    rule: str
    severity: Literal["error", "warning"]
    message: str
    span: tuple[int, int] | None = None
    fix: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Brief:
    """The idea a prompt is written for, and the limits it must keep.

    `own_words` marks a text that holds the person's own prose: it is never shortened. Without a `meter`
    tokens are not counted.
    """

    idea: str
    seconds: float = CLIP_SECONDS
    has_image: bool = False
    no_subtitles: bool = True
    max_words: int = MAX_WORDS
    meter: TokenMeter | None = None
    own_words: bool = False
    taken: Taken = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taken", take_out(self.idea))

    @property
    def quotes(self) -> tuple:
        return self.taken.quotes

    @property
    def prose(self) -> str:
        """The idea without its quoted words, in lower case: what has been asked for."""
        return self.taken.text.lower()

    def as_own_words(self) -> "Brief":
        return replace(self, own_words=True)
