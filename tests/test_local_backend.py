import hashlib
import json
import logging
import os
import shutil
import struct

import numpy as np
import psutil
import pytest
import torch

from mova.backends.local import LocalBackend, translated_memory_errors
from mova.errors import BackendError, Cancelled, UserError
from mova.media.clips import read_clip, read_settings
from mova.request import GenerationRequest

REQUEST = GenerationRequest(
    "a bell rings", height=32, width=64, num_frames=9, num_inference_steps=3, guidance_scale=3.0, seed=7
)
OFFLOADS = [("component", True), ("component", False), ("layers", True), ("layers", False)]


@pytest.fixture(scope="module")
def backend(golden):
    return LocalBackend(str(golden / "checkpoint"), want_preview=True, device="cpu", dtype="float32")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "clip.mp4"


def lora_parameters(backend):
    pipeline = backend.load(REQUEST)
    networks = (pipeline.video_dit, pipeline.video_dit_2, pipeline.audio_dit, pipeline.dual_tower_bridge)
    return [name for network in networks for name, _ in network.named_parameters() if "lora" in name]


def test_a_clip_carries_what_made_it(backend, golden, out):
    request = REQUEST.replace(image=golden / "image.png", seed=None)
    result = backend.generate(request, out)
    clip, settings = read_clip(out), read_settings(out)
    assert clip.frames.shape == (9, 32, 64, 3)
    assert clip.frame_rate == 24
    assert result.path == out
    assert 0 <= result.request.seed < 2**31
    assert GenerationRequest.from_settings(settings) == result.request
    assert settings["model"] == backend.model
    assert settings["image_sha256"] == hashlib.sha256((golden / "image.png").read_bytes()).hexdigest()
    assert (settings["dtype"], settings["fp8"]) == ("float32", False)
    assert result.seconds.keys() == {"load", "generate", "write"}
    assert result.warnings == ()


def test_the_image_may_go_while_the_clip_is_made(backend, golden, tmp_path, out):
    shutil.copy(golden / "image.png", tmp_path / "first.png")
    request = REQUEST.replace(image=tmp_path / "first.png")
    backend.generate(
        request, out, lambda report: report.step == 1 and (tmp_path / "first.png").unlink(missing_ok=True)
    )
    assert not (tmp_path / "first.png").exists()
    assert read_settings(out)["image"] == "first.png"  # it lay beside the clip


def test_progress_is_reported_from_loading_to_writing(backend, out):
    reports = []
    backend.generate(REQUEST, out, reports.append)
    assert [(report.stage, report.step) for report in reports] == [
        ("load", 0),
        ("encode", 0),
        ("denoise", 1),
        ("denoise", 2),
        ("denoise", 3),
        ("decode", 3),
        ("write", 3),
    ]
    steps = [report for report in reports if report.stage == "denoise"]
    assert all(report.steps == 3 for report in steps)
    assert [report.seconds_left > 0 for report in steps] == [True, True, False]
    assert 0 < steps[0].seconds < steps[1].seconds < steps[2].seconds
    assert steps[1].seconds_left == pytest.approx(steps[1].seconds - steps[0].seconds)
    for report in steps:
        assert report.preview.shape == (3, 4, 8, 3)
        assert report.preview.dtype == np.uint8


def test_without_a_wish_for_previews_there_are_none(golden, out):
    reports = []
    LocalBackend(str(golden / "checkpoint"), device="cpu").generate(REQUEST, out, reports.append)
    assert all(report.preview is None for report in reports)


@pytest.mark.parametrize("asked", [1, 2, 3, 6])
def test_a_stop_takes_effect_before_the_next_forward_and_leaves_nothing(backend, tmp_path, out, asked):
    """Three steps of two forwards ask six times; the steps told before the stop are those finished."""
    questions, finished = [], []
    with pytest.raises(Cancelled):
        backend.generate(
            REQUEST,
            out,
            lambda report: finished.append(report.step),
            should_stop=lambda: questions.append(None) or len(questions) == asked,
        )
    assert len(questions) == asked
    assert max(finished) == (asked - 1) // 2
    assert list(tmp_path.iterdir()) == []
    backend.generate(REQUEST, out)


def test_the_same_seed_makes_the_same_clip_and_another_another(backend, tmp_path):
    paths = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        backend.generate(REQUEST.replace(seed=seed), path)
    same, again, other = (read_clip(path) for path in paths)
    assert np.array_equal(same.frames, again.frames)
    assert np.array_equal(same.waveform, again.waveform)
    assert not np.array_equal(same.frames, other.frames)
    assert not np.array_equal(same.waveform, other.waveform)


@pytest.mark.parametrize(("offload", "hold_both"), OFFLOADS)
def test_where_the_weights_are_does_not_change_the_clip(backend, golden, tmp_path, offload, hold_both):
    placed = LocalBackend(
        str(golden / "checkpoint"), device="cpu", dtype="float32", offload=offload, hold_both=hold_both
    )
    clips = []
    for name, each in (("resident", backend), ("moved", placed)):
        each.generate(REQUEST, tmp_path / f"{name}.mp4")
        clips.append(read_clip(tmp_path / f"{name}.mp4"))
    assert placed.placement.offload == offload
    assert np.array_equal(clips[0].frames, clips[1].frames)
    assert np.array_equal(clips[0].waveform, clips[1].waveform)


def test_an_adapter_changes_its_clip_and_no_other(backend, golden, tmp_path):
    adapter = str(golden / "lora_upstream_accelerate")
    frames = {}
    for name, adapters in (
        ("before", ()),
        ("with", ((adapter, 1.0),)),
        ("off", ((adapter, 0.0),)),
        ("after", ()),
    ):
        backend.generate(REQUEST.replace(adapters=adapters), tmp_path / f"{name}.mp4")
        frames[name] = read_clip(tmp_path / f"{name}.mp4").frames
        assert lora_parameters(backend) == []
    assert np.array_equal(frames["before"], frames["after"])
    assert np.array_equal(frames["before"], frames["off"])
    assert not np.array_equal(frames["before"], frames["with"])


def test_adapters_are_detached_when_a_run_fails(backend, golden, out):
    request = REQUEST.replace(adapters=((str(golden / "lora_upstream_accelerate"), 1.0),))

    def break_off(report):
        if report.step == 1:
            assert lora_parameters(backend)
            raise OSError("the page is gone")

    with pytest.raises(OSError, match="the page is gone"):
        backend.generate(request, out, break_off)
    assert lora_parameters(backend) == []
    assert not out.exists()


def test_a_broken_adapter_is_refused_before_anything_is_loaded(golden, tmp_path, out):
    broken = tmp_path / "broken.safetensors"
    broken.write_text("<html>")
    backend = LocalBackend(str(golden / "checkpoint"))
    stages = []
    with pytest.raises(UserError, match="is a web page"):
        backend.generate(REQUEST.replace(adapters=((str(broken), 1.0),)), out, stages.append)
    assert stages == []
    assert backend.placement is None


def test_the_plan_is_made_without_loading_and_kept_by_the_run(golden, out):
    backend = LocalBackend(str(golden / "checkpoint"), device="cpu")
    plan = backend.plan(REQUEST)
    assert backend.placement is None
    assert "CPU" in plan.placement.why
    longer = backend.plan(REQUEST.replace(num_frames=97)).seconds
    slower = backend.plan(REQUEST.replace(num_inference_steps=6)).seconds
    assert longer > slower == pytest.approx(2 * plan.seconds)
    assert backend.plan(REQUEST.replace(guidance_scale=1.0)).seconds == pytest.approx(plan.seconds / 2)
    backend.generate(REQUEST, out)
    assert backend.placement == plan.placement


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(checkpoint_copy, out):
    """Its header speaks for twice the memory there is; the file is all hole."""
    size = 2 * psutil.virtual_memory().total // 4 * 4
    header = json.dumps(
        {"blocks": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    ).encode()
    path = checkpoint_copy / "video_dit" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)
    stages = []
    with pytest.raises(UserError, match=r"does not fit CPU.* choose fewer frames"):
        LocalBackend(str(checkpoint_copy), "cpu").generate(REQUEST, out, stages.append)
    assert [report.stage for report in stages] == ["load"]


def test_a_prompt_that_is_cut_warns_once_with_what_is_lost(backend, out, caplog):
    request = REQUEST.replace(prompt="a bell rings and " * 100 + "THE END IS LOST")
    with caplog.at_level(logging.WARNING):
        result = backend.generate(request, out)
    (warning,) = result.warnings
    assert warning.startswith("the end of the prompt was cut")
    assert "THE END IS LOST" in warning
    assert len([record for record in caplog.records if "THE END IS LOST" in record.getMessage()]) == 1


@pytest.mark.parametrize(
    ("fail", "error", "sentence"),
    [
        (lambda: torch.empty(10**15), BackendError, r"^the machine ran out of memory; choose fewer frames"),
        (lambda: torch.zeros(2) + torch.zeros(3), RuntimeError, "must match"),
    ],
)
def test_only_a_machine_out_of_memory_is_advised_to_do_less(fail, error, sentence):
    with pytest.raises(error, match=sentence), translated_memory_errors():
        fail()


def test_a_gpu_out_of_memory_is_reported_with_what_to_change():
    sentence = r"^the GPU ran out of memory; .* --offload layers or --fp8.* \(CUDA out of memory\)$"
    with pytest.raises(BackendError, match=sentence), translated_memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory\nSee documentation")
