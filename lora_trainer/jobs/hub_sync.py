"""Files of a run in a repo of the Hub while a job trains: uploaded by the job, fetched by the page.

A repo is its owner's to write to, so nothing in it is trusted: only files of known names and sizes are
fetched, and of texts only what the page can read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download

from lora_trainer.jobs.runs import LOG, OUTCOME, PHASE, TrainingRun, link_or_copy
from lora_trainer.journal import ADAPTER, CHECKPOINTS, JOURNAL, KEPT
from mova.files import new_output

SAMPLES = "samples"
INBOX = "inbox"  # files as they came; the run's folder has what could be read of them
TEXTS = (JOURNAL, PHASE, OUTCOME, LOG)
FETCHED = re.compile(rf"{SAMPLES}/[\w-]{{1,80}}\.mp4|{ADAPTER}|{'|'.join(map(re.escape, TEXTS))}", re.ASCII)
MOST_BYTES = {ADAPTER: 4 * 2**30}  # what is larger stays where it is
MOST_BYTES_OF_OTHERS, MOST_FILES = 64 * 2**20, 200
ENDS = ("done", "stopped", "failed", "broken")
NUMBERS = {
    "step": ("step", "seconds", "video_loss", "audio_loss"),
    "sample": ("step",),
    "validation": ("step",),
}
Stamp = tuple[int, int]


class RepoSync:
    """Uploads the files of a run that changed since the last push."""

    def __init__(self, api: HfApi, repo: str, run: TrainingRun) -> None:
        self.api, self.repo, self.run = api, repo, run
        self.sent: dict[str, Stamp] = {}
        self.has_old_checkpoint = (run.folder / CHECKPOINTS).exists()

    def push(self, is_last: bool = False) -> None:
        """Push one commit. The adapter, which is large, goes with each new sample; the checkpoint that a
        stopped run resumes from goes with the last commit."""
        # Texts grow meanwhile: each is read once, and first, so that the files it names are uploaded with it.
        # The outcome comes with the adapter: the page stops asking when it has read it.
        names = [name for name in TEXTS if is_last or name != OUTCOME]
        texts = {name: path for name in names if (path := self.run.folder / name).is_file()}
        stamps = {name: stamp(path) for name, path in texts.items()}
        contents: dict[str, bytes | Path] = {name: path.read_bytes() for name, path in texts.items()}
        samples = {f"{SAMPLES}/{path.name}": path for path in (self.run.folder / SAMPLES).glob("*.mp4")}
        kept = {f"{KEPT}/{path.name}": path for path in (self.run.folder / KEPT).glob("keep-*")}
        files = samples | kept
        if self.run.adapter and (is_last or samples.keys() - self.sent.keys()):
            files[ADAPTER] = self.run.adapter
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        if is_last:
            if self.has_old_checkpoint:
                operations.append(CommitOperationDelete(f"{CHECKPOINTS}/", is_folder=True))
            if self.run.status().kind != "done":
                files |= self._checkpoint()
        stamps |= {name: stamp(path) for name, path in files.items()}
        contents |= files
        changed = [name for name, now in stamps.items() if now != self.sent.get(name)]
        if not changed:
            return
        operations += [CommitOperationAdd(name, contents[name]) for name in changed]
        self.api.create_commit(self.repo, operations, commit_message=f"Step {self.run.saved_step()}")
        self.sent |= {name: stamps[name] for name in changed}

    def _checkpoint(self) -> dict[str, Path]:
        folder = self.run.folder
        newest = max((folder / CHECKPOINTS).glob("step-*"), default=None)
        files = newest.iterdir() if newest else ()
        return {path.relative_to(folder).as_posix(): path for path in files}


def fetch(api: HfApi, repo: str, folder: Path, seen: str) -> str:
    """Fetch what is new in `repo` into the run's folder; `seen` and the result name the repo's state."""
    info = api.repo_info(repo, files_metadata=True)
    if info.sha == seen:
        return seen
    files = [file for file in info.siblings if FETCHED.fullmatch(file.rfilename)]
    for file in files[:MOST_FILES]:
        name, most = file.rfilename, MOST_BYTES.get(file.rfilename, MOST_BYTES_OF_OTHERS)
        if (file.size or 0) > most:
            continue
        path = hf_hub_download(
            repo, name, revision=info.sha, local_dir=folder / INBOX, token=api.token, endpoint=api.endpoint
        )
        take_in(Path(path), folder / name)
    return info.sha


def take_log(lines: Iterable[str], folder: Path) -> None:
    """Write the job's own log, where it ended before the run could report."""
    with new_output(folder / LOG, overwrite=True) as temporary:
        temporary.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


def take_in(source: Path, target: Path) -> None:
    """Put a fetched file where the page reads it."""
    if target.name not in TEXTS or target.name == LOG:
        link_or_copy(source, target)
        return
    lines = source.read_text(encoding="utf-8", errors="replace").splitlines()
    if target.name == JOURNAL:
        texts = [json.dumps(event) for event in map(read, lines) if is_event(event)]
    else:
        whole = read("\n".join(lines))
        texts = [json.dumps(whole)] if is_state(target.name, whole) else []
    if texts:
        with new_output(target, overwrite=True) as temporary:
            temporary.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def read(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_event(event: object) -> bool:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return False
    return have_types(int | float, event, NUMBERS.get(event["event"], ()))


def is_state(name: str, state: object) -> bool:
    if not isinstance(state, dict):
        return False
    if name == OUTCOME:
        return state.get("kind") in ENDS and have_types(str, state, ("message",))
    return have_types(str, state, ("what",)) and have_types(int, state, ("done", "count"))


def have_types(kind: Any, values: Mapping[str, object], names: Iterable[str]) -> bool:  # noqa: ANN401 - a type
    return all(isinstance(values.get(name), kind) for name in names)


def stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
