"""Runs on Hugging Face Jobs, against a server of that API's shape; the job's own command runs here."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_trainer.hub_jobs import HubJobs, Login
from lora_trainer.jobs import Jobs
from lora_trainer.journal import ADAPTER
from lora_trainer.manifest import read_items
from lora_trainer.runs import About
from mova.strengths import TOWERS
from tests.hub_server import TOKEN, running_hub

ROOT = Path(__file__).parents[2]
STEPS = 6
ACCELERATOR = {"type": "gpu", "quantity": "1", "manufacturer": "Nvidia"}
PRICE = {
    "unitCostMicroUSD": 83333,
    "unitCostUSD": 0.083333,
    "unitLabel": "minute",
    "ephemeralStorage": "3 TB",
}
HARDWARE = [
    {"name": "h200", "prettyName": "Nvidia H200", "cpu": "23 vCPU", "ram": "256 GB", **PRICE}
    | {"accelerator": ACCELERATOR | {"model": "H200", "vram": "141 GB"}},
    {"name": "h200x8", "prettyName": "8x Nvidia H200", "cpu": "184 vCPU", "ram": "2 TB", **PRICE}
    | {"accelerator": ACCELERATOR | {"model": "H200", "vram": "1128 GB", "quantity": "8"}},
    {"name": "cpu-upgrade", "prettyName": "CPU Upgrade", "cpu": "8 vCPU", "ram": "32 GB", **PRICE}
    | {"unitCostUSD": 0.0005, "ephemeralStorage": "N/A"},
    {"name": "inf2", "prettyName": "Inferentia", "cpu": "4 vCPU", "ram": "16 GB", **PRICE}
    | {"accelerator": ACCELERATOR | {"model": "Inf2", "vram": "32 GB", "manufacturer": "AWS"}},
]
# What the image has and this machine may not: uv, which here finds everything installed.
TOOLS = {
    "uvx": '#!/bin/sh\n[ "$1 $2 $3" = "--from huggingface_hub hf" ] && shift 3\nexec {bin}/hf "$@"\n',
    "uv": '#!/bin/sh\necho "uv $@"\n',
    "python": '#!/bin/sh\nexec {bin}/python "$@"\n',
}


@pytest.fixture
def hub(golden):
    with running_hub(golden / "checkpoint") as server:
        server.hardware = HARDWARE
        code = [ROOT / "requirements.txt", *ROOT.glob("prompts/**/*"), *ROOT.glob("*/*.py")]
        code += [*ROOT.glob("mova/**/*.py"), *ROOT.glob("lora_trainer/**/*.py")]
        server.repos["org/space"] = {
            path.relative_to(ROOT).as_posix(): path.read_bytes()
            for path in code
            if path.is_file() and path.relative_to(ROOT).parts[0] in ("mova", "lora_trainer", "prompts")
        } | {"requirements.txt": b""}
        yield server


@pytest.fixture
def login():
    return Login("me", TOKEN, ("openid", "contribute-repos", "jobs"), time.time() + 3600)


@pytest.fixture
def away(hub):
    return HubJobs("org/space", endpoint=hub.url)


@pytest.fixture
def make(tmp_path, clips):
    """A run on the three clips, not yet sent."""

    def make(**changes):
        run = {"steps": STEPS, "accumulation": 1, "checkpoint_every": 2, "validate_every": 0}
        settings = {
            "model": "org/tiny",
            "data": {"size": "64x32", "num_frames": [9], "buckets": False},
            "run": run | {"gradient_checkpointing": False} | changes,
            "towers": {name: {"rank": 2} for name in TOWERS},
            "samples": {"every": 3, "num_inference_steps": 2, "clips": [{"prompt": "A lamp.", "seed": 1}]},
        }
        about = About("lamp", "tiny", "A lamp.", 3, STEPS, "", False, time.time())
        return Jobs(tmp_path / "runs").create("one", about, settings, read_items(str(clips)))

    return make


@pytest.fixture
def play(hub, tmp_path):
    """Does what the platform does with a job: runs its command with its secrets, in a folder of its own."""

    started = []

    def play(job, **environment):
        place = tmp_path / f"machine-{len(started)}"
        tools = place / "tools"
        tools.mkdir(parents=True)
        for name, text in TOOLS.items():
            (tools / name).write_text(text.format(bin=Path(sys.executable).parent))
            (tools / name).chmod(0o755)
        path = os.pathsep.join([str(tools), "/usr/bin", "/bin"])
        clean = {"PATH": path, "HOME": str(place), "HF_ENDPOINT": hub.url, "CUDA_VISIBLE_DEVICES": ""}
        asked = job["asked"]
        job["told"]["status"] = {"stage": "RUNNING", "message": None}
        process = subprocess.Popen(
            asked["command"],
            cwd=place,
            env=clean | asked["environment"] | asked["secrets"] | environment,
            stdout=(place / "log.txt").open("wb"),
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield play
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_run_goes_to_a_job_and_its_adapter_comes_back(hub, away, login, make, play, tmp_path):
    run = make()
    away.send(run, login)
    away.begin(run, login, away.offers()[-1], 1800)
    (job,) = hub.jobs
    process = play(job)
    code = process.wait(240)
    log = (tmp_path / "machine-0" / "log.txt").read_text()
    assert code == 0, log
    away.look(run, login, at_once=True)
    assert run.status().kind == "done", log
    assert run.adapter == run.folder / ADAPTER
