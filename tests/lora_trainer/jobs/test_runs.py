"""Runs as real processes on the golden model: killed, starved of disk, gone on with, one at a time."""

import json
import os
import subprocess
import time

import psutil
import pytest

from lora_trainer.jobs.runs import OUTCOME, PROCESS, RunInfo, RunRegistry, find_process, is_alive
from lora_trainer.manifest import read_items
from mova.adapters.strengths import TOWERS
from mova.errors import UserError
from mova.files import write_json
from tests.disk import files_of_at_most

STEPS = 10


@pytest.fixture
def jobs(tmp_path):
    jobs = RunRegistry(tmp_path / "runs")
    yield jobs
    for folder in (tmp_path / "runs").glob("*/*"):
        if process := find_process(folder):
            process.kill()


@pytest.fixture
def other_process():
    """A process that is no run, and what a run's ticket with its number would be."""
    process = subprocess.Popen(["sleep", "600"])
    began = psutil.Process(process.pid).create_time()
    yield lambda **changes: {"pid": process.pid, "began": began, "asked": 0.0} | changes
    process.kill()
    process.wait()


@pytest.fixture
def make(jobs, clips, golden):
    """A run of `owner` on the three clips, not yet started."""

    def make(owner="one", data=None, **changes):
        run = {"steps": STEPS, "device": "cpu", "accumulation": 1, "checkpoint_every": 2, "validate_every": 0}
        settings = {
            "model": str(golden / "checkpoint"),
            "data": {"size": "64x32", "num_frames": [9], "buckets": False, **(data or {})},
            "run": run | {"gradient_checkpointing": False} | changes,
            "towers": {name: {"rank": 2} for name in TOWERS},
        }
        about = RunInfo("lamp", "tiny", "A lamp.", 3, STEPS, "cpu", False, time.time())
        return jobs.create(owner, about, settings, read_items(str(clips)))

    return make


def wait_for(run, kinds, seconds=90, until=lambda run: True):
    """Look at a run until it is one of `kinds` and more; its status then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status = run.status()
        if status.kind in kinds and until(run):
            return status
        time.sleep(0.05)
    raise AssertionError(f"{run.status()}\n{run.log_tail()}")


@pytest.mark.slow
def test_killed_and_starved_runs_lose_nothing_and_take_turns(jobs, make):
    one, other = make("one"), make("two")
    jobs.start(one)
    with pytest.raises(UserError, match="under way already"):
        jobs.start(one)
    with pytest.raises(UserError, match="stop it first"):
        jobs.delete(one)
    wait_for(one, ("running",), until=lambda run: run.status().phase not in ("", "start"))
    with files_of_at_most(150_000):  # enough for journal and encoded clips, not for a checkpoint
        jobs.start(other)
    assert wait_for(other, ("waiting",)).message == "It begins when the run before it ends."
    wait_for(one, ("running",), until=lambda run: run.saved_step() >= 2)
    assert other.status().kind == "waiting"
    find_process(one.folder).kill()

    broken = wait_for(one, ("broken",))
    assert "the run was ended from outside" in broken.message
    killed_at = one.saved_step()
    assert f"all up to step {killed_at} is saved" in broken.message
    assert one.adapter.parent.name == f"step-{killed_at:06d}"  # of use as far as it got
    failed = wait_for(other, ("failed",))  # it began by itself
    assert "cannot be written (File too large); free some space there" in failed.message
    assert other.saved_step() == 0

    # A page that was restarted goes on with it, although a clip is gone: that is encoded already.
    again = RunRegistry(jobs.root)
    assert [run.run_id for run in again.runs("one")] == [one.run_id]
    (one.folder / "data" / "b.mp4").unlink()
    again.start(again.get("one", one.run_id))
    assert wait_for(one, ("done",)).message == f"done, {STEPS} steps"
    steps = [event["step"] for event in one.events() if event["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))
    assert one.adapter.parent == one.folder
    jobs.delete(one)
    assert not one.folder.exists()


@pytest.mark.slow
def test_a_run_makes_clips_to_keep_in_its_folder_is_stopped_meanwhile_and_goes_on_with_those_it_has(
    jobs, make
):
    run = make(data={"keep_count": 5, "keep_prompts": ["A drum.", "A bell."]})
    kept = run.folder / "kept"

    def made():
        return {path.name: path.stat().st_mtime_ns for path in kept.glob("*.mp4")}

    jobs.start(run)
    status = wait_for(run, ("running",), until=lambda run: run.status().phase == "keep" and made())
    assert (status.phase, status.count) == ("keep", 5)
    jobs.stop(run)
    assert wait_for(run, ("stopped",)).message == "stopped before the first step"
    first = made()
    assert 0 < len(first) < 5
    assert not list(kept.glob(".*"))  # no half of a clip
    jobs.start(jobs.get("one", run.run_id))
    wait_for(run, ("done",))
    last = made()
    assert len(last) == 5
    assert last.items() >= first.items()
    base = next(event for event in run.events() if event["event"] == "base")
    assert base["kept"].keys() == {"video_dit", "video_dit_2", "audio_dit"}
    jobs.delete(run)
    assert not kept.exists()


def test_a_run_that_cannot_be_is_a_sentence_and_a_waiting_one_stops_at_once(jobs, make, other_process):
    wrong = make(steps=0)
    jobs.start(wrong)
    assert "run.steps" in wait_for(wrong, ("failed",)).message
    assert "Traceback" not in wrong.log_tail()
    write_json(make("two").folder / PROCESS, other_process())  # asked before
    waiting = make()
    jobs.start(waiting)
    wait_for(waiting, ("waiting",))
    jobs.stop(waiting)
    assert wait_for(waiting, ("stopped",)).message == "stopped before the first step"


def test_a_number_that_another_process_has_now_is_not_taken_for_the_run(make, other_process):
    run = make()
    assert not is_alive(run.folder)
    write_json(run.folder / PROCESS, other_process())
    assert is_alive(run.folder)
    write_json(run.folder / PROCESS, other_process(began=other_process()["began"] - 60))
    assert not is_alive(run.folder)
    assert "nothing was learnt yet" in run.status().message


def test_owners_do_not_see_each_other(jobs, make):
    run = make("one")
    assert jobs.runs("two") == []
    for owner, run_id in (("two", run.run_id), ("one", "x"), ("two", f"../one/{run.run_id}"), ("one", None)):
        with pytest.raises(UserError, match="no longer here"):
            jobs.get(owner, run_id)
    assert jobs.get("one", run.run_id).about == run.about


def test_a_run_keeps_its_clips_when_the_page_loses_them(make, clips):
    run = make()
    rows = [json.loads(line) for line in (run.folder / "data" / "metadata.jsonl").read_text().splitlines()]
    assert [row["video"] for row in rows] == ["a.mp4", "b.mp4", "c.mp4"]
    assert rows[0]["caption"] == (clips / "a.txt").read_text()
    assert (run.folder / "data" / "a.mp4").read_bytes() == (clips / "a.mp4").read_bytes()


def test_old_runs_are_swept_and_live_ones_stay(jobs, make, other_process):
    old, young, live = make(), make(), make()
    write_json(live.folder / PROCESS, other_process())
    write_json(young.folder / OUTCOME, {"kind": "done", "message": ""})
    for run in (old, live):
        for path in run.folder.iterdir():
            os.utime(path, (1, 1))
    assert jobs.sweep(3600) == 1
    assert {run.run_id for run in jobs.runs("one")} == {young.run_id, live.run_id}


def test_a_visitor_may_not_fill_the_line(make, other_process):
    for _ in range(4):
        write_json(make().folder / PROCESS, other_process())
    with pytest.raises(UserError, match="4 runs of yours wait or run already"):
        make()
    make("two")
