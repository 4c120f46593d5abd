"""The form as each visitor left it, in memory: found again after a reload and in a second tab."""

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from demo.form import Form

MAX_VISITORS = 1000


class Drafts:
    """Values of the form by visitor; the oldest are forgotten."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, owner: str, values: dict[str, Any]) -> None:
        """Keep these fields of the owner's form; the others stay as they were."""
        with self._lock:
            self._values[owner] = self._values.pop(owner, {}) | values
            if len(self._values) > MAX_VISITORS:
                self._values.popitem(last=False)

    def form(self, owner: str) -> Form | None:
        """The owner's form, without files that are no longer here, or None."""
        with self._lock:
            values = dict(self._values.get(owner, {}))
        for name, empty in (("image", None), ("added", "")):
            if values.get(name) and not Path(values[name]).is_file():
                values[name] = empty
        return Form(**values) if values else None
