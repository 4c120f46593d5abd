"""Several clips of one click: which is the best, and what becomes of the others."""

import time
from dataclasses import replace

import gradio as gr
import pytest

from demo.best import best_of
from demo.form import Form
from demo.generate_tab import GenerateTab
from demo.worker import RunOutcome
from mova.errors import BackendError, UserError
from mova.metrics import ClipHealth
from mova.metrics.health import AudioHealth, VideoHealth
from mova.metrics.sync import Sync


def clip(fit=0.5, offset_ms=0.0, loudness=-20.0):
    sync = Sync("events", offset_ms, 0.9, correlation=fit, baseline=0.2)
    return ClipHealth(2, sync, AudioHealth(-3, loudness, 0, 0, 8000, 0), VideoHealth(None, 0, 0, 3, 0))


@pytest.mark.parametrize(
    ("clips", "best", "why"),
    [
        ([clip(0.3), clip(0.6), clip(0.4)], 1, "The best of three by sync; the other two are"),
        ([clip(0.6, offset_ms=300), clip(0.3)], 1, "The best of two by sync; the other is"),
        ([clip(0.9, loudness=None), clip(0.3)], 1, "The best of two: it has fewer technical faults; the"),
        ([clip(0.3, loudness=None), clip(0.2, loudness=-60)], 0, "The best of two by sync"),
        ([clip(0.3), clip(0.3), clip(loudness=None)], 0, "None of the three is clearly better; the"),
        ([clip(0.0), clip(0.9, offset_ms=None)], 0, "None of the two is clearly better"),
        ([clip(0.30), clip(0.31)], 1, "None of the two is clearly better"),
        ([clip()], 0, ""),
    ],
)
def test_faults_decide_then_synchrony_and_what_differs_is_said(clips, best, why):
    index, sentence = best_of(clips)
    assert index == best
    assert sentence.startswith(why)
    assert bool(sentence) == bool(why)


@pytest.fixture
def form(service):
    asked = {"prompt": "a bell rings", "seconds": 0.38, "num_inference_steps": 2}
    return Form(model=service.model_name, clips=3, random_seed=False, seed=5, **asked)


@pytest.fixture
def page(service):
    with gr.Blocks():
        return GenerateTab(service, gr.BrowserState(None), [])


def updates(page, visitor, run):
    """What the page showed while it followed the run, and at its end."""
    *before, end = page.watch(visitor, run.run_id)
    return [each[page.status] for each in before], end


def test_three_clips_of_three_seeds_are_kept_and_the_best_is_shown(service, visitor, form, page, monkeypatch):
    monkeypatch.setattr("demo.generate_tab.WATCH_SECONDS", 0.02)
    run = service.submit(visitor, form)
    shown, end = updates(page, visitor, run)
    for words in ("clip 1 of 3", "clip 2 of 3", "clip 3 of 3"):
        assert any(words in each for each in shown)
    owner = service.visitors.folder_name(visitor)
    kept = {record.clip_id: record.settings["seed"] for record in service.history.records(owner)}
    assert sorted(kept.values()) == [5, 6, 7]
    best, why = best_of([each.outcome.measured for each in run.series])
    assert kept[end[page.shown_clip]] == 5 + best
    assert why and why in end[page.result.notes]
    assert end[page.form.seed] == 5  # which makes the same three again


def test_a_fault_in_one_clip_does_not_lose_the_others_and_is_said(service, visitor, form, page, monkeypatch):
    make = service.queue._make

    def fail_once(run):
        return RunOutcome("machine", "it broke") if run.request.seed == 6 else make(run)

    monkeypatch.setattr(service.queue, "_make", fail_once)
    run = service.submit(visitor, form)
    _, end = updates(page, visitor, run)
    assert len(service.history.records(service.visitors.folder_name(visitor))) == 2
    assert "It broke" in end[page.result.notes] and "of two" in end[page.result.notes]
    assert end[page.form.make]["visible"]


def test_a_stop_keeps_what_was_made_and_a_reload_finds_the_series(service, visitor, form, page):
    run = service.submit(visitor, replace(form, num_inference_steps=50))
    assert run.series[0].finished.wait(120)
    found = page.greet(visitor)
    assert found[page.form.stop]["visible"] and "clip 2 of 3" in found[page.status]
    page.stop(visitor, found[page.run_id])
    _, end = updates(page, visitor, run)
    assert [each.outcome.kind for each in run.series] == ["done", "stopped", "stopped"]
    assert end[page.shown_clip] == run.series[0].folder.name
    assert "Stopped." in end[page.result.notes]
    run = service.submit(visitor, replace(form, num_inference_steps=50))
    page.stop(visitor, run.run_id)
    assert "Stopped." in updates(page, visitor, run)[1][page.status]


def test_a_queue_without_room_for_all_takes_none(service, visitor, form, monkeypatch):
    monkeypatch.setattr(service.queue, "capacity", 1)
    with pytest.raises(BackendError, match="the machine is busy"):
        service.submit(visitor, replace(form, num_inference_steps=50))
    while service.queue.active():
        time.sleep(0.01)
    assert service.history.records(service.visitors.folder_name(visitor)) == []


def test_several_clips_are_offered_where_they_are_soon_made_and_their_time_is_said(service, form, page):
    one = replace(form, clips=1)
    assert not page.form.describe(page.form.fill(one))[page.form.clips]["visible"]  # the time is not known
    service.costs.device_name, service.costs.cores = "CPU", 2
    shown = page.form.describe(page.form.fill(one))
    assert shown[page.form.clips]["visible"] and shown[page.form.remarks] == ""
    shown = page.form.describe(page.form.fill(form))
    assert "for 3 clips on this machine" in shown[page.form.remarks]
    request = form.request(service.settings)
    service.costs.learn(request, service.model_name, 15)
    assert "About 45 s for 3 clips" in page.form.describe(page.form.fill(form))[page.form.cost_note]
    assert not page.form.describe(page.form.fill(one))[page.form.clips]["visible"]
    with pytest.raises(UserError, match="clips=2 must be 1 or 3"):
        replace(form, clips=2).request(service.settings)
    with pytest.raises(UserError, match="clips=3 must be 1"):
        form.request(replace(service.settings, is_zero_gpu=True))
