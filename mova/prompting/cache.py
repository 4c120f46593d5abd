"""Answers kept by everything that decides them: writer, messages, image, limits, seed."""

import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from mova.outputs import new_output
from mova.prompting.writing import Answer, Ask, IsCancelled, OnText, Writer

VERSION = 1
MAX_ENTRIES = 256


def cache_key(identity: str, ask: Ask) -> str:
    """A fingerprint of the writer and of all that it is asked."""
    image = hashlib.sha256(ask.image).hexdigest() if ask.image else None
    what = (ask.template, ask.messages, ask.idea, image)
    parts = [VERSION, identity, *what, ask.max_tokens, ask.temperature, ask.seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class AnswerCache:
    """The latest answers in memory, and in `folder` if one is given, where they outlive the process.

    Only whole answers are kept. Files hold the answer and nothing of what was asked.
    """

    def __init__(self, folder: Path | None = None, max_entries: int = MAX_ENTRIES) -> None:
        self.folder = folder
        self.max_entries = max_entries
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._lock = Lock()

    def write(self, writer: Writer, ask: Ask, on_text: OnText, cancelled: IsCancelled) -> Answer:
        """The answer of `writer`, asked only if it has not answered the same before."""
        key = cache_key(writer.identity, ask)
        answer = self._find(key)
        if answer is None:
            answer = writer.write(ask, on_text, cancelled)
            if answer.is_complete and answer.text.strip():
                self._keep(key, answer)
        return answer

    def _find(self, key: str) -> Answer | None:
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return Answer(fields["text"], fields["model"], notes=tuple(fields["notes"]))
        except (OSError, ValueError, KeyError, TypeError):  # a damaged file is an answer that is not there
            return None

    def _keep(self, key: str, answer: Answer) -> None:
        with self._lock:
            self._answers[key] = answer
            while len(self._answers) > self.max_entries:
                self._answers.popitem(last=False)
        if path := self._path(key):
            with new_output(path, overwrite=True) as temporary:
                temporary.write_text(json.dumps(asdict(answer)), encoding="utf-8")

    def _path(self, key: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.json" if self.folder else None
