"""Runs on Hugging Face Jobs, against a server of that API's shape; the job's own command runs here."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from lora_trainer.jobs import hub_sync
from lora_trainer.jobs.hub import HubJobs, HubLogin
from lora_trainer.jobs.runs import JOB, STOP, RunInfo, RunRegistry, find_process, read_run
from lora_trainer.journal import ADAPTER
from lora_trainer.manifest import read_items
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import TOWERS
from mova.errors import BackendError, UserError
from mova.files import write_json
from tests.hub_server import HARDWARE, TOKEN, running_hub
from tests.ports import closed_address

ROOT = Path(__file__).parents[3]
STEPS = 30
KEEPING = {"keep_count": 2, "keep_prompts": ["A drum."]}
IMPATIENT = (
    (b"LOOK_SECONDS = 5.0", b"LOOK_SECONDS = 0.5"),
    (b"PUSH_SHARE = 60, 1 / 50", b"PUSH_SHARE = 1, 0"),
)
# What the image has and this machine may not: uv, which here finds everything installed.
TOOLS = {
    "uvx": '#!/bin/sh\n[ "$1 $2 $3" = "--from huggingface_hub hf" ] && shift 3\nexec {bin}/hf "$@"\n',
    "uv": '#!/bin/sh\necho "uv $@"\n',
    "python": '#!/bin/sh\nexec {bin}/python "$@"\n',
}


@pytest.fixture
def hub(golden):
    with running_hub(golden / "checkpoint") as server:
        code = [ROOT / "requirements.txt", *ROOT.glob("prompts/**/*"), *ROOT.glob("*/*.py")]
        code += [*ROOT.glob("mova/**/*.py"), *ROOT.glob("lora_trainer/**/*.py")]
        server.repos["org/space"] = {
            path.relative_to(ROOT).as_posix(): path.read_bytes()
            for path in code
            if path.is_file() and path.relative_to(ROOT).parts[0] in ("mova", "lora_trainer", "prompts")
        } | {"requirements.txt": b""}
        code = server.repos["org/space"]
        for old, new in IMPATIENT:
            assert old in code["lora_trainer/jobs/hub_entry.py"]
            code["lora_trainer/jobs/hub_entry.py"] = code["lora_trainer/jobs/hub_entry.py"].replace(old, new)
        yield server


@pytest.fixture
def login():
    return HubLogin("me", TOKEN, ("openid", "contribute-repos", "jobs"), time.time() + 3600)


@pytest.fixture
def away(hub):
    return HubJobs("org/space", endpoint=hub.url)


@pytest.fixture
def make(tmp_path, clips):
    """A run on the three clips, not yet sent."""

    def make(**changes):
        run = {"steps": STEPS, "accumulation": 1, "checkpoint_every": 10, "validate_every": 0}
        settings = {
            "model": "org/tiny",
            "data": {"size": "64x32", "num_frames": [9], "buckets": False} | KEEPING,
            "run": run | {"gradient_checkpointing": False} | changes,
            "towers": {name: {"rank": 2} for name in TOWERS},
            "samples": {"every": 15, "num_inference_steps": 2, "clips": [{"prompt": "A lamp.", "seed": 1}]},
        }
        about = RunInfo("lamp", "tiny", "A lamp.", 3, STEPS, "", False, time.time())
        return RunRegistry(tmp_path / "runs").create("one", about, settings, read_items(str(clips)))

    return make


@pytest.fixture
def sent(away, login, make, hub):
    """A run whose job is waiting for a machine, and that job as the server knows it."""
    run = make()
    away.upload(run, login)
    away.submit(run, login, away.offers()[0], 1800)
    return run, hub.jobs[-1]


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
        clean = {"PATH": path, "HOME": str(place), "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}
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
    for folder in tmp_path.glob("machine-*/mova/runs/job/run"):
        if trainer := find_process(folder):
            trainer.kill()


def wait_for(test, told=lambda: "waited in vain", seconds=120, pause=0.01):
    """What `test` gives as soon as it is true; else what `told` tells."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := test():
            return found
        time.sleep(pause)
    raise AssertionError(told())


def is_at_step(folder, step):
    return (run := read_run(folder)) and run.status().phase == "train" and run.status().done >= step


def look_until(away, run, login, test):
    """Look at the run's job until `test` holds."""

    def look():
        away.refresh(run, login)
        return test(run)

    wait_for(look, lambda: f"{run.status()}\n{run.log_tail()}", pause=0.3)


def test_what_goes_to_the_hub_is_private_and_holds_no_path_and_no_token(sent, hub, tmp_path, clips):
    run, job = sent
    name = f"lamp-{run.run_id[:8]}"
    assert {repo: made["visibility"] for repo, made in hub.made.items()} == {
        f"me/{name}-clips": "private",
        f"me/{name}": "private",
    }
    assert hub.made[f"me/{name}-clips"]["type"] == "dataset"
    assert hub.repos[f"me/{name}-clips"]["a.mp4"] == (clips / "a.mp4").read_bytes()
    assert b"Lamp a blinks" in hub.repos[f"me/{name}-clips"]["metadata.jsonl"]
    assert hub.repos[f"me/{name}"].keys() == {"about.json", "config.json", "job.json"}
    sent_bytes = b"".join(content for repo in hub.made for content in hub.repos[repo].values())
    assert str(tmp_path).encode() not in sent_bytes
    asked = job["asked"]
    assert asked["secrets"] == {"HF_TOKEN": TOKEN}
    assert asked["timeoutSeconds"] == 1800
    del asked["secrets"]
    assert TOKEN not in f"{asked} {hub.paths} {HubLogin('me', TOKEN, (), 0.0)}"
    assert TOKEN.encode() not in sent_bytes
    assert not files_with(TOKEN, tmp_path)


def test_a_sample_comes_with_the_line_that_tells_of_it(sent, monkeypatch):
    run, _ = sent
    event, stamp, sent_together = b'{"event": "sample", "step": 0}\n', hub_sync.stamp, []

    def stamp_as_the_trainer_goes_on(path):
        (run.folder / hub_sync.SAMPLES).mkdir(exist_ok=True)
        (run.folder / hub_sync.SAMPLES / "step-000000-0.mp4").write_bytes(b"clip")
        (run.folder / hub_sync.JOURNAL).write_bytes(event)
        return stamp(path)

    def create_commit(_repo, operations, **_):
        sent_together.extend(operation.path_in_repo for operation in operations)

    (run.folder / hub_sync.JOURNAL).write_bytes(b"")
    monkeypatch.setattr(hub_sync, "stamp", stamp_as_the_trainer_goes_on)
    hub_sync.RepoSync(SimpleNamespace(create_commit=create_commit), "me/lamp", run).push()
    assert {hub_sync.JOURNAL, f"{hub_sync.SAMPLES}/step-000000-0.mp4"} <= set(sent_together)


def test_a_look_brings_one_state_though_the_job_sends_the_next(hub, away, login, sent, monkeypatch):
    run, job = sent
    job["told"]["status"]["stage"] = "RUNNING"
    api, download = HfApi(hub.url, TOKEN), hub_sync.hf_hub_download

    def push(done):
        phase = json.dumps({"what": "train", "done": done, "count": STEPS}).encode()
        api.create_commit(
            run.job["repo"], [CommitOperationAdd(hub_sync.PHASE, phase)], commit_message="Goes on"
        )

    def download_late(*names, **options):
        push(2)
        return download(*names, **options)

    push(1)
    with monkeypatch.context() as patch:
        patch.setattr(hub_sync, "hf_hub_download", download_late)
        away.refresh(run, login)
    assert run.status().done == 1
    away.refresh(run, login)
    assert run.status().done == 2


@pytest.mark.slow
def test_a_job_sends_losses_stops_when_asked_goes_on_and_its_adapter_comes_back(
    hub, away, login, sent, play, tmp_path
):
    run, job = sent
    assert run.status().kind == "waiting"
    process = play(job)
    there = tmp_path / "machine-0/mova/runs/job/run"
    trainer = wait_for(lambda: is_at_step(there, 3) and find_process(there))
    trainer.suspend()  # its steps are so short that it could end before it hears
    look_until(away, run, login, lambda run: run.status().phase == "train" and run.status().done > 2)
    assert "CPU Upgrade, about $0.00 so far" in run.status().message
    assert run.events()[1]["event"] == "base"
    assert (run.folder / "samples" / "step-000000-0.mp4").stat().st_size
    away.stop(run, login)
    assert run.status().kind == "stopping"
    wait_for((there / STOP).exists)
    trainer.resume()
    assert process.wait(60) == 1
    away.refresh(run, login)
    step = run.events()[-1]["step"]
    assert run.status().kind == "stopped", run.log_tail()
    assert 2 < step < STEPS
    first = run.adapter.read_bytes()

    with pytest.raises(UserError, match="is just ending; wait a minute"):
        away.submit(run, login, away.offers()[0], 1800)
    repo = hub.repos[f"me/lamp-{run.run_id[:8]}"]
    assert {f"kept/keep-{index:04d}.mp4" for index in range(2)} < repo.keys()
    repo["kept/keep-0000.txt"] += b"\n"  # as only the repo has it
    job["told"]["status"]["stage"] = "ERROR"
    away.submit(run, login, away.offers()[0], 1800)
    assert run.status().kind == "waiting"
    assert play(hub.jobs[-1]).wait(120) == 0
    away.refresh(run, login)
    assert run.status().kind == "done"
    assert [event["step"] for event in run.events() if event["event"] == "resumed"] == [step]
    assert [event["step"] for event in run.events() if event["event"] == "step"] == list(range(1, STEPS + 1))
    assert run.adapter == run.folder / ADAPTER
    assert run.adapter.read_bytes() != first
    assert read_adapter(str(run.adapter))
    (kept,) = tmp_path.glob("machine-1/mova/runs/job/run/kept")
    assert (kept / "keep-0000.txt").read_bytes() == b"A drum.\n\n"
    assert not (run.folder / "kept").exists()  # nobody looks at them
    assert not any(name.startswith("checkpoints/") for name in repo)
    assert not files_with(TOKEN, tmp_path)


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ("POST /api/jobs/me", 402, "has no credit for Jobs; add some at https://"),
        ("POST /api/jobs/me", 403, "sign out, sign in again and allow jobs"),
        ("POST /api/repos/create", 401, "this sign-in has ended; sign in again"),
        ("POST /api/jobs/me", 429, "wait a minute"),
        ("POST /api/jobs/me", 503, r"the Hub failed \(503\); nothing is lost"),
    ],
    ids=["no credit", "no scope", "signed out", "too often", "broken"],
)
def test_what_the_hub_refuses_is_a_sentence(hub, away, login, make, asked, status, sentence):
    run, hub.refusals = make(), {asked: status}
    with pytest.raises((UserError, BackendError), match=sentence):
        away.upload(run, login)
        away.submit(run, login, away.offers()[0], 1800)
    assert hub.jobs == []
    hub.refusals = {}
    away.upload(run, login)  # as nothing is lost
    away.submit(run, login, away.offers()[0], 1800)
    assert run.status().kind == "waiting"


def test_a_hub_that_is_not_there_is_a_sentence(away, login, sent):
    away.endpoint = closed_address()
    for ask in (away.offers, lambda: away.refresh(sent[0], login), lambda: away.stop(sent[0], login)):
        with pytest.raises(BackendError, match="the Hub cannot be reached"):
            ask()
    assert sent[0].status().kind == "waiting"


def test_machines_are_those_that_can_train_at_prices_that_can_be_read(hub, away):
    upgrade, card = away.offers()
    assert (upgrade.flavor, upgrade.gpu, upgrade.cores, upgrade.disk) == ("cpu-upgrade", None, 8, 0)
    assert (card.flavor, card.gpu.name, card.ram, card.disk) == ("h200", "H200", 256 * 10**9, 3 * 10**12)
    assert (round(upgrade.price, 2), round(card.price, 2)) == (0.03, 5.0)
    hub.hardware = [each | {"unitLabel": "moon"} for each in HARDWARE]
    with pytest.raises(BackendError, match="no machine with a readable price"):
        away.offers()
    hub.refusals = {"GET /api/jobs/hardware": 500}
    with pytest.raises(BackendError, match="the Hub failed"):
        away.offers()


@pytest.mark.parametrize(
    ("stage", "message", "kind", "sentence"),
    [
        ("CANCELED", None, "stopped", "the job was cancelled; it had sent nothing yet"),
        ("ERROR", "exit code 137", "failed", "the job ended early (exit code 137); it had sent nothing yet"),
        ("COMPLETED", None, "failed", "the job ended early"),
    ],
)
def test_a_job_that_ends_without_a_word_is_told(away, login, sent, stage, message, kind, sentence):
    run, job = sent
    job["told"]["status"] = {"stage": stage, "message": message}
    away.refresh(run, login)
    status = run.status()
    assert status.kind == kind
    assert sentence in status.message
    assert run.log_tail() == "the machine burst"


def test_a_job_that_is_gone_or_never_asked_about_is_told(hub, away, login, sent):
    run, _ = sent
    hub.jobs.clear()
    with pytest.raises(UserError, match="the Hub no longer has this job"):
        away.refresh(run, login)
    write_json(run.folder / JOB, run.job | {"heard": time.time() - 1e6})
    assert run.status().kind == "broken"


def test_a_run_has_no_two_jobs_at_once(hub, away, login, sent):
    run, job = sent
    (run.folder / JOB).unlink()  # the page was killed before it wrote this
    away.submit(run, login, away.offers()[0], 1800)
    assert hub.jobs == [job]
    assert run.job["id"] == job["told"]["id"]


def test_a_job_that_waits_is_cancelled_at_once(hub, away, login, sent):
    run, job = sent
    away.stop(run, login)
    assert job["told"]["status"]["stage"] == "CANCELED"
    assert run.status().kind == "stopped"


def test_nothing_that_a_repo_holds_is_believed(hub, away, login, sent, tmp_path):
    run, job = sent
    job["told"]["status"]["stage"] = "RUNNING"
    step = {"event": "step", "step": 1, "seconds": 1.0, "video_loss": 1.0, "audio_loss": 1.0}
    journal = ["no json", "[]", '{"event": 1}', '{"event": "step", "step": "<b>"}', json.dumps(step)]
    about = run.about
    hub.repos[run.job["repo"]] |= {
        "journal.jsonl": "\n".join(journal).encode(),
        "outcome.json": b'{"kind": "owned", "message": "x"}',
        "phase.json": b'{"what": 3}',
        "about.json": b"{}",
        "process.json": b'{"pid": 1}',
        "samples/../../../x.mp4": b"outside",
        "samples/step-000000-0.mp4": b"a clip",
    }
    hub.commits.append((run.job["repo"], {}))
    away.refresh(run, login)
    assert run.events() == [step]
    assert run.status().kind == "running"
    assert read_run(run.folder).about == about
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    seen = {name for name in files if not name.startswith(("inbox/", "data/"))}
    assert seen == {"about.json", "config.json", "job.json", "journal.jsonl", "samples/step-000000-0.mp4"}
    assert not list(tmp_path.rglob("x.mp4"))


def test_jobs_are_found_again_by_who_started_them_until_they_are_forgotten(hub, away, login, sent, tmp_path):
    run, job = sent
    away.find(login, tmp_path / "new")
    (found,) = RunRegistry(tmp_path).runs("new")
    assert (found.run_id, found.about, found.status()) == (run.run_id, run.about, run.status())
    assert found.job["price"] == pytest.approx(0.03)
    # One that ended while nobody looked is as it says itself.
    job["told"]["status"]["stage"] = "COMPLETED"
    hub.repos[run.job["repo"]]["outcome.json"] = b'{"kind": "done", "message": "done"}'
    away.find(login, tmp_path / "later")
    assert [each.status().kind for each in RunRegistry(tmp_path).runs("later")] == ["done"]
    away.forget(found, login)
    away.find(login, tmp_path / "other")
    assert RunRegistry(tmp_path).runs("other") == []


def test_jobs_whose_repo_is_gone_or_changed_are_passed_over(hub, away, login, sent, make, tmp_path):
    other = make()
    away.upload(other, login)
    away.submit(other, login, away.offers()[0], 1800)
    hub.repos[sent[0].job["repo"]]["about.json"] = b'{"name": 1}'
    del hub.repos[other.job["repo"]]
    away.find(login, tmp_path / "new")
    assert RunRegistry(tmp_path).runs("new") == []


def files_with(text, folder):
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if text.encode() in path.read_bytes()]
