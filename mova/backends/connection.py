"""The line to a server: requests that can be stopped, and what goes wrong with them in a sentence.

What may be asked twice is asked again when the server is busy or the line breaks. The key goes to the
server's own address and nowhere else, and no redirect is followed.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from mova.backends.settings import Remote
from mova.prompting.addresses import own_client
from mova.prompting.background import run_until
from mova.prompting.faults import detail_of_body, explain_connection
from mova.prompting.writing import IsCancelled, ignore_text, stop_if
from mova.types import BackendError

MAX_WAIT = 60  # seconds that a server may ask for
BUSY = (429, 500, 502, 503, 504)
ANSWER_SECONDS = 60.0
MAX_ANSWER_BYTES = 4_000_000
TICK = 0.1  # seconds between two looks at whether to stop

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: between two looks at a job, for the job as a whole, for the next byte of
    an answer, and before each new attempt.

    A 720p clip of 50 steps takes 2.3 hours on one H200.
    """

    poll: float = 2.0
    job: float = 6 * 3600.0
    silence: float = 30.0
    attempts: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)


class Refused(Exception):  # noqa: N818 - an answer; it becomes an error once nothing is left to try
    """The server answered, but not with what was asked for."""

    def __init__(self, status: int, body: bytes, headers: httpx.Headers) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    def asked_wait(self, default: float) -> float:
        """Seconds that the server asks to wait, within reason."""
        asked = self.headers.get("retry-after", "")
        return min(int(asked), MAX_WAIT) if re.fullmatch("[0-9]{1,9}", asked) else default


LOST = (httpx.HTTPError, TimeoutError)  # no answer
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)


class Connection:
    """The line to one server.

    Every wait is broken off with Cancelled soon after `cancelled` becomes true.
    """

    def __init__(self, remote: Remote, cancelled: IsCancelled, patience: Patience) -> None:
        self.remote = remote
        self.place = remote.shown
        self.cancelled = cancelled
        self.patience = patience
        self._client = own_client(patience.silence)

    def close(self) -> None:
        self._client.close()

    def own(self, path: str) -> httpx.URL:
        """The server's address of `path`."""
        return httpx.URL(self.remote.url + path)

    def is_own(self, url: httpx.URL) -> bool:
        own = self.own("")
        return (url.scheme, url.netloc) == (own.scheme, own.netloc)

    def stream(
        self,
        method: str,
        url: httpx.URL,
        **content: Any,  # noqa: ANN401 - as httpx takes it
    ) -> AbstractContextManager[httpx.Response]:
        """A request under way, with the key if it is this server's."""
        key = self.remote.api_key
        headers = {"Authorization": f"Bearer {key}"} if key and self.is_own(url) else {}
        return self._client.stream(method, url, headers=headers, **content)

    def request(
        self,
        method: str,
        path: str,
        cancelled: IsCancelled | None = None,
        seconds: float = ANSWER_SECONDS,
        **content: Any,  # noqa: ANN401 - as httpx takes it
    ) -> bytes:
        """The body of a successful answer. Raises Refused, or one of LOST."""

        def work() -> bytes:
            with self.stream(method, self.own(path), **content) as response:
                return successful(response)

        return self.within(seconds, cancelled or self.cancelled, work)

    def within(self, seconds: float, cancelled: IsCancelled, work: Callable[[], Result]) -> Result:
        """The result of `work`, or TimeoutError. It goes on by itself, unheard, if it is left for that."""
        return run_until(lambda _: work(), ignore_text, cancelled, seconds, lambda: None)

    def patiently(
        self,
        attempt: Callable[[], Result],
        is_repeatable: bool = True,
        waits: Sequence[float] | None = None,
        place: str = "",
    ) -> Result:
        """The result of `attempt`, tried again after each of `waits` where that may help and does no harm.

        `place` is named in errors.
        """
        place = place or self.place
        for wait in (*(self.patience.attempts if waits is None else waits), None):
            try:
                return attempt()
            except Refused as refused:
                again = refused.status in BUSY if is_repeatable else refused.status == 429
                if wait is None or not again:
                    raise self._refusal(refused, place) from None
                wait = refused.asked_wait(wait)
            except LOST as error:
                is_harmless = is_repeatable or isinstance(error, UNSENT)
                if wait is None or not is_harmless:
                    raise loss(error, place, is_harmless) from None
            self.pause(wait)
        raise AssertionError("the last attempt returns or raises")

    def pause(self, seconds: float) -> None:
        """Wait. Raises Cancelled soon after that is asked for."""
        end = time.monotonic() + seconds
        stop_if(self.cancelled)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, TICK))
            stop_if(self.cancelled)

    def detail(self, said: object) -> str:
        """What the server said, as ": ..." to be put into a sentence, without the key; or nothing."""
        return detail_of_body(said, self.remote.api_key)

    def _refusal(self, refused: Refused, place: str) -> BackendError:
        try:
            said = json.loads(refused.body)
        except (ValueError, RecursionError):
            said = None
        text = refusal_text(refused, self.detail(said), bool(self.remote.api_key))
        return BackendError(f"{place} {text}")


def loss(error: Exception, place: str, is_harmless: bool = True) -> BackendError:
    """The sentence for a request without an answer; it may have done harm if it was an order."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        text = f"{place} gave no answer in time; look into the server's log, and run again"
    else:
        text = explain_connection(error, place)
    return BackendError(
        text + ("" if is_harmless else " (it may have taken the order, so look at its queue before that)")
    )


def refusal_text(refused: Refused, detail: str, had_key: bool) -> str:
    status = refused.status
    if 300 <= status < 400:
        return "redirects elsewhere, which is not followed; give the address it leads to"
    if status in (401, 403) and had_key:
        return "refused the key; check that it is right, and this server's"
    if status in (401, 403):
        return "wants a key; put it in MOVA_REMOTE_API_KEY"
    if status == 404:
        return "has no video API; give the address of the engine, up to and without /v1/videos"
    if status == 413:
        return "does not take an upload of this size; raise the limit of the proxy in front of it"
    if status == 429:
        return f"accepts no more for now{detail}; run again in {refused.asked_wait(MAX_WAIT):.0f} s"
    if status == 503:
        return f"is not ready{detail}; wait until the engine has loaded its model, and run again"
    if status >= 500:
        return f"failed ({status}){detail}; look into the server's log, and run again"
    return f"did not accept the request ({status}){detail}; change what it names, or update the engine"


def successful(response: httpx.Response) -> bytes:
    """The body, or as much of it as an answer may have. Raises Refused unless it is one of success."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    if not response.is_success:
        raise Refused(response.status_code, body, response.headers)
    return body
