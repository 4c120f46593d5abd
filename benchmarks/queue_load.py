"""Load on the page's queue: twenty clients request a clip at once, eight of them can wait.

    python -m benchmarks.queue_load [--clients 20] [--queue 8]

Uses the model that the page chooses for the machine, or MOVA_MODEL. Exit code 1: a client got neither
a whole clip nor the message that the machine is busy.
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from gradio_client import Client
from gradio_client.exceptions import AppError

from benchmarks.first_clip import memory_of
from mova.media.clips import read_clip
from tests.browser.page import Server

PROMPT = "A purple rubber ball bounces twice."
LONGEST_SECONDS = 1800
PATIENT = {"timeout": 60}  # a client's default of five seconds is short on a busy machine


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--queue", type=int, default=8)
    options = parser.parse_args()
    given = {name: os.environ.get(name, "") for name in ("MOVA_MODEL", "MOVA_SIZE", "MOVA_SECONDS")}
    cores = str(os.cpu_count())
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.clients) as pool:
        server = Server(Path(folder), **given, MOVA_QUEUE=str(options.queue), OMP_NUM_THREADS=cores)
        try:
            urls = [server.url] * options.clients
            clients = list(pool.map(lambda url: Client(url, verbose=False, httpx_kwargs=PATIENT), urls))
            jobs = [pool.submit(ask, client, seed) for seed, client in enumerate(clients)]
            answers = []
            for job in as_completed(jobs, LONGEST_SECONDS):
                answers.append(job.result())
                if not answers[-1][1]:
                    say(f"a clip after {answers[-1][0]:.0f} s: {memory_of(server)}")
        finally:
            server.close()
    made = [seconds for seconds, error in answers if not error]
    busy = [seconds for seconds, error in answers if "the machine is busy" in error]
    lost = [error for _, error in answers if error and "the machine is busy" not in error]
    say(
        f"{len(made)} clips; {len(busy)} answers that the machine is busy, the last after "
        f"{max(busy, default=0):.1f} s; "
        f"{len(lost)} got neither {lost}"
    )
    return 1 if lost else 0


def ask(client: Client, seed: int) -> tuple[float, str]:
    """Seconds until the answer, and the error if it is one."""
    began = time.monotonic()
    try:
        clip, settings = client.predict(
            image=None, prompt=PROMPT, preset="quick", seed=seed, api_name="/generate"
        )
    except AppError as error:
        return time.monotonic() - began, str(error)
    is_whole = len(read_clip(Path(clip)).frames) == settings["num_frames"] and settings["seed"] == seed
    return time.monotonic() - began, "" if is_whole else f"the clip does not match the request: {settings}"


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
