"""The end of a command: failures and stops become a sentence and an exit code, for both command lines.

Ctrl-C, SIGTERM (`kill`, a cluster's time limit) and SIGHUP (a terminal that is closed) all stop a command by
KeyboardInterrupt, so that what it was writing is removed.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from mova.errors import BackendError, UserError, printable

EXIT_CODES = (
    "Exit codes: 0 done; 1 the machine or a server failed; 2 the request cannot be met as it is; 130 stopped."
)
STOPPED = 130
STOPS = [number for number in signal.Signals if number.name in ("SIGINT", "SIGTERM", "SIGHUP")]


def run_command(command: Callable[[], int]) -> int:
    """Run `command`, in the main thread, and return its exit code, with a sentence on stderr if it fails."""
    received: list[int] = []
    with stop_signals(received):
        try:
            return command()
        except (Exception, KeyboardInterrupt) as error:
            # A library may turn the KeyboardInterrupt of a signal into a failure of its own.
            if received or isinstance(error, KeyboardInterrupt):
                say("stopped; no unfinished file is left")
                return STOPPED
            if isinstance(error, UserError):
                say(f"error: {error}")
                return 2
            if isinstance(error, BackendError):
                say(f"failed: {error}")
                return 1
            raise


def run_and_exit(command: Callable[[], int]) -> NoReturn:
    """Run `command` and leave Python: at once if it was stopped. A stop after its end changes nothing."""
    # Runs after all others: from then on Python would let a signal kill it.
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in STOPS])
    code = run_command(command)

    def leave(*_: object) -> None:
        sys.stdout.flush()
        os._exit(code)

    if code == STOPPED:  # Python may remember the interrupt and die of it, and threads may go on for long
        leave()
    for number in STOPS:
        signal.signal(number, leave)
    sys.exit(code)


@contextmanager
def stop_signals(received: list[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt at each of STOPS, and note it in `received`; those that are ignored stay so."""
    previous = {number: signal.getsignal(number) for number in STOPS}
    hook = sys.unraisablehook

    def stop(number: int, _: object) -> None:
        received.append(number)
        sys.unraisablehook = lambda _: None  # destructors of half-built objects complain
        raise KeyboardInterrupt

    try:
        for number, handler in previous.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in previous.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    sys.stderr.write(f"{printable(text, lines=True)}\n")
