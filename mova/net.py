"""Which server addresses may be called, and calling exactly the machine that was checked.

On a public page a visitor's address could point into the network of the page itself. So there it must be
https, a plain host name, and every address that the name resolves to must be public; the connection then
goes to one of the checked addresses, whatever the name resolves to a moment later.
"""

import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from mova.errors import BackendError, UserError

if TYPE_CHECKING:
    import httpx

Resolve = Callable[[str, int], list[str]]

HOST_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
PRIVATE_NAMES = (
    ".local",
    ".internal",
    ".localhost",
    ".localdomain",
    ".lan",
    ".home.arpa",
    ".intranet",
    ".corp",
)
MAX_BYTES = 4_000_000
NO_KEY = "none"  # stands for the key that the openai client insists on
# Passed by `is_global` although not public servers: relays to IPv4, and protocol assignments.
REFUSED_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)


@dataclass(frozen=True)
class PublicAddress:
    """A checked address: `ip` is one of those `host` resolved to when it was checked, and all were public."""

    url: str
    host: str
    port: int
    ip: str


def resolve_host(host: str, port: int) -> list[str]:
    """The IP addresses of `host`, as the system resolves it."""
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def check_url(url: str) -> str:
    """`url` without a trailing slash, if anybody may call it from their own machine.

    Raises:
        UserError: it is not an http or https address.
    """
    parsed = _parse(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UserError(
            f"{redacted_url(url)} is not a server address; give one such as http://localhost:8000/v1"
        )
    return url.strip().rstrip("/")


def check_public(url: str, resolve: Resolve = resolve_host) -> PublicAddress:
    """The address of `url`, safe to be called for a stranger.

    Raises:
        UserError: it is not https, holds a name or password, is not a plain host name, or resolves to an
            address that is not public.
    """
    parsed, name = _parse(url), redacted_url(url)
    if parsed.scheme != "https":
        raise UserError(f"{name} is not https; on a public page a server must be reached by https")
    if parsed.userinfo:
        raise UserError(f"{name} was given with a name or password in it; give the key in its own field")
    if parsed.query or parsed.fragment:
        raise UserError(f"{name} was given with ? or # in it; give the address up to /v1")
    host = parsed.raw_host.decode("ascii").lower().removesuffix(".")
    if not HOST_NAME.fullmatch(host) or host.endswith(PRIVATE_NAMES):
        raise UserError(
            f"{name} has no public host name; on a public page give one such as https://api.example.com/v1"
        )
    port = parsed.port or 443
    if port != 443 and port < 1024:
        raise UserError(f"port {port} is not one of a model server; use 443 or one from 1024")
    try:
        found = resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"{host} is not known to the name service; check the spelling of the address"
        ) from error
    if not found or not all(is_public(ip) for ip in found):
        raise UserError(
            f"{host} leads to an address that is not public; on a public page give a public server"
        )
    return PublicAddress(url.strip().rstrip("/"), host, port, found[0])


def is_public(ip: str) -> bool:
    """True if `ip` is the address of one machine that anybody on the internet can reach."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in REFUSED_NETWORKS if network.version == address.version)


def redacted_url(url: str) -> str:
    """`url` as it may be shown: without name, password, query and control characters."""
    text = re.sub(r"[\x00-\x20\x7f]", "", url)
    text = re.sub(r"[?#].*$", "", text)
    return re.sub(r"//[^/]*@", "//", text)[:120]


def public_client(address: PublicAddress, timeout: float, max_bytes: int = MAX_BYTES) -> "httpx.Client":
    """A client that talks to `address` alone: pinned, no redirects, no proxies, a cap on size."""
    import httpx

    transport = _pinned_transport_class()(address)
    hooks = {"request": [keep_plain_headers], "response": [_size_limit(max_bytes)]}
    return httpx.Client(
        transport=transport, timeout=timeout, follow_redirects=False, trust_env=False, event_hooks=hooks
    )


def own_client(timeout: float, max_bytes: int | None = None) -> "httpx.Client":
    """A client for an address that the machine's owner chose: proxies of the environment, no redirects."""
    import httpx

    hooks = {"request": [keep_plain_headers], "response": [_size_limit(max_bytes)] if max_bytes else []}
    return httpx.Client(timeout=timeout, follow_redirects=False, event_hooks=hooks, verify=_tls())


def keep_plain_headers(request: "httpx.Request") -> None:
    """Drop what the openai client adds: NO_KEY, and from its environment another service's project."""
    if request.headers.get("authorization") == f"Bearer {NO_KEY}":
        del request.headers["authorization"]
    for name in list(request.headers):
        if name.startswith(("openai-", "x-stainless-")):
            del request.headers[name]
    request.headers["accept-encoding"] = "identity"


def _parse(url: str) -> "httpx.URL":
    import httpx

    if re.search(r"[\x00-\x20\x7f\\]", url.strip()):
        raise UserError(f"{redacted_url(url)} holds spaces or other signs that no address has; check it")
    try:
        return httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise UserError(
            f"{redacted_url(url)} is not an address; give one such as https://api.example.com/v1"
        ) from error


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The trusted certificates, read once: it takes longer than many an answer."""
    import httpx

    return httpx.create_ssl_context()


def _size_limit(max_bytes: int) -> "Callable[[httpx.Response], None]":
    """A response hook that raises BackendError after `max_bytes`, and for what is compressed."""
    import httpx

    class CappedStream(httpx.SyncByteStream):
        def __init__(self, stream: httpx.SyncByteStream, place: str) -> None:
            self.stream = stream
            self.place = place

        def __iter__(self) -> Iterator[bytes]:
            received = 0
            for chunk in self.stream:
                received += len(chunk)
                if received > max_bytes:
                    raise BackendError(
                        f"{self.place} sent more than an answer may have, {max_bytes} bytes; use another "
                        "server"
                    )
                yield chunk

        def close(self) -> None:
            self.stream.close()

    def limit(response: httpx.Response) -> None:
        place = f"{response.request.url.scheme}://{response.request.headers['host']}"
        if response.headers.get("content-encoding", "identity") != "identity":
            raise BackendError(
                f"{place} sent a compressed answer, which may hide more than an answer may have; use another "
                "server"
            )
        response.stream = CappedStream(response.stream, place)

    return limit


@lru_cache(maxsize=1)
def _pinned_transport_class() -> type:
    """Made at the first use, as httpx is not imported before it is needed."""
    import httpx

    class PinnedTransport(httpx.HTTPTransport):
        """Connects to the checked IP; the name stays in the Host header and in the certificate check."""

        def __init__(self, address: PublicAddress) -> None:
            super().__init__(trust_env=False, verify=_tls())
            self.address = address

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            host = request.url.raw_host.decode("ascii").lower().removesuffix(".")
            if host != self.address.host:
                raise httpx.UnsupportedProtocol("the request leaves the checked address")
            request.extensions = {**request.extensions, "sni_hostname": self.address.host}
            request.url = request.url.copy_with(host=self.address.ip)
            return super().handle_request(request)

    return PinnedTransport
