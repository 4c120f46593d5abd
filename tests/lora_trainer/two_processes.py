"""Functions run in two processes that talk over gloo on the CPU, as a launcher would start them.

Loading the libraries takes longer than the steps of a test, so one server loads them and every process is
forked from it.
"""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lora_trainer.base_model import load_model
from lora_trainer.config import Config
from lora_trainer.latent_cache import checkpoint_folder, read_index
from tests.ports import free_port

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lora_trainer.train", __name__])


def in_two_processes(work: Callable[[Path], Any], folder: Path, config: Config, codes=(0, 0)) -> list[Any]:
    """What `work(folder)` returns in each of two processes that ends with 0; `codes` are the exit codes."""
    (folder / "config.json").write_text(config.model_dump_json())
    port = free_port()
    processes = [FORKS.Process(target=_process, args=(work, folder, rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert tuple(process.exitcode for process in processes) == codes
    return [torch.load(folder / f"{rank}.pt") for rank in range(2) if codes[rank] == 0]


def _process(work: Callable[[Path], Any], folder: Path, rank: int, port: int) -> None:
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {key: str(value) for key, value in (launched | {"MASTER_PORT": port}).items()}
    torch.save(work(folder), folder / f"{rank}.pt")


def parts(folder: Path, offload: str = "none", **changes) -> tuple:
    """What an engine is made of: the test's config with changes to `run`, its cache, a fresh pipeline."""
    config = Config.model_validate_json((folder / "config.json").read_text())
    cache = read_index(config)
    config = config.model_copy(update={"output": folder / offload})
    config = config.model_copy(update={"run": config.run.model_copy(update={"offload": offload, **changes})})
    pipeline = load_model(checkpoint_folder(config), torch.device("cpu"), torch.float32, offload)
    return config, cache, pipeline
