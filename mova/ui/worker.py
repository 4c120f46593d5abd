"""A process of its own for the model.

The page stays light and answers while a clip is made; what the model's process takes with it when it is
killed, for memory or by hand, is one clip. Functions and arguments go over as pickles, in both directions
between our own two processes; progress goes by files (see `mova.ui.running`).
"""

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mova.types import BackendError, Cancelled, UserError

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]
# Threads that wait for one another sleep instead of spinning. On two cores that others used too, a clip took
# 41 s instead of 62: a laptop whose browser plays a film is such a place.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


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
                raise BackendError(_epitaph(process.wait())) from error
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
            # stdout is the channel; what libraries print goes to stderr (see `serve`).
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mova.ui.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**PATIENT, **os.environ}
                | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            )
            logger.info("worker started, pid %d", self._process.pid)
        return self._process


def _epitaph(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "the process that runs the model was killed, most likely because the machine ran out of memory; "
            "choose a shorter or smaller clip and try again, a new one is started"
        )
    return f"the process that runs the model ended (code {code}); try again, a new one is started"


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the page goes away."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                waiting.put(pickle.load(requests))
            except EOFError:
                os._exit(0)  # the page is gone: nobody waits for the clip in the making

    threading.Thread(target=read, daemon=True).start()
    while True:
        function, arguments = waiting.get()
        try:
            answer = (True, function(*arguments))
        except (UserError, BackendError, Cancelled) as error:
            answer = (False, error)
        except Exception as error:  # the child must live on: the page gets a sentence, the log the rest
            logger.exception("%s failed", function.__name__)
            answer = (
                False,
                BackendError(f"the model's process failed ({type(error).__name__}); see its log"),
            )
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: worker: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page, which then takes us with it
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel)
