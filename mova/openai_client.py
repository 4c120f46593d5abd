"""Which server to ask, with which key. A key goes only to the address it was given for.

Environment: MOVA_LLM_BASE_URL, MOVA_LLM_MODEL, MOVA_LLM_API_KEY; else OPENAI_BASE_URL, OPENAI_MODEL,
OPENAI_API_KEY. The two families are never mixed.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from mova.errors import BackendError, Cancelled, UserError
from mova.net import PublicAddress, Resolve, check_public, check_url, redacted_url, resolve_host
from mova.text import plain_text

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
    def shown(self) -> str:
        return redacted_url(self.base_url)

    def __repr__(self) -> str:
        return f"Endpoint({self.shown}, model={self.model!r})"


def endpoint_from_environment(environment: Mapping[str, str], purpose: str = "LLM") -> Endpoint | None:
    """The configured server for "LLM" or "IMAGE", or None. Raises UserError if its address is none."""
    base_url = environment.get(f"MOVA_{purpose}_BASE_URL", "").strip()
    if base_url:
        model = environment.get(f"MOVA_{purpose}_MODEL", "").strip()
        return Endpoint(check_url(base_url), model, environment.get(f"MOVA_{purpose}_API_KEY", "").strip())
    base_url = environment.get("OPENAI_BASE_URL", "").strip()
    key = environment.get("OPENAI_API_KEY", "").strip()
    model = (environment.get(f"MOVA_{purpose}_MODEL") or environment.get("OPENAI_MODEL", "")).strip()
    if base_url or (key and model):  # a key alone, set for other programs, sends nothing to anyone
        return Endpoint(check_url(base_url or OPENAI_URL), model, key)
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
    base_url, api_key = base_url.strip().rstrip("/"), api_key.strip()
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


def explain(error: Exception, endpoint: Endpoint, model: str, had_image: bool) -> BackendError:
    """The BackendError for whatever the openai client raised."""
    import openai

    place = endpoint.shown
    detail = detail_of(error, endpoint.api_key)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        text = f"{place} gave no answer in {endpoint.timeout:.0f} s; try again, or a smaller model"
    elif isinstance(error, openai.APIStatusError):
        text = explain_status(error, place, model, had_image, detail)
    elif isinstance(error, openai.APIConnectionError):
        text = explain_connection(error, place)
    elif isinstance(error, openai.APIError):  # an error event in the middle of a stream
        text = f"{place} broke off while answering{detail}; try again"
    else:
        text = (
            f"{place} sent what is no answer of an OpenAI-compatible server; check that its address ends "
            "in /v1"
        )
    return BackendError(text)


def explain_status(error: Exception, place: str, model: str, had_image: bool, detail: str) -> str:
    status = error.status_code
    if 300 <= status < 400:
        return f"{place} redirects elsewhere, which is not followed; give the address it leads to"
    if status in (401, 403):
        return f"{place} refused the key; check that it is right and may use {model or 'the model'}"
    if status == 404 or (
        status in (400, 422) and re.search(r"model\b.*(?:not|unknown|pinned|exist)", detail, re.I)
    ):
        return (
            f"{place} does not serve {model!r} (or nothing under this address){detail}; check model and "
            "address"
        )
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
    if status >= 500:
        return f"{place} failed ({status}){detail}; try again, and look into the server's log"
    return f"{place} did not accept the request ({status}){detail}"


def explain_connection(error: Exception, place: str) -> str:
    causes, cause = [], error
    while cause is not None and len(causes) < 8:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "TooLarge" in causes:
        return f"{place} sent more than an answer may have; use another server"
    if "SSLCertVerificationError" in causes or "SSLError" in causes:
        return f"{place} has no valid certificate, or does not speak https; check the address"
    if "gaierror" in causes:
        return f"the host of {place} is not known to the name service; check the spelling of the address"
    if "RemoteProtocolError" in causes or "ReadError" in causes:
        return f"{place} hung up before its answer was whole; try again, and look into the server's log"
    return f"nothing answers at {place}; check the address, and that the server is running"


def detail_of(error: Exception, api_key: str) -> str:
    """What the server said, short and plain, as ": ..." to be put into a sentence; nothing near the key."""
    return detail_of_body(getattr(error, "body", None), api_key)


def detail_of_body(body: object, api_key: str) -> str:
    """As `detail_of`, of the body of an answer: JSON already read, or text."""
    said = body.get("message") or body.get("error") or body.get("detail") if isinstance(body, dict) else body
    if isinstance(said, list) and said:  # a list of fields that were refused, as FastAPI sends it
        said = said[0]
    if isinstance(said, dict):
        place = said.get("loc")
        field = f"{place[-1]}: " if isinstance(place, list) and place else ""
        said = said.get("message") or (said.get("msg") and f"{field}{said['msg']}")
    if not isinstance(said, str) or "<html" in said.lower():
        return ""
    words = [word for word in plain_text(said).split() if not _near_key(word, api_key)]
    text = " ".join(words)[:MAX_DETAIL].rstrip(" .")
    return f": {text}" if text else ""


def _near_key(word: str, api_key: str) -> bool:
    """Whether `word` shows part of the key; servers like to quote its first and last letters."""
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
