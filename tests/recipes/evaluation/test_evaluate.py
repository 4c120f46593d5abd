import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mova.errors import UserError
from recipes.pocket.__main__ import main
from recipes.pocket.evaluation.aggregate import score
from recipes.pocket.evaluation.costs import peak_memory
from recipes.pocket.evaluation.evaluate import CAPTIONS, FIRST_SEED, THREADS, Plan, evaluate, workers
from recipes.pocket.evaluation.measure import ClipSpec, Expectation, measure
from recipes.pocket.evaluation.report import claims_table


@pytest.fixture(scope="module")
def report(speech):
    return evaluate(Plan(None, speech, clips=2, held_out=2, workers=1))


@pytest.mark.parametrize("before", [None, "2"])
def test_processes_that_judge_have_one_thread_and_what_is_timed_after_them_all(monkeypatch, before):
    monkeypatch.delenv(THREADS, raising=False)
    if before:
        monkeypatch.setenv(THREADS, before)
    with workers(1) as pool:
        assert pool.submit(os.getenv, THREADS).result() == "1"
    assert os.environ.get(THREADS) == before


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    ask = "from recipes.pocket.evaluation.costs import peak_memory; print(peak_memory())"
    printed = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert 0 < float(printed) < peak_memory() / 2


def test_a_report_of_true_clips_holds_scores_and_raw_figures_of_each_family(report):
    assert json.loads(json.dumps(report)) == report
    for kind in ("true", "true, held out"):
        assert set(report["scores"][kind]) == {"face", "ball", "piano"}
    assert report["scores"]["true, held out"]["face"]["words"] == 1
    assert [row["seed"] for row in report["figures"]["true"]["ball"]] == [FIRST_SEED, FIRST_SEED + 1]


def test_clips_that_stand_still_in_silence_miss_the_bars(report, speech):
    rows = {}
    for family in ("face", "ball", "piano"):
        for row in report["figures"]["true"][family]:
            spec = ClipSpec(row["seed"], family, "train", speech, CAPTIONS["full"])
            clip = spec.render()
            still = np.repeat(clip.frames[:1], len(clip.frames), 0)
            figures = measure(still, np.zeros_like(clip.waveform), Expectation.of(clip, speech))
            rows.setdefault(family, []).append(figures)
    default = {family: score(family, clips) for family, clips in rows.items()}
    table = claims_table(report | {"scores": report["scores"] | {"default": default}})
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    for claim in (
        "ball: impacts with a sound within 2 frames",
        "ball: impact seen to sound, median",
        "ball: material as asked, by ear",
        "piano: notes heard as asked",
        "piano: lit key = heard pitch",
        "face: words asked are heard",
        "face: mouth opening with loudness",
    ):
        assert lines[claim].endswith("missed"), claim
    assert not lines["ball: colour as asked"].endswith("missed")
    assert not lines["face: first frame kept, mean"].endswith("missed")


def test_one_clip_cannot_be_shuffled(speech):
    with pytest.raises(UserError, match="at least 2"):
        evaluate(Plan(None, speech, clips=1))


def test_the_command_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="no word bank"):
        main(["evaluate", "--detectors-only", "--speech", str(tmp_path)])
