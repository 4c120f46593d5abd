"""A training run in a process of its own: `python -m lora_trainer.jobs.process RUN`, started by `runs`.

It waits for the device, trains, and writes its outcome. The system releases the device's lock when the
process ends, however it ends.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lora_trainer.config import read_config
from lora_trainer.jobs.runs import (
    CONFIG,
    OUTCOME,
    PHASE,
    PROCESS,
    WAITING,
    TrainingRun,
    is_alive,
    read_run,
    write_ticket,
)
from lora_trainer.journal import CHECKPOINTS, JOURNAL, Report
from mova.errors import BackendError, Cancelled, UserError
from mova.files import read_json, write_json

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
SECONDS_BETWEEN_REPORTS = 0.5


def main(folder: Path) -> int:
    """Train the run in `folder` to its end; the exit code is the command line's."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its addresses may be signed
    write_ticket(folder, os.getpid())
    signal.signal(signal.SIGTERM, stop_now)
    run, report = read_run(folder), Phase(folder)
    try:
        with wait_for_device(run, report):
            train(run, report)
        kind, message = "done", f"done, {run.about.steps} steps"
    except (Cancelled, KeyboardInterrupt):
        kind, saved = "stopped", run.saved_step()
        message = f"stopped at step {saved}, all is saved" if saved else "stopped before the first step"
    except (UserError, BackendError) as error:
        logger.error("%s", error)
        kind, message = "failed", str(error)
    except Exception as error:  # nobody waits for this process: its folder must say that it failed
        logger.exception("the run failed")
        kind, message = "failed", f"the trainer failed ({type(error).__name__}: {error}); its log says more"
    write_json(folder / OUTCOME, {"kind": kind, "message": message, "time": time.time()})
    return {"done": 0, "stopped": 130}.get(kind, 1)


def train(run: TrainingRun, report: Report) -> None:
    config = read_config(run.folder / CONFIG, {})
    report("start", 0, 0)
    from lora_trainer.train import open_trainer  # loads torch: not before the device is free

    has_begun = (run.folder / JOURNAL).exists() or (run.folder / CHECKPOINTS).exists()
    with open_trainer(config, has_begun, report) as trainer:
        report("train", 0, config.run.steps)
        trainer.run()


class Phase:
    """Writes the phase and its progress into the run's folder, not too often."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.what, self.written = folder, "", 0.0

    def __call__(self, what: str, done: int, count: int) -> None:
        now = time.monotonic()
        if what != self.what or now - self.written > SECONDS_BETWEEN_REPORTS:
            write_json(self.folder / PHASE, {"what": what, "done": done, "count": count})
            self.what, self.written = what, now


@contextmanager
def wait_for_device(run: TrainingRun, report: Report) -> Iterator[None]:
    """Wait until no other run has the device, in the order in which they were started."""
    root = run.folder.parents[1]
    lock = FileLock(root / f".{slug(run.about.device)}.lock")
    while True:
        if not is_behind(run, root):
            try:
                with lock.acquire(timeout=0):
                    yield
                    return
            except Timeout:
                pass
        report(WAITING, 0, 0)
        time.sleep(LOOK_SECONDS)


def is_behind(run: TrainingRun, root: Path) -> bool:
    """True if a live run was started before this one, for the same device."""
    asked = read_json(run.folder / PROCESS)["asked"]
    for path in root.glob(f"*/*/{PROCESS}"):
        other = read_json(path).get("asked", asked)
        if other < asked and not (path.parent / OUTCOME).exists() and is_alive(path.parent):
            found = read_run(path.parent)
            if found and found.about.device == run.about.device:
                return True
    return False


def slug(device: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in device) or "device"


def stop_now(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
