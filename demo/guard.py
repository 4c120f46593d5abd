"""Requests that the page refuses, and the headers of its answers.

gradio gives every handler of a page a number and a name, under which any program could call it. Here programs
get the public endpoints only; the others answer the page itself, as its browser says where a call comes from.
"""

import json
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = "/gradio_api"
CALLS = ("/call/v2/", "/call/", "/run/", "/api/")  # followed by the name of an endpoint
JOIN = "/queue/join"  # with the number of an endpoint in the body
REFUSED = JSONResponse({"detail": "there is no such endpoint; see /?view=api"}, status_code=404)
SPACE_FRAMES = "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
OWN_FRAMES = "frame-ancestors 'self'"


def middleware(is_space: bool) -> list[Middleware]:
    """Both middlewares, as an app takes them."""
    return [
        Middleware(SecurityHeaders, frames=SPACE_FRAMES if is_space else OWN_FRAMES),
        Middleware(PublicOnly),
    ]


class SecurityHeaders:
    """Adds headers against guessed types, leaked addresses and foreign frames to every answer."""

    def __init__(self, app: ASGIApp, frames: str) -> None:
        self.app = app
        self.headers = {
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Content-Security-Policy": frames,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class PublicOnly:
    """Answers calls of private endpoints only if they come from the page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = called_name(scope)
        if name is None or is_from_page(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        if not is_public(scope["app"], name, body):
            await REFUSED(scope, receive, send)
            return
        is_sent = False

        async def receive_again() -> Message:
            nonlocal is_sent
            if is_sent:
                return await receive()
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_again, send)


def called_name(scope: Scope) -> str | None:
    """The endpoint's name in the path of a call, empty where the body has its number, None for no call."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(PREFIX).rstrip("/")
    if path == JOIN:
        return ""
    return next((path.removeprefix(start) for start in CALLS if path.startswith(start)), None)


def is_from_page(headers: Headers) -> bool:
    """True for calls of a browser that shows the page.

    Browsers send the origin with every POST, and over HTTPS how it relates to this page, which a proxy that
    changes the host cannot hide; scripts of other sites can change neither.
    """
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] == "same-origin"
    return urlsplit(headers.get("origin", "")).netloc in (headers.get("x-forwarded-host"), headers["host"])


def is_public(app: ASGIApp, name: str, body: bytes) -> bool:
    """True if the call means a public endpoint; a number in the body comes before the name in the path."""
    try:
        number = json.loads(body).get("fn_index")
    except (ValueError, AttributeError):
        number = None  # gradio refuses such a body itself
    endpoints = app.get_blocks().fns
    if number is not None:
        endpoint = endpoints.get(number) if isinstance(number, int) else None
    else:
        endpoint = next((each for each in endpoints.values() if each.api_name == name), None)
    return endpoint is not None and endpoint.api_visibility == "public"
