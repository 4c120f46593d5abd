"""The service behind the page: visitors, limits, clips from form to history. No gradio, no torch."""

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

from demo.added import keep_added, one_window
from demo.costs import Costs
from demo.form import (
    CLIPS,
    OWN,
    Form,
    adapter_field,
    caution,
    describe_size,
    prepare_image,
)
from demo.history import CLIP, FIRST_FRAME, SETTINGS, ClipRecord, History
from demo.queue import ClipRun, JobQueue
from demo.settings import Settings, choose_model, describe_model, offered_models, public_name
from demo.worker import STOP, RunOutcome, WorkerProcess, fetch_adapter, make_clip, preload, probe_machine
from mova import catalog, hub
from mova.errors import BackendError, UserError, field_errors
from mova.files import new_output
from mova.machine import human_seconds
from mova.prompting.first_frame import first_frame_for
from mova.prompting.quotes import find_quotes
from mova.request import GenerationRequest
from mova.text import TokenMeter, speech_seconds

if TYPE_CHECKING:
    import gradio as gr

logger = logging.getLogger(__name__)

KEY_FILE = ".key"
ADAPTERS = "adapters"
WINDOW_SECONDS, MAX_CALLERS = 60.0, 10_000  # of a limit, and callers remembered at once
PUBLIC_A_MINUTE, OWN_A_MINUTE = 6, 600  # prompts written for one caller
SWEEP_SECONDS = 600
SMALL_MODEL_BYTES = 2**30  # loaded before the first click
# Clips in the queue at once: of one browser and, on a public page, of one address (a new name costs nothing).
BROWSER_CLIPS, ADDRESS_CLIPS = 2, 4
MakeClip = Callable[[ClipRun], RunOutcome]
WEIGHTS = ["*.json", "*/*.json", "*/*.safetensors", "tokenizer/*"]


class Visitors:
    """Issues and checks visitors' names, signed with a key in `folder` that survives a restart."""

    def __init__(self, folder: Path) -> None:
        self._key = _read_key(folder)

    def issue(self) -> str:
        name = secrets.token_urlsafe(18)
        return f"{name}.{self._sign(name)}"

    def is_known(self, visitor: object) -> bool:
        """True if `visitor`, which may be anything a browser sends, was issued here."""
        if not isinstance(visitor, str) or len(visitor) > 200:
            return False
        name, _, signature = visitor.rpartition(".")
        return bool(name) and hmac.compare_digest(signature.encode(), self._sign(name).encode())

    def folder_name(self, visitor: object) -> str:
        """The visitor's name on the disk; the visitor's own cannot be derived from it.

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


class Limiter:
    """Allows each caller `limit` calls a minute."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, caller: str) -> None:
        """Count one call. Raises UserError if it is over the limit."""
        now = time.monotonic()
        with self._lock:
            if len(self._times) > MAX_CALLERS:
                self._times = {
                    key: times for key, times in self._times.items() if now - times[-1] < WINDOW_SECONDS
                }
            times = self._times.setdefault(caller, deque(maxlen=self.limit))
            if len(times) == self.limit and now - times[0] < WINDOW_SECONDS:
                wait = WINDOW_SECONDS - (now - times[0])
                raise UserError(f"{self.limit} times a minute is the limit; try again in {wait:.0f} s")
            times.append(now)


def client_address(request: "gr.Request | None") -> str:
    """The address that the connection came from, or empty.

    uvicorn puts the hop before a trusted proxy there (`Settings.proxies`). X-Forwarded-For is not read here:
    anyone can write anything into it.
    """
    return request.client.host if request is not None and request.client else ""


class DemoService:
    """Settings, clips, queue and model processes of one page.

    `zero_gpu`, if set, makes the clips (ZeroGPU's decorated function).
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
        self.zero_gpu: MakeClip | None = None
        parallel = 8 if settings.is_zero_gpu else 1  # the platform has a queue of its own
        self.limiter = Limiter(PUBLIC_A_MINUTE if settings.is_public else OWN_A_MINUTE)
        self.ready = threading.Event()  # the machine is known, or its fault
        self.queue = JobQueue(self._make, self._finish, settings.queue, parallel, settings.abandon_seconds)

    def start(self) -> None:
        """Start the slow tasks: probe the machine, load a small model, delete old clips."""
        for task in (self._prepare, self._keep_clean):
            threading.Thread(target=task, daemon=True, name=task.__name__).start()

    def close(self) -> None:
        """End the model's processes and the runs that wait for them."""
        self.ready.set()
        self.queue.close()
        self.worker.close()
        self.text_worker.close()

    def submit(self, visitor: str, form: Form, address: str = "") -> ClipRun:
        """Queue the form's clips for a visitor at `address`; the last of them.

        Raises:
            UserError: something in the form is wrong; `field` is the form's, or empty.
            BackendError: the queue or the disk is full.
        """
        owner, active = self.visitors.folder_name(visitor), self.queue.active()
        own, near = sum(run.owner == owner for run in active), sum(run.address == address for run in active)
        if own >= BROWSER_CLIPS:
            raise UserError(f"{own} clips of yours are queued already; wait for one, or stop it")
        if self.settings.is_public and near + form.clips > ADDRESS_CLIPS:
            raise UserError(f"{near} clips from your network are queued already; try again later")
        request = self._with_own_adapters(owner, form).request(self.settings)
        run = None
        try:
            for number in range(form.clips):
                run = self._queue(owner, request.replace(seed=request.seed + number), form, address, run)
        except (UserError, BackendError):
            if run:
                self.queue.stop(run)
            raise
        return run

    def _queue(
        self, owner: str, request: GenerationRequest, form: Form, address: str, after: ClipRun | None
    ) -> ClipRun:
        folder = self.history.new_folder(owner)
        try:
            if form.draws_frame and (drawn := first_frame_for(form.prompt, form.model, form.drawn).image):
                drawn.save(folder / FIRST_FRAME)
                request = request.replace(image=folder / FIRST_FRAME)
            request = self._copy_inputs(request, folder)
            return self.queue.submit(owner, request, form.model, folder, address, form.prompt, after)
        except (UserError, BackendError):
            self.history.discard(folder)
            raise

    def check(self, visitor: str, form: Form) -> None:
        """Raise UserError for a fault of the form that shows without the model."""
        self._with_own_adapters(self.visitors.folder_name(visitor), form).request(self.settings)

    def adapters_folder(self, owner: str) -> Path:
        """Folder of the .safetensors that the train tab made for this owner."""
        return self.settings.outputs / ADAPTERS / owner

    def trained_adapters(self, visitor: str) -> list[str]:
        """Names of the visitor's own adapters, the newest first."""
        found = self.adapters_folder(self.visitors.folder_name(visitor)).glob("*.safetensors")
        return [path.stem for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

    def describe(self, form: Form) -> tuple[str, str, str, bool]:
        """The valid size the form leads to, the cost, a caution, and whether several clips are soon made.

        Where a field is wrong, the fault in place of the size, and no cost.
        """
        try:
            request = form.request(self.settings)
        except UserError as error:
            if error.field != "prompt":
                return str(error), "", "", False
            return self.describe(dataclasses.replace(form, prompt="-"))
        model = describe_model(form.model, self.settings)
        run = one_window(request, model)
        cost = self.costs.sentence(run, model.source, form.clips)
        is_quick = self.costs.allows(max(CLIPS), run, model.source)
        return describe_size(request), cost, caution(run, model), is_quick

    def count_tokens(self, prompt: str, model: str) -> tuple[int, str] | None:
        """Tokens of the prompt and the end that would be cut, or None while the tokenizer is not here."""
        source = Path(describe_model(model, self.settings).source).expanduser()
        try:
            meter = TokenMeter(source)
            return meter.count(prompt), meter.cut(prompt)
        except UserError:
            return None

    def speech(self, prompt: str) -> tuple[int, float]:
        """Number of spoken words in the prompt, and about how many seconds they take."""
        words = " ".join(quote.text for quote in find_quotes(prompt))
        return len(words.split()), speech_seconds(words) if words else 0.0

    def _with_own_adapters(self, owner: str, form: Form) -> Form:
        """The form with files in place of the names of the visitor's own adapters."""
        own = {path.stem: path for path in self.adapters_folder(owner).glob("*.safetensors")}
        adapters = []
        for slot, choice in enumerate(form.adapters):
            if not choice.file and choice.name.startswith(OWN):
                name = choice.name.removeprefix(OWN)
                if name not in own:
                    message = f"there is no adapter {name!r} of yours here; choose another"
                    raise UserError(message, adapter_field(slot, "name"))
                choice = dataclasses.replace(choice, file=str(own[name]))
            adapters.append(choice)
        return dataclasses.replace(form, adapters=tuple(adapters))

    def _make(self, run: ClipRun) -> RunOutcome:
        if self.zero_gpu is not None:
            # Downloads and refusals come before the GPU is booked: its time is the visitor's quota.
            self._fetch(run.model)
            for source, _ in run.request.adapters:
                self.text_worker.call(fetch_adapter, source)
            return self.zero_gpu(run)
        task = (run.request, run.model, run.folder, self.settings)
        return make_clip(*task) if self.settings.remote else self.worker.call(make_clip, *task)

    def _finish(self, run: ClipRun) -> None:
        """Keep a finished clip, remove any other."""
        outcome, folder = run.outcome, run.folder
        if outcome.kind != "done":
            self.history.discard(folder)
            return
        try:
            settings = outcome.request.to_settings(folder) | {"model": public_name(run.model)}
            with new_output(folder / SETTINGS) as temporary:
                temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")
            seconds = sum(outcome.seconds.values())
            about = (outcome.measured.sentences(), outcome.warnings, outcome.measured.problems())
            (folder / STOP).unlink(missing_ok=True)  # it came too late
            record = ClipRecord(folder.name, time.time(), settings, seconds, *about, run.title)
            self.history.finish(folder, record)
        except BackendError:
            self.history.discard(folder)
            raise
        model = describe_model(run.model, self.settings)
        made = one_window(outcome.request, model)
        self.costs.learn(made, model.source, outcome.seconds.get("generate", seconds))
        logger.info("a clip in %s", human_seconds(seconds))

    def _copy_inputs(self, request: GenerationRequest, folder: Path) -> GenerationRequest:
        """The request with its files in the clip's folder, checked as far as possible without the model."""
        if request.image:
            with field_errors("image"):
                prepare_image(request.image, folder / FIRST_FRAME)
            request = request.replace(image=folder / FIRST_FRAME)
        if source := request.video or request.audio:
            with field_errors("added"):
                kept = keep_added(source, folder)
            request = request.replace(
                video=kept if request.video else None, audio=kept if request.audio else None
            )
        adapters = []
        for number, (source, strength) in enumerate(request.adapters, 1):
            if Path(source).is_file() and not catalog.is_preset_adapter(source):
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
            if self.settings.remote:
                return
            if self.zero_gpu is not None:
                self._fetch(self.model_name)
                return
            machine = self.worker.call(probe_machine, self.settings.device)
            self.costs.device_name, self.costs.cores = str(machine["name"]), int(machine["cores"])
            self.costs.gpus = int(machine["gpus"])
            self.ready.set()
            if _folder_bytes(self.model.source) < SMALL_MODEL_BYTES:
                request = Form(prompt="-", model=self.model_name, seconds=self.default_seconds).request(
                    self.settings
                )
                why = self.worker.call(preload, request, self.model_name, self.settings)
                logger.info("model loaded: %s", why)
        except (UserError, BackendError) as error:
            logger.warning("not ready: %s", error)
            self.machine = f"{self.machine} Not ready: {error}."
        finally:
            self.ready.set()

    @property
    def max_seconds(self) -> float:
        """The longest clip to offer: models do badly far beyond the lengths they were trained on."""
        models = [describe_model(name, self.settings) for name in self.model_names]
        trained = max(model.num_frames / model.frame_rate for model in models)
        return round(min(self.settings.max_seconds, 2 * trained), 2)

    @property
    def default_seconds(self) -> float:
        """The length in a fresh form."""
        return round(self.model.clip_length(self.model.preset()) / self.model.frame_rate, 2)

    def _fetch(self, name: str) -> None:
        """Download the model before a GPU is booked for it: a download would cost quota."""
        source = describe_model(name, self.settings).source
        if not Path(source).expanduser().is_dir():
            hub.download(source, WEIGHTS, token=self.settings.hub_token or None)

    def _keep_clean(self) -> None:
        while True:
            deleted = self.history.sweep(self.queue.folders())
            logger.info("%d old clips deleted", deleted)
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
