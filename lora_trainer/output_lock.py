"""The owner of an output folder: one process at a time.

The system releases the lock when the process ends, however it ends.
"""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lora_trainer.journal import CACHE, CHECKPOINTS
from mova.errors import UserError
from mova.files import disk_errors, read_json, write_json

LOCK, OWNER = ".owner.lock", ".owner.json"
FOLDERS = ("", CHECKPOINTS, CACHE, "samples", "mended")  # of a run, in which files are written
PARTS = ".mova-*.part"


@contextmanager
def own_output(folder: Path, command: str) -> Iterator[None]:
    """Own `folder` inside the context, without what a killed process left half written there.

    Raises:
        UserError: another process owns it, which is named; or nothing can be written there.
    """
    is_new = not folder.exists()
    lock = FileLock(folder / LOCK)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{folder} is in use by {owner_of(folder)}; wait until it ends, or choose another output"
            ) from None
    try:
        for name in FOLDERS:
            remove_part_files(folder / name)
        write_owner(folder, command)
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        with suppress(PermissionError):  # Windows removes it itself; elsewhere it must go while it is held
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if is_new and folder.exists() and not any(folder.iterdir()):  # refused before anything was made
            folder.rmdir()


def write_owner(folder: Path, command: str) -> None:
    owner = {"command": command, "pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    write_json(folder / OWNER, owner)


def owner_of(folder: Path) -> str:
    """The process that owns `folder`, for people."""
    owner = read_json(folder / OWNER)
    if not owner:  # it has only just begun
        return "another process"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(owner["since"]))
    return f"`{owner['command']}` (process {owner['pid']} on {owner['host']}, since {since})"


def remove_part_files(folder: Path, min_age: float = 0.0) -> None:
    """Remove files and checkpoints that were left half written at least `min_age` seconds ago."""
    for path in folder.glob(PARTS):
        try:
            if time.time() - path.stat().st_mtime < min_age:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:  # its writer was at work and has finished it
            continue
