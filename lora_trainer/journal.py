"""What a run leaves behind for people, the page and plots: the names of its files, and its journal."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mova.files import disk_errors

JOURNAL = "journal.jsonl"
ADAPTER = "adapter.safetensors"
CHECKPOINTS = "checkpoints"
KEPT = "kept"  # clips that the base model made for the run

Report = Callable[[str, int, int], None]  # progress: what is done, how much of how many


class Journal:
    """A file of one JSON object a line: what the run did, for people, the page and plots."""

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
        """Forget what was written after the journal had `size` bytes: it will happen again."""
        if self.active and self.size > size:
            with disk_errors(self.path), self.path.open("rb+") as file:
                file.truncate(size)

    def read(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [each for each in events if event is None or each["event"] == event]
