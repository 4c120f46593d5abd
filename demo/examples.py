"""Examples that play at once and fill the form: `examples.json` in the examples' folder.

A list of objects with `id`, `family` (faces, things, music, ...), `title`, `prompt`, `model` (a name of the
catalogue) and `seed`; optional are `image` (the first frame) and `clip` (the finished mp4), files of the same
folder, and any field of `GenerationRequest` as the clip was made.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mova.errors import UserError

REQUIRED = ("id", "family", "title", "prompt", "model", "seed")


@dataclass(frozen=True)
class Example:
    """One example; `settings` are further fields of its request."""

    id: str
    family: str
    title: str
    prompt: str
    model: str
    seed: int
    image: Path | None = None
    clip: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def read_examples(folder: Path) -> list[Example]:
    """The examples in `folder`, empty if there is no list.

    Raises:
        UserError: the list is malformed or names a file that is not there.
    """
    path = folder / "examples.json"
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_read_example(folder, row) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is malformed ({error!r}); see demo/examples.py for its form") from error


def _read_example(folder: Path, row: dict[str, Any]) -> Example:
    required = {name: row[name] for name in REQUIRED}
    files = {}
    for name in ("image", "clip"):
        files[name] = folder / row[name] if row.get(name) else None
        if files[name] and not files[name].is_file():
            raise UserError(f"{folder / 'examples.json'} names {row[name]}, which is not there")
    rest = {key: value for key, value in row.items() if key not in (*REQUIRED, *files)}
    return Example(**required, **files, settings=rest)
