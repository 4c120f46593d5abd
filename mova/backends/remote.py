"""Make clips on a server of the video API (`/v1/videos`), such as SGLang-Diffusion on many GPUs.

The server crops nothing: it gets the first frame at the clip's own size, fitted as for a local run, and a
white one for text alone, as its MOVA needs a frame. What it cannot do is refused by name before it is asked.
The clip it sends is decoded to its end before it takes its place, and then carries its settings.

The openai client carries the requests, by its plain verbs: its `videos` methods are deprecated since OpenAI
closed its own video service, and warn at every call.
"""

import io
import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import httpx
import numpy as np
import openai
from PIL import Image
from pydantic import BaseModel, ValidationError

from mova import catalog, machine
from mova.backends import timed
from mova.backends.settings import RemoteServer
from mova.errors import BackendError, Cancelled, UserError
from mova.files import temporary_beside
from mova.guidance import ALWAYS
from mova.media.clips import MAX_CLIP_BYTES, copy_with_settings, measure_clip
from mova.media.images import white_frame
from mova.net import check_url, redacted_url
from mova.openai_client import (
    POLL_SECONDS,
    Endpoint,
    IsCancelled,
    connect,
    detail_of_body,
    explain,
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

logger = logging.getLogger(__name__)

MAX_WAIT = 60  # seconds that a server may ask for
BUSY = (429, 500, 502, 503, 504)
ANSWER_SECONDS = 60.0
DELETE_SECONDS = 5.0
DOWNLOAD_SECONDS = 1800.0
MAX_ANSWER_BYTES = 4_000_000
JOB_ID = re.compile(r"\w[\w.-]{0,199}", re.ASCII)
CLIP_TYPE = re.compile(r"video/.+|(?:application|binary)/octet-stream|")
LOST = (openai.APIConnectionError, httpx.TransportError, TimeoutError)  # no answer, or not all of it
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)
AT_WORK = ("queued", "in_progress")  # SGLang says "queued" until a job ends
WAITING = "on the server, which reports no steps"
ENGINE_SHIFT = 5.0  # of both towers; SGLang's API passes no other
MAX_SOUND_GAP_SECONDS = 0.25
FIRST_UNGUIDED = (0, 5, 23)  # older releases of SGLang-Diffusion never step MOVA's latents without guidance
RELEASE = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?!\d|\.?dev|a|b|rc)", re.ASCII)

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
    """The fields that are read of a VideoResponse; servers leave out and add what they like."""

    id: str
    status: str = "queued"
    size: str | None = None
    url: str | None = None
    error: Any = None


class VideoServer:
    """A conversation with one server.

    All methods raise BackendError for what the server does wrong, and Cancelled soon after `cancelled`
    becomes true.
    """

    def __init__(self, remote: RemoteServer, cancelled: IsCancelled, patience: Patience) -> None:
        self.root = remote.url
        self.place = remote.shown
        self.cancelled = cancelled
        self.patience = patience
        self.endpoint = Endpoint(f"{remote.url}/v1", api_key=remote.api_key, timeout=patience.silence)

    def check_health(self) -> None:
        """Raise unless the server is there, is ready, and takes the key."""

        def look() -> None:
            try:
                self._get(f"{self.root}/health")
            except openai.NotFoundError:  # a gateway may let nothing but the API through
                self._get("/models")

        self._try(look, waits=())

    def served_model(self) -> str | None:
        """The name of the model it serves, or None if it does not say."""
        listed = self._described("/v1/models")
        try:
            name = listed["data"][0]["id"]
        except (KeyError, IndexError, TypeError):
            return None
        return name if isinstance(name, str) else None

    def version(self) -> str:
        """The engine's version, or "" if it does not say; `info` in its OpenAPI schema is not about it."""
        info = self._described("/server_info")
        version = info.get("version") if isinstance(info, dict) else None
        return version[:40] if isinstance(version, str) else ""

    def form_fields(self) -> frozenset[str] | None:
        """The form fields that `POST /v1/videos` reads, by the server's own schema; None if it shows none."""
        schema = self._described("/openapi.json")
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

        def order(client: openai.OpenAI) -> httpx.Response:
            return client.post(
                "/videos",
                cast_to=httpx.Response,
                body=fields,
                files={"input_reference": ("first_frame.png", first_frame, "image/png")},
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )

        answer = self._try(lambda: self._ask(order, cancelled=never_cancelled), is_order=True)
        return job_of(answer, self.place)

    def poll(self, job_id: str) -> Job:
        def look() -> httpx.Response:
            try:
                return self._get(f"/videos/{job_id}")
            except openai.NotFoundError:
                raise BackendError(
                    f"{self.place} no longer knows the job {job_id}: the engine was restarted, or the job "
                    "was deleted; run again"
                ) from None

        return job_of(self._try(look), self.place)

    def delete(self, job_id: str) -> None:
        """Ask the server to forget the job. SGLang does, but still finishes the clip it is making."""
        try:
            self._ask(
                lambda client: client.delete(f"/videos/{job_id}", cast_to=httpx.Response),
                seconds=DELETE_SECONDS,
                cancelled=never_cancelled,
            )
        except (BackendError, openai.APIStatusError, *LOST) as error:
            logger.warning("%s could not drop job %s (%s)", self.place, job_id, type(error).__name__)

    def download(self, job: Job, path: Path) -> None:
        """Write the job's clip to `path`. Raises OSError too, from the disk."""
        endpoint = self._store(job)

        def fetch() -> None:
            with path.open("wb") as file:  # here, so that nothing is written any more once this is left
                work = partial(self._copy, endpoint, file)
                self._ask(work, endpoint, DOWNLOAD_SECONDS, MAX_CLIP_BYTES)

        self._try(fetch, endpoint)

    def _store(self, job: Job) -> Endpoint:
        """The address of the job's clip, with the key if the server keeps it itself."""
        if not job.url:
            return replace(self.endpoint, base_url=f"{self.endpoint.base_url}/videos/{job.id}/content")
        try:
            url = check_url(job.url)
        except UserError:
            raise BackendError(
                f"{self.place} says that its clip is at {redacted_url(job.url)}, which is not an address; "
                "look into the server's log"
            ) from None
        key = self.endpoint.api_key if self._is_own(url) else ""
        return replace(self.endpoint, base_url=url, api_key=key)

    def _is_own(self, url: str) -> bool:
        own, other = httpx.URL(self.root), httpx.URL(url)
        return (own.scheme, own.netloc) == (other.scheme, other.netloc)

    def _copy(self, endpoint: Endpoint, file: BinaryIO, client: openai.OpenAI) -> None:
        url, place = endpoint.base_url, endpoint.redacted
        try:
            response = client.get(url, cast_to=httpx.Response, stream=True, stream_cls=openai.Stream[bytes])
        except openai.APIStatusError as error:
            if 400 <= error.status_code < 500 and not self._is_own(url):
                raise BackendError(
                    f"{place} does not give out the clip ({error.status_code}); look into the server's log"
                ) from None
            if error.status_code == 404:
                raise BackendError(
                    f"{place} is not there although the job is done; start the engine with "
                    "--output-path FOLDER, so that it keeps its clips, and run again"
                ) from None
            raise
        with closing(response):
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not CLIP_TYPE.fullmatch(kind):
                raise BackendError(
                    f"{place} sent {kind[:40]!r} where a clip should be; check that the address is the "
                    "engine's, and run again"
                )
            for chunk in response.iter_raw():
                file.write(chunk)

    def _described(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON is there
        """The JSON that the server shows at `path` about itself, or None."""

        def look() -> Any:  # noqa: ANN401
            try:
                return json.loads(self._get(self.root + path).content)
            except (openai.APIStatusError, ValueError, RecursionError):
                return None

        return self._try(look, waits=())

    def _get(self, path: str) -> httpx.Response:
        return self._ask(lambda client: client.get(path, cast_to=httpx.Response))

    def _ask(
        self,
        work: Callable[[openai.OpenAI], Result],
        endpoint: Endpoint | None = None,
        seconds: float = ANSWER_SECONDS,
        max_bytes: int = MAX_ANSWER_BYTES,
        cancelled: IsCancelled | None = None,
    ) -> Result:
        """The result of `work`, or what the client raised."""
        with connect(endpoint or self.endpoint, max_retries=0, max_bytes=max_bytes) as client:
            return run_until(
                lambda _: work(client), ignore_text, cancelled or self.cancelled, seconds, client.close
            )

    def _try(
        self,
        attempt: Callable[[], Result],
        endpoint: Endpoint | None = None,
        is_order: bool = False,
        waits: Sequence[float] | None = None,
    ) -> Result:
        """The result of `attempt`, repeated after each of `waits` where that may help and does no harm."""
        left = iter(self.patience.attempts if waits is None else waits)
        while True:
            try:
                return attempt()
            except (openai.APIStatusError, *LOST) as error:
                wait = next(left, None)
                if wait is None or not may_repeat(error, is_order):
                    raise self._failure(error, endpoint or self.endpoint, is_order) from None
                wait = asked_wait(error, wait)
            self.pause(wait)

    def _failure(self, error: Exception, endpoint: Endpoint, is_order: bool) -> BackendError:
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if status in (401, 403) and not endpoint.api_key:
            return BackendError(f"{self.place} asks for a key; put it in MOVA_REMOTE_API_KEY")
        if status == 404:
            return BackendError(
                f"{self.place} has no video API; give the address of the engine, up to and without /v1/videos"
            )
        failure = explain(error, endpoint)
        if is_order and isinstance(error, LOST) and not isinstance(error.__cause__, UNSENT):
            return BackendError(f"{failure} (it may have taken the order, so look at its queue before that)")
        return failure

    def pause(self, seconds: float) -> None:
        """Wait. Raises Cancelled soon after that is asked for."""
        end = time.monotonic() + seconds
        raise_if_cancelled(self.cancelled)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
            raise_if_cancelled(self.cancelled)


def job_of(answer: httpx.Response, place: str) -> Job:
    try:
        job = Job.model_validate_json(answer.content)
    except ValidationError:
        job = None
    if job is None or not JOB_ID.fullmatch(job.id):
        raise BackendError(f"{place} did not answer like a video API; check that the address is the engine's")
    return job


def may_repeat(error: Exception, is_order: bool) -> bool:
    """True if another attempt may help, and cannot order a second clip."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in ((429,) if is_order else BUSY)
    return not is_order or isinstance(error.__cause__, UNSENT)


def asked_wait(error: Exception, default: float) -> float:
    """Seconds that the server asks to wait, within reason, else `default`."""
    asked = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
    return min(int(asked), MAX_WAIT) if re.fullmatch("[0-9]{1,9}", asked) else default


class RemoteBackend:
    """A server as a backend. `model` is the name the clips are filed under; the server decides what it runs.

    Nothing is said to the server before the first clip.
    """

    def __init__(self, model: str, remote: RemoteServer, patience: Patience | None = None) -> None:
        spec = catalog.find_model(model)
        self.model, self.source = spec.name, spec.source
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
        server = VideoServer(self.remote, should_stop or never_cancelled, self.patience)
        with timed(seconds, "submit"):
            report(Progress("submit"))
            settings["served_model"] = self._check_model(server)
            warnings = check_guidance(server, request.guidance_scale)
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
        return GenerationResult(out, request, self.model, seconds, warnings)

    def _check_model(self, server: VideoServer) -> str | None:
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
            server.pause(self.patience.poll)
            job = server.poll(job.id)
        if job.status == "failed":
            detail = detail_of_body(job.error, self.remote.api_key)
            raise BackendError(f"{server.place} could not make the clip{detail}; look into its log")
        if job.status != "completed":
            raise BackendError(
                f"{server.place} reports job {job.id} as {job.status[:40]!r}, a state that this toolkit "
                "does not know; look into the server's log"
            )
        return job


def check_guidance(server: VideoServer, guidance_scale: float) -> tuple[str, ...]:
    """Warnings about an engine that is asked to go without guidance.

    Raises:
        UserError: its version returns noise then.
    """
    if guidance_scale != 1:
        return ()
    version, first = server.version(), ".".join(map(str, FIRST_UNGUIDED))
    release = RELEASE.match(version)
    if release and tuple(map(int, release.groups())) < FIRST_UNGUIDED:
        raise UserError(
            f"{server.place} runs version {version}, which returns noise at guidance_scale=1; update it to "
            f"SGLang-Diffusion {first}, or give a guidance_scale above 1",
            "guidance_scale",
        )
    if release:
        return ()
    runs = f"runs version {version!r}" if version else "does not tell its version"
    warning = (
        f"{server.place} {runs}, and SGLang-Diffusion before {first} returns noise at guidance_scale=1; look "
        "at the clip"
    )
    logger.warning(warning)
    return (warning,)


def check_supported(request: GenerationRequest) -> None:
    """Raise UserError for what a request holds and the API has no place for."""
    shifts = (("video_shift", request.video_shift), ("audio_shift", request.audio_shift))
    for name, shift in shifts:
        if shift not in (None, ENGINE_SHIFT):
            raise UserError(
                f"{name}={shift:g} cannot be sent to a server, which uses {ENGINE_SHIFT:g}; leave it out",
                name,
            )
    if request.bridge_guidance_scale != 1:
        raise UserError(
            f"bridge_guidance_scale={request.bridge_guidance_scale:g} cannot be sent to a server, which has "
            "no dual guidance; leave it at 1",
            "bridge_guidance_scale",
        )
    ours = {
        "solver": request.solver != "euler",
        "guidance_interval": request.guidance_interval != ALWAYS,
        "audio_guidance_scale": request.audio_guidance_scale is not None,
        "audio_bridge_guidance_scale": request.audio_bridge_guidance_scale is not None,
        "cache_threshold": request.cache_threshold != 0,
        "refine": request.refine != 0,
    }
    for name, is_set in ours.items():
        if is_set:
            raise UserError(
                f"{name}={getattr(request, name)} cannot be sent to a server, which has no such setting; "
                "leave it out, or generate locally",
                name,
            )
    if request.adapters:
        names = ", ".join(Path(source).name for source, _ in request.adapters)
        raise UserError(
            f"adapters cannot be sent to a server ({names}); leave them out, or generate locally", "adapters"
        )
    tracks = {
        "video": request.video,
        "audio": request.audio,
        "regenerate_video": request.regenerate_video,
        "regenerate_audio": request.regenerate_audio,
        "strength": request.strength != 1,
    }
    brought = [name for name, value in tracks.items() if value]
    if brought:
        raise UserError(
            f"{', '.join(brought)} cannot be sent to a server, which makes picture and sound whole; leave it "
            "out, or generate locally",
            brought[0],
        )
    if request.guidance_scale < 1:
        raise UserError(
            f"guidance_scale={request.guidance_scale:g} would count as 1 on a server; give 1 or more",
            "guidance_scale",
        )
    if request.frame_rate != int(request.frame_rate):
        nearest = round(request.frame_rate)
        raise UserError(
            f"frame_rate={request.frame_rate:g} must be whole on a server; nearest: {nearest}", "frame_rate"
        )


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
