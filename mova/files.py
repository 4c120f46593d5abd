"""Files that are whole or not there.

A file is written under a temporary name in its own folder and renamed when it is complete, so a name never
shows half a clip or a clip without its sound, and nothing is replaced that was not offered up.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mova.errors import BackendError, UserError

SIDECARS = {
    *(".ds_store", ".spotlight-v100", ".trashes", ".fseventsd", "__macosx", "thumbs.db", "ehthumbs.db"),
    *(".git", ".gitattributes", ".gitignore", ".cache", ".ipynb_checkpoints"),
    *("desktop.ini", "$recycle.bin", "system volume information", "@eadir", ".directory", "icon\r"),
}
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_sidecar(name: str) -> bool:
    """True for the name of a file that operating systems leave in folders: macOS's ._NAME, Thumbs.db, ..."""
    return name.startswith("._") or name.lower() in SIDECARS


def check_output(path: Path, overwrite: bool = False, needed_bytes: int = 0) -> None:
    """Raise unless a file can be written at `path`. Writers call it; so should a long run, first.

    Raises:
        UserError: the name is taken (and `overwrite` off) or a folder's, or nothing can be written there.
        BackendError: the disk has less than `needed_bytes` free.
    """
    with disk_errors(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the name of a file")
        if path.exists() and not overwrite:
            raise name_taken(path)
        free_bytes = shutil.disk_usage(writable_parent(path)).free
    if free_bytes < needed_bytes:
        raise BackendError(
            f"{path} needs {needed_bytes / 2**20:.0f} MiB and its disk has {free_bytes / 2**20:.0f} MiB; "
            "delete something there or choose a folder on another disk"
        )


def check_frames_folder(folder: Path, overwrite: bool = False) -> None:
    """Raise UserError unless `mova.media.clips.write_png_sequence` can put its frames there."""
    with disk_errors(folder):
        held = [file.name for file in folder.iterdir()] if folder.exists() else []
    if held and not overwrite:
        raise name_taken(folder)
    for name in held:
        if not Path(name).match("frame_*.png"):
            raise UserError(f"{folder} holds {name}, which is not ours to replace; choose another folder")
    writable_parent(folder)


@contextmanager
def new_output(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it becomes `path` if the block succeeds.

    It is removed if not; missing folders are made. Without `overwrite` nothing is replaced, not even a file
    that another process put there meanwhile.

    Raises:
        UserError, BackendError: as `check_output`, and for any OSError of the block (a full disk, say).
    """
    check_output(path, overwrite)
    with temporary_beside(path) as temporary:
        yield temporary
        if not overwrite:
            # Claims the name in one step. A hard link would do as well, but exFAT and many shares have none.
            try:
                path.open("xb").close()
            except FileExistsError:
                raise name_taken(path) from None
        temporary.replace(path)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    temporary = path.parent / f".mova-{secrets.token_hex(8)}.part"
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in DISK_FULL:
            raise BackendError(f"{path} cannot be written ({reason}); free some space there") from error
        raise UserError(f"{path} cannot be written ({reason}); choose another name or folder") from error


def writable_parent(path: Path) -> Path:
    """The nearest folder above `path` that is there. Raises UserError if it or `path` cannot be written."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is a file; choose another folder")
    for item in (folder, path):
        if item.exists() and not os.access(item, os.W_OK):
            raise UserError(f"{path} cannot be written: {item} is read-only; choose another name or folder")
    return folder


def name_taken(path: Path) -> UserError:
    return UserError(f"{path} exists; choose another name, or replace it with --overwrite")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); was it moved or deleted?") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file at `path`. Raises UserError or BackendError as `new_output`."""
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object that `write_json` wrote; empty if there is no such file, or none that is JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
