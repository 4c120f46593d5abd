"""A command that is stopped, by any signal at any time, ends with a sentence, code 130 and no part file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mova.cli.exits import STOPS, run_command
from mova.errors import BackendError, UserError
from mova.files import new_output

ROOT = Path(__file__).parents[2]
STOPPED = "stopped; no unfinished file is left\n"
START = "import sys, time\nfrom pathlib import Path\nfrom mova.cli.exits import run_and_exit\n"
WRITES = """
def command():
    from mova.files import new_output
    with new_output(Path("clip.mp4")) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
"""


def stopped(code, number, **options):
    """Run Python code that says "ready", send it a signal, and read its (exit code, messages)."""
    # Where the tests run under `nohup` the signal would stay ignored.
    options = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)} | options
    process = subprocess.Popen(
        [sys.executable, "-c", START + code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, messages = process.communicate(timeout=120)
    return process.returncode, messages


@pytest.mark.parametrize("number", STOPS)
def test_every_stop_removes_what_was_being_written(number):
    assert stopped(f"{WRITES}\nrun_and_exit(command)", number) == (130, STOPPED)
    assert not list(Path().iterdir())


def test_a_signal_that_is_ignored_stays_so():
    """`nohup`, and jobs that a script starts in the background."""
    code = """
def command():
    print("ready", flush=True)
    time.sleep(1)
    return 0
run_and_exit(command)
"""
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    assert stopped(code, signal.SIGHUP, **ignore) == (0, "")


@pytest.mark.parametrize("answer", ["raise RuntimeError('initialization failed')", "del half; raise"])
def test_a_library_that_answers_the_stop_in_its_own_way_changes_nothing(answer):
    code = f"""
class Half:
    def __del__(self):
        self.file
def command():
    half = Half()
    print("ready", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        {answer}
run_and_exit(command)
"""
    assert stopped(code, signal.SIGINT) == (130, STOPPED)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_after_the_end_takes_nothing_back(number):
    code = """
import atexit
def late():
    print("ready", flush=True)
    time.sleep(1)
atexit.register(late)
run_and_exit(lambda: 0)
"""
    assert stopped(code, number) == (0, "")


def test_a_stop_while_the_name_is_claimed_leaves_no_empty_file(monkeypatch):
    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), new_output(Path("clip.mp4")) as temporary:
        temporary.write_text("whole")
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("give a name"), 2, "error: give a name\n"),
        (BackendError("the disk is full\x1b[31m"), 1, "failed: the disk is full\\x1b[31m\n"),
        (KeyboardInterrupt(), 130, STOPPED),
    ],
)
def test_a_failure_is_a_sentence_and_a_code(capsys, error, code, message):
    def command():
        raise error

    before = [signal.getsignal(number) for number in STOPS]
    assert run_command(command) == code
    assert capsys.readouterr().err == message
    assert [signal.getsignal(number) for number in STOPS] == before


def test_an_error_of_our_own_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
