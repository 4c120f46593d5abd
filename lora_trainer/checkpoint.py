"""The state of a run on disk, from which it goes on bit for bit.

A checkpoint is a folder that appears whole under its name or not at all. Random numbers need no state: they
follow from the seed and the number of the sample.
"""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from mova.errors import UserError
from mova.files import temporary_beside

logger = logging.getLogger(__name__)

FORMAT = 1
STATE = "state.pt"
UNREADABLE = (OSError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError)
# What may differ between a run and its continuation: nothing that decides the weights at the same step.
FREE = (
    "output",
    "data.path",
    "data.keep",
    "data.keep_count",
    "data.keep_prompts",
    "data.cache",
    "samples",
    "run.steps",
    "run.device",
    "run.offload",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.validate_every",
    "run.alarm_steps",
    "run.tracker",
)


def save_state(
    folder: Path, name: str, state: dict[str, Any], keep: int, also: Callable[[Path], None]
) -> Path:
    """Write `state` as the checkpoint `name`, and remove all but the newest `keep`.

    `also` is given the folder while it has no name yet, to put more files in.

    Raises:
        BackendError: the disk is full; older checkpoints are untouched. UserError: it cannot be written.
    """
    target = folder / name
    with temporary_beside(target) as temporary:
        temporary.mkdir()
        write_state(temporary / STATE, {"format": FORMAT, **state})
        also(temporary)
        remove(target)
        temporary.rename(target)
    for old in checkpoints(folder)[keep:]:
        remove(old)
    return target


class Disk:
    """A file that remembers why writing failed: torch tells a full disk as "unexpected pos"."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.fault: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.fault = error
            raise

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.fault = error
            raise


def write_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        disk = Disk(file)
        try:
            torch.save(state, disk)
        except RuntimeError as error:
            raise (disk.fault or error) from error
        os.fsync(file.fileno())


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, the furthest first."""
    found = [path for path in folder.glob("step-*") if (path / STATE).is_file()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def remove(folder: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that half of it is never taken for one."""
    if folder.exists():
        with temporary_beside(folder) as temporary:
            folder.rename(temporary)


def load_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint that can be read.

    Raises:
        UserError: there is none.
    """
    for left in folder.glob(".mova-*.part"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    for path in checkpoints(folder):
        try:
            state = torch.load(path / STATE, map_location="cpu", weights_only=True)
            if state["format"] == FORMAT:
                return state
        except UNREADABLE as error:
            logger.warning("%s cannot be read (%s); the one before it is taken", path, error)
    raise UserError(f"{folder} holds no checkpoint to resume from; start without --resume")


def check_same_run(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where the settings differ in what decides the weights."""
    old, new = flat(stored), flat(now)
    differing = [
        f"{key}: {old.get(key)} then, {new.get(key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not is_free(key)
    ]
    if differing:
        raise UserError(
            f"the run was started with other settings ({'; '.join(differing)}); resume with the same, "
            "or start another run with another output"
        )


def is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
