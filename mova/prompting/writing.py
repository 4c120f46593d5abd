"""The seam between the enhancer and whatever writes: what is asked, what is answered, who can be asked."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mova.types import Cancelled

OnText = Callable[[str], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True)
class Ask:
    """One question. `messages` are (role, text); `idea` is the idea alone, for writers that need no
    instructions.

    `image` is the first frame as JPEG, shown with the first user message; `template` is the digest of the
    prompt file that the messages were made from.
    """

    messages: tuple[tuple[str, str], ...]
    idea: str = ""
    image: bytes | None = field(default=None, repr=False)
    template: str = ""
    max_tokens: int = 1024
    temperature: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back. `is_complete` is False where the limit of tokens cut it off."""

    text: str
    model: str
    is_complete: bool = True
    notes: tuple[str, ...] = ()


class Writer(Protocol):
    """Something that writes text: a server, a model in this process, a model trained for nothing else."""

    @property
    def identity(self) -> str:
        """Names the writer in cache keys: two writers that may answer differently have different ones."""
        ...

    @property
    def follows_instructions(self) -> bool:
        """False for a model that turns an idea into a prompt and understands nothing else."""
        ...

    @property
    def sees(self) -> bool:
        """Whether it may be shown the first frame."""
        ...

    def write(self, ask: Ask, on_text: OnText, cancelled: IsCancelled) -> Answer:
        """Answer `ask`, reporting the text so far to `on_text`.

        Raises:
            BackendError: no answer could be had; the message says what to do.
            Cancelled: `cancelled` became true.
        """
        ...


def ignore_text(text: str) -> None:
    """An `on_text` for those who wait for the end."""


def never_cancelled() -> bool:
    return False


def stop_if(cancelled: IsCancelled) -> None:
    """Raise Cancelled once `cancelled` says so."""
    if cancelled():
        raise Cancelled("stopped on request")
