"""The service behind the train tab: clips, cost and runs of each visitor. No gradio, no torch."""

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
from demo.train.rental import SIGN_IN, JobRental, require_login
from demo.train.worker import Cost, Review
from demo.worker import WorkerProcess
from demo.writers import WriterChoice, endpoint_of
from lora_trainer.clip_folder import ClipSet, safe_stem
from lora_trainer.config import read_config
from lora_trainer.jobs.hub import HubLogin, Offer
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

RUNS, PREVIEWS = "runs", "previews"
PUBLIC_BYTES, OWN_BYTES = 2**30, 50 * 2**30
MOST_SUGGESTED = 20  # captions for one click
SWEEP_SECONDS = 600
NO_MACHINE = "choose a machine; if none is listed, open the tab again: the Hub returned no prices"
NO_CAPTION = "A clip whose caption is not written yet, number"  # counts in the estimate as a caption would
UNDO_SECONDS, LATE_SECONDS = (
    10,
    5,
)  # for which a removed clip can be restored, and for a click at the last moment
COMMAND = "python -m lora_trainer train --model 360p --data clips --output runs/anna"
FRAMES, FRAME_SIDE = 4, 320  # shown to the model that writes a caption
MAX_CHARACTERS = 1200  # of a suggested caption


class TrainService:
    """Clips, runs and rented jobs of the train tab. Owners are visitors' names on the disk."""

    def __init__(self, demo: DemoService) -> None:
        self.demo, outputs = demo, demo.settings.outputs.absolute()
        self.registry = RunRegistry(outputs / RUNS)
        self.rental = JobRental(demo)
        self.previews = outputs / PREVIEWS
        self.worker = WorkerProcess()
        self._admitted: set[str] = set()  # on a Space: browsers of visitors who are signed in
        self._swept, self._sweeping = 0.0, threading.Lock()

    def owner(self, visitor: object) -> str:
        """The visitor's name on the disk. Raises UserError: unknown here, or not allowed to train."""
        self._sweep()
        owner = self.demo.visitors.folder_name(visitor)
        if self.demo.settings.space_id and owner not in self._admitted:
            raise UserError(self.why_not())
        return owner

    def admit(self, visitor: object, username: str) -> str:
        """On a Space, admit the browser of a signed-in visitor who may train; else the reason."""
        why, owner = self.why_not(username), self.demo.visitors.folder_name(visitor)
        (self._admitted.discard if why else self._admitted.add)(owner)
        return why

    def clips(self, owner: str) -> ClipSet:
        limit = PUBLIC_BYTES if self.demo.settings.is_public else OWN_BYTES
        return ClipSet(self.demo.history.training_folder(owner), limit)

    def why_not(self, username: str = "") -> str:
        """Reason why this visitor cannot train, here or rented, with the next step; else empty."""
        if self.rental.is_open:
            return "" if username else SIGN_IN
        return self.why_not_here(username)

    def why_not_here(self, username: str = "") -> str:
        """Reason why this visitor cannot train on this machine; else empty."""
        settings = self.demo.settings
        if settings.is_zero_gpu:
            return (
                "ZeroGPU lends a GPU for minutes; training takes hours. Duplicate this Space to your "
                f"own GPU, where this tab works for you alone, or train where you have one: {COMMAND}"
            )
        if settings.remote:
            return f"Clips are made by an engine elsewhere, which does not train. On your own: {COMMAND}"
        if settings.space_id:
            owner = settings.space_owner
            if not username or username.lower() != owner.lower():
                return f"This Space's GPU trains for {owner} alone: sign in as such, or duplicate the Space."
            return ""
        if settings.is_public:
            return f"Strangers visit this page, so it does not lend its GPU for hours. On your own: {COMMAND}"
        return ""

    @property
    def lends_to_owner(self) -> bool:
        """True on a Space with a GPU of its own."""
        settings = self.demo.settings
        return bool(settings.space_id) and not settings.is_zero_gpu and settings.remote is None

    def settings(
        self, owner: str, form: TrainForm, items: Sequence[DatasetItem], is_rented: bool = False
    ) -> dict[str, Any]:
        """The config's settings for this form. Raises UserError."""
        device = "" if is_rented else self.demo.settings.device
        settings = settings_of(form, self.demo.model, len(items), device)
        where = {"path": str(self.clips(owner).folder.absolute())}
        whole = {**settings, "data": settings["data"] | where, "output": "run"}
        if is_rented:
            whole["model"] = self.rental.model
        read_config(None, whole)  # raises UserError
        return whole

    def review(self, owner: str, form: TrainForm) -> Review:
        """The doctor's findings. Raises UserError, BackendError."""
        items = self.clips(owner).items()
        if not items:
            return Review()
        previews = self.previews / owner
        return self.worker.call(worker.review, self.settings(owner, form, items), items, previews)

    def fix(self, owner: str, form: TrainForm) -> list[str]:
        """Fix the clips where no guess is needed; a sentence for each change."""
        clips = self.clips(owner)
        return self.worker.call(worker.fix_clips, self.settings(owner, form, clips.items()), clips)

    def fix_clip(self, owner: str, form: TrainForm, name: str, act: str) -> str:
        """Do to one clip what a button of its card says; a sentence on it. Raises UserError, BackendError."""
        clips = self.clips(owner)
        if act == "reset":
            clips.reset(name)
            return f"{name} is used as it came in."
        return self.worker.call(worker.fix_clip, self.settings(owner, form, clips.items()), clips, name, act)

    def remove(self, owner: str, name: str) -> None:
        """Remove a clip; for UNDO_SECONDS it can be restored."""
        clips = self.clips(owner)
        clips.remove(name)
        timer = threading.Timer(UNDO_SECONDS + LATE_SECONDS, clips.forget, [name])
        timer.daemon = True
        timer.start()

    def cost(
        self, owner: str, form: TrainForm, hardware: Offer | None = None, unusable: Sequence[str] = ()
    ) -> Cost | None:
        """The cost of a run, here or on `hardware`, without the `unusable` clips; None if none is left.

        Captions may still be missing. Raises UserError, BackendError.
        """
        items = [
            replace(item, caption=item.caption or f"{NO_CAPTION} {number}")
            for number, item in enumerate(self.clips(owner).items())
            if item.name not in unusable
        ]
        if not items:
            return None
        settings = self.settings(owner, with_prompt(form, items), items, hardware is not None)
        return self.worker.call(worker.estimate_cost, settings, items, hardware)

    def pace(self, owner: str, flavor: str = "") -> float | None:
        """Seconds per step, all included, of the owner's last whole run with this model and machine."""
        for run in self.registry.runs(owner):
            times = {event["event"]: event["time"] for event in run.events()}
            whole = {"run", "done"} <= times.keys() and "resumed" not in times
            same = run.about.model == self.demo.model_name and run.job.get("flavor", "") == flavor
            if whole and same:
                return (times["done"] - times["run"]) / run.about.steps
        return None

    def start(self, owner: str, form: TrainForm, username: str = "") -> TrainingRun:
        """Start a run on this machine with the present clips.

        Raises:
            UserError: clips, captions or settings are not ready, or it does not fit. BackendError: disk full.
        """
        if why := self.why_not_here(username):
            raise UserError(why if not self.rental.is_open else NO_MACHINE)
        about, settings, items, cost = self._prepare(owner, form, None)
        if cost.is_gpu:
            self._free_gpu()
        run = self.registry.create(owner, about, settings, items, sum(cost.disk.values()))
        self.registry.start(run)
        return run

    def rent(self, owner: str, form: TrainForm, flavor: str, login: HubLogin | None) -> TrainingRun:
        """Start a run as a job of the Hub; a refusal of the Hub becomes the run's status.

        Raises:
            UserError: as `start`; nobody is signed in, or not for long enough. BackendError: no prices.
        """
        login, hardware = require_login(login), self.rental.offer(flavor)
        about, settings, items, cost = self._prepare(owner, form, hardware)
        seconds = self.rental.limit(cost, login)
        run = self.registry.create(owner, about, settings, items)
        self.rental.start(run, login, hardware, seconds)
        return run

    def _prepare(
        self, owner: str, form: TrainForm, hardware: Offer | None
    ) -> tuple[RunInfo, dict[str, Any], list[DatasetItem], Cost]:
        items = self.clips(owner).items()
        if not items:
            raise UserError("add clips first")
        if empty := [item.name for item in items if not item.caption]:
            raise UserError(f"add captions to: {bullet_list(empty)}")
        form = with_prompt(form, items)
        if unusable := self.review(owner, form).unusable:
            raise UserError(f"fix or remove: {bullet_list(unusable)}")
        cost = self.cost(owner, form, hardware)
        if not cost.fits:
            raise UserError(f"This does not fit the machine. {' '.join(cost.advice)}")
        settings = self.settings(owner, form, items, hardware is not None)
        for key, value in cost.changes.items():
            section, _, name = key.partition(".")
            settings[section] = settings[section] | {name: value}
        del settings["output"]
        about = RunInfo(
            name=safe_stem(form.name.strip() or "lora"),
            model=self.demo.model_name,
            prompt=form.prompt,
            clips=len(items),
            steps=settings["run"]["steps"],
            device="" if hardware else self.demo.settings.device,  # of this machine
            on_gpu=cost.is_gpu and hardware is None,
            created=time.time(),
        )
        return about, settings, items, cost

    def stop(self, run: TrainingRun, login: HubLogin | None) -> None:
        if run.job:
            self.rental.stop(run, login)
        else:
            self.registry.stop(run)

    def resume(self, run: TrainingRun, login: HubLogin | None) -> None:
        if run.job:
            self.rental.resume(run, login)
            return
        if run.about.on_gpu:
            self._free_gpu()
        self.registry.start(run)

    def delete(self, run: TrainingRun, login: HubLogin | None) -> None:
        """Remove a run here; its repos on the Hub stay. Raises UserError, BackendError."""
        if run.job and not run.status().is_live:
            self.rental.hub.forget(run, require_login(login))
        self.registry.delete(run)

    def download(self, run: TrainingRun) -> Path:
        """The adapter as a file named after its run, or under its own name if the disk is full."""
        path = run.folder / "download" / f"{run.about.name}.safetensors"
        try:
            if not path.is_file() or path.stat().st_mtime < run.adapter.stat().st_mtime:
                link_or_copy(run.adapter, path)
        except BackendError:
            return run.adapter
        return path

    def use(self, owner: str, run: TrainingRun) -> str:
        """Offer the adapter in Generate; its name there."""
        if run.adapter is None:
            raise UserError("this run has saved nothing yet; let it train longer")
        folder, content = self.demo.adapters_folder(owner), run.adapter.read_bytes()
        names = (run.about.name, *(f"{run.about.name}-{number}" for number in range(2, 1000)))
        for name in names:
            path = folder / f"{name}.safetensors"
            if not path.exists():
                with new_output(path) as temporary:
                    temporary.write_bytes(content)
            if path.read_bytes() == content:
                return name
        raise UserError(f"there are too many adapters called {run.about.name}; choose another name")

    def suggest(self, owner: str, server: WriterChoice, address: str) -> list[str]:
        """Write captions for clips that have none; a sentence for each that got none.

        Raises UserError, BackendError.
        """
        writer = EndpointWriter(endpoint_of(self.demo, server))
        clips = self.clips(owner)
        previews = {clip.name: clip.preview for clip in self.review(owner, TrainForm()).clips}
        empty = [item for item in clips.items() if not item.caption][:MOST_SUGGESTED]
        if not empty:
            raise UserError("every clip has a caption; empty those that you want rewritten")
        skipped = []
        for item in empty:
            preview = previews[item.name]
            if preview is None:
                skipped.append(f"{item.name} cannot be shown to the model")
                continue
            self.demo.limiter.check(address)
            clips.write_captions({item.name: suggest_caption(writer, preview)})
        return skipped

    def publish(self, run: TrainingRun, repo: str, token: str, is_public: bool) -> str:
        return push(run, repo.strip(), token, is_public)

    def _free_gpu(self) -> None:
        """Unload the model that makes clips; it is loaded again for the next clip."""
        if self.demo.queue.active():
            raise UserError("a clip is being made on this GPU; start when it is done")
        self.demo.worker.close()
        self.demo.text_worker.close()

    def _sweep(self) -> None:
        """Delete expired runs, clips and previews, at most every SWEEP_SECONDS."""
        with self._sweeping:
            if time.monotonic() - self._swept < SWEEP_SECONDS and self._swept:
                return
            self._swept = time.monotonic()
        keep = self.demo.settings.keep_hours * 3600
        self.registry.sweep(keep)
        training = self.demo.history.training_folder("-").parent
        for folder in training.iterdir() if training.is_dir() else ():
            if time.time() - ClipSet(folder, 0).last_change() > keep:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(self.previews / folder.name, ignore_errors=True)


def with_prompt(form: TrainForm, items: Sequence[DatasetItem]) -> TrainForm:
    """The form with the prompt of the clips that show the progress: by default the first caption."""
    prompt, trigger = form.prompt.strip() or items[0].caption, form.trigger.strip()
    return replace(form, prompt=prompt if trigger in prompt else f"{trigger} {prompt}")


def bullet_list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def suggest_caption(writer: Writer, clip: Path, written: str = "") -> str:
    """A caption for `clip`, an mp4 as `worker.write_preview` makes; it has the quotes of `written`.

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
        raise BackendError(f"{answer.model or 'this model'} takes no pictures; choose a model that does")
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
