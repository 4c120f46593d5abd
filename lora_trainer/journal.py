"""Files that a run leaves behind for people, the page and plots: their names, and the journal."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mova.files import disk_errors

JOURNAL = "journal.jsonl"
ADAPTER = "adapter.safetensors"
CHECKPOINTS = "checkpoints"
KEPT = "kept"  # clips that the base model generated for regularization, and their losses in the journal
CACHE = "cache"
INDEX = "index.json"  # of the run's windows, in CACHE also where the encodings are elsewhere

Report = Callable[[str, int, int], None]  # progress: what is done, how much of how many


class Journal:
    """The record of a run: a JSON object a line."""

    def __init__(self, path: Path, active: bool = True) -> None:
        self.path, self.active = path, active

    def write(self, event: str, **values: Any) -> None:  # noqa: ANN401 - whatever JSON holds
        if not self.active:
            return
        line = json.dumps({"event": event, "time": round(time.time(), 3), **values})
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop the lines after the first `size` bytes: what they record will happen again."""
        if self.active and self.size > size:
            with disk_errors(self.path), self.path.open("rb+") as file:
                file.truncate(size)

    def read(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [each for each in events if event is None or each["event"] == event]
