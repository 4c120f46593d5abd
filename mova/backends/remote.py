"""Makes clips on a server of the video API (`/v1/videos`), such as SGLang-Diffusion on many GPUs.

The server crops nothing: it gets the first frame at the clip's own size, fitted as for a local run, and a
white one for text alone, as its MOVA needs a frame. What it cannot do is refused by name before it is asked.
The clip it sends is decoded to its end before it takes its place, and then carries its settings.
"""

import io
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import httpx
import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from mova import catalog, machine
from mova.backends import timed
from mova.backends.settings import RemoteServer
from mova.errors import BackendError, Cancelled, UserError
from mova.files import temporary_beside
from mova.media.clips import MAX_CLIP_BYTES, copy_with_settings, measure_clip
from mova.media.images import white_frame
from mova.net import check_url, own_client, redacted_url
from mova.openai_client import (
    IsCancelled,
    detail_of_body,
    explain_connection,
    ignore_text,
    never_cancelled,
    raise_if_cancelled,
    run_until,
)
from mova.request import (
    GenerationRequest,
    GenerationResult,
    Progress,
    ProgressCallback,
    run_settings,
)
from mova.text import clean_prompt

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

    def __init__(self, remote: RemoteServer, cancelled: IsCancelled, patience: Patience) -> None:
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
        raise_if_cancelled(self.cancelled)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, TICK))
            raise_if_cancelled(self.cancelled)

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


logger = logging.getLogger(__name__)

DELETE_SECONDS = 5.0
DOWNLOAD_SECONDS = 1800.0
JOB_ID = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
CLIP_TYPE = re.compile(r"video/.+|(?:application|binary)/octet-stream|")


class Job(BaseModel):
    """What is read of a VideoResponse; servers leave out and add what they like."""

    id: str
    status: str = "queued"
    size: str | None = None
    url: str | None = None
    error: Any = None


class VideoServer:
    """A conversation with one server, which ends with its `with`.

    All methods raise BackendError for what the server does wrong, and Cancelled soon after `cancelled`
    becomes true.
    """

    def __init__(
        self, remote: RemoteServer, cancelled: IsCancelled = never_cancelled, patience: Patience | None = None
    ) -> None:
        self.place = remote.shown
        self.line = Connection(remote, cancelled, patience or Patience())

    def __enter__(self) -> "VideoServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()

    def check_health(self) -> None:
        """Raise unless the server is there, is ready, and takes the key."""

        def look() -> bytes:
            try:
                return self.line.request("GET", "/health")
            except Refused as refused:
                if refused.status != 404:
                    raise
                # A gateway may let nothing but the API through.
                return self.line.request("GET", "/v1/models")

        self.line.patiently(look, waits=())

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
            self.line.patiently(
                lambda: self.line.request("POST", "/v1/videos", cancelled=never_cancelled, **content),
                is_repeatable=False,
            )
        )

    def poll(self, job_id: str) -> Job:
        def look() -> bytes:
            try:
                return self.line.request("GET", f"/v1/videos/{job_id}")
            except Refused as refused:
                if refused.status != 404:
                    raise
                raise BackendError(
                    f"{self.place} no longer knows the job {job_id}: the engine was started anew, or the job "
                    "was deleted; run again"
                ) from None

        return self._job(self.line.patiently(look))

    def delete(self, job_id: str) -> None:
        """Tell the server to forget the job. SGLang does, but goes on making the clip."""
        path = f"/v1/videos/{job_id}"
        try:
            self.line.request("DELETE", path, cancelled=never_cancelled, seconds=DELETE_SECONDS)
        except (Refused, *LOST) as error:
            logger.warning(
                "%s could not be told to drop job %s (%s)", self.place, job_id, type(error).__name__
            )

    def download(self, job: Job, path: Path) -> None:
        """Write the job's clip to `path`. Raises OSError too, from the disk."""
        url = self.line.own(f"/v1/videos/{job.id}/content")
        if job.url:  # it put the clip into a store elsewhere
            try:
                url = httpx.URL(check_url(job.url))
            except UserError:
                raise BackendError(
                    f"{self.place} says that its clip is at {redacted_url(job.url)}, which is no address; "
                    "look into the server's log"
                ) from None

        def fetch() -> None:
            with path.open("wb") as file:  # here, so that nothing is written any more once this is left
                self.line.within(DOWNLOAD_SECONDS, self.line.cancelled, lambda: self._fetch(url, file))

        self.line.patiently(fetch, place=redacted_url(str(url)))

    def _fetch(self, url: httpx.URL, file: BinaryIO) -> None:
        place = redacted_url(str(url))
        with self.line.stream("GET", url) as response:
            if 400 <= response.status_code < 500 and not self.line.is_own(url):
                raise BackendError(
                    f"{place} does not give out the clip ({response.status_code}); look into the server's log"
                )
            if response.status_code == 404:
                raise BackendError(
                    f"{place} is not there although the job is done; start the engine with "
                    "--output-path FOLDER, so that it keeps its clips, and run again"
                )
            if not response.is_success:
                successful(response)
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
            return json.loads(self.line.request("GET", path))
        except (Refused, ValueError, RecursionError):
            return None
        except LOST as error:
            raise loss(error, self.place) from None

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


AT_WORK = ("queued", "in_progress")  # SGLang says "queued" until a job ends
WAITING = "on the server, which reports no steps"
ENGINE_SHIFT = 5.0  # of both towers; SGLang's API passes no other
MAX_SOUND_GAP_SECONDS = 0.25


class RemoteBackend:
    """A server as a backend. `model` is the name the clips are filed under; the server decides what it runs.

    Nothing is said to the server before the first clip.
    """

    def __init__(self, model: str, remote: RemoteServer, patience: Patience | None = None) -> None:
        self.model = model
        self.source = catalog.find_model(model).source
        self.remote = remote
        self.patience = patience or Patience()

    def generate(
        self,
        request: GenerationRequest,
        out: Path,
        progress: ProgressCallback | None = None,
        should_stop: Callable[[], bool] | None = None,
        overwrite: bool = False,
    ) -> GenerationResult:
        """As `mova.backends.Backend.generate`. No step is reported: the server tells of none."""
        image = request.check(out, overwrite)
        check_supported(request)
        request = request.seeded()
        settings = run_settings(request, self.model, out) | {"backend": "remote"}
        report = progress or (lambda _: None)
        seconds: dict[str, float] = {}
        with VideoServer(self.remote, should_stop or never_cancelled, self.patience) as server:
            with timed(seconds, "submit"):
                report(Progress("submit"))
                settings["served_model"] = self._check(server)
                job = server.submit(form_of(request), png_of(image, request))
            try:
                with timed(seconds, "remote"):
                    job = self._wait(server, job, request, report)
                with temporary_beside(out) as received:
                    with timed(seconds, "download"):
                        report(Progress("download"))
                        server.download(job, received)
                    with timed(seconds, "write"):
                        report(Progress("write"))
                        check_clip(received, request, server.place)
                        copy_with_settings(received, out, settings, overwrite)
            except (Cancelled, KeyboardInterrupt):
                server.delete(job.id)
                raise
        return GenerationResult(out, request, self.model, seconds)

    def _check(self, server: VideoServer) -> str | None:
        """The model that the server says it runs. Raises unless a clip of ours can be ordered there."""
        server.check_health()
        served = server.served_model()
        known = {PurePosixPath(model.source).name: name for name, model in catalog.MODELS.items()}
        ours, theirs = (known.get(PurePosixPath(source or "").name) for source in (self.source, served))
        if ours and theirs and ours != theirs:
            raise UserError(f"{server.place} serves {theirs}, not {ours}; give --model {theirs}")
        read = server.form_fields()
        ignored = sorted(NEEDED - read) if read is not None else []
        if ignored:
            raise BackendError(
                f"{server.place} does not read {', '.join(ignored)} and would make another clip than the one "
                "asked for; update the engine"
            )
        return served

    def _wait(
        self, server: VideoServer, job: Job, request: GenerationRequest, report: ProgressCallback
    ) -> Job:
        """The job when it is done."""
        size = f"{request.width}x{request.height}"
        if job.size and job.size != size:
            server.delete(job.id)
            raise BackendError(f"{server.place} would make the clip {job.size}, not {size}; choose that size")
        began = time.monotonic()
        while job.status in AT_WORK:
            elapsed = time.monotonic() - began
            report(Progress(WAITING, seconds=elapsed))
            if elapsed > self.patience.job:
                raise BackendError(
                    f"{server.place} has not finished job {job.id} in "
                    f"{machine.human_seconds(self.patience.job)}; look into the server's log, or fetch it "
                    f"later from {server.place}/v1/videos/{job.id}/content"
                )
            server.line.pause(self.patience.poll)
            job = server.poll(job.id)
        if job.status == "failed":
            raise BackendError(
                f"{server.place} could not make the clip{server.line.detail(job.error)}; look into its log"
            )
        if job.status != "completed":
            raise BackendError(
                f"{server.place} reports job {job.id} as {job.status[:40]!r}, which is no state this toolkit "
                "knows; look into the server's log"
            )
        return job


def check_supported(request: GenerationRequest) -> None:
    """Raise UserError for what a request holds and the API has no place for."""
    shifts = (("video_shift", request.video_shift), ("audio_shift", request.audio_shift))
    for name, shift in shifts:
        if shift not in (None, ENGINE_SHIFT):
            raise UserError(
                f"{name}={shift:g} cannot be sent to a server, which uses {ENGINE_SHIFT:g}; leave it out"
            )
    if request.bridge_guidance_scale != 1:
        raise UserError(
            f"bridge_guidance_scale={request.bridge_guidance_scale:g} cannot be sent to a server, which has "
            "no dual guidance; leave it at 1"
        )
    if request.adapters:
        names = ", ".join(Path(source).name for source, _ in request.adapters)
        raise UserError(f"adapters cannot be sent to a server ({names}); leave them out, or generate locally")
    if request.frame_rate != int(request.frame_rate):
        nearest = round(request.frame_rate)
        raise UserError(f"frame_rate={request.frame_rate:g} must be whole on a server; nearest: {nearest}")


def form_of(request: GenerationRequest) -> dict[str, str]:
    """The fields of the order, as text."""
    return {
        "prompt": clean_prompt(request.prompt),
        # An empty field counts as none, and the engine then takes a negative prompt of its own.
        "negative_prompt": clean_prompt(request.negative_prompt) or " ",
        "size": f"{request.width}x{request.height}",
        "num_frames": str(request.num_frames),
        "fps": str(int(request.frame_rate)),
        "seed": str(request.seed),
        "num_inference_steps": str(request.num_inference_steps),
        "guidance_scale": str(request.guidance_scale),
        # Noise drawn on a CPU does not depend on the kind and number of GPUs.
        "generator_device": "cpu",
    }


# What decides the clip; where the noise is drawn may be the engine's to choose.
NEEDED = frozenset(form_of(GenerationRequest(""))) - {"generator_device"} | {"input_reference"}


def png_of(image: np.ndarray | None, request: GenerationRequest) -> bytes:
    frame = white_frame(request.height, request.width) if image is None else image
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return file.getvalue()


def check_clip(path: Path, request: GenerationRequest, place: str) -> None:
    """Raise BackendError unless the clip at `path` is whole, has sound, and is what was asked for."""
    try:
        found = measure_clip(path)
    except UserError as error:
        said = str(error).replace(path.name, "it").partition(";")[0]
        raise BackendError(
            f"{place} sent a clip that cannot be used: {said}; run again, and look into the server's log"
        ) from error
    got = (found.width, found.height, found.num_frames, round(found.frame_rate, 2))
    asked = (request.width, request.height, request.num_frames, round(request.frame_rate, 2))
    if got != asked:
        texts = ["{}x{}, {} frames at {:g} a second".format(*values) for values in (got, asked)]
        raise BackendError(
            f"{place} sent a clip of {texts[0]}, not {texts[1]}; start the engine with --adjust-frames "
            "false, and choose a size and length that it supports"
        )
    seconds = request.num_frames / request.frame_rate
    if found.sound_seconds < seconds - MAX_SOUND_GAP_SECONDS:
        raise BackendError(
            f"{place} sent a clip whose sound ends after {found.sound_seconds:.2f} of {seconds:.2f} s; run "
            "again, and look into the server's log"
        )
