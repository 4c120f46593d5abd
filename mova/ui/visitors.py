"""Who a browser is: a random name with our signature, kept in the browser's storage.

It is no login and says nothing about a person. It opens the clips that were made from that browser, so it is
as good as impossible to guess, and a made-up one is refused.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from mova.types import UserError

KEY_FILE = ".key"


class Visitors:
    """Issues and checks visitor names with a key kept in `folder`, so that they outlive a restart."""

    def __init__(self, folder: Path) -> None:
        self._key = _read_key(folder)

    def issue(self) -> str:
        name = secrets.token_urlsafe(18)
        return f"{name}.{self._sign(name)}"

    def is_known(self, visitor: object) -> bool:
        """Whether `visitor`, anything a browser may send, was issued here."""
        if not isinstance(visitor, str) or len(visitor) > 200:
            return False
        name, _, signature = visitor.rpartition(".")
        return bool(name) and hmac.compare_digest(signature.encode(), self._sign(name).encode())

    def folder_name(self, visitor: object) -> str:
        """The visitor's name on the disk, from which the visitor's own cannot be told.

        Raises:
            UserError: it was not issued here.
        """
        if not self.is_known(visitor):
            raise UserError("the page does not know this browser yet; reload it")
        return hashlib.sha256(str(visitor).encode()).hexdigest()[:32]

    def _sign(self, name: str) -> str:
        return hmac.new(self._key, name.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def _read_key(folder: Path) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    key = secrets.token_bytes(32)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    return key
