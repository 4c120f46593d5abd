"""The protocol of writers, their questions and answers, and the cache of answers."""

import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from mova.files import new_output
from mova.openai_client import IsCancelled, OnText
from mova.prompting.rules import MARKS
from mova.text import plain_text


@dataclass(frozen=True)
class WriterRequest:
    """One question. `messages` are (role, text).

    `image` is the first frame as JPEG, shown with the first user message; `template` is the digest of the
    prompt file that the messages were made from; `schema` is that of the JSON to answer with, None for prose.
    """

    messages: tuple[tuple[str, str], ...]
    image: bytes | None = field(default=None, repr=False)
    template: str = ""
    max_tokens: int = 1024
    temperature: float = 0.6
    seed: int = 0
    schema: dict[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class WriterAnswer:
    """The text that came back. `is_complete` is False where the limit of tokens cut it off."""

    text: str
    model: str
    is_complete: bool = True
    notes: tuple[str, ...] = ()


REASONING = re.compile(r".*</(?:think|thinking|reasoning)>|<\|[^|<>\n]{1,40}\|>", re.DOTALL | re.IGNORECASE)


def prose_in(answer: WriterAnswer) -> str:
    """The prose of an answer on one line, without reasoning and markup."""
    return " ".join(MARKS.sub("", REASONING.sub("", plain_text(answer.text))).split())


class Writer(Protocol):
    """Something that writes text: a server, or a model in this process."""

    @property
    def identity(self) -> str:
        """Names the writer in cache keys: two writers that may answer differently have different ones."""
        ...

    @property
    def sees(self) -> bool:
        """True if it may be shown the first frame."""
        ...

    def write(self, ask: WriterRequest, on_text: OnText, cancelled: IsCancelled) -> WriterAnswer:
        """Answer `ask`, reporting the text so far to `on_text`.

        Raises:
            BackendError: no answer could be had; the message says what to do.
            Cancelled: `cancelled` became true.
        """
        ...


VERSION = 2  # of the cache's files
MAX_ENTRIES = 256


def cache_key(identity: str, ask: WriterRequest) -> str:
    """A fingerprint of the writer and of all that it is asked."""
    image = hashlib.sha256(ask.image).hexdigest() if ask.image else None
    what = (ask.template, ask.messages, image, ask.schema)
    parts = [VERSION, identity, *what, ask.max_tokens, ask.temperature, ask.seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class AnswerCache:
    """The latest answers in memory, and in `folder` if one is given, where they outlive the process.

    Only whole answers are kept. Files hold the answer and nothing of what was asked.
    """

    def __init__(self, folder: Path | None = None, max_entries: int = MAX_ENTRIES) -> None:
        self.folder = folder
        self.max_entries = max_entries
        self._answers: OrderedDict[str, WriterAnswer] = OrderedDict()
        self._lock = Lock()

    def write(
        self, writer: Writer, ask: WriterRequest, on_text: OnText, cancelled: IsCancelled
    ) -> WriterAnswer:
        """The answer of `writer`, asked only if it has not answered the same before."""
        key = cache_key(writer.identity, ask)
        answer = self._find(key)
        if answer is None:
            answer = writer.write(ask, on_text, cancelled)
            if answer.is_complete and answer.text.strip():
                self._keep(key, answer)
        return answer

    def _find(self, key: str) -> WriterAnswer | None:
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return WriterAnswer(fields["text"], fields["model"], notes=tuple(fields["notes"]))
        except (OSError, ValueError, KeyError, TypeError):  # a damaged file is an answer that is not there
            return None

    def _keep(self, key: str, answer: WriterAnswer) -> None:
        with self._lock:
            self._answers[key] = answer
            while len(self._answers) > self.max_entries:
                self._answers.popitem(last=False)
        if path := self._path(key):
            with new_output(path, overwrite=True) as temporary:
                temporary.write_text(json.dumps(asdict(answer)), encoding="utf-8")

    def _path(self, key: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.json" if self.folder else None
