"""The benchmarks of a forward and of a whole clip, on small models on the CPU."""

import json

import pytest

from benchmarks import joint_forward, whole_clip


@pytest.mark.slow
def test_every_setting_has_a_row_for_each_length_and_an_error_or_the_reason_why_not(tmp_path, capsys):
    path = tmp_path / "rows.json"
    settings = ["plain", "flash", "streamed", "fp8"]
    joint_forward.main(
        ["--tiny", "--frames", "5", "--repeats", "1", "--json", str(path), "--settings", *settings]
    )
    rows = {row["setting"]: row for row in json.loads(path.read_text())["rows"]}
    assert list(rows) == ["eager", "plain", "streamed", "fp8"]
    assert rows["eager"]["video_error"] == 0
    assert 0 < rows["streamed"]["video_error"] < 0.02
    assert 0.02 < rows["fp8"]["video_error"] < 0.1
    assert all(row["seconds"] > 0 for row in rows.values())
    (left_out,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert left_out["setting"] == "flash"
    assert "flash-attn-4 fails here" in left_out["left out"]


def test_a_clip_is_measured_stage_by_stage_and_steps_that_were_not_taken_are_said(tmp_path, golden):
    path = tmp_path / "rows.json"
    arguments = ["--model", str(golden / "checkpoint"), "--device", "cpu", "--size", "48x32", "--frames", "5"]
    arguments += ["--rows", "draft+fp8", "draft", "--steps-measured", "draft=2", "--json", str(path)]
    whole_clip.main(arguments)
    content = json.loads(path.read_text())
    assert [row["row"] for row in content["rows"]] == ["draft", "draft+fp8"]
    for row in content["rows"]:
        assert (row["num_inference_steps"], row["steps_measured"]) == (12, 2)
        assert row["forwards_measured"] == 4
        stages = [row[name] for name in ("text", "first frame", "steps", "picture", "sound")]
        assert min(stages) > 0
        assert row["total"] == pytest.approx(sum(stages), abs=0.01)
