"""The state of a run on disk, from which it resumes bit for bit.

A checkpoint is a folder that appears whole under its name or not at all, with the digest of its state. Random
numbers need no state: they follow from the seed and the number of the sample.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from lora_trainer.config import with_new_names
from lora_trainer.output_lock import remove_part_files
from mova.errors import UserError
from mova.files import temporary_beside

logger = logging.getLogger(__name__)

FORMAT = 1
STATE, DIGEST = "state.pt", "state.sha256"  # DIGEST can be checked with `sha256sum -c`
UNREADABLE = (OSError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError)
# Settings that may differ between a run and its continuation: none that decides the weights at the same step.
FREE = (
    "output",
    "data.path",
    "data.regularization",
    "data.regularization_count",
    "data.regularization_prompts",
    "data.cache",
    "prompts.path",
    "start_from",
    "prompts.cache",
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
# Settings that earlier runs lack, with the value they ran with.
ADDED = {
    "objective.hold_video": 0.0,
    "objective.hold_audio": 0.0,
    "matching.on": False,
    "matching.share": 0.75,
    "matching.video_weight": 0.0,
    "matching.score_rate": 3.0,
    "matching.score_alone": 60,
}


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
        digest = write_state(temporary / STATE, {"format": FORMAT, **state})
        (temporary / DIGEST).write_text(f"{digest}  {STATE}\n", encoding="ascii")
        also(temporary)
        remove(target)
        temporary.rename(target)
    for old in checkpoints(folder)[keep:]:
        remove(old)
    return target


class Disk:
    """A file with the digest of its content, and why writing failed: torch only says "unexpected pos"."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.fault: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            self.digest.update(content)
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


def write_state(path: Path, state: dict[str, Any]) -> str:
    """Write the state; its digest."""
    with path.open("wb") as file:
        disk = Disk(file)
        try:
            torch.save(state, disk)
        except RuntimeError as error:
            raise (disk.fault or error) from error
        os.fsync(file.fileno())
    return disk.digest.hexdigest()


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, the furthest first."""
    found = [path for path in folder.glob("step-*") if (path / STATE).is_file()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def remove(folder: Path) -> None:
    """Delete a checkpoint; it loses its name first, so that half of it is never taken for one."""
    if folder.exists():
        with temporary_beside(folder) as temporary:
            folder.rename(temporary)


def load_state(folder: Path, set_aside: bool = True) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None.

    Damaged ones are named, and with `set_aside` renamed, so that they are neither tried again nor counted.

    Raises:
        UserError: the newest may not be read, or is of another version.
    """
    if set_aside:
        remove_part_files(folder)
    for path in checkpoints(folder):
        try:
            state = read_state(path)
        except PermissionError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); give yourself the right to"
            ) from error
        except UNREADABLE as error:
            left = path.with_name(f"damaged-{path.name}")
            logger.warning("%s is damaged (%s); it is renamed to %s and left out", path, error, left.name)
            if set_aside:
                remove(left)
                path.rename(left)
            continue
        if state["format"] != FORMAT:
            raise UserError(f"{path} was written by another version; use that one, or choose another output")
        return state
    return None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state of a checkpoint. Raises one of UNREADABLE where it is damaged."""
    path, noted = checkpoint / STATE, checkpoint / DIGEST
    if noted.exists():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if noted.read_bytes().split()[:1] != [digest.encode()]:
            raise ValueError("its digest is not the one that was noted")
    else:
        logger.warning("%s is of an earlier version, without a digest; it is read unchecked", checkpoint)
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError("it holds no state of a run")
    return state


def check_same_run(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError where the settings differ in what decides the weights."""
    new = flat(now)
    old = {key: value for key, value in ADDED.items() if key in new} | flat(with_new_names(stored))
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
