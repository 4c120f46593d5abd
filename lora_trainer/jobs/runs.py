"""Training runs on the disk: their files, processes and status, and the registry that starts and stops them.

Files are written whole, so they may be read at any moment. The system says whether a process lives, by its
number and the time it began.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from lora_trainer.journal import ADAPTER, CHECKPOINTS, JOURNAL, Journal
from lora_trainer.manifest import DatasetItem
from mova.errors import BackendError, UserError
from mova.files import check_output, new_output, read_json, write_json

ABOUT, CONFIG, JOB, PROCESS, PHASE, OUTCOME, STOP, LOG, DATA = (
    "about.json",
    "config.json",
    "job.json",
    "process.json",
    "phase.json",
    "outcome.json",
    "stop.json",
    "log.txt",
    "data",
)
ROOT = Path(__file__).parents[2]
RUN_ID = re.compile(r"[0-9a-f]{24}")
# The C library gives large tensors back to the system after each use and asks for them again. On a virtual
# machine that was half of the time that pocket's autoencoder took for a clip (5.3 against 2.6 s of a core).
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
UNFINISHED = 4  # runs of one owner that may wait or run at once
CLOCK = 2.0  # seconds by which two readings of a process's start may differ
NO_SPACE = 50 * 2**20  # bytes free, under which a run that vanished is taken to have filled the disk
LIVE = ("waiting", "running", "stopping")
WAITING = "turn"  # the phase of a run whose device is busy
SENDING, REFUSED = "SENDING", "REFUSED"  # stages of a job that the Hub does not know (yet)
LIVE_STAGES = (SENDING, "SCHEDULING", "RUNNING")
SILENCE = 3600  # seconds beyond its time after which a job that nobody asked about is over


@dataclass(frozen=True)
class RunInfo:
    """Name, contents and time of creation (seconds since 1970) of a run."""

    name: str
    model: str
    prompt: str
    clips: int
    steps: int
    device: str
    on_gpu: bool
    created: float


@dataclass(frozen=True)
class Status:
    """`kind` is waiting, running, stopping, done, stopped, failed or broken (ended from outside)."""

    kind: str
    message: str = ""
    phase: str = ""  # of a running one: keep, clips, captions, model or train
    done: int = 0
    count: int = 0
    seconds_left: float | None = None

    @property
    def is_live(self) -> bool:
        return self.kind in LIVE


@dataclass(frozen=True)
class TrainingRun:
    """A run's folder and its info."""

    folder: Path
    about: RunInfo

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def adapter(self) -> Path | None:
        """The adapter: of the end, or of the last checkpoint."""
        saved = [self.folder, *sorted((self.folder / CHECKPOINTS).glob("step-*"), reverse=True)]
        return next((path for folder in saved if (path := folder / ADAPTER).is_file()), None)

    @property
    def job(self) -> dict[str, Any]:
        """The job of the Hub that trains it (`hub`), if one does."""
        return read_json(self.folder / JOB)

    def saved_step(self) -> int:
        """The last step that is safe on the disk."""
        names = [path.name for path in (self.folder / CHECKPOINTS).glob("step-*")]
        return max((int(name.split("-")[1]) for name in names), default=0)

    def events(self) -> list[dict[str, Any]]:
        """The journal."""
        path = self.folder / JOURNAL
        return list(read_journal(path, path.stat().st_size)) if path.exists() else []

    def log_tail(self, lines: int = 40) -> str:
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 20_000))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        # A progress bar overwrites its line; only what is left of it counts.
        return "\n".join(line.rpartition("\r")[2] for line in text.rstrip().split("\n")[-lines:])

    def status(self) -> Status:
        """The current status."""
        outcome = read_json(self.folder / OUTCOME)
        if outcome:
            return Status(outcome["kind"], outcome["message"])
        job = self.job
        if job and (ended := self._end_of_job(job)):
            return ended
        if not job and not is_alive(self.folder):
            return Status("broken", self._reason_broken())
        if (self.folder / STOP).exists():
            return Status("stopping", "It saves what it has learnt, then stops.")
        if job and job["stage"] == SENDING:
            return Status("waiting", "Its clips are being sent to Hugging Face.")
        if job and job["stage"] != "RUNNING":
            return Status("waiting", f"Hugging Face looks for a machine: {job['hardware']}.")
        spent = job and f"On {job['hardware']}, about ${job['running'] / 3600 * job['price']:.2f} so far."
        phase = read_json(self.folder / PHASE) or {"what": "start", "done": 0, "count": 0}
        if phase["what"] == WAITING:
            return Status("waiting", "It begins when the run before it ends.")
        steps = [event for event in self.events() if event["event"] == "step"]
        if phase["what"] != "train" or not steps:
            return Status("running", spent or "", phase["what"], phase["done"], phase["count"])
        pace = sorted(step["seconds"] for step in steps[-20:])[len(steps[-20:]) // 2]
        step, count = steps[-1]["step"], self.about.steps
        return Status("running", spent or "", "train", step, count, (count - step) * pace)

    def _end_of_job(self, job: Mapping[str, Any]) -> Status | None:
        """The status of a job that ended without reporting its outcome; None if it has not ended."""
        kept = "what it had sent is here" if self.adapter else "it had sent nothing yet"
        said = f" ({job['message']})" if job["message"] else ""
        if job["stage"] == REFUSED:
            return Status("failed", job["message"])
        if job["stage"] == "CANCELED":
            return Status("stopped", f"the job was cancelled{said}; {kept}")
        if job["stage"] not in LIVE_STAGES:
            return Status("failed", f"the job ended early{said}; {kept}. Its log: {job['url']}")
        if time.time() > job["heard"] + job["seconds"] + SILENCE:
            return Status("broken", f"nothing was heard of the job for long; {kept}. Look at {job['url']}")
        return None

    def _reason_broken(self) -> str:
        saved = self.saved_step()
        kept = f"all up to step {saved} is saved" if saved else "nothing was learnt yet"
        if shutil.disk_usage(self.folder).free < NO_SPACE:
            return f"the disk is full; {kept}: free some space, then resume"
        return (
            "the run was ended from outside (killed, out of memory, or the machine was switched off); "
            f"{kept}: resume from there"
        )


def write_ticket(folder: Path, pid: int) -> None:
    """Record the process that runs it, and since when it has waited."""
    try:
        began = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        began = time.time()
    ticket = read_json(folder / PROCESS)
    if ticket.get("pid") != pid or abs(ticket["began"] - began) > CLOCK:
        write_json(folder / PROCESS, {"pid": pid, "began": began, "asked": time.time()})


def find_process(folder: Path) -> psutil.Process | None:
    """The process of a run, if it lives: not another that was given its number since."""
    ticket = read_json(folder / PROCESS)
    try:
        process = psutil.Process(int(ticket["pid"]))
        same = abs(process.create_time() - ticket["began"]) < CLOCK
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (KeyError, psutil.NoSuchProcess):
        return None


def is_alive(folder: Path) -> bool:
    return find_process(folder) is not None


def read_run(folder: Path) -> TrainingRun | None:
    """The run in a folder, or None while it is not whole."""
    about = read_json(folder / ABOUT)
    return TrainingRun(folder, RunInfo(**about)) if about else None


@lru_cache(maxsize=32)
def read_journal(path: Path, size: int) -> tuple[dict[str, Any], ...]:
    """A journal that has `size` bytes."""
    del size  # only tells the cache when to read again
    return tuple(Journal(path).read())


class RunRegistry:
    """The runs under `root`, a folder for each owner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._children: dict[Path, subprocess.Popen] = {}  # kept to be reaped, for nothing else

    def create(
        self,
        owner: str,
        about: RunInfo,
        settings: Mapping[str, Any],
        items: Iterable[DatasetItem],
        needed_bytes: int = 0,
    ) -> TrainingRun:
        """A run that is ready to start; it has its own copies of the clips.

        `settings` are those of a config file, without output and data.path.

        Raises:
            UserError: too many runs wait already. BackendError: the disk is full.
        """
        self._reap()
        if sum(run.status().is_live for run in self.runs(owner)) >= UNFINISHED:
            raise UserError(f"{UNFINISHED} runs of yours wait or run already; wait for one, or stop it")
        folder = self.root / owner / secrets.token_hex(12)
        check_output(folder, needed_bytes=needed_bytes)
        try:
            write_data(folder / DATA, items)
            data = {**settings.get("data", {}), "path": str(folder / DATA)}
            write_json(folder / CONFIG, {**settings, "data": data, "output": str(folder)})
            write_json(folder / ABOUT, asdict(about))
        except (UserError, BackendError):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return TrainingRun(folder, about)

    def start(self, run: TrainingRun) -> None:
        """Start, or resume from the last checkpoint. Raises UserError if it runs already."""
        self._reap()
        if is_alive(run.folder) and not (run.folder / OUTCOME).exists():
            raise UserError("this run is under way already")
        for name in (OUTCOME, STOP, PHASE):
            (run.folder / name).unlink(missing_ok=True)
        with (run.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lora_trainer.jobs.process", str(run.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the page's terminal is not meant for it
                env=({} if run.about.on_gpu else KEEP_MEMORY)
                | os.environ
                | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            )
        self._children[run.folder] = process
        write_ticket(run.folder, process.pid)

    def stop(self, run: TrainingRun) -> None:
        """Ask it to save and stop; the second time it is ended at once, and what is saved stays."""
        process = find_process(run.folder)
        if process is None or (run.folder / OUTCOME).exists():
            return
        try:
            if (run.folder / STOP).exists():
                process.kill()
                process.wait(10)
            else:
                process.terminate()
                write_json(run.folder / STOP, {"time": time.time()})
        except psutil.NoSuchProcess:  # it was quicker
            pass

    def runs(self, owner: str) -> list[TrainingRun]:
        """The owner's runs, newest first."""
        folders = (self.root / owner).iterdir() if (self.root / owner).is_dir() else ()
        found = [read_run(folder) for folder in folders]
        return sorted((run for run in found if run), key=lambda run: run.about.created, reverse=True)

    def get(self, owner: str, run_id: object) -> TrainingRun:
        """One run of `owner`. Raises UserError if it is none of theirs."""
        run = read_run(self.root / owner / str(run_id)) if RUN_ID.fullmatch(str(run_id)) else None
        if run is None:
            raise UserError("this run is no longer here")
        self._reap()
        return run

    def delete(self, run: TrainingRun) -> None:
        """Remove a run with all it holds. Raises UserError while it runs."""
        if run.status().is_live:
            raise UserError("this run is under way; stop it first")
        shutil.rmtree(run.folder, ignore_errors=True)

    def sweep(self, keep_seconds: float) -> int:
        """Delete runs that ended and were left alone for that long; how many went."""
        old = [
            run
            for owner in (self.root.iterdir() if self.root.is_dir() else ())
            if owner.is_dir()
            for run in self.runs(owner.name)
            if time.time() - last_change(run.folder) > keep_seconds and not run.status().is_live
        ]
        for run in old:
            shutil.rmtree(run.folder, ignore_errors=True)
        return len(old)

    def _reap(self) -> None:
        for folder, process in list(self._children.items()):
            if process.poll() is not None:
                del self._children[folder]


def write_data(folder: Path, items: Iterable[DatasetItem]) -> None:
    """The clips as a data set of their own: the page's may change while the run lasts."""
    rows = []
    for item in items:
        row: dict[str, object] = {"caption": item.caption}
        for key, path in (("video", item.video), ("audio", item.audio)):
            if path is not None:
                link_or_copy(path, folder / path.name)
                row[key] = path.name
        row |= {"start": item.start} if item.start else {}
        row |= {"end": item.end} if item.end is not None else {}
        row |= {"sound": False} if item.is_silent else {}
        rows.append(row)
    with new_output(folder / "metadata.jsonl", overwrite=True) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def link_or_copy(source: Path, target: Path) -> None:
    with new_output(target, overwrite=True) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another disk
            shutil.copyfile(source, temporary)


def last_change(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
