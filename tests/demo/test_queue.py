"""The queue, the worker and the clips on the disk, without a browser."""

import os
import signal
import threading
import time

import pytest

from demo.history import ClipRecord, History
from demo.queue import JobQueue
from demo.service import Limiter, Visitors
from demo.worker import STOP, ProgressWriter, RunOutcome, WorkerProcess
from mova.errors import BackendError, UserError
from mova.request import GenerationRequest

REQUEST = GenerationRequest("a bell", height=32, width=64, num_frames=9, num_inference_steps=3)


class Machine:
    """Makes clips that end when `go` is set or they are stopped."""

    def __init__(self):
        self.go, self.order, self.running, self.most = threading.Event(), [], 0, 0

    def make(self, run):
        self.running += 1
        self.most = max(self.most, self.running)
        while not self.go.is_set() and not (run.folder / STOP).exists():
            time.sleep(0.01)
        self.running -= 1
        self.order.append(run.folder.name)
        return RunOutcome("stopped" if (run.folder / STOP).exists() else "done")


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def queue(machine):
    return JobQueue(machine.make, lambda run: None, capacity=2, abandon_seconds=60)


def submit(queue, tmp_path, name, owner="me"):
    (tmp_path / name).mkdir()
    return queue.submit(owner, REQUEST, "tiny", tmp_path / name)


def test_clips_are_made_one_by_one_in_their_order(queue, machine, tmp_path):
    runs = [submit(queue, tmp_path, name) for name in "abc"]
    assert [queue.ahead(run) for run in runs] == [0, 1, 2]
    machine.go.set()
    assert all(run.watch(5) for run in runs)
    assert machine.order == ["a", "b", "c"]
    assert machine.most == 1


def test_a_full_line_says_so_and_takes_more_later(queue, machine, tmp_path):
    runs = [submit(queue, tmp_path, name) for name in "abc"]
    with pytest.raises(BackendError, match="the machine is busy: 3 clips"):
        submit(queue, tmp_path, "d")
    machine.go.set()
    assert all(run.watch(5) for run in runs)
    assert submit(queue, tmp_path, "e").watch(5)


def test_a_stop_in_the_line_takes_its_place_away_at_once(queue, machine, tmp_path):
    first, second, third = (submit(queue, tmp_path, name) for name in "abc")
    queue.stop(second)
    assert second.watch(0.5)
    assert second.outcome.kind == "stopped"
    assert queue.ahead(third) == 1
    queue.stop(first)
    assert first.watch(5)
    machine.go.set()
    assert third.watch(5)
    assert third.outcome.kind == "done"


def test_a_run_that_nobody_watches_is_stopped(machine, tmp_path):
    queue = JobQueue(machine.make, lambda run: None, capacity=2, abandon_seconds=0.5)
    run = submit(queue, tmp_path, "a")
    assert run.finished.wait(8)
    assert run.outcome.kind == "stopped"


def test_the_clips_of_one_click_are_watched_and_stopped_together(queue, machine, tmp_path):
    last = None
    for name in "abc":
        (tmp_path / name).mkdir()
        last = queue.submit("me", REQUEST, "tiny", tmp_path / name, after=last)
    first, second, _ = last.series
    assert last.turn is first.turn is first
    machine.go.set()
    assert last.watch(5)
    assert machine.order == ["a", "b", "c"]
    machine.go.clear()
    runs = [submit(queue, tmp_path, name) for name in "de"]
    queue.stop(second)  # it has ended: nothing of another click is stopped
    assert not any(run.is_stopped() for run in runs)
    (tmp_path / "f").mkdir()
    queue.stop(queue.submit("me", REQUEST, "tiny", tmp_path / "f", after=runs[0]))
    assert runs[0].watch(5)
    assert [run.outcome.kind for run in runs[0].series] == ["stopped", "stopped"]
    assert not runs[1].is_stopped()
    machine.go.set()
    assert runs[1].watch(5)


def test_a_run_is_found_by_its_owner_alone(queue, machine, tmp_path):
    run = submit(queue, tmp_path, "a", owner="me")
    assert queue.current("me") is queue.get("me", run.run_id) is run
    assert queue.current("you") is queue.get("you", run.run_id) is None
    machine.go.set()
    assert run.watch(5)
    assert queue.current("me") is None


def test_a_fault_of_the_page_ends_the_run_with_a_sentence(machine, tmp_path):
    machine.go.set()

    def fail(run):
        raise OSError("the disk is gone")

    run = submit(JobQueue(machine.make, fail, capacity=0), tmp_path, "a")
    assert run.watch(5)
    assert run.outcome == RunOutcome("machine", "the page failed (OSError); its log says more")


@pytest.fixture
def worker():
    worker = WorkerProcess()
    yield worker
    worker.close()


def test_a_killed_worker_is_reported_and_the_next_call_works(worker):
    assert worker.call(os.getpid) == worker.pid != os.getpid()
    first = worker.pid
    threading.Timer(0.5, os.kill, (worker.pid, signal.SIGKILL)).start()
    with pytest.raises(BackendError, match="was killed, most likely because the machine ran out of memory"):
        worker.call(time.sleep, 30)
    assert worker.call(os.getpid) != first


def test_a_workers_own_errors_come_over_and_it_lives_on(worker, tmp_path):
    pid = worker.call(os.getpid)
    with pytest.raises(UserError, match="reload"):
        worker.call(Visitors(tmp_path).folder_name, "nobody")
    with pytest.raises(BackendError, match=r"failed \(ZeroDivisionError\)"):
        worker.call(divmod, 1, 0)
    assert worker.call(os.getpid) == pid


def test_a_visitors_name_is_kept_over_a_restart_and_cannot_be_made_up(tmp_path):
    visitors = Visitors(tmp_path)
    name = visitors.issue()
    again = Visitors(tmp_path)
    assert again.is_known(name)
    assert again.folder_name(name) == visitors.folder_name(name)
    assert name.partition(".")[0] not in visitors.folder_name(name)
    for made_up in ("", None, 7, "a.b", "../../etc", name[:-1] + "x", "x" * 10_000, name.upper(), "é.é"):
        assert not visitors.is_known(made_up)
    with pytest.raises(UserError, match="reload"):
        visitors.folder_name("../x")
    assert (tmp_path / ".key").stat().st_mode & 0o077 == 0


def finish(history, owner, age=0.0, prompt="a bell"):
    folder = history.new_folder(owner)
    (folder / "clip.mp4").write_bytes(b"clip")
    history.finish(folder, ClipRecord(folder.name, time.time() - age, {"prompt": prompt}))
    return folder


def test_clips_are_listed_newest_first_until_they_expire(tmp_path):
    history = History(tmp_path, keep_hours=1, keep_clips=2)
    oldest, old, new, gone = (finish(history, "me", age) for age in (300, 200, 100, 4000))
    unfinished = history.new_folder("me")
    other = finish(history, "you")
    assert [entry.folder for entry in history.records("me")] == [new, old]
    assert history.sweep(running=frozenset([unfinished])) == 2
    assert [folder.exists() for folder in (oldest, old, new, gone, unfinished, other)] == [
        False, True, True, False, True, True,
    ]  # fmt: skip
    assert history.sweep() == 1
    assert not unfinished.exists()


def test_a_clip_is_found_by_its_owner_alone_and_names_stay_in_their_folder(tmp_path):
    history = History(tmp_path, 1, 5)
    mine = finish(history, "me")
    assert history.record("me", mine.name).clip.read_bytes() == b"clip"
    for owner, clip_id in (
        ("you", mine.name),
        ("me", f"../me/{mine.name}"),
        ("me", "../../.."),
        ("me", None),
    ):
        with pytest.raises(UserError, match="no longer here"):
            history.record(owner, clip_id)


def test_a_clip_is_kept_for_training_with_its_words(tmp_path):
    history = History(tmp_path, 1, 5)
    mine = finish(history, "me", prompt="a drum")
    assert history.add_training_clip("me", mine.name) == 1
    history.remove("me", mine.name)
    (clip,) = history.training_folder("me").glob("*.mp4")
    assert clip.with_suffix(".txt").read_text() == "a drum"


def test_a_removed_clip_can_be_brought_back_until_it_is_swept(tmp_path, monkeypatch):
    history = History(tmp_path, 1, 5)
    mine = finish(history, "me")
    history.remove("me", mine.name)
    assert history.records("me") == []
    assert history.sweep() == 0
    with pytest.raises(UserError, match="no longer here"):
        history.bring_back("you", mine.name)
    assert history.bring_back("me", mine.name).clip_id == mine.name
    history.remove("me", mine.name)
    monkeypatch.setattr("demo.history.UNDO_SECONDS", 0.0)
    assert history.sweep() == 1
    with pytest.raises(UserError, match="no longer here"):
        history.bring_back("me", mine.name)


def test_progress_cannot_be_written_on_a_full_disk_without_a_sentence(tmp_path):
    from mova.request import Progress

    with pytest.raises(BackendError, match="cannot be written"):
        ProgressWriter(tmp_path / "missing")(Progress("load"))


def test_a_caller_is_held_to_so_many_a_minute_and_others_are_not():
    limiter = Limiter(2)
    limiter.check("a")
    limiter.check("a")
    with pytest.raises(UserError, match="2 times a minute is the limit; try again in 60 s"):
        limiter.check("a")
    limiter.check("b")
