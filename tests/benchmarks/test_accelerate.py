import json

import pytest

from benchmarks.accelerate import EXACT, FIGURES, done_before, rows, table
from mova.errors import UserError

GOOD = dict.fromkeys(FIGURES, 0.9)


def test_rows_are_the_presets_and_each_knob_alone_with_exact_first():
    every = rows([["solver=unipc"], ["guidance_interval=[0.3,1]", "num_inference_steps=6"]], None)
    assert every[0].name == EXACT
    assert {"fast", "draft", "standard"} < {row.name for row in every}
    given = [row.request for row in every[-2:]]
    assert given[0] == next(row.request for row in every if row.name == "standard").replace(solver="unipc")
    assert (given[1].guidance_interval, given[1].num_inference_steps) == ((0.3, 1), 6)
    assert [row.name for row in rows([], ["unipc 6"])] == [EXACT, "unipc 6"]


def test_a_row_changes_the_preset_that_it_names_and_the_strength_of_its_adapter():
    turbo = next(row.request for row in rows([], ["turbo"]) if row.name == "turbo")
    named = rows([["preset=turbo", "num_inference_steps=8", 'adapter_strength={"audio": 0.8}']], ["none"])[-1]
    (file, _), *_ = turbo.adapters
    assert named.request == turbo.replace(num_inference_steps=8, adapters=((file, {"audio": 0.8}),))
    with pytest.raises(UserError, match="fast has no adapter"):
        rows([["preset=fast", "adapter_strength=0.5"]], None)


@pytest.mark.parametrize("text", ["cfg=1", "solver", "guidance_interval=[1,0]", "num_inference_steps=0"])
def test_a_field_that_is_none_or_wrong_is_refused(text):
    with pytest.raises(UserError, match=text.split("=")[0]):
        rows([[text]], None)


def test_a_row_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"no row 'fastest'; choose from exact, .*fast,"):
        rows([], ["fastest"])


def test_the_table_names_what_is_over_two_points_below_exact():
    made = {"forwards": 8, "seconds": {"denoise": 0.1}, "error": [0.1, 0.2]}
    worse = GOOD | {"words": 0.87, "notes": 0.89, "colour": 0.95}
    text = table([{"name": EXACT, "scores": GOOD} | made, {"name": "draft", "scores": worse} | made])
    assert text.splitlines()[-1].endswith("| 10.0% / 20.0% | words |")
    assert text.splitlines()[-2].endswith("| 10.0% / 20.0% |  |")


def test_rows_of_the_file_are_read_back_without_one_that_was_cut_off(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert done_before(file) == done_before(None) == []
    lines = [json.dumps({"key": name}) for name in ("a", "b", "c")]
    file.write_text("\n".join(lines)[:-3])
    assert [row["key"] for row in done_before(file)] == ["a", "b"]
