"""What the page can do, without the page: one object that the tabs share. No gradio, no torch."""

import dataclasses
import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from demo.costs import Costs
from demo.form import (
    OWN,
    FieldError,
    Form,
    adapter_field,
    describe_doubts,
    describe_size,
    field_errors,
    prepare_image,
)
from demo.history import CLIP, FIRST_FRAME, SETTINGS, ClipRecord, History
from demo.queue import ClipRun, JobQueue
from demo.settings import Settings, choose_model, describe_model, offered_models
from demo.worker import Job, RunOutcome, WorkerProcess, fetch_adapter, preload, probe_machine, run_job
from mova import hub
from mova.errors import BackendError, UserError
from mova.files import new_output
from mova.machine import human_seconds
from mova.prompting.quotes import find_quotes
from mova.prompting.rules import PromptRequirements
from mova.request import GenerationRequest
from mova.text import TokenMeter, speech_seconds

if TYPE_CHECKING:
    import gradio as gr

KEY_FILE = ".key"


class Visitors:
    """Issues and checks visitor names with a key kept in `folder`, so that they outlive a restart."""

    def __init__(self, folder: Path) -> None:
        self._key = _read_key(folder)

    def issue(self) -> str:
        name = secrets.token_urlsafe(18)
        return f"{name}.{self._sign(name)}"

    def is_known(self, visitor: object) -> bool:
        """Whether `visitor`, anything a browser may send, was issued here."""
        if not isinstance(visitor, str) or len(visitor) > 200:
            return False
        name, _, signature = visitor.rpartition(".")
        return bool(name) and hmac.compare_digest(signature.encode(), self._sign(name).encode())

    def folder_name(self, visitor: object) -> str:
        """The visitor's name on the disk, from which the visitor's own cannot be told.

        Raises:
            UserError: it was not issued here.
        """
        if not self.is_known(visitor):
            raise UserError("the page does not know this browser yet; reload it")
        return hashlib.sha256(str(visitor).encode()).hexdigest()[:32]

    def _sign(self, name: str) -> str:
        return hmac.new(self._key, name.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]


def _read_key(folder: Path) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    key = secrets.token_bytes(32)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    return key


WINDOW_SECONDS = 60.0
MOST_KNOWN = 10_000


class Limiter:
    """At most `most` in a minute for each caller."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, caller: str) -> None:
        """Count one. Raises UserError if it is one too many."""
        now = time.monotonic()
        with self._lock:
            if len(self._times) > MOST_KNOWN:
                self._times = {
                    key: times for key, times in self._times.items() if now - times[-1] < WINDOW_SECONDS
                }
            times = self._times.setdefault(caller, deque(maxlen=self.most))
            if len(times) == self.most and now - times[0] < WINDOW_SECONDS:
                wait = WINDOW_SECONDS - (now - times[0])
                raise UserError(f"that was {self.most} times in a minute; try again in {wait:.0f} s")
            times.append(now)


def client_address(request: "gr.Request | None") -> str:
    """Who calls: on a Space the first hop that the proxy names, else the connection's address."""
    if request is None:
        return "nobody"
    forwarded = request.headers.get("x-forwarded-for", "").split(",")[0].strip()
    return forwarded or (request.client.host if request.client else "nobody")


logger = logging.getLogger(__name__)

ADAPTERS = "adapters"
STRANGERS_A_MINUTE, OWN_A_MINUTE = 6, 600  # prompts written for one caller
SWEEP_SECONDS = 600
SMALL_MODEL_BYTES = 2**30  # loaded before the first click
VISITORS_IN_LINE = 2  # clips of one browser that may be in the line at once
ZEROGPU_VRAM = {"xlarge": 90 * 2**30, "large": 0}
WEIGHTS = ["*.json", "*/*.json", "*/*.safetensors", "tokenizer/*"]

RunOnGpu = Callable[[Job], RunOutcome]


class DemoService:
    """Settings, clips, the line and the worker of one page.

    `run_on_gpu`, if set, makes a clip where the page may not do so itself (ZeroGPU's decorated function).
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model_name, self.machine = choose_model(settings)
        self.model_names = offered_models(self.model_name, settings)
        self.model = describe_model(self.model_name, settings)
        self.visitors = Visitors(settings.outputs)
        self.history = History(settings.outputs, settings.keep_hours, settings.keep_clips)
        self.costs = Costs(settings)
        self.worker, self.text_worker = WorkerProcess(), WorkerProcess()
        self.run_on_gpu: RunOnGpu | None = None
        parallel = 8 if settings.is_zero_gpu else 1  # there the platform has its own line
        self.limiter = Limiter(STRANGERS_A_MINUTE if settings.is_public else OWN_A_MINUTE)
        self.ready = threading.Event()  # the machine is known, or what is wrong with it
        self.line = JobQueue(self._run, self._finish, settings.queue, parallel, settings.abandon_seconds)

    def start(self) -> None:
        """Begin what takes its time: look at the machine, load a small model, clear out old clips."""
        for task in (self._prepare, self._keep_clean):
            threading.Thread(target=task, daemon=True, name=task.__name__).start()

    def close(self) -> None:
        """End the model's processes and whatever waits for them."""
        self.ready.set()
        self.line.close()
        self.worker.close()
        self.text_worker.close()

    def submit(self, visitor: str, form: Form) -> ClipRun:
        """Put the form's clip in the line.

        Raises:
            FieldError, UserError: something in the form is wrong.
            BackendError: the line or the disk is full.
        """
        owner = self.visitors.folder_name(visitor)
        if sum(run.owner == owner for run in self.line.active()) >= VISITORS_IN_LINE:
            raise UserError("two clips of yours are in the line already; wait for one, or stop it")
        request = self._with_own_adapters(owner, form).request(self.settings)
        folder = self.history.new_folder(owner)
        try:
            request = self._move_in(request, folder)
            vram = ZEROGPU_VRAM[self.settings.zerogpu_size] if self.settings.is_zero_gpu else 0
            return self.line.submit(owner, Job(request, form.model, folder, self.settings, vram))
        except (UserError, BackendError):
            self.history.discard(folder)
            raise

    def check(self, visitor: str, form: Form) -> None:
        """Raise FieldError if something in the form is wrong, as far as it can be told at once."""
        self._with_own_adapters(self.visitors.folder_name(visitor), form).request(self.settings)

    def adapters_folder(self, owner: str) -> Path:
        """Where adapters trained from the owner's browser lie as .safetensors: the train tab's way out."""
        return self.settings.outputs / ADAPTERS / owner

    def trained_adapters(self, visitor: str) -> list[str]:
        """Names of the visitor's own adapters, the newest first."""
        found = self.adapters_folder(self.visitors.folder_name(visitor)).glob("*.safetensors")
        return [path.stem for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

    def describe(self, form: Form) -> tuple[str, str, str]:
        """The valid size that the form's wishes became, what the clip will cost, and what to doubt.

        Where a field is wrong, what is wrong in the place of the size, and no cost.
        """
        try:
            request = form.request(self.settings)
        except FieldError as error:
            if error.field != "prompt":
                return str(error), "", ""
            return self.describe(dataclasses.replace(form, prompt="-"))
        model = describe_model(form.model, self.settings)
        doubts = describe_doubts(request, model)
        return describe_size(request), self.costs.sentence(request, model.source), doubts

    def count_tokens(self, prompt: str, model: str) -> tuple[int, str] | None:
        """Tokens of the prompt and what of it would be cut, or None while the tokenizer is not here."""
        source = Path(describe_model(model, self.settings).source).expanduser()
        try:
            meter = TokenMeter(source)
            return meter.count(prompt), meter.cut(prompt)
        except UserError:
            return None

    def speech(self, prompt: str) -> tuple[int, float]:
        """Spoken words in the prompt, and about how many seconds saying them takes."""
        words = " ".join(quote.text for quote in find_quotes(prompt))
        return len(words.split()), speech_seconds(words) if words else 0.0

    def brief(self, idea: str, seconds: float, has_image: bool) -> PromptRequirements:
        """What a prompt for `idea` is checked against."""
        return PromptRequirements(idea, seconds, has_image)

    def _with_own_adapters(self, owner: str, form: Form) -> Form:
        """The form with the files of the adapters that it names as the visitor's own."""
        own = {path.stem: path for path in self.adapters_folder(owner).glob("*.safetensors")}
        adapters = []
        for slot, choice in enumerate(form.adapters):
            if not choice.file and choice.name.startswith(OWN):
                name = choice.name.removeprefix(OWN)
                if name not in own:
                    raise FieldError(
                        adapter_field(slot, "name"), f"there is no adapter {name!r} of yours here"
                    )
                choice = dataclasses.replace(choice, file=str(own[name]))
            adapters.append(choice)
        return dataclasses.replace(form, adapters=tuple(adapters))

    def _run(self, job: Job) -> RunOutcome:
        if self.run_on_gpu is not None:
            # What can be waited for and refused without a GPU is, as its time is the visitor's quota.
            self._fetch(job.model)
            for source, _ in job.request.adapters:
                self.text_worker.call(fetch_adapter, source)
            return self.run_on_gpu(job)
        if self.settings.backend == "remote":
            return run_job(job)
        return self.worker.call(run_job, job)

    def _finish(self, run: ClipRun) -> None:
        """Keep a finished clip, clear away any other."""
        outcome, folder = run.outcome, run.job.folder
        if outcome.kind != "done":
            self.history.discard(folder)
            return
        try:
            settings = outcome.request.to_settings(folder) | {"model": run.job.model}
            with new_output(folder / SETTINGS) as temporary:
                temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
            seconds = sum(outcome.seconds.values())
            entry = ClipRecord(folder.name, time.time(), settings, seconds, outcome.health, outcome.warnings)
            self.history.finish(folder, entry)
        except BackendError:
            self.history.discard(folder)
            raise
        source = describe_model(run.job.model, self.settings).source
        self.costs.learn(outcome.request, source, outcome.seconds.get("generate", seconds))
        logger.info("a clip in %s", human_seconds(seconds))

    def _move_in(self, request: GenerationRequest, folder: Path) -> GenerationRequest:
        """The request with its files in the clip's folder, checked as far as it goes without the model."""
        if request.image:
            with field_errors("image"):
                prepare_image(request.image, folder / FIRST_FRAME)
            request = request.replace(image=folder / FIRST_FRAME)
        adapters = []
        for number, (source, strength) in enumerate(request.adapters, 1):
            if Path(source).is_file():
                target = folder / Path(source).name
                if target.exists():  # two files of one name
                    target = target.with_stem(f"{target.stem}-{number}")
                _link(Path(source), target)
                source = str(target)
            adapters.append((source, strength))
        request = request.replace(adapters=tuple(adapters))
        request.check(folder / CLIP)
        return request

    def _prepare(self) -> None:
        try:
            if self.settings.backend == "remote":
                return
            if self.run_on_gpu is not None:
                self._fetch(self.model_name)
                return
            machine = self.worker.call(probe_machine, self.settings.device)
            self.costs.device_name, self.costs.cores = str(machine["name"]), int(machine["cores"])
            self.ready.set()
            if _folder_bytes(self.model.source) < SMALL_MODEL_BYTES:
                request = Form(prompt="-", model=self.model_name, seconds=self.default_seconds).request(
                    self.settings
                )
                why = self.worker.call(preload, Job(request, self.model_name, Path(), self.settings))
                logger.info("model loaded: %s", why)
        except (UserError, BackendError) as error:
            logger.warning("not ready: %s", error)
            self.machine = f"{self.machine} Not ready: {error}."
        finally:
            self.ready.set()

    @property
    def max_seconds(self) -> float:
        """The longest clip to offer: a model makes little of lengths far from those it was trained on."""
        models = [describe_model(name, self.settings) for name in self.model_names]
        trained = max(model.num_frames / model.frame_rate for model in models)
        return round(min(self.settings.max_seconds, 2 * trained), 2)

    @property
    def default_seconds(self) -> float:
        """The length that a fresh form proposes."""
        return round(self.model.clip_length(self.model.preset()) / self.model.frame_rate, 2)

    def _fetch(self, name: str) -> None:
        """Download the model before a GPU is booked for it: waiting for the Hub would cost quota."""
        source = describe_model(name, self.settings).source
        if not Path(source).expanduser().is_dir():
            hub.download(source, WEIGHTS, token=os.environ.get("HF_TOKEN"))

    def _keep_clean(self) -> None:
        while True:
            gone = self.history.sweep(self.line.folders())
            logger.info("%d old clips deleted", gone)
            time.sleep(SWEEP_SECONDS)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def _folder_bytes(source: str) -> int:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return SMALL_MODEL_BYTES
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
