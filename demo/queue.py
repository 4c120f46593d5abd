"""The queue in front of the model: clips that wait or are being made, and their owners.

A run belongs to the page, not to a browser's connection: after a reload it is found and watched again. A run
that nobody has watched for a while is stopped.
"""

import contextvars
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.worker import PREVIEW, STATE, STOP, RunOutcome
from mova.errors import BackendError
from mova.request import GenerationRequest

logger = logging.getLogger(__name__)

JANITOR_SECONDS = 2.0
FORGET_SECONDS = 300.0  # after a run's end


@dataclass
class ClipRun:
    """One clip to be made into `folder` by the model of that name; times are of `time.monotonic`.

    `address` is the caller's, or empty where it does not matter; `title` the visitor's words for the clip.
    `series` are the clips of one click in their order, this one among them: watched and stopped together.
    """

    run_id: str
    owner: str
    request: GenerationRequest
    model: str
    folder: Path
    address: str = ""
    title: str = ""
    created: float = field(default_factory=time.monotonic)
    watched: float = field(default_factory=time.monotonic)
    began: float | None = None
    ended: float | None = None
    outcome: RunOutcome | None = None
    finished: threading.Event = field(default_factory=threading.Event)
    series: list["ClipRun"] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.series.append(self)

    @property
    def turn(self) -> "ClipRun":
        """The first of the series that has not ended, or the last."""
        return next((run for run in self.series if not run.finished.is_set()), self.series[-1])

    def watch(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the series; True once it has come."""
        now = time.monotonic()
        for run in self.series:
            run.watched = now
        return all(run.finished.wait(now + seconds - time.monotonic()) for run in self.series)

    def state(self) -> dict[str, Any]:
        """The progress that the model's process last wrote, or nothing."""
        try:
            return json.loads((self.folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def preview(self) -> bytes:
        try:
            return (self.folder / PREVIEW).read_bytes()
        except OSError:
            return b""

    def stop(self) -> None:
        """Ask the model's process to stop, by a file in the folder."""
        try:
            (self.folder / STOP).touch()
        except FileNotFoundError:
            logger.info("run %s was already removed", self.run_id)

    def is_stopped(self) -> bool:
        return (self.folder / STOP).exists()


class JobQueue:
    """Makes clips in the order they came, `parallel` at a time; at most `capacity` wait.

    `make(run)` makes a clip; `finish(run)` follows in the same thread, before watchers see the outcome.
    """

    def __init__(
        self,
        make: Callable[[ClipRun], RunOutcome],
        finish: Callable[[ClipRun], None],
        capacity: int,
        parallel: int = 1,
        abandon_seconds: float = 120.0,
    ) -> None:
        self._make, self._finish = make, finish
        self.capacity, self.parallel, self.abandon_seconds = capacity, parallel, abandon_seconds
        self._runs: dict[str, ClipRun] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._stop_abandoned, daemon=True, name="janitor").start()

    def submit(
        self,
        owner: str,
        request: GenerationRequest,
        model: str,
        folder: Path,
        address: str = "",
        title: str = "",
        after: ClipRun | None = None,
    ) -> ClipRun:
        """Queue a clip, in the series of `after`. Raises BackendError if no more can wait."""
        with self._changed:
            active = [run for run in self._runs.values() if run.ended is None]
            waiting = len(active) + 1 - self.parallel
            if waiting > self.capacity:
                raise BackendError(
                    f"the machine is busy: {len(active)} clips are being made or wait, and no more can; "
                    "try again in a few minutes"
                )
            run = ClipRun(secrets.token_hex(12), owner, request, model, folder, address, title)
            if after:
                run.series = after.series
                run.series.append(run)
            self._runs[run.run_id] = run
        # The visitor's request travels in the context: ZeroGPU reads from it whose quota is spent.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work, run), daemon=True, name="run").start()
        return run

    def current(self, owner: str) -> ClipRun | None:
        """The owner's newest run that has not ended."""
        mine = [run for run in self.active() if run.owner == owner]
        return mine[-1] if mine else None

    def get(self, owner: str, run_id: object) -> ClipRun | None:
        run = self._runs.get(str(run_id))
        return run if run and run.owner == owner else None

    def ahead(self, run: ClipRun) -> int:
        """Number of runs before this one; 0 when it is its turn."""
        with self._changed:
            before = [
                each for each in self._runs.values() if each.ended is None and each.created < run.created
            ]
        return 0 if run.began else max(0, len(before) + 1 - self.parallel)

    def stop(self, run: ClipRun) -> None:
        """Ask the run's series to stop: within one forward, or at once where it has not begun."""
        with self._changed:
            for each in run.series:
                if each.outcome is None:
                    each.stop()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop every run; one that the model's process is working on ends with that process."""
        for run in self.active():
            self.stop(run)

    def active(self) -> list[ClipRun]:
        """Runs that have not ended, in their order."""
        with self._changed:
            return [run for run in self._runs.values() if run.ended is None]

    def folders(self) -> frozenset[Path]:
        """Folders of runs that have not ended."""
        return frozenset(run.folder for run in self.active())

    def _work(self, run: ClipRun) -> None:
        try:
            with self._changed:
                self._changed.wait_for(lambda: run.is_stopped() or self._may_begin(run))
                run.began = time.monotonic()
            outcome = RunOutcome("stopped") if run.is_stopped() else self._make(run)
            with self._changed:
                run.outcome = outcome
            self._finish(run)
        except BackendError as error:
            run.outcome = RunOutcome("machine", str(error))
        except Exception as error:  # watchers must see an end, whatever happened
            logger.exception("a run failed")
            run.outcome = RunOutcome(
                "machine", f"the page failed ({type(error).__name__}); its log says more"
            )
        finally:
            with self._changed:
                run.ended = time.monotonic()
                self._changed.notify_all()
            run.finished.set()

    def _may_begin(self, run: ClipRun) -> bool:
        active = [each for each in self._runs.values() if each.ended is None]
        return run in active[: self.parallel]

    def _stop_abandoned(self) -> None:
        while True:
            time.sleep(JANITOR_SECONDS)
            now = time.monotonic()
            with self._changed:
                for run in list(self._runs.values()):
                    if run.outcome is None and now - run.watched > self.abandon_seconds:
                        run.stop()
                    if run.ended is not None and now - run.ended > FORGET_SECONDS:
                        del self._runs[run.run_id]
                self._changed.notify_all()
