"""One server of the video API (`/v1/videos`): what is asked of it, and every way it fails in a sentence.

What may be asked twice is asked again when the server is busy or the line breaks; a clip is never ordered
twice. The key goes to the server's own address and nowhere else, and no redirect is followed.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from mova.backends.settings import Remote
from mova.media import MAX_CLIP_BYTES
from mova.prompting.addresses import own_client, shown_url
from mova.prompting.background import run_until
from mova.prompting.faults import detail_of_body, explain_connection
from mova.prompting.writing import IsCancelled, ignore_text, never_cancelled, stop_if
from mova.types import BackendError

MAX_WAIT = 60  # seconds that a server may ask for
BUSY = (429, 500, 502, 503, 504)
ANSWER_SECONDS = 60.0
DELETE_SECONDS = 5.0
DOWNLOAD_SECONDS = 1800.0
MAX_ANSWER_BYTES = 4_000_000
JOB_ID = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
CLIP_TYPE = re.compile(r"video/.+|(?:application|binary)/octet-stream|")
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


class Job(BaseModel):
    """What is read of a VideoResponse; servers leave out and add what they like."""

    id: str
    status: str = "queued"
    size: str | None = None
    url: str | None = None
    error: Any = None


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


class VideoServer:
    """A conversation with one server, which ends with its `with`.

    Every wait is broken off with Cancelled soon after `cancelled` becomes true. All methods raise
    BackendError for what the server does wrong.
    """

    def __init__(
        self,
        remote: Remote,
        cancelled: IsCancelled = never_cancelled,
        patience: Patience | None = None,
    ) -> None:
        self.remote = remote
        self.place = remote.shown
        self.cancelled = cancelled
        self.patience = patience or Patience()
        self._client = own_client(self.patience.silence)

    def __enter__(self) -> "VideoServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def check_health(self) -> None:
        """Raise unless the server is there, is ready, and takes the key."""

        def look() -> bytes:
            try:
                return self._request("GET", "/health")
            except Refused as refused:
                if refused.status != 404:
                    raise
                return self._request("GET", "/v1/models")  # behind a gateway that lets only the API through

        self._patiently(look, waits=())

    def served_model(self) -> str | None:
        """The name of the model it serves, or None if it does not tell."""
        listed = self._optional("/v1/models")
        try:
            name = listed["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            return None
        return name if isinstance(name, str) else None

    def form_fields(self) -> frozenset[str] | None:
        """The form fields that `POST /v1/videos` reads, by the server's own schema; None if it shows none."""
        schema = self._optional("/openapi.json")
        try:
            content = schema["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
            form = content["multipart/form-data"]["schema"]
            if "$ref" in form:
                form = schema["components"]["schemas"][form["$ref"].rpartition("/")[2]]
            return frozenset(form["properties"])
        except (KeyError, TypeError, AttributeError):
            return None

    def submit(self, fields: dict[str, str], first_frame: bytes) -> Job:
        """Order a clip, once; `first_frame` is a PNG. This is not cancelled: the job's name would be lost."""
        content = {
            "data": fields,
            "files": {"input_reference": ("first_frame.png", first_frame, "image/png")},
        }
        return self._job(
            self._patiently(
                lambda: self._request("POST", "/v1/videos", cancelled=never_cancelled, **content),
                is_repeatable=False,
            )
        )

    def poll(self, job_id: str) -> Job:
        def look() -> bytes:
            try:
                return self._request("GET", f"/v1/videos/{job_id}")
            except Refused as refused:
                if refused.status != 404:
                    raise
                raise BackendError(
                    f"{self.place} no longer knows the job {job_id}: the engine was started anew, or the job "
                    "was deleted; run again"
                ) from None

        return self._job(self._patiently(look))

    def delete(self, job_id: str) -> bool:
        """Tell the server to forget the job; whether it said that it did."""
        path = f"/v1/videos/{job_id}"
        try:
            self._request("DELETE", path, cancelled=never_cancelled, seconds=DELETE_SECONDS)
        except (Refused, *LOST):
            return False
        return True

    def download(self, job: Job, path: Path) -> None:
        """Write the job's clip to `path`. Raises OSError too, from the disk."""
        url = httpx.URL(self.remote.url)
        try:
            url = url.join(job.url or f"{self.remote.url}/v1/videos/{job.id}/content")
        except httpx.InvalidURL:
            raise BackendError(f"{self.place} keeps its clip at an address that is none; run again") from None

        def fetch() -> None:
            with path.open("wb") as file:  # here, so that nothing is written any more once this is left
                self._within(DOWNLOAD_SECONDS, self.cancelled, lambda: self._fetch(url, file))

        self._patiently(fetch)

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

    def _patiently(
        self,
        attempt: Callable[[], Result],
        is_repeatable: bool = True,
        waits: Sequence[float] | None = None,
    ) -> Result:
        """The result of `attempt`, tried again after each of `waits` where that may help and does no harm."""
        for wait in (*(self.patience.attempts if waits is None else waits), None):
            try:
                return attempt()
            except Refused as refused:
                again = refused.status in BUSY if is_repeatable else refused.status == 429
                if wait is None or not again:
                    raise self._refusal(refused) from None
                wait = refused.asked_wait(wait)
            except LOST as error:
                if wait is None or not (is_repeatable or isinstance(error, UNSENT)):
                    raise self._loss(error, is_repeatable or isinstance(error, UNSENT)) from None
            self.pause(wait)
        raise AssertionError("the last attempt returns or raises")

    def _request(
        self,
        method: str,
        path: str,
        cancelled: IsCancelled | None = None,
        seconds: float = ANSWER_SECONDS,
        **content: Any,  # noqa: ANN401 - as httpx takes it
    ) -> bytes:
        """The body of a successful answer. Raises Refused, or one of LOST."""

        def work() -> bytes:
            url = httpx.URL(self.remote.url + path)
            with self._client.stream(method, url, headers=self._headers(url), **content) as response:
                return successful(response, read_limited(response))

        return self._within(seconds, cancelled or self.cancelled, work)

    def _within(self, seconds: float, cancelled: IsCancelled, work: Callable[[], Result]) -> Result:
        return run_until(lambda _: work(), ignore_text, cancelled, seconds, lambda: None)

    def _fetch(self, url: httpx.URL, file: BinaryIO) -> None:
        place = shown_url(str(url))
        with self._client.stream("GET", url, headers=self._headers(url)) as response:
            if response.status_code == 404:
                raise BackendError(
                    f"{place} is not there although the job is done; start the engine with "
                    "--output-path FOLDER, so that it keeps its clips, and run again"
                )
            if response.status_code != 200:
                successful(response, read_limited(response))
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not CLIP_TYPE.fullmatch(kind):
                raise BackendError(
                    f"{place} sent {kind[:40]!r} where a clip should be; check that the address is the "
                    "engine's, and run again"
                )
            received = 0
            for chunk in response.iter_raw():
                received += len(chunk)
                if received > MAX_CLIP_BYTES:
                    raise BackendError(
                        f"{place} sent over {MAX_CLIP_BYTES // 2**30} GiB; ask for a shorter clip"
                    )
                file.write(chunk)

    def _optional(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON is there
        try:
            return json.loads(self._request("GET", path))
        except (Refused, ValueError, RecursionError):
            return None
        except LOST as error:
            raise self._loss(error) from None

    def _headers(self, url: httpx.URL) -> dict[str, str]:
        own = httpx.URL(self.remote.url)
        if not self.remote.api_key or (url.scheme, url.netloc) != (own.scheme, own.netloc):
            return {}
        return {"Authorization": f"Bearer {self.remote.api_key}"}

    def _job(self, body: bytes) -> Job:
        try:
            job = Job.model_validate_json(body)
        except ValidationError:
            job = None
        if job is None or not JOB_ID.fullmatch(job.id):
            raise BackendError(
                f"{self.place} sent what is no answer of a video API; check that the address is the engine's"
            )
        return job

    def _loss(self, error: Exception, is_harmless: bool = True) -> BackendError:
        if isinstance(error, TimeoutError | httpx.TimeoutException):
            text = f"{self.place} gave no answer in time; look into the server's log, and run again"
        else:
            text = explain_connection(error, self.place)
        note = "" if is_harmless else " (it may have taken the order, so look at its queue before that)"
        return BackendError(text + note)

    def _refusal(self, refused: Refused) -> BackendError:
        try:
            said = json.loads(refused.body)
        except (ValueError, RecursionError):
            said = None
        return BackendError(
            f"{self.place} {refusal_text(refused, self.detail(said), bool(self.remote.api_key))}"
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


def successful(response: httpx.Response, body: bytes) -> bytes:
    """`body`. Raises Refused unless the status is one of success."""
    if not response.is_success:
        raise Refused(response.status_code, body, response.headers)
    return body


def read_limited(response: httpx.Response) -> bytes:
    """The body, or as much of it as an answer may have."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            break
    return body
