"""The backend chosen by the environment or the command line. A key goes to its own server only.

Environment: MOVA_BACKEND is local (the default) or remote; MOVA_REMOTE_URL is the server's address, such as
http://localhost:30002, and MOVA_REMOTE_API_KEY its key, if it wants one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mova.errors import UserError
from mova.net import check_url, redacted_url

EXAMPLE = "http://localhost:30002"


@dataclass(frozen=True)
class RemoteServer:
    """A server of the video API: the address in front of /v1/videos, and its key or ""."""

    url: str
    api_key: str = field(default="", repr=False)

    @classmethod
    def checked(cls, url: str, api_key: str = "") -> "RemoteServer":
        """The server of an address and key as people type them. Raises UserError if they cannot be one."""
        url, api_key = check_url(url), api_key.strip()
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                f"{redacted_url(url)} was given with a name, a password, ? or # in it; give the address "
                f"alone, such as {EXAMPLE}, and the key in an environment variable"
            )
        if not re.fullmatch(r"[!-~]*", api_key):
            raise UserError(
                f"the key for {redacted_url(url)} holds characters that no key has; copy it again"
            )
        return cls(url.removesuffix("/v1").rstrip("/"), api_key)

    @property
    def shown(self) -> str:
        return redacted_url(self.url)


def remote_from_environment(environ: Mapping[str, str]) -> RemoteServer | None:
    """The server that the environment chooses, or None for this machine. Raises UserError."""
    backend = environ.get("MOVA_BACKEND", "").strip().lower() or "local"
    if backend not in ("local", "remote"):
        raise UserError(f"MOVA_BACKEND={backend!r} is not known; give local or remote")
    if backend == "local":
        return None
    url = environ.get("MOVA_REMOTE_URL", "").strip()
    if not url:
        raise UserError(
            f"MOVA_BACKEND=remote needs the server's address in MOVA_REMOTE_URL, such as {EXAMPLE}"
        )
    return RemoteServer.checked(url, environ.get("MOVA_REMOTE_API_KEY", ""))


def remote_from_option(url: str, key_variable: str | None, environ: Mapping[str, str]) -> RemoteServer:
    """The server at `url`, with the key in the variable named, else with MOVA_REMOTE_API_KEY.

    The latter is not sent if MOVA_REMOTE_URL says that it belongs to another server.

    Raises:
        UserError: the address is malformed, or the named variable is empty.
    """
    if key_variable is not None:
        if not environ.get(key_variable):
            raise UserError(f"the environment variable {key_variable} is empty; put the server's key there")
        return RemoteServer.checked(url, environ[key_variable])
    remote = RemoteServer.checked(url)
    configured = environ.get("MOVA_REMOTE_URL", "").strip()
    if configured and RemoteServer.checked(configured).url != remote.url:
        return remote
    return RemoteServer.checked(url, environ.get("MOVA_REMOTE_API_KEY", ""))
