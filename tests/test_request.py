import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mova.errors import UserError, check_finite
from mova.request import GenerationRequest

FULL = GenerationRequest(
    prompt='a man says "hello"',
    image=Path("frames/first.png"),
    negative_prompt="静态",
    height=720,
    width=1280,
    num_frames=97,
    frame_rate=25.0,
    num_inference_steps=25,
    guidance_scale=4.5,
    bridge_guidance_scale=3.5,
    video_shift=5.0,
    audio_shift=1.0,
    seed=2**40,
    fit="pad",
    adapters=(("a.safetensors", 0.5), ("org/name", {"video": -1.0, "audio_dit": 0.2})),
    solver="unipc",
    guidance_interval=(0.3, 0.9),
    audio_guidance_scale=2.0,
    audio_bridge_guidance_scale=1.5,
    cache_threshold=0.1,
    refine=2,
)


@pytest.mark.parametrize("request_", [FULL, GenerationRequest("rain")])
def test_settings_give_the_request_back_through_json(request_):
    settings = json.loads(json.dumps(request_.to_settings()))
    assert GenerationRequest.from_settings(settings) == request_
    assert settings.keys() == {field.name for field in dataclasses.fields(GenerationRequest)}


def test_settings_from_before_the_solvers_are_the_euler_steps_with_guidance_throughout():
    new = (
        "solver",
        "guidance_interval",
        "audio_guidance_scale",
        "audio_bridge_guidance_scale",
        "cache_threshold",
        "refine",
    )
    old = {key: value for key, value in FULL.to_settings().items() if key not in new}
    request = GenerationRequest.from_settings(old)
    assert [getattr(request, name) for name in new] == ["euler", (0.0, 1.0), None, None, 0.0, 0]
    assert request == FULL.replace(**{name: getattr(request, name) for name in new})


def test_an_adapter_of_the_toolkit_is_found_wherever_the_toolkit_lies(tmp_path, monkeypatch):
    for folder in ("here", "there"):
        (tmp_path / folder / "assets/small").mkdir(parents=True)
        (tmp_path / folder / "assets/small/turbo.safetensors").touch()
    monkeypatch.setattr("mova.request.TOOLKIT", tmp_path / "here")
    shipped, own = str(tmp_path / "here/assets/small/turbo.safetensors"), ("org/name/x.safetensors", 0.5)
    request = GenerationRequest("rain", adapters=((shipped, 1.0), own))
    settings = request.to_settings()
    assert settings["adapters"] == [["assets/small/turbo.safetensors", 1.0], list(own)]
    assert GenerationRequest.from_settings(settings) == request
    monkeypatch.setattr("mova.request.TOOLKIT", tmp_path / "there")
    found = GenerationRequest.from_settings(settings).adapters
    assert found == ((shipped.replace("here", "there"), 1.0), own)


@pytest.mark.parametrize(
    ("changes", "forwards"),
    [
        ({}, 20),
        ({"guidance_scale": 1.0}, 10),
        ({"bridge_guidance_scale": 3.0}, 30),
        ({"guidance_interval": (0.8, 1.0)}, 16),
        ({"guidance_interval": (0.0, 0.8)}, 14),
        ({"guidance_interval": (0.8, 1.0), "video_shift": 1.0}, 13),
        ({"guidance_scale": 1.0, "audio_guidance_scale": 3.0}, 20),
        ({"refine": 1}, 20 + 2),
        ({"refine": 2, "guidance_interval": (0.8, 1.0)}, 16 + 2 + 16),
    ],
)
def test_the_forwards_of_a_run_are_counted_over_its_steps(changes, forwards):
    """Of ten steps at shift 5, whose sigmas are 1, .98, .95, .92, .88, .83, .77, .68, .56, .36."""
    request = GenerationRequest("rain", num_inference_steps=10).replace(**changes)
    assert request.total_forwards(5.0) == forwards


def test_settings_of_the_run_are_no_part_of_the_request():
    settings = FULL.to_settings() | {"model": "360p", "image_sha256": "00", "dtype": "float32"}
    assert GenerationRequest.from_settings(settings) == FULL


def test_whole_numbers_stand_for_numbers_and_the_rest_has_defaults():
    request = GenerationRequest.from_settings({"prompt": "rain", "guidance_scale": 3, "video_shift": 5})
    assert request == GenerationRequest("rain", guidance_scale=3, video_shift=5)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": None},
        {"prompt": 5},
        {"height": "352"},
        {"height": 352.0},
        {"width": True},
        {"num_frames": None},
        {"frame_rate": "24"},
        {"guidance_scale": [5]},
        {"video_shift": False},
        {"seed": 1.5},
        {"image": 5},
        {"negative_prompt": None},
        {"fit": None},
        {"solver": None},
        {"guidance_interval": None},
        {"guidance_interval": [0.3]},
        {"guidance_interval": [0.3, "1"]},
        {"audio_guidance_scale": "2"},
        {"adapters": None},
        {"adapters": "ab"},
        {"adapters": [["a.safetensors"]]},
        {"adapters": [["a.safetensors", "strong"]]},
        {"adapters": {"a": 1}},
        {"adapters": [["a.safetensors", {"audio": "loud"}]]},
        {"adapters": [["a.safetensors", [0.5]]]},
    ],
)
def test_malformed_settings_are_refused_by_name(change):
    with pytest.raises(UserError, match=f"the settings hold .*{next(iter(change))}"):
        GenerationRequest.from_settings(FULL.to_settings() | change)


@pytest.mark.parametrize("settings", [{}, {"model": "360p"}])
def test_settings_of_another_tool_are_refused(settings):
    with pytest.raises(UserError, match="were not written by this toolkit"):
        GenerationRequest.from_settings(settings)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_in_range_pass(value):
    check_finite("x", value, 0, 1)


@pytest.mark.parametrize("value", [float("nan"), "1", None, True, [0.5], np.float32("nan")])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(UserError, match=r"x=.* is not a number; give one from 0 to 1"):
        check_finite("x", value, 0, 1)


@pytest.mark.parametrize("value", [-0.001, 1.001, float("inf"), -float("inf"), 10**400])
def test_numbers_out_of_range_are_refused_with_the_range(value):
    with pytest.raises(UserError, match=r"x=.* is out of range; give one from 0 to 1"):
        check_finite("x", value, 0, 1)


RULES = [
    ("prompt", " ", "the prompt is empty; say what is seen"),
    ("prompt", " \n\t&nbsp;", "the prompt is empty; say what is seen and what is heard"),
    ("prompt", None, "the prompt is empty"),
    ("prompt", 7, "the prompt must be text, not 7"),
    ("prompt", "a" * 20_001, "the prompt has 20001 characters; .*: shorten it"),
    ("prompt", "\udcff\udcfe", "the prompt holds bytes that are not text; .* UTF-8"),
    ("negative_prompt", "n" * 20_001, "the negative prompt has 20001 characters"),
    ("negative_prompt", "bad \ud800 bytes", "the negative prompt holds bytes that are not text"),
    ("height", 360, "nearest: 640x352"),
    ("width", 650, "nearest: 656x352"),
    ("num_frames", 100, "nearest: 97, 101"),
    ("frame_rate", 0, "from 1 to 120"),
    ("frame_rate", None, "is not a number"),
    ("num_inference_steps", 0, "from 1 to 1000"),
    ("num_inference_steps", 1001, "from 1 to 1000"),
    ("num_inference_steps", float("inf"), "from 1 to 1000"),
    ("num_inference_steps", 2.5, "must be a whole number; nearest: 2"),
    ("guidance_scale", float("nan"), "is not a number"),
    ("guidance_scale", float("inf"), "is out of range; .* from 0 to 30"),
    ("guidance_scale", -1, "from 0 to 30"),
    ("bridge_guidance_scale", float("nan"), "is not a number"),
    ("bridge_guidance_scale", 31, "from 0 to 30"),
    ("audio_guidance_scale", float("nan"), "is not a number; .* from 0 to 30"),
    ("audio_guidance_scale", -1, "from 0 to 30"),
    ("audio_bridge_guidance_scale", 31, "from 0 to 30"),
    ("guidance_interval", (0.9, 0.3), "0.9, 0.3 ends before it starts; give 0.3 and 0.9"),
    ("guidance_interval", (-0.1, 0.3), "guidance_interval=-0.1 is out of range; give one from 0 to 1"),
    ("guidance_interval", (0.1, 1.3), "from 0 to 1"),
    ("guidance_interval", (float("nan"), 1), "is not a number"),
    ("guidance_interval", (0, float("inf")), "is out of range"),
    ("guidance_interval", (0.5,), "must be two sigmas, such as 0.3 and 1"),
    ("solver", "heun", "choose one of euler, unipc"),
    ("cache_threshold", 1.5, "from 0 to 1"),
    ("cache_threshold", float("nan"), "is not a number"),
    ("refine", 9, "from 0 to 8"),
    ("refine", 0.5, "whole number"),
    ("video_shift", 0, "from 0.01 to 100"),
    ("audio_shift", "5", "is not a number"),
    ("audio_shift", float("nan"), "is not a number; .* from 0.01 to 100"),
    ("seed", -1, "from 0 to"),
    ("seed", 2**63, "is out of range"),
    ("seed", float("nan"), "is not a number"),
    ("fit", "stretch", "choose one of crop, pad"),
    ("crop_position", 1.5, "from 0 to 1"),
    ("crop_position", float("nan"), "is not a number"),
    ("adapters", (("gone.safetensors", 1.0),), "there is no adapter gone.safetensors"),
    ("adapters", (("org/name", 11.0),), "the strength of org/name=11.0 is out of range; .* from -10 to 10"),
    ("adapters", (("org/name", float("nan")),), "the strength of org/name=nan is not a number"),
    ("adapters", (("org/name", {"audio": 99}),), "the strength of org/name for audio=99"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), RULES)
def test_a_wrong_field_is_refused_by_its_name_also_across_processes(field, value, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        GenerationRequest("rain").replace(**{field: value}).check()
    assert caught.value.field == field
    received = pickle.loads(pickle.dumps(caught.value))
    assert (received.field, str(received)) == (field, str(caught.value))


def test_a_request_in_order_gives_its_first_frame_where_the_clip_can_be_written(tmp_path):
    Image.new("RGB", (100, 100), "red").save(tmp_path / "first.png")
    request = GenerationRequest("rain", image=tmp_path / "first.png", height=32, width=64, seed=2**63 - 1)
    assert request.check() is None
    assert request.replace(image=None).check(tmp_path / "clip.mp4") is None
    frame = request.check(tmp_path / "clip.mp4")
    assert (frame.shape, frame.dtype) == ((32, 64, 3), np.uint8)


def test_files_are_checked_with_the_place_of_the_clip(tmp_path):
    taken = tmp_path / "clip.mp4"
    taken.write_bytes(b"")
    with pytest.raises(UserError, match=r"clip\.mp4 exists") as caught:
        GenerationRequest("rain").check(taken)
    assert caught.value.field == ""
    assert GenerationRequest("rain").check(taken, overwrite=True) is None
    with pytest.raises(UserError, match="cannot be read") as caught:
        GenerationRequest("rain", image=tmp_path / "gone.png").check(tmp_path / "new.mp4")
    assert caught.value.field == "image"
