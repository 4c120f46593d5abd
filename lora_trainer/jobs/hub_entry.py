"""A run inside a job of the Hub: `python -m lora_trainer.jobs.hub_entry REPO SECONDS ENDS`, started by `hub`.

It trains as on any machine (`runs`), and uploads its results to the run's repo as they come. The
token is in HF_TOKEN, where the Hub's library finds it.
"""

import logging
import signal
import sys
import time
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, snapshot_download

from lora_trainer.jobs.hub_sync import RepoSync
from lora_trainer.jobs.runs import (
    ABOUT,
    CONFIG,
    OUTCOME,
    STOP,
    RunRegistry,
    TrainingRun,
    read_run,
)
from lora_trainer.journal import CHECKPOINTS, JOURNAL, KEPT
from mova.files import read_json, write_json

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
PUSH_SECONDS, PUSH_SHARE = 60, 1 / 50  # between commits: at first, and of the time that has gone
SAVE_SECONDS = 300  # at the end of the job's time, reserved for saving
LAST_TRIES = 10
LEFT = [ABOUT, CONFIG, JOURNAL, f"{CHECKPOINTS}/*", f"{KEPT}/*"]  # for the next job
HUB_FAILS = (OSError, httpx2.TransportError)  # what the Hub answers is an OSError, too


def main(repo: str, seconds: float, ends: float) -> int:
    """Train the run in `repo` to its end; 0 if it is done.

    It is saved before `seconds` are over, and before the token ends (seconds since 1970).
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # its addresses may be signed
    began, api = time.monotonic(), HfApi()
    seconds = min(seconds, ends - time.time())
    jobs, run = RunRegistry(Path("runs").absolute()), prepare(repo, Path("runs/job/run").absolute())
    sync = RepoSync(api, repo, run)
    signal.signal(signal.SIGTERM, lambda *_: jobs.stop(run))
    jobs.start(run)
    pushed, said = 0.0, ""
    while run.status().is_live:
        time.sleep(LOOK_SECONDS)
        gone = time.monotonic() - began
        if not (run.folder / STOP).exists() and (
            gone > seconds - min(SAVE_SECONDS, seconds / 4) or is_asked_to_stop(api, repo)
        ):
            jobs.stop(run)
        if gone - pushed > max(PUSH_SECONDS, gone * PUSH_SHARE):
            pushed = gone
            try_to_push(sync)
        if (now := str(run.status())) != said:
            said = now
            logger.info("%s", now)
    status = run.status()
    if status.kind == "broken":  # its process could not say so
        write_json(run.folder / OUTCOME, {"kind": "broken", "message": status.message})
    sys.stderr.write(f"{run.log_tail()}\n")
    for wait in range(LAST_TRIES):
        if try_to_push(sync, is_last=True):
            break
        time.sleep(2**wait)
    return 0 if status.kind == "done" else 1


def prepare(repo: str, folder: Path) -> TrainingRun:
    """The run's folder as its repo has it, with the state that an earlier job left."""
    snapshot_download(repo, allow_patterns=LEFT, local_dir=folder)
    write_json(folder / CONFIG, read_json(folder / CONFIG) | {"output": str(folder)})
    return read_run(folder)


def is_asked_to_stop(api: HfApi, repo: str) -> bool:
    try:
        return api.file_exists(repo, STOP)
    except HUB_FAILS:
        return False


def try_to_push(sync: RepoSync, is_last: bool = False) -> bool:
    """True if the Hub took it; what it did not take goes with the next push."""
    try:
        sync.push(is_last)
    except HUB_FAILS as error:
        logger.warning("the Hub did not take what was sent (%s)", error)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
