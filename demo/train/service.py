"""What the train tab can do, without the page: clips, cost and runs of each visitor. No gradio, no torch."""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from demo.service import DemoService
from demo.train import worker
from demo.train.form import TrainForm, settings_of
from demo.train.rental import SIGN_IN, JobRental, checked
from demo.train.worker import Cost, Looks
from demo.worker import WorkerProcess
from demo.writers import SERVER, WriterChoice, endpoint_of
from lora_trainer.clip_folder import ClipSet, safe_stem
from lora_trainer.config import read_config
from lora_trainer.jobs.hub import Hardware, HubLogin
from lora_trainer.jobs.publish import push
from lora_trainer.jobs.runs import RunInfo, RunRegistry, TrainingRun, link_or_copy
from lora_trainer.manifest import DatasetItem
from mova.errors import BackendError, UserError
from mova.files import new_output
from mova.openai_client import ignore_text, never_cancelled
from mova.prompting.endpoint import WITHOUT_IMAGE, EndpointWriter
from mova.prompting.prompt_files import load_template
from mova.prompting.quotes import find_quotes
from mova.prompting.writers import AnswerCache, Writer, WriterRequest, prose_in

FRAMES, FRAME_SIDE = 4, 320
MAX_CHARACTERS = 1200


def suggest_caption(writer: Writer, clip: Path, written: str = "") -> str:
    """A caption for `clip`, an mp4 such as `looking.write_preview` makes; quotes of `written` are in it.

    Raises:
        BackendError: the writer failed, sees no pictures, or wrote nothing.
    """
    picture, seconds = frames_of(clip)
    quotes = [quote.text for quote in find_quotes(written)]
    spoken = ", ".join(f'"{text}"' for text in quotes) or "none"
    template = load_template("caption_clip")
    system, user = template.fill(frames=FRAMES, seconds=f"{seconds:.1f}", spoken=spoken)
    messages = (("system", system), ("user", user))
    ask = WriterRequest(messages, picture, template.digest, max_tokens=400, temperature=0.3)
    answer = AnswerCache().write(writer, ask, ignore_text, never_cancelled)
    if not writer.sees or WITHOUT_IMAGE in answer.notes:
        raise BackendError(f"{answer.model or 'this model'} takes no pictures; choose one that sees")
    text = prose_in(answer)[:MAX_CHARACTERS]
    if not text:
        raise BackendError(f"{answer.model} wrote nothing; try again, or write the text yourself")
    said = [f'Somebody says, "{quote}"' for quote in quotes if quote not in text]
    return " ".join([text, *said])


def frames_of(clip: Path) -> tuple[bytes, float]:
    """FRAMES frames of a clip side by side as JPEG, and its length in seconds."""
    from PIL import Image

    from mova.media.clips import read_clip
    from mova.media.plots import frame_strip

    content = read_clip(clip)
    strip = Image.fromarray(frame_strip(content.frames, FRAMES))
    scale = min(1.0, FRAMES * FRAME_SIDE / strip.width)
    strip = strip.resize((round(strip.width * scale), round(strip.height * scale)))
    buffer = BytesIO()
    strip.save(buffer, "JPEG", quality=88)
    return buffer.getvalue(), len(content.frames) / content.frame_rate


RUNS, PREVIEWS = "runs", "previews"
PUBLIC_BYTES, OWN_BYTES = 2**30, 50 * 2**30
MOST_SUGGESTED = 20  # captions for one click
SWEEP_SECONDS = 600
NO_MACHINE = "choose a machine in step 3; if none is listed, open the tab again: the Hub told no prices"
COMMAND = "python -m lora_trainer train --model 360p --data clips --output runs/anna"


class TrainService:
    """The train tab's doings. Owners are visitors' names on the disk (`demo.service`)."""

    def __init__(self, studio: DemoService) -> None:
        self.studio, outputs = studio, studio.settings.outputs.absolute()
        self.jobs = RunRegistry(outputs / RUNS)
        self.away = JobRental(studio)
        self.previews = outputs / PREVIEWS
        self.helper = WorkerProcess()
        self._admitted: set[str] = set()  # on a Space: browsers of who is signed in
        self._swept, self._sweeping = 0.0, threading.Lock()

    def owner(self, visitor: object) -> str:
        """The visitor's name on the disk. Raises UserError: the page does not know them, or may not serve."""
        self._sweep()
        owner = self.studio.visitors.folder_name(visitor)
        if self.studio.settings.space_id and owner not in self._admitted:
            raise UserError(self.why_not())
        return owner

    def admit(self, visitor: object, username: str) -> str:
        """On a Space, let the browser in whose visitor is signed in and may train; else why not."""
        why, owner = self.why_not(username), self.studio.visitors.folder_name(visitor)
        (self._admitted.discard if why else self._admitted.add)(owner)
        return why

    def clips(self, owner: str) -> ClipSet:
        limit = PUBLIC_BYTES if self.studio.settings.is_public else OWN_BYTES
        return ClipSet(self.studio.history.training_folder(owner), limit)

    def why_not(self, username: str = "") -> str:
        """Why this visitor cannot train, here or on a rented machine, and what to do instead; else empty."""
        if self.away.is_open:
            return "" if username else SIGN_IN
        return self.why_not_here(username)

    def why_not_here(self, username: str = "") -> str:
        """Why this visitor cannot train on this machine."""
        settings = self.studio.settings
        if settings.is_zero_gpu:
            return (
                "ZeroGPU lends a GPU for minutes; training takes hours. Duplicate this Space to your "
                f"own GPU, where this tab works for you alone, or train where you have one: {COMMAND}"
            )
        if settings.backend == "remote":
            return f"Clips are made by an engine elsewhere, which does not train. Where a GPU is: {COMMAND}"
        if settings.space_id:
            owner = os.environ.get("SPACE_AUTHOR_NAME") or settings.space_id.partition("/")[0]
            if not username or username.lower() != owner.lower():
                return f"This Space's GPU trains for {owner} alone: sign in as such, or duplicate the Space."
            return ""
        if settings.is_public:
            return f"Strangers visit this page, so it does not lend its GPU for hours. On your own: {COMMAND}"
        return ""

    @property
    def lends_to_owner(self) -> bool:
        """Whether this is a Space on a GPU of its own."""
        settings = self.studio.settings
        return bool(settings.space_id) and not settings.is_zero_gpu and settings.backend == "local"

    def settings(
        self, owner: str, simple: TrainForm, items: Sequence[DatasetItem], is_away: bool = False
    ) -> dict[str, Any]:
        """The config's settings for these wishes. Raises UserError."""
        device = "" if is_away else self.studio.settings.device
        settings = settings_of(simple, self.studio.model, len(items), device)
        where = {"path": str(self.clips(owner).folder.absolute())}
        whole = {**settings, "data": settings["data"] | where, "output": "run"}
        if is_away:
            whole["model"] = self.away.model
        read_config(None, whole)  # says what is wrong with it
        return whole

    def look(self, owner: str, simple: TrainForm) -> Looks:
        """What the doctor finds. Raises UserError, BackendError."""
        items = self.clips(owner).items()
        if not items:
            return Looks()
        previews = self.previews / owner
        return self.helper.call(worker.review, self.settings(owner, simple, items), items, previews)

    def mend(self, owner: str, simple: TrainForm) -> list[str]:
        clips = self.clips(owner)
        return self.helper.call(worker.fix_clips, self.settings(owner, simple, clips.items()), clips)

    def cost(self, owner: str, simple: TrainForm, hardware: Hardware | None = None) -> Cost | None:
        """What a run would take, here or on `hardware`, or None while a clip has no caption.

        Raises UserError, BackendError.
        """
        items = self.clips(owner).items()
        if not items or not all(item.caption for item in items):
            return None
        settings = self.settings(owner, with_prompt(simple, items), items, hardware is not None)
        return self.helper.call(worker.estimate_cost, settings, items, hardware)

    def pace(self, owner: str, flavor: str = "") -> float | None:
        """Seconds for a step of the owner's last whole run with this model and machine, in all, or None."""
        for run in self.jobs.runs(owner):
            times = {event["event"]: event["time"] for event in run.events()}
            whole = {"run", "done"} <= times.keys() and "resumed" not in times
            same = run.about.model == self.studio.model_name and run.job.get("flavor", "") == flavor
            if whole and same:
                return (times["done"] - times["run"]) / run.about.steps
        return None

    def start(self, owner: str, simple: TrainForm, username: str = "") -> TrainingRun:
        """Start a run on this machine with what is there now.

        Raises:
            UserError: clips, captions or settings are not ready, or it does not fit. BackendError: disk full.
        """
        if why := self.why_not_here(username):
            raise UserError(why if not self.away.is_open else NO_MACHINE)
        about, settings, items, cost = self._prepare(owner, simple, None)
        if cost.is_gpu:
            self._free_gpu()
        run = self.jobs.create(owner, about, settings, items, sum(cost.disk.values()))
        self.jobs.start(run)
        return run

    def rent(self, owner: str, simple: TrainForm, flavor: str, login: HubLogin | None) -> TrainingRun:
        """Start a run as a job of the Hub; if the Hub does not take it, the run's status says so.

        Raises:
            UserError: as `start`; nobody is signed in, or not for long enough. BackendError: no prices.
        """
        login, hardware = checked(login), self.away.offer(flavor)
        about, settings, items, cost = self._prepare(owner, simple, hardware)
        seconds = self.away.limit(cost, login)
        run = self.jobs.create(owner, about, settings, items)
        self.away.go(run, login, hardware, seconds)
        return run

    def _prepare(
        self, owner: str, simple: TrainForm, hardware: Hardware | None
    ) -> tuple[RunInfo, dict[str, Any], list[DatasetItem], Cost]:
        items = self.clips(owner).items()
        if not items:
            raise UserError("there are no clips yet; add some in step 1")
        if empty := [item.name for item in items if not item.caption]:
            raise UserError(f"{bullet_list(empty)} lack a caption; write in step 2 what is seen and heard")
        simple = with_prompt(simple, items)
        if errors := self.look(owner, simple).errors:
            raise UserError(
                f"{bullet_list(sorted({e.clip for e in errors}))} cannot be learnt from; see step 1"
            )
        cost = self.cost(owner, simple, hardware)
        if not cost.fits:
            raise UserError(f"it does not fit the machine. {' '.join(cost.advice)}")
        settings = self.settings(owner, simple, items, hardware is not None)
        for key, value in cost.changes.items():
            section, _, name = key.partition(".")
            settings[section] = settings[section] | {name: value}
        del settings["output"]
        steps = settings["run"]["steps"]
        name = safe_stem(simple.name.strip() or "lora")
        device, on_gpu = self.studio.settings.device, cost.is_gpu
        model = self.studio.model_name
        if hardware:
            device, on_gpu = "", False  # of this machine's
        about = RunInfo(name, model, simple.prompt, len(items), steps, device, on_gpu, time.time())
        return about, settings, items, cost

    def stop(self, run: TrainingRun, login: HubLogin | None) -> None:
        if run.job:
            self.away.stop(run, login)
        else:
            self.jobs.stop(run)

    def go_on(self, run: TrainingRun, login: HubLogin | None) -> None:
        if run.job:
            self.away.again(run, login)
            return
        if run.about.on_gpu:
            self._free_gpu()
        self.jobs.start(run)

    def delete(self, run: TrainingRun, login: HubLogin | None) -> None:
        """Remove a run here; what it has on the Hub stays its owner's. Raises UserError, BackendError."""
        if run.job and not run.status().is_live:
            self.away.hub.forget(run, checked(login))
        self.jobs.delete(run)

    def download(self, run: TrainingRun) -> Path:
        """The adapter under the name of its run, or under its own where the disk has no room for that."""
        path = run.folder / "download" / f"{run.about.name}.safetensors"
        try:
            if not path.is_file() or path.stat().st_mtime < run.adapter.stat().st_mtime:
                link_or_copy(run.adapter, path)
        except BackendError:
            return run.adapter
        return path

    def use(self, owner: str, run: TrainingRun) -> str:
        """Put the adapter where Generate offers it; the name that it has there."""
        if run.adapter is None:
            raise UserError("this run has saved nothing yet; let it learn longer")
        folder, content = self.studio.adapters_folder(owner), run.adapter.read_bytes()
        names = (run.about.name, *(f"{run.about.name}-{number}" for number in range(2, 1000)))
        for name in names:
            path = folder / f"{name}.safetensors"
            if not path.exists():
                with new_output(path) as temporary:
                    temporary.write_bytes(content)
            if path.read_bytes() == content:
                return name
        raise UserError(f"there are too many adapters called {run.about.name}")

    def suggest(self, owner: str, server: Sequence[str], caller: str) -> list[str]:
        """Write captions for clips that have none; sentences about those that got none."""
        url, model, key = (str(value or "") for value in server)
        writer = EndpointWriter(endpoint_of(self.studio, WriterChoice(SERVER, url, model, key)))
        clips = self.clips(owner)
        looks = {look.name: look for look in self.look(owner, TrainForm()).clips}
        empty = [item for item in clips.items() if not item.caption][:MOST_SUGGESTED]
        if not empty:
            raise UserError("every clip has a caption; empty those that shall be written anew")
        told = []
        for item in empty:
            preview = looks[item.name].preview
            if preview is None:
                told.append(f"{item.name} cannot be shown to the model")
                continue
            self.studio.limiter.check(caller)
            clips.write_captions({item.name: suggest_caption(writer, preview)})
        return told

    def publish(self, run: TrainingRun, repo: str, token: str, is_public: bool) -> str:
        return push(run, repo.strip(), token, is_public)

    def _free_gpu(self) -> None:
        """The model that makes clips gives the card back; it is loaded again for the next clip."""
        if self.studio.line.active():
            raise UserError("a clip is being made on this GPU; start when it is done")
        self.studio.worker.close()
        self.studio.text_worker.close()

    def _sweep(self) -> None:
        """Delete what strangers and old visits left, now and then."""
        with self._sweeping:
            if time.monotonic() - self._swept < SWEEP_SECONDS and self._swept:
                return
            self._swept = time.monotonic()
        keep = self.studio.settings.keep_hours * 3600
        self.jobs.sweep(keep)
        training = self.studio.history.training_folder("-").parent
        for folder in training.iterdir() if training.is_dir() else ():
            if time.time() - ClipSet(folder, 0).last_change() > keep:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.previews / folder.name, ignore_errors=True)


def with_prompt(simple: TrainForm, items: Sequence[DatasetItem]) -> TrainForm:
    """The wishes with a prompt that shows what was learnt: by default the first caption; with the trigger."""
    prompt, trigger = simple.prompt.strip() or items[0].caption, simple.trigger.strip()
    return replace(simple, prompt=prompt if trigger in prompt else f"{trigger} {prompt}")


def bullet_list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
