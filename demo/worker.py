"""The model's process: how the page calls it, and the functions that run in it.

The page stays light and answers while a clip is made; a process that is killed, for memory or by hand, takes
one clip with it. Functions and arguments cross as pickles, between our own two processes only; progress goes
through files in the clip's folder.
"""

import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from demo.added import added_frames, one_window, overlap_seconds
from demo.history import CLIP
from demo.settings import Settings, describe_model, public_name
from mova.catalog import ModelSpec
from mova.errors import BackendError, Cancelled, UserError
from mova.machine import GIB
from mova.request import GenerationRequest, GenerationResult, Progress

if TYPE_CHECKING:
    from mova.backends import Backend
    from mova.backends.local import LocalBackend
    from mova.metrics import ClipHealth

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
STATE, PREVIEW, STOP = "state.json", "preview.webp", "stop"
PREVIEW_SIDE = 320
PREVIEW_MILLISECONDS = 160  # a latent frame stands for four of 24 a second
# Threads that wait for one another sleep instead of spinning. On two cores shared with other programs, as on
# a laptop whose browser plays a film, a clip took 41 s instead of 62.
PASSIVE_WAIT = {"OMP_WAIT_POLICY": "PASSIVE"}


class WorkerProcess:
    """Runs functions one at a time in a child process, which is started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
        """`function(*arguments)`, a function of a module, run in the child.

        Raises:
            BackendError: the child died; the next call starts another.
            UserError, BackendError, Cancelled: the function raised it.
        """
        with self._lock:
            process = self._running()
            try:
                pickle.dump((function, arguments), process.stdin)
                process.stdin.flush()
                succeeded, value = pickle.load(process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                self._process = None
                process.kill()
                raise BackendError(_describe_exit(process.wait())) from error
        if succeeded:
            return value
        raise value

    def close(self) -> None:
        """End the child, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            # stdout is the channel; the child sends what libraries print to stderr.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "demo.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**PASSIVE_WAIT, **os.environ}
                | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            )
            logger.info("worker started, pid %d", self._process.pid)
        return self._process


def _describe_exit(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "the process that runs the model was killed, most likely because the machine ran out of memory; "
            "choose a shorter or smaller clip and try again: a new process is started"
        )
    return f"the process that runs the model ended (code {code}); try again: a new process is started"


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the page exits."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                waiting.put(pickle.load(requests))
            except EOFError:
                os._exit(0)  # the page has exited: nobody waits for this clip

    threading.Thread(target=read, daemon=True).start()
    while True:
        function, arguments = waiting.get()
        try:
            answer = (True, function(*arguments))
        except (UserError, BackendError, Cancelled) as error:
            answer = (False, error)
        except Exception as error:  # the child must survive: the page gets a sentence, the log the rest
            logger.exception("%s failed", function.__name__)
            answer = (
                False,
                BackendError(f"the model's process failed ({type(error).__name__}); see its log"),
            )
        pickle.dump(answer, answers)
        answers.flush()


@dataclass(frozen=True)
class RunOutcome:
    """The end of a run: `kind` is "done", "stopped", "user" (their input) or "machine" (the backend).

    A failure is a value: an exception that leaves ZeroGPU's function costs the warm worker.
    """

    kind: str
    message: str = ""
    request: GenerationRequest | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    measured: "ClipHealth | None" = None


def make_clip(
    request: GenerationRequest, model: str, folder: Path, settings: Settings, needed_vram: int = 0
) -> RunOutcome:
    """Make a clip into `folder` with its sound, pictures and measurements. `needed_vram` is in bytes or 0."""
    from demo.history import describe_clip

    progress = ProgressWriter(folder)
    try:
        check_gpu_memory(needed_vram)
        backend = open_backend(model, settings)
        if added_frames(request):
            result = extend(backend, request, describe_model(model, settings), folder, progress)
        else:
            result = backend.generate(request, folder / CLIP, progress, progress.should_stop)
        progress(Progress("measure", request.num_inference_steps, request.num_inference_steps))
        measured = describe_clip(folder)
    except UserError as error:
        return RunOutcome("user", str(error))
    except BackendError as error:
        return RunOutcome("machine", str(error))
    except Cancelled:
        return RunOutcome("stopped")
    return RunOutcome("done", "", result.request, result.seconds, result.warnings, measured)


def extend(
    backend: "LocalBackend",
    request: GenerationRequest,
    model: ModelSpec,
    folder: Path,
    progress: "ProgressWriter",
) -> GenerationResult:
    """Make the request's video longer, by one window. Raises as `mova.backends.Backend.generate`."""
    from mova.backends.extension import Extension, extend_clip

    window = request.replace(
        video=None, audio=None, regenerate_audio=False, num_frames=one_window(request, model).num_frames
    )
    seconds = added_frames(request) / request.frame_rate
    extension = Extension(request.video, window, seconds, overlap_seconds(model))

    def report(own: Progress) -> None:
        progress(replace(own, stage="denoise") if own.stage.startswith("window") else own)

    result = extend_clip(backend, extension, folder / CLIP, report, progress.should_stop)
    return replace(result, request=request)


@lru_cache(maxsize=1)  # another model replaces the one before
def open_backend(model: str, settings: Settings) -> "Backend":
    """The backend of `model`, kept in this process with the weights it has loaded."""
    if settings.remote:
        from mova.backends.remote import RemoteBackend

        return RemoteBackend(model, settings.remote)
    from mova.backends.local import LocalBackend

    gpus = settings.gpus_for(describe_model(model, settings).source, count_gpus())
    fixed = {
        "gpus": gpus,
        "dtype": settings.dtype or None,
        "offload": settings.offload or None,
        "fp8": settings.fp8 or None,
    }
    backend = LocalBackend(model, settings.device or None, want_preview=True, **fixed)
    backend.model = public_name(model)  # as written into clips, which leave this machine
    return backend


def check_gpu_memory(needed_vram: int) -> None:
    """Raise BackendError where ZeroGPU gave half a card for a whole one: a run on it would be killed."""
    if not needed_vram:
        return
    import torch

    found = torch.cuda.get_device_properties(0).total_memory
    if found < needed_vram:
        raise BackendError(
            f"the platform gave a GPU with {found / GIB:.0f} GiB; {needed_vram / GIB:.0f} GiB were booked; "
            "try again"
        )


def count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def probe_machine(device: str) -> dict[str, object]:
    """Name, cores and GPUs of the machine that makes the clips, for the estimate."""
    from mova.machine import Machine

    machine = Machine.probe(device or None)
    return {"name": machine.name, "cores": machine.cores, "gpus": count_gpus()}


def fetch_adapter(source: str) -> None:
    """Download an adapter and check it. Raises UserError if it cannot be used."""
    from mova.adapters.sources import read_adapter

    read_adapter(source)


def preload(request: GenerationRequest, model: str, settings: Settings) -> str:
    """Load the model before the first click; its placement, in a sentence."""
    backend = open_backend(model, settings)
    backend.load(request)
    return backend.placement.why


class ProgressWriter:
    """Writes progress into the clip's folder, and reads there if a stop was asked for."""

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
    """Write a file whole or not at all, as it may be read at any moment. Raises BackendError: disk full."""
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


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: worker: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page, which then takes us with it
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel)
