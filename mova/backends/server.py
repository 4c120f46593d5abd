"""One server of the video API (`/v1/videos`): what is asked of it, and what its answers mean.

A clip is never ordered twice.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from pydantic import BaseModel, ValidationError

from mova.backends.connection import LOST, Connection, Patience, Refused, loss, successful
from mova.backends.settings import Remote
from mova.media import MAX_CLIP_BYTES
from mova.prompting.addresses import check_url, shown_url
from mova.prompting.writing import IsCancelled, never_cancelled
from mova.types import BackendError, UserError

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
        self, remote: Remote, cancelled: IsCancelled = never_cancelled, patience: Patience | None = None
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
                    f"{self.place} says that its clip is at {shown_url(job.url)}, which is no address; look "
                    "into the server's log"
                ) from None

        def fetch() -> None:
            with path.open("wb") as file:  # here, so that nothing is written any more once this is left
                self.line.within(DOWNLOAD_SECONDS, self.line.cancelled, lambda: self._fetch(url, file))

        self.line.patiently(fetch, place=shown_url(str(url)))

    def _fetch(self, url: httpx.URL, file: BinaryIO) -> None:
        place = shown_url(str(url))
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
