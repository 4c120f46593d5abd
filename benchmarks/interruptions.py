"""Stop commands at random moments, fill their disk, make their folders read-only, and look at what is left.

    python -m benchmarks.interruptions [--trials 20] [--only generate SIGTERM]

Runs on the tiny golden checkpoint, on the CPU. A trial is right if the command ends with a sentence and the
exit code of its case, leaves no part file, keeps or replaces whole every file that was there, and, for
`train`, a later `--resume` finishes. Every fourth trial of a signal starts a new Python, so that imports are
hit as well; the others are forked. Root may write anywhere: run it as another user, or under
`setpriv --bounding-set=-dac_override --inh-caps=-all`.
"""

import argparse
import fcntl
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads of its own cannot be forked

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

import lora_trainer.__main__
import lora_trainer.train
import mova.backends.local
import mova.cli.main
from mova.cli.exits import run_and_exit
from mova.media.clips import read_clip
from tests.lora_trainer.clips import make_clip

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "tests" / "golden" / "checkpoint"
CASES = ("SIGINT", "SIGTERM", "disk full", "read-only")
# 0: the stop came after the last step, and the result is there.
EXIT_CODES = {"SIGINT": (0, 130), "SIGTERM": (0, 130), "disk full": (1,), "read-only": (2,)}
HUNG_SECONDS = 180
PIPE_BYTES = 2**20
SEED = 19


@dataclass(frozen=True)
class Command:
    """A command line under trial: `setup` fills a new folder and gives the arguments."""

    module: str  # of python -m
    main: Callable[[list[str]], int]
    setup: Callable[[Path, int], list[str]]
    # Of a new output, and of one that is there already: names in the folder of which one is made read-only.
    read_only: tuple[tuple[str, ...], tuple[str, ...]]


@dataclass
class Tally:
    """The outcome of the trials of one case."""

    trials: int = 0
    codes: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, code: int, faults: list[str], messages: str) -> None:
        self.trials += 1
        self.codes[code] += 1
        self.faults.update({fault.partition(":")[0] for fault in faults})
        if faults:
            self.examples.append(f"exit {code}, {'; '.join(faults)}\n{messages[-1500:]}")


def set_up_generate(folder: Path, number: int) -> list[str]:
    """A new clip with copies of its sound and frames, or, every other time, one that replaces another's."""
    (folder / "old.mp4").write_bytes((TEMPLATES / "clip.mp4").read_bytes())
    small = ["--size", "64x32", "--frames", "5", "--steps", "2", "--device", "cpu"]
    outputs = ["--out", "out/clip.mp4", "--wav", "out/sound.wav", "--png", "out/frames"]
    (folder / "out").mkdir()
    if number % 2:
        shutil.copy(TEMPLATES / "clip.mp4", folder / "out")
        outputs.append("--overwrite")
    return ["generate", "--prompt", "a bell rings", "--model", str(CHECKPOINT), *small, *outputs]


def set_up_train(folder: Path, number: int) -> list[str]:
    """A new run on two clips, or, every other time, the continuation of one."""
    settings = {
        "data.size": "64x32",
        "data.buckets": "false",
        "data.num_frames": "[9]",
        "run.accumulation": 1,
        "run.checkpoint_every": 2,
        "run.keep_checkpoints": 20,
        "run.validate_every": 0,
        "run.dtype": "float32",
        "towers.video_dit.rank": 2,
    }
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    if number % 2 and (TEMPLATES / "run").exists():
        shutil.copytree(TEMPLATES / "run", folder / "out")
    steps = "8" if number % 2 else "4"
    paths = ["--model", str(CHECKPOINT), "--data", str(TEMPLATES / "clips"), "--output", "out"]
    return [
        "train",
        *paths,
        "--device",
        "cpu",
        "--steps",
        steps,
        *changes,
        *(["--resume"] if number % 2 else []),
    ]


def set_up_extend(folder: Path, number: int) -> list[str]:
    """A small clip to continue by two windows, and, every other time, an output to replace."""
    shutil.copy(TEMPLATES / "made.mp4", folder / "clip.mp4")
    if number % 2:
        (folder / "out").mkdir()
        shutil.copy(TEMPLATES / "made.mp4", folder / "out" / "longer.mp4")
    window = ["--seconds", "0.6", "--overlap", "0.2", "--window", "0.55"]
    where = ["--device", "cpu", "--out", "out/longer.mp4", *(["--overwrite"] if number % 2 else [])]
    return ["extend", "clip.mp4", *window, *where]


COMMANDS = {
    "generate": Command("mova", mova.cli.main.main, set_up_generate, (("out",), ("out", "out/clip.mp4"))),
    "extend": Command("mova", mova.cli.main.main, set_up_extend, ((".",), ("out", "out/longer.mp4"))),
    "train": Command(
        "lora_trainer",
        lora_trainer.__main__.main,
        set_up_train,
        ((".",), ("out", "out/checkpoints", "out/journal.jsonl")),
    ),
}
TEMPLATES = Path(tempfile.mkdtemp(prefix="interruptions-"))


def start(command: Command, arguments: list[str], folder: Path, max_file: int | None, is_cold: bool) -> tuple:
    """Start a command in `folder`: its process id and the reading end of its output."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if is_cold:
        line = [sys.executable, "-m", command.module, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pid = subprocess.Popen(line, cwd=folder, env=environment, stdout=writing, stderr=writing).pid
    elif not (pid := os.fork()):
        os.chdir(folder)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        if max_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file, max_file))
        try:
            run_and_exit(lambda: command.main(arguments))
        except SystemExit as error:
            sys.stdout.flush()
            os._exit(error.code)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(99)
    os.close(writing)
    return pid, reading


def wait(
    pid: int, reading: int, number: signal.Signals | None = None, moment: float = 0
) -> tuple[int, str, float, bool]:
    """Send the signal at its moment: exit code, messages, seconds, and True if it came before the end."""
    began, is_hit = time.monotonic(), False
    if number is not None:
        time.sleep(moment)
        is_hit = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        os.kill(pid, number)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        time.sleep(0.01)
        if time.monotonic() - began > HUNG_SECONDS:
            os.kill(pid, signal.SIGKILL)
    seconds = time.monotonic() - began
    with os.fdopen(reading, "rb") as pipe:
        messages = pipe.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(ended[1]), messages, seconds, is_hit


def content(folder: Path) -> dict[str, str]:
    """SHA-256 by path of all files in a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def is_whole(path: Path) -> bool:
    """True if a file can be read to its end by the reader of its kind."""
    try:
        if path.suffix == ".mp4":
            return len(read_clip(path).frames) > 0
        if path.suffix == ".wav":
            with wave.open(str(path)) as file:
                return len(file.readframes(file.getnframes())) == file.getnframes() * file.getsampwidth() > 0
        if path.suffix == ".png":
            Image.open(path).load()
        if path.suffix == ".npz":  # a finished window of `extend`
            return all(np.load(path)[key].size > 0 for key in np.load(path))
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return bool(list(file.keys()))
        return path.suffix in (".png", ".jsonl") or path.stat().st_size > 0
    except Exception:
        return False


def faults_of(case: str, code: int, messages: str, before: dict[str, str], folder: Path) -> list[str]:
    after, lines = content(folder), messages.replace("\r", "\n").strip().splitlines()
    found = [f"part file: {name}" for name in after if ".part" in name or ".lock" in name]
    for name, digest in before.items():
        may_change = name.startswith("out/") and not name.startswith("out/checkpoints/")
        if name not in after or (after[name] != digest and not may_change):
            found.append(f"overwritten: {name}")
    found += [
        f"not whole: {name}"
        for name in after
        if after[name] != before.get(name) and not is_whole(folder / name)
    ]
    if "Traceback" in messages:
        found.append("traceback")
    if code not in EXIT_CODES[case]:
        found.append(f"exit code: {code}")
    if code and not any(line.startswith(("error:", "failed:", "stopped")) for line in lines):
        found.append("no sentence")
    return found


def largest_file(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def trial(command: Command, case: str, number: int, seconds: dict[bool, float], largest: int) -> tuple:
    """One trial: exit code, faults, messages."""
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        folder = Path(name)
        arguments = command.setup(folder, number)
        is_signal = case.startswith("SIG")
        is_cold = is_signal and number % 4 == 3
        locked = []
        if case == "read-only":
            locked = [folder / random.choice(command.read_only[number % 2])]
            locked[0].chmod(0o555 if locked[0].is_dir() else 0o444)
        before = content(folder)
        limit = int(largest * random.random() ** 2) if case == "disk full" else None
        moment = random.random() * seconds[is_cold]
        process = start(command, arguments, folder, limit, is_cold)
        code, messages, _, is_hit = wait(*process, signal.Signals[case] if is_signal else None, moment)
        if is_signal and not is_hit:  # it had ended: again, earlier
            seconds[is_cold] *= 0.9
            return trial(command, case, number, seconds, largest)
        faults = faults_of(case, code, messages, before, folder)
        for path in locked:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if (command.module == "lora_trainer" or arguments[0] == "extend") and code != 0:
            is_as_before = arguments[0] == "extend" or "--resume" in arguments
            again = arguments if is_as_before else [*arguments, "--resume"]
            resumed, said, *_ = wait(*start(command, again, folder, None, False))
            if resumed:
                faults.append(f"resume: {said[-500:]}")
        return code, faults, messages


def measure(name: str, command: Command) -> tuple[dict[bool, float], int]:
    """Seconds of the whole command, forked and in a new Python, and the size of its largest file."""
    seconds, largest = {}, 0
    for is_cold in (False, True):
        folder = Path(tempfile.mkdtemp(dir=TEMPLATES))
        process = start(command, command.setup(folder, 0), folder, None, is_cold)
        code, messages, seconds[is_cold], _ = wait(*process)
        if code:
            sys.exit(f"{name} does not run here: {messages}")
        largest = largest_file(folder / "out")
        if name == "train" and not (TEMPLATES / "run").exists():
            shutil.copytree(folder / "out", TEMPLATES / "run")
    return seconds, largest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20, help="of each command in each case")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="commands and cases to try")
    options = parser.parse_args()
    random.seed(SEED)
    torch.set_num_threads(1)
    try:
        prepare()
        chosen = [name for name in COMMANDS if name in options.only] or list(COMMANDS)
        cases = [case for case in CASES if case in options.only] or list(CASES)
        examples = []
        sys.stdout.write(
            "| command | case | trials | part files | damaged | tracebacks | other faults | exit codes |\n"
        )
        sys.stdout.write("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |\n")
        for name in chosen:
            seconds, largest = measure(name, COMMANDS[name])
            for case in cases:
                tally = Tally()
                for number in range(options.trials):
                    tally.add(*trial(COMMANDS[name], case, number, seconds, largest))
                sys.stdout.write(row(name, case, tally))
                sys.stdout.flush()
                examples += [f"{name}, {case}: {example}" for example in tally.examples]
        sys.stderr.write("\n".join(examples) + "\n" if examples else "")
        sys.exit(1 if examples else 0)
    finally:
        shutil.rmtree(TEMPLATES)


def prepare() -> None:
    """Templates of what lies there before a trial. Exits if permissions do not bind this user."""
    locked = TEMPLATES / "locked"
    locked.mkdir(mode=0o555)
    try:
        (locked / "file").touch()
    except PermissionError:
        pass
    else:
        sys.exit("this user may write anywhere; see --help for how to run it")
    (TEMPLATES / "clips").mkdir()
    for name in "ab":
        make_clip(TEMPLATES / "clips" / f"{name}.mp4", 0.75)
    make_clip(TEMPLATES / "clip.mp4", 0.5, caption=None)
    small = ["--size", "64x32", "--frames", "9", "--steps", "2", "--guidance-scale", "1"]
    made = ["generate", "--model", str(CHECKPOINT), "--prompt", "a lamp", "--device", "cpu", *small]
    mova.cli.main.main([*made, "--out", str(TEMPLATES / "made.mp4")])


def row(name: str, case: str, tally: Tally) -> str:
    faults = tally.faults
    others = {
        key: count
        for key, count in faults.items()
        if key not in ("part file", "not whole", "overwritten", "traceback")
    }
    codes = ", ".join(f"{code} x {count}" for code, count in sorted(tally.codes.items()))
    cells = (
        *(name, case, tally.trials, faults["part file"], faults["not whole"] + faults["overwritten"]),
        *(faults["traceback"], ", ".join(f"{key} {count}" for key, count in others.items()) or "none", codes),
    )
    return f"| {' | '.join(map(str, cells))} |\n"


if __name__ == "__main__":
    main()
