"""The page on a fake ZeroGPU: the platform's own client library, a forked worker, the tiny model in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from demo.costs import Costs
from demo.settings import Settings
from demo.zerogpu import explain
from mova.request import GenerationRequest

DRIVER = Path(__file__).with_name("fake_zerogpu.py")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("zerogpu") / "report.json"
    run = subprocess.run([sys.executable, DRIVER, out], capture_output=True, text=True, timeout=240)
    assert out.is_file(), run.stdout + run.stderr
    return json.loads(out.read_text())


def test_a_clip_is_made_in_the_forked_worker_and_its_seed_makes_it_again(report):
    assert report["first"]["seed"] == 3
    assert report["first"] == report["again"]
    assert not report["parent_has_torch"]


def test_one_worker_serves_every_call_even_after_a_refused_request(report):
    assert report["workers"] == 1
    assert report["broken"] == {"error": "the prompt is empty; say what is seen and what is heard"}
    booked = [query for path, query in report["calls"] if path == "/schedule"]
    assert len(booked) == 6  # three clips, one with an adapter, two refused; the empty prompt booked nothing


def test_every_booking_asks_for_the_whole_card_and_for_the_estimate(report):
    booked = [query for path, query in report["calls"] if path == "/schedule"]
    assert {query["gpuSize"] for query in booked} == {"xlarge"}
    assert all(20 <= int(query["durationSeconds"]) <= 60 for query in booked)


def test_one_visitors_adapter_is_gone_when_the_next_one_comes(report):
    assert report["with_adapter"] == "done"
    assert report["after"] == report["first"]


def test_progress_and_preview_cross_the_fork(report):
    assert report["state"] == {"stage": "measure", "step": 3, "steps": 3}
    assert report["has_preview"]


def test_refusals_of_the_platform_say_what_to_do(report):
    assert report["quota"]["error"].startswith("The quota of visitors without an account is used up")
    assert "more GPU time at once than your account may book" in report["illegal"]["error"]
    assert "Draft preset" in report["illegal"]["error"]


@pytest.mark.parametrize(
    ("title", "message", "sentence"),
    [
        (
            "ZeroGPU quota exceeded",
            "You have exceeded your free ZeroGPU quota (180s requested vs. 20s left). Try again in 3:12:00. ",
            "180s requested vs. 20s left",
        ),
        ("ZeroGPU worker error", "GPU task aborted", "took longer than it had booked"),
        ("ZeroGPU client error", "Expired ZeroGPU proxy token", "Reload the page"),
        ("ZeroGPU client error", "No GPU was available (after 60s)", "No GPU was free"),
        ("ZeroGPU queue timeout", "No GPU was available", "Try again in a minute"),
        ("ZeroGPU pending credits exceeded", "You have too many", "Another task of yours"),
        ("something new", "words", "The platform refused the GPU (something new: words)"),
    ],
)
def test_each_message_of_the_platform_has_its_sentence(title, message, sentence):
    assert sentence in explain(title, message)


def test_what_is_shown_is_what_is_booked(golden):
    """The half card takes twice as long; the whole one costs twice as much quota."""
    source = str(golden / "checkpoint")
    request = GenerationRequest("x", num_inference_steps=50)
    whole = Costs(Settings(is_zero_gpu=True, zerogpu_size="xlarge", zerogpu_speed=1e-3))
    half = Costs(Settings(is_zero_gpu=True, zerogpu_size="large", zerogpu_speed=1e-3))
    seconds = whole.seconds(request, source)
    assert half.seconds(request, source) == pytest.approx(2 * seconds)
    assert whole.quota_seconds(request, source) == pytest.approx(2 * seconds, abs=1)
    assert whole.booked_seconds(request, source) == pytest.approx(1.4 * seconds + 30, abs=1)
    assert "of your daily GPU quota" in whole.sentence(request, source)
    whole.learn(request, source, 3 * seconds)
    assert whole.seconds(request, source) == pytest.approx(3 * seconds)
