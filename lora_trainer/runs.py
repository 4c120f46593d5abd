"""One training run on the disk: its files, whether its process lives, and how it is doing.

Files are written whole, so they may be read at any moment. Whether a process lives is asked of the system, by
its number and the time it began.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from lora_trainer.journal import ADAPTER, CHECKPOINTS, JOURNAL, Journal
from mova.outputs import new_output

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
CLOCK = 2.0  # seconds by which two readings of a process's start may differ
NO_SPACE = 50 * 2**20  # bytes free, under which a run that vanished is taken to have filled the disk
LIVE = ("waiting", "running", "stopping")
SENDING, REFUSED = "SENDING", "REFUSED"  # stages of a job that the Hub does not know (yet)
LIVE_STAGES = (SENDING, "SCHEDULING", "RUNNING")
SILENCE = 3600  # seconds beyond its time after which a job that nobody asked about is over


@dataclass(frozen=True)
class About:
    """What a person calls a run, what it shows, and when it was made (seconds since 1970)."""

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
class Run:
    """A run's folder and what it says of itself."""

    folder: Path
    about: About

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def adapter(self) -> Path | None:
        """What it has learnt: at the end, or as it was saved last."""
        saved = [self.folder, *sorted((self.folder / CHECKPOINTS).glob("step-*"), reverse=True)]
        return next((path for folder in saved if (path := folder / ADAPTER).is_file()), None)

    @property
    def job(self) -> dict[str, Any]:
        """The job of the Hub that trains it (`hub_jobs`), if one does."""
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
        """How it is now."""
        outcome = read_json(self.folder / OUTCOME)
        if outcome:
            return Status(outcome["kind"], outcome["message"])
        job = self.job
        if job and (ended := self._end_of_job(job)):
            return ended
        if not job and not is_alive(self.folder):
            return Status("broken", self._epitaph())
        if (self.folder / STOP).exists():
            return Status("stopping", "It saves what it has learnt, then stops.")
        if job and job["stage"] == SENDING:
            return Status("waiting", "Its clips are being sent to Hugging Face.")
        if job and job["stage"] != "RUNNING":
            return Status("waiting", f"Hugging Face looks for a machine: {job['hardware']}.")
        spent = job and f"On {job['hardware']}, about ${job['running'] / 3600 * job['price']:.2f} so far."
        phase = read_json(self.folder / PHASE) or {"what": "start", "done": 0, "count": 0}
        if phase["what"] == "turn":
            return Status("waiting", "It begins when the run before it ends.")
        steps = [event for event in self.events() if event["event"] == "step"]
        if phase["what"] != "train" or not steps:
            return Status("running", spent or "", phase["what"], phase["done"], phase["count"])
        pace = sorted(step["seconds"] for step in steps[-20:])[len(steps[-20:]) // 2]
        step, count = steps[-1]["step"], self.about.steps
        return Status("running", spent or "", "train", step, count, (count - step) * pace)

    def _end_of_job(self, job: Mapping[str, Any]) -> Status | None:
        """How a job ended that did not say so itself."""
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

    def _epitaph(self) -> str:
        saved = self.saved_step()
        kept = f"all up to step {saved} is saved" if saved else "nothing was learnt yet"
        if shutil.disk_usage(self.folder).free < NO_SPACE:
            return f"the disk is full; {kept}: free some space, then go on"
        return (
            "the run was ended from outside (killed, out of memory, or the machine was switched off); "
            f"{kept}: go on from there"
        )


def write_ticket(folder: Path, pid: int) -> None:
    """Who runs it, and since when it has been in the line."""
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


def read_run(folder: Path) -> Run | None:
    """The run in a folder, or None while it is not whole."""
    about = read_json(folder / ABOUT)
    return Run(folder, About(**about)) if about else None


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all. Raises BackendError if the disk is full."""
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, or nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@lru_cache(maxsize=32)
def read_journal(path: Path, size: int) -> tuple[dict[str, Any], ...]:
    """A journal that has `size` bytes."""
    del size  # only tells the cache when to read again
    return tuple(Journal(path).read())
