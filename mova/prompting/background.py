"""Waiting for a slow answer without being held by it: it can be cancelled and has a last moment."""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from mova.prompting.writing import IsCancelled, OnText
from mova.types import Cancelled

Result = TypeVar("Result")
POLL_SECONDS = 0.1


def run_until(
    work: Callable[[OnText], Result],
    on_text: OnText,
    cancelled: IsCancelled,
    seconds: float,
    close: Callable[[], None],
) -> Result:
    """The result of `work`, run in a thread; what it reports reaches `on_text` in the caller's thread.

    `close` ends the connection that the work waits on, when it is cancelled or late.

    Raises:
        TimeoutError: it took longer than `seconds`.
        Cancelled: `cancelled` became true.
        Exception: whatever `work` raised.
    """
    events: SimpleQueue = SimpleQueue()

    def run() -> None:
        try:
            events.put(("result", work(lambda text: events.put(("text", text)))))
        except Exception as error:  # handed on whole to the thread that waits
            events.put(("error", error))

    Thread(target=run, daemon=True, name="prompt").start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            kind, value = events.get(timeout=POLL_SECONDS)
        except Empty:
            kind, value = "nothing", None
        if kind == "result":
            return value
        if kind == "error":
            raise value
        if cancelled():
            close()
            raise Cancelled("stopped on request")
        if time.monotonic() > deadline:
            close()
            raise TimeoutError
        if kind == "text":
            on_text(value)
