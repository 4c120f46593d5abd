"""Twenty clients ask the page for a clip at the same moment; its line takes eight besides the one being made.

    python -m benchmarks.crowd [--clients 20] [--queue 8]

Uses the model that the page chooses for the machine, or MOVA_MODEL. Ends with 1 if a client got neither a
whole clip nor to hear that the machine is busy.
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gradio_client import Client
from gradio_client.exceptions import AppError

from mova.media import read_clip
from tests.browser.demo import Server

PROMPT = "A purple rubber ball bounces twice."
LONGEST_SECONDS = 1800


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
            clients = list(pool.map(lambda _: Client(server.url, verbose=False), range(options.clients)))
            jobs = [pool.submit(ask, client, seed) for seed, client in enumerate(clients)]
            answers = [job.result(LONGEST_SECONDS) for job in jobs]
        finally:
            server.close()
    made = sorted(seconds for seconds, error in answers if not error)
    busy = sorted(seconds for seconds, error in answers if "the machine is busy" in error)
    lost = [error for _, error in answers if error and "the machine is busy" not in error]
    sys.stdout.write(
        f"{len(made)} clips after {', '.join(f'{seconds:.0f}' for seconds in made)} s; "
        f"{len(busy)} heard that it is busy, the last after {max(busy, default=0):.1f} s; "
        f"{len(lost)} got neither {lost}\n"
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
    return time.monotonic() - began, "" if is_whole else f"another clip than was asked for: {settings}"


if __name__ == "__main__":
    sys.exit(main())
