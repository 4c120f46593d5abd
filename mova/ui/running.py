"""Making one clip, in whichever process: the page's worker, ZeroGPU's, or the page for a remote engine.

What is known while it runs goes by files in the clip's folder, which all of them share: the state as JSON,
the preview as an animated picture, and a file `stop` that says so.
"""

import json
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mova.types import BackendError, Cancelled, GenerationRequest, Progress, UserError
from mova.ui.history import CLIP
from mova.ui.settings import Settings

if TYPE_CHECKING:
    from mova.backends import Backend

STATE, PREVIEW, STOP = "state.json", "preview.webp", "stop"
PREVIEW_SIDE = 320
PREVIEW_MILLISECONDS = 160  # a latent frame stands for four of 24 a second
GIB = 2**30


@dataclass(frozen=True)
class Job:
    """One clip to be made into `folder`, by pickle. `model` names it, `needed_vram` is in bytes or 0."""

    request: GenerationRequest
    model: str
    folder: Path
    settings: Settings
    needed_vram: int = 0


@dataclass(frozen=True)
class Outcome:
    """How it ended: `kind` is "done", "stopped", "user" (their input) or "machine" (the backend).

    A failure is a value: an exception that leaves ZeroGPU's function costs the warm worker.
    """

    kind: str
    message: str = ""
    request: GenerationRequest | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    health: tuple[str, ...] = ()


def run_job(job: Job) -> Outcome:
    """Make the clip, its pictures and its figures."""
    from mova.ui.pictures import describe_clip

    reporter = Reporter(job.folder)
    try:
        check_card(job.needed_vram)
        backend = open_backend(job.model, job.settings)
        result = backend.generate(job.request, job.folder / CLIP, reporter, reporter.should_stop)
        reporter(Progress("measure", job.request.num_inference_steps, job.request.num_inference_steps))
        health = describe_clip(job.folder)
    except UserError as error:
        return Outcome("user", str(error))
    except BackendError as error:
        return Outcome("machine", str(error))
    except Cancelled:
        return Outcome("stopped")
    return Outcome("done", "", result.request, result.seconds, result.warnings, health)


@lru_cache(maxsize=1)  # another model takes the place of the one before
def open_backend(model: str, settings: Settings) -> "Backend":
    """The backend of `model`, kept in this process with the weights it has loaded."""
    if settings.backend == "remote":
        from mova.backends.remote import RemoteBackend
        from mova.backends.settings import Remote

        return RemoteBackend(model, Remote.checked(settings.remote_url, settings.remote_api_key))
    from mova.backends.local import LocalBackend

    fixed = {
        "dtype": settings.dtype or None,
        "offload": settings.offload or None,
        "fp8": settings.fp8 or None,
    }
    return LocalBackend(model, settings.device or None, want_preview=True, **fixed)


def check_card(needed_vram: int) -> None:
    """ZeroGPU sometimes gives half a card where a whole one was booked; that would be killed half way."""
    if not needed_vram:
        return
    import torch

    found = torch.cuda.get_device_properties(0).total_memory
    if found < needed_vram:
        raise BackendError(
            f"the platform gave a GPU with {found / GIB:.0f} GiB where {needed_vram / GIB:.0f} GiB were "
            "booked; try again"
        )


def probe_machine(device: str) -> dict[str, object]:
    """Name and cores of the device that clips will be made on, for the estimate."""
    from mova.placement import Machine

    machine = Machine.probe(device or None)
    return {"name": machine.name, "cores": machine.cores}


def fetch_adapter(source: str) -> None:
    """Download an adapter and look it through. Raises UserError if it is none."""
    from mova.adapter_sources import read_adapter

    read_adapter(source)


def load_early(job: Job) -> str:
    """Load the model before the first click; where it went, in a sentence."""
    backend = open_backend(job.model, job.settings)
    backend.load(job.request)
    return backend.placement.why


class Reporter:
    """Writes progress into the clip's folder, and asks there whether to stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, progress: Progress) -> None:
        if progress.preview is not None:
            replace_bytes(self.folder / PREVIEW, animate(progress.preview))
        state = {
            "stage": progress.stage,
            "step": progress.step,
            "steps": progress.steps,
            "seconds_left": progress.seconds_left,
            "at": time.time(),
        }
        replace_bytes(self.folder / STATE, json.dumps(state).encode())

    def should_stop(self) -> bool:
        return (self.folder / STOP).exists()


def replace_bytes(path: Path, data: bytes) -> None:
    """Whole or not at all, for a reader that looks at any moment."""
    temporary = path.with_suffix(".part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise BackendError(f"the disk cannot be written ({error.strerror}); free some space") from error


def animate(frames: np.ndarray) -> bytes:
    """Frames uint8 [T, h, w, 3] as an animated WebP, enlarged smoothly."""
    from io import BytesIO

    from PIL import Image

    height, width = frames.shape[1:3]
    scale = max(1, PREVIEW_SIDE // max(height, width))
    pictures = [
        Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
        for frame in frames
    ]
    buffer = BytesIO()
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=PREVIEW_MILLISECONDS,
        loop=0,
        quality=60,
        method=0,
    )
    return buffer.getvalue()
