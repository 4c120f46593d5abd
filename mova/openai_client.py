"""OpenAI-compatible servers: their addresses and keys, calls to them, and their failures in sentences.

A key goes only to the address it was given for.

Environment: MOVA_LLM_BASE_URL, MOVA_LLM_MODEL, MOVA_LLM_API_KEY; else OPENAI_BASE_URL, OPENAI_MODEL,
OPENAI_API_KEY. The two families are never mixed.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from mova.errors import BackendError, Cancelled, UserError
from mova.net import (
    NO_KEY,
    PublicAddress,
    Resolve,
    check_public,
    check_url,
    own_client,
    public_client,
    redacted_url,
    resolve_host,
)
from mova.text import plain_text

if TYPE_CHECKING:
    from openai import OpenAI

OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. An empty `model` means the first that the server lists.

    `pinned` is set for a stranger's server and then is the only address that is called.
    """

    base_url: str
    model: str = ""
    api_key: str = field(default="", repr=False)
    sees: bool = True
    timeout: float = 90.0
    pinned: PublicAddress | None = field(default=None, repr=False)

    @property
    def redacted(self) -> str:
        return redacted_url(self.base_url)

    def __repr__(self) -> str:
        return f"Endpoint({self.redacted}, model={self.model!r})"


# Paths of single services, pasted whole from a guide.
SERVICE_PATH = re.compile(
    r"/+(?:(?:chat/)?completions|models|responses|embeddings|images/generations|api/(?:chat|generate|tags))/*$",
    re.IGNORECASE,
)
VERSION_PATH = re.compile(r"/v\d+[a-z0-9]*(?:/|$)", re.IGNORECASE)


def api_root(url: str) -> str:
    """`url` up to where the paths of the API begin: no slash at its end, no path of a single service."""
    return SERVICE_PATH.sub("", url.strip().rstrip("/")).rstrip("/")


def is_versioned(url: str) -> bool:
    """True if the path of `url` names a version of the API, such as /v1."""
    return VERSION_PATH.search(url.partition("://")[2]) is not None


def with_version(url: str) -> str:
    """`url` with the /v1 that people leave out."""
    return f"{url.rstrip('/')}/v1"


def endpoint_from_environment(environment: Mapping[str, str], purpose: str = "LLM") -> Endpoint | None:
    """The configured server for "LLM" or "IMAGE", or None. Raises UserError for a malformed address."""
    base_url = environment.get(f"MOVA_{purpose}_BASE_URL", "").strip()
    if base_url:
        model = environment.get(f"MOVA_{purpose}_MODEL", "").strip()
        key = environment.get(f"MOVA_{purpose}_API_KEY", "").strip()
        return Endpoint(check_url(api_root(base_url)), model, key)
    base_url = environment.get("OPENAI_BASE_URL", "").strip()
    key = environment.get("OPENAI_API_KEY", "").strip()
    model = (environment.get(f"MOVA_{purpose}_MODEL") or environment.get("OPENAI_MODEL", "")).strip()
    if base_url or (key and model):  # a key alone, set for other programs, sends nothing to anyone
        return Endpoint(check_url(api_root(base_url or OPENAI_URL)), model, key)
    return None


def visitor_endpoint(
    base_url: str,
    model: str,
    api_key: str,
    configured: Endpoint | None,
    is_public_page: bool,
    resolve: Resolve = resolve_host,
) -> Endpoint:
    """The server a person asks for in the page or on the command line.

    An empty `base_url`, or the configured one, is the configured server with its own key, unless another
    key is given. Any other address gets the given key and never the configured one; on a public page it
    must come with a key and be public.

    Raises:
        UserError: no server is configured or given, or the given one may not be called.
    """
    base_url, api_key = api_root(base_url), api_key.strip()
    if configured and base_url in ("", configured.base_url):
        own_key = api_key or configured.api_key
        chosen = model.strip() if not is_public_page or api_key else ""  # the owner pays: the owner's model
        return Endpoint(configured.base_url, chosen or configured.model, own_key, configured.sees)
    if not base_url:
        raise UserError("no server is configured; give an address such as http://localhost:8000/v1")
    if not is_public_page:
        return Endpoint(check_url(base_url), model.strip(), api_key)
    if not api_key:
        raise UserError(
            f"{redacted_url(base_url)} needs a key of your own; this page's key is not sent there"
        )
    return Endpoint(check_url(base_url), model.strip(), api_key, pinned=check_public(base_url, resolve))


MAX_DETAIL = 160


class ReplyError(ValueError):
    """A reply in a good status that is not an answer of an OpenAI-compatible server: an error, a web page."""

    def __init__(self, body: object) -> None:
        self.body = body


def check_reply(body: Mapping[str, Any]) -> None:
    """Refuse an error that came in a good status, as a whole reply or as a piece of a stream.

    Raises:
        ReplyError: `body` states an error, or holds a remark where an answer belongs.
    """
    remark = any(body.get(name) for name in ("detail", "message", "msg"))
    if body.get("error") or (remark and not body.get("choices")):
        raise ReplyError(body)


def body_of(reply: object) -> Any:  # noqa: ANN401 - as the server has it
    """The JSON of a whole reply, which the client hands on unread where it is text. Raises ReplyError."""
    body = reply.model_dump(warnings=False) if isinstance(reply, BaseModel) else reply
    if isinstance(body, str):
        raise ReplyError(body)
    if isinstance(body, dict):
        check_reply(body)
    return body


def explain(error: Exception, endpoint: Endpoint, had_image: bool = False) -> BackendError:
    """The BackendError for whatever the openai client raised."""
    import httpx
    import openai

    place = endpoint.redacted
    detail = detail_of(error, endpoint.api_key)
    if isinstance(error, TimeoutError | openai.APITimeoutError | httpx.TimeoutException):
        hint = "or a smaller model" if endpoint.model else "and look into the server's log"
        text = f"{place} gave no answer in {endpoint.timeout:.3g} s; try again, {hint}"
    elif isinstance(error, openai.APIStatusError):
        text = explain_status(error, endpoint, had_image, detail)
    elif isinstance(error, openai.APIConnectionError | httpx.TransportError):
        text = explain_connection(error, place)
    elif isinstance(error, openai.APIError):  # an error event in the middle of a stream
        text = f"{place} broke off while answering{detail}; try again"
    elif detail:
        text = f"{place} answered with an error{detail}; try again, and look into the server's log"
    elif isinstance(error, ReplyError) and "<html" in str(error.body).lower():
        text = f"{place} sent a web page instead of an answer; {address_hint(endpoint)}"
    else:
        text = f"{place} did not answer like an OpenAI-compatible server; {address_hint(endpoint)}"
    return BackendError(text)


def explain_status(error: Exception, endpoint: Endpoint, had_image: bool, detail: str) -> str:
    status, place, model = error.status_code, endpoint.redacted, endpoint.model
    if 300 <= status < 400:
        return f"{place} redirects elsewhere, which is not followed; give the address it leads to"
    if status in (401, 403):
        if not endpoint.api_key:
            return f"{place} asks for a key and none was given{detail}; give the key"
        return f"{place} refused the key; check that it is right and may use {model or 'the model'}"
    if model and (
        (status == 404 and (detail or is_versioned(endpoint.base_url)))
        or (status in (400, 422) and re.search(r"model\b.*(?:not|unknown|pinned|exist)", detail, re.I))
    ):
        return (
            f"{place} does not serve {model!r} (or nothing under this address){detail}; check the model, and "
            f"{address_hint(endpoint)}"
        )
    if status in (404, 405):
        return f"{place} serves nothing under this address{detail}; {address_hint(endpoint)}"
    if status == 429:
        wait = error.response.headers.get("retry-after", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return f"{place} accepts no more requests for now (rate limit or spent credit); try again {when}"
    if status in (400, 413, 422) and re.search(r"context|too long|too large|maximum.*token", detail, re.I):
        return (
            f"{place} cannot take a question this long{detail}; shorten the idea or allow the model more "
            "context"
        )
    if had_image and status in (400, 413, 415, 422, 500, 501):
        return (
            f"{place} could not take the first frame{detail}; choose a model that sees, or go without "
            "the image"
        )
    if status == 413:
        return f"{place} does not take an upload of this size; raise the limit of the proxy in front of it"
    if status == 503:
        return f"{place} is not ready{detail}; wait until it has loaded its model, and try again"
    if status >= 500:
        return f"{place} failed ({status}){detail}; try again, and look into the server's log"
    return (
        f"{place} did not accept the request ({status}){detail}; change what it names, or update the server"
    )


def address_hint(endpoint: Endpoint) -> str:
    """The next step where an address leads to no server of this kind."""
    if is_versioned(endpoint.base_url):
        return "check the address; most end in /v1"
    return f"check the address; most end in /v1, as {redacted_url(with_version(endpoint.base_url))}"


def explain_connection(error: Exception, place: str) -> str:
    causes, cause = [], error
    while cause is not None and len(causes) < 8:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "SSLCertVerificationError" in causes or "SSLError" in causes:
        return f"{place} has no valid certificate, or does not speak https; check the address"
    if "gaierror" in causes:
        return f"the host of {place} is not known to the name service; check the spelling of the address"
    if "RemoteProtocolError" in causes or "ReadError" in causes:
        return f"{place} hung up before its answer was whole; try again, and look into the server's log"
    return f"nothing answers at {place}; check the address, and that the server is running"


def detail_of(error: Exception, api_key: str) -> str:
    """The words of the server, short and plain, as ": ..." for a sentence; nothing near the key."""
    return detail_of_body(getattr(error, "body", None), api_key)


def detail_of_body(body: object, api_key: str) -> str:
    """As `detail_of`, of the body of an answer: JSON already read, or text."""
    said = body
    if isinstance(body, dict):
        fields = [body.get(name) for name in ("message", "error", "detail", "msg")]
        said = next((value for value in fields if value and isinstance(value, str | list | dict)), None)
    if isinstance(said, list) and said:  # a list of refused fields, as FastAPI sends it
        said = said[0]
    if isinstance(said, dict):
        place = said.get("loc")
        field = f"{place[-1]}: " if isinstance(place, list) and place else ""
        said = said.get("message") or said.get("detail") or (said.get("msg") and f"{field}{said['msg']}")
    if not isinstance(said, str) or "<html" in said.lower():
        return ""
    words = [word for word in plain_text(said).split() if not _near_key(word, api_key)]
    text = " ".join(words)[:MAX_DETAIL].rstrip(" .")
    return f": {text}" if text else ""


def _near_key(word: str, api_key: str) -> bool:
    """True if `word` shows part of the key; servers like to quote its first and last letters."""
    if re.search(r"\b(?:sk|hf|gsk|key)[-_]\w", word) or "***" in word:
        return True
    return len(api_key) >= 8 and (api_key[:6] in word or api_key[-4:] in word)


OnText = Callable[[str], None]
IsCancelled = Callable[[], bool]


def ignore_text(text: str) -> None:
    """An `on_text` for those who wait for the end."""


def never_cancelled() -> bool:
    return False


def raise_if_cancelled(cancelled: IsCancelled) -> None:
    """Raise Cancelled once `cancelled` says so."""
    if cancelled():
        raise Cancelled("stopped on request")


Result = TypeVar("Result")
POLL_SECONDS = 0.1


def run_until(
    work: Callable[[OnText], Result],
    on_text: OnText,
    cancelled: IsCancelled,
    seconds: float,
    close: Callable[[], None],
) -> Result:
    """The result of `work`, run in a thread; what it reports reaches `on_text` in the caller's thread.

    `close` ends the connection that the work waits on, when it is cancelled or late.

    Raises:
        TimeoutError: it took longer than `seconds`.
        Cancelled: `cancelled` became true.
        Exception: whatever `work` raised.
    """
    events: SimpleQueue = SimpleQueue()

    def run() -> None:
        try:
            events.put(("result", work(lambda text: events.put(("text", text)))))
        except Exception as error:  # handed on whole to the thread that waits
            events.put(("error", error))

    Thread(target=run, daemon=True, name="prompt").start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            kind, value = events.get(timeout=POLL_SECONDS)
        except Empty:
            kind, value = "nothing", None
        if kind == "result":
            return value
        if kind == "error":
            raise value
        if cancelled():
            close()
            raise Cancelled("stopped on request")
        if time.monotonic() > deadline:
            close()
            raise TimeoutError
        if kind == "text":
            on_text(value)


def connect(endpoint: Endpoint, max_retries: int = 2, max_bytes: int | None = None) -> "OpenAI":
    """The openai client for `endpoint`, with its key if it has one, to its address and nowhere else.

    `max_bytes` caps each answer of an `endpoint` that is not pinned.
    """
    from openai import OpenAI

    seconds = endpoint.timeout
    pinned = endpoint.pinned
    return OpenAI(
        api_key=endpoint.api_key or NO_KEY,
        base_url=endpoint.base_url,
        timeout=seconds,
        max_retries=max_retries,
        http_client=public_client(pinned, seconds) if pinned else own_client(seconds, max_bytes),
    )


def call(
    endpoint: Endpoint,
    work: Callable[["OpenAI", Endpoint, OnText], Result],
    on_text: OnText = ignore_text,
    cancelled: IsCancelled = never_cancelled,
    had_image: bool = False,
) -> Result:
    """The result of `work(client, endpoint, on_text)`.

    Where an address without a version leads nowhere, the work is done once more under /v1 and gets that
    endpoint.

    Raises:
        BackendError: the server failed; the message says how and what to do.
        Cancelled: `cancelled` became true.
    """
    import httpx
    import openai

    failures = (openai.OpenAIError, httpx.HTTPError, TimeoutError, ValueError, TypeError, AttributeError)

    def attempt(chosen: Endpoint) -> Result:
        client = connect(chosen)
        try:
            return run_until(
                lambda report: work(client, chosen, report), on_text, cancelled, chosen.timeout, client.close
            )
        finally:
            client.close()

    try:
        return attempt(endpoint)
    except failures as error:
        failure = explain(error, endpoint, had_image)
        if is_versioned(endpoint.base_url) or not leads_nowhere(error):
            raise failure from None
    completed = replace(endpoint, base_url=with_version(endpoint.base_url))
    try:
        return attempt(completed)
    except failures as error:
        raise failure if leads_nowhere(error) else explain(error, completed, had_image) from None


def leads_nowhere(error: Exception) -> bool:
    """True if nothing of this API is under the address."""
    return isinstance(error, ReplyError) or getattr(error, "status_code", None) in (404, 405)
