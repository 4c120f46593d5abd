"""Makes clips on a server of the video API (`/v1/videos`), such as SGLang-Diffusion on many GPUs.

The server crops nothing: it gets the first frame at the clip's own size, fitted as for a local run, and a
white one for text alone, as its MOVA needs a frame. What it cannot do is refused by name before it is asked.
The clip it sends is decoded to its end before it takes its place, and then carries its settings.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from mova import catalog
from mova.backends.connection import Patience
from mova.backends.server import Job, VideoServer
from mova.backends.settings import Remote
from mova.backends.timing import timed
from mova.checks import check_request, run_settings
from mova.images import white_frame
from mova.outputs import temporary_beside
from mova.prompting.cleaning import clean_prompt
from mova.prompting.writing import never_cancelled
from mova.remux import copy_with_settings, measure_clip
from mova.types import (
    BackendError,
    Cancelled,
    GenerationRequest,
    GenerationResult,
    Progress,
    ProgressCallback,
    UserError,
)

AT_WORK = ("queued", "in_progress")  # SGLang says "queued" until a job ends
WAITING = "on the server, which reports no steps"
ENGINE_SHIFT = 5.0  # of both towers; SGLang's API passes no other
MAX_SOUND_GAP_SECONDS = 0.25


class RemoteBackend:
    """A server as a backend. `model` is the name the clips are filed under; the server decides what it runs.

    Nothing is said to the server before the first clip.
    """

    def __init__(self, model: str, remote: Remote, patience: Patience | None = None) -> None:
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
        image = check_request(request, out, overwrite)
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
                    f"{catalog.human_seconds(self.patience.job)}; look into the server's log, or fetch it "
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
