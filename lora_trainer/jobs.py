"""Training runs as processes of their own, and their registry on the disk: no page needs to stay open.

Pages may be reloaded, restarted or be several: all that is known lies in the runs' folders. One run at a time
has the GPU, others wait (`lora_trainer.detached`).
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from lora_trainer.manifest import Item
from lora_trainer.runs import (
    ABOUT,
    CONFIG,
    DATA,
    LOG,
    OUTCOME,
    PHASE,
    STOP,
    About,
    Run,
    find_process,
    is_alive,
    read_run,
    write_json,
    write_ticket,
)
from mova.outputs import check_output, new_output
from mova.types import BackendError, UserError

ROOT = Path(__file__).parents[1]
RUN_ID = re.compile(r"[0-9a-f]{24}")
# The C library gives large tensors back to the system after each use and asks for them again. On a virtual
# machine that was half of the time that pocket's autoencoder took for a clip (5.3 against 2.6 s of a core).
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**28)}
UNFINISHED = 4  # runs of one owner that may wait or run at once


class Jobs:
    """The runs under `root`, a folder for each owner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._children: dict[Path, subprocess.Popen] = {}  # kept to be reaped, for nothing else

    def create(
        self,
        owner: str,
        about: About,
        settings: Mapping[str, Any],
        items: Iterable[Item],
        needed_bytes: int = 0,
    ) -> Run:
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
        return Run(folder, about)

    def start(self, run: Run) -> None:
        """Begin, or go on from what is saved. Raises UserError if it runs already."""
        self._reap()
        if is_alive(run.folder) and not (run.folder / OUTCOME).exists():
            raise UserError("this run is under way already")
        for name in (OUTCOME, STOP, PHASE):
            (run.folder / name).unlink(missing_ok=True)
        with (run.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lora_trainer.detached", str(run.folder)],
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

    def stop(self, run: Run) -> None:
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

    def runs(self, owner: str) -> list[Run]:
        """The owner's runs, the newest first."""
        folders = (self.root / owner).iterdir() if (self.root / owner).is_dir() else ()
        found = [read_run(folder) for folder in folders]
        return sorted((run for run in found if run), key=lambda run: run.about.created, reverse=True)

    def get(self, owner: str, run_id: object) -> Run:
        """One run of `owner`. Raises UserError if it is none of theirs."""
        run = read_run(self.root / owner / str(run_id)) if RUN_ID.fullmatch(str(run_id)) else None
        if run is None:
            raise UserError("this run is no longer here")
        self._reap()
        return run

    def delete(self, run: Run) -> None:
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


def write_data(folder: Path, items: Iterable[Item]) -> None:
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
