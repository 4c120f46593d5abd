import copy
import json

import pytest

from benchmarks.learn_newcomer import main, report_text
from mova.adapter_sources import read_adapter
from mova.media import read_clip
from mova.strengths import TOWERS
from pocket.clip import NUM_FRAMES
from tests.pocket.untrained import write_untrained

SMALLEST = {"clips": 2, "steps": 1, "fresh": 1, "old": 1, "sampling-steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory, speech):
    """The folder of a run on an untrained model, and its exit code."""
    folder = tmp_path_factory.mktemp("learn")
    model = write_untrained(folder / "untrained", speech)
    places = [
        "--model",
        model,
        "--out",
        folder / "out",
        "--speech",
        speech,
        "--json",
        folder / "figures.json",
    ]
    sizes = [part for name, count in SMALLEST.items() for part in (f"--{name}", count)]
    code = main([str(each) for each in (*places, *sizes, "--kind", "cube", "--family", "ball")])
    return folder, code


def test_the_whole_proof_runs_and_an_untrained_model_misses_the_claims(run):
    folder, code = run
    report = json.loads((folder / "figures.json").read_text())
    cube = report["kinds"]["cube"]
    assert code == 1
    assert cube["with"]["cube"] == cube["without"]["honks"] == 0
    assert cube["strength_0_is_base"]
    assert set(cube["seconds"]) == {"write clips", "cache", "train", "clips with it"}
    assert set(report["old"]) == {"without", "cube"}
    adapter = read_adapter(folder / "out" / "cube" / "run" / "adapter.safetensors")
    assert all(adapter.tower(name) for name in TOWERS if name != "video_dit" and name != "video_dit_2")
    names = {path.name for path in (folder / "out" / "clips").glob("*.mp4")}
    assert len(names) == 4
    assert all(len(read_clip(folder / "out" / "clips" / name).frames) == NUM_FRAMES for name in names)


def test_claims_are_reached_only_where_every_figure_is_good(run):
    folder, _ = run
    report = json.loads((folder / "figures.json").read_text())
    cube = report["kinds"]["cube"]
    cube["with"] |= dict.fromkeys(("cube", "honks", "synced"), 1.0)
    report["old"]["cube"] = copy.deepcopy(report["old"]["without"])  # noise of an untrained model
    text, reached = report_text(report)
    assert reached
    assert "missed" not in text
    for where, key, value in (
        (cube["without"], "cube", 0.5),  # seen without the adapter as well
        (cube["with"], "honks", 0.5),
        (report["old"]["cube"]["ball"], "first_frame_psnr", 1.0),  # an old skill is lost
        (report["detectors"]["cube"]["others"], "honks", 0.3),  # the detector hears honks anywhere
        (cube, "strength_0_is_base", False),
    ):
        before, where[key] = where[key], value
        assert not report_text(report)[1], (key, value)
        where[key] = before
