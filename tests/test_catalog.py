import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from benchmarks import released_sizes
from mova import catalog, machine, shapes
from mova.catalog import MODELS
from mova.errors import UserError
from mova.request import GenerationRequest

CONFIGS = {
    "video_dit": {"dim": 48, "ffn_dim": 80, "num_heads": 2, "num_layers": 4},
    "audio_dit": {"dim": 32, "ffn_dim": 48, "num_layers": 3},
    "dual_tower_bridge": {
        "visual_hidden_dim": 48,
        "audio_hidden_dim": 32,
        "visual_layers": 4,
        "audio_layers": 3,
    },
    "audio_vae": {"encoder_rates": [8, 12, 10], "sample_rate": 48000},
    "video_vae": {"base_dim": 32, "patch_size": 2},
}


@pytest.mark.parametrize("model", MODELS.values())
def test_every_model_has_a_size_and_length_that_can_run(model):
    shapes.check_size(model.height, model.width)
    shapes.check_num_frames(model.num_frames)
    assert catalog.find_model(model.name) is model


@pytest.mark.parametrize("model", MODELS.values())
def test_every_model_has_presets_from_the_fastest_on_and_each_makes_a_request_that_can_run(model):
    names = [preset.name for preset in model.presets]
    assert names == [name for name in catalog.PRESET_NAMES if name in names]
    assert {"draft", "fast", "standard", "exact"} <= set(names)
    costs = []
    for preset in model.presets:
        assert model.preset(preset.name) is preset
        request = GenerationRequest("a clip", **model.defaults(preset))
        request.check()
        assert request.num_inference_steps == preset.num_inference_steps
        costs.append(request.total_forwards(machine.RELEASED_SHIFT) * request.num_frames)
    assert costs == sorted(set(costs))


@pytest.mark.parametrize("model", MODELS.values())
def test_presets_answer_to_their_former_names(model):
    assert model.preset("quick") is model.preset("draft")
    assert model.preset("full") is model.preset("exact")


def test_a_preset_with_an_adapter_is_there_and_the_default_once_its_file_is(tmp_path):
    file = tmp_path / "turbo.safetensors"
    turbo = catalog.Preset("turbo", 4, 1.0, "", {"guidance_scale": 1.0}, file)
    model = replace(MODELS["pocket"], known_presets=(turbo, catalog.Preset("standard", 12, 1.0, "")))
    assert (model.presets, model.default_preset) == (model.known_presets[1:], "standard")
    assert model.defaults(model.preset())["adapters"] == ()
    file.touch()
    assert (model.presets, model.default_preset) == (model.known_presets, "turbo")
    fields = model.defaults(model.preset())
    assert (fields["guidance_scale"], fields["adapters"]) == (1.0, ((str(file), 1.0),))
    assert model.decided_by(model.preset("standard"))["guidance_scale"] == model.guidance_scale
    assert model.on_a_server.default_preset == "standard"


@pytest.mark.parametrize("model", MODELS.values())
def test_a_server_is_asked_for_the_presets_with_steps_and_lengths_alone(model):
    for preset in model.on_a_server.presets:
        known = model.preset(preset.name)
        assert (preset.num_inference_steps, preset.length) == (known.num_inference_steps, known.length)
        assert set(model.on_a_server.decided_by(preset)) == {"num_frames", "num_inference_steps", "adapters"}


def test_presets_are_of_the_lengths_they_say():
    model = MODELS["360p"]
    frames = {preset.name: model.clip_length(preset) for preset in model.presets}
    assert frames == {"draft": 97, "fast": 193, "standard": 193, "exact": 193}


@pytest.mark.parametrize("model", MODELS.values())
def test_a_model_given_by_its_source_is_asked_as_by_its_name(model):
    assert catalog.find_model(model.source) is model


def test_a_folder_and_a_repo_id_are_models_of_the_size_their_name_says(tmp_path):
    assert catalog.find_model(str(tmp_path)).source == str(tmp_path)
    assert catalog.find_model("someone/MOVA-720p-fast").height == 720
    assert catalog.find_model("someone/their-model").height == 352


@pytest.mark.parametrize(
    "name", ["", "36p", "./gone", "/gone/folder", "a/b/c", "org/", "/name", "org/na me", "a\0b"]
)
def test_what_can_be_no_model_is_refused_without_asking_the_hub(name):
    with pytest.raises(
        UserError, match=r"there is no model .* give 360p, 720p, pocket, the folder of a checkpoint"
    ):
        catalog.find_model(name)


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'slow' of this model; choose one of draft, fast, standard, exact"):
        MODELS["360p"].preset("slow")


def test_the_default_negative_prompt_is_that_of_the_released_scripts():
    text = MODELS["360p"].negative_prompt
    assert text.startswith("色调艳丽")
    assert text == text.strip()
    assert Path(catalog.PROMPTS / "negative.zh.txt").is_file()


def test_operations_are_counted_as_the_forward_does_them(pipeline):
    """Against torch's own count of the golden model. What is left out, embeddings and heads, is small."""

    def attention_flop(query, key, value, *_, **__):
        return sdpa_flop(query, key, value)

    shape = pipeline.clip_shape(64, 96, 33, 24.0)
    latents = torch.zeros(1, 36, shape.latent_frames, shape.latent_height, shape.latent_width)
    audio, time = torch.zeros(1, 8, shape.audio_latents), torch.zeros(1)
    cpu_attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flop}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        pipeline.dual_tower(latents, audio, time, time, torch.zeros(1, 512, 32), 24.0)
    towers = (pipeline.video_dit, pipeline.audio_dit, pipeline.dual_tower_bridge)
    counted = machine.forward_flops(*(tower.config for tower in towers), shape)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_time_grows_with_steps_and_forwards_and_falls_with_the_card():
    request = GenerationRequest("any", num_inference_steps=10)

    def seconds(device="NVIDIA H200", **changes):
        return machine.estimate_time(request.replace(**changes), CONFIGS, device, cores=2).denoising

    assert seconds(num_inference_steps=20) == pytest.approx(2 * seconds())
    assert seconds(bridge_guidance_scale=3) == pytest.approx(1.5 * seconds())
    assert seconds(guidance_interval=(1, 1)) == pytest.approx(0.55 * seconds())
    assert seconds() < seconds("NVIDIA A100-SXM4-80GB") < seconds("a new card") < seconds("CPU")


def test_the_estimate_holds_the_measured_and_reported_seconds_of_a_step():
    """Guided steps of 360p, 193 frames: H200 measured, the others as their owners report them."""
    configs = {
        "video_dit": released_sizes.VIDEO_DIT,
        "audio_dit": released_sizes.AUDIO_DIT,
        "dual_tower_bridge": released_sizes.BRIDGE,
        "audio_vae": released_sizes.AUDIO_VAE,
    }
    step = GenerationRequest("any", num_inference_steps=1)
    for device, seconds in (
        ("NVIDIA H200", 9.57),
        ("NVIDIA H100 80GB HBM3", 9.0),
        ("NVIDIA GeForce RTX 4090", 37.5),
    ):
        assert machine.estimate_time(step, configs, device, cores=1).total == pytest.approx(seconds, rel=0.1)


def test_pixels_are_coded_in_time_only_on_a_cpu_and_that_of_the_cores():
    """With pocket's video VAE, as measured: 4.7e-6 s for a pixel on one core."""
    request = GenerationRequest("any", height=128, width=224, num_frames=49)
    coding = [machine.estimate_time(request, CONFIGS, name, 2).coding for name in ("CPU", "NVIDIA H200")]
    assert coding == [pytest.approx(4.7e-6 * 128 * 224 * 49 / 2), 0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("NVIDIA RTX 4090, 24564, 8.9\nNVIDIA L4, 23034, 8.9", ("cuda", "NVIDIA RTX 4090", 24564, True)),
        ("Tesla T4, 15360, 7.5", ("cuda", "Tesla T4", 15360, False)),
        ("NVIDIA-SMI has failed because it could not reach the driver.", ("cpu", "CPU", None, False)),
        ("", ("cpu", "CPU", None, False)),
    ],
)
def test_the_installed_card_is_the_first_that_the_driver_names(tmp_path, monkeypatch, answer, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "{answer}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = machine.Machine.installed()
    vram = found.vram // 2**20 if found.is_gpu else None
    assert (found.device, found.name, vram, found.has_bfloat16) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01, "1 s"), (8.4, "8 s"), (99, "99 s"), (120, "2 min"), (5400, "90 min"), (9000, "2.5 h")],
)
def test_durations_are_rounded_as_people_say_them(seconds, text):
    assert machine.human_seconds(seconds) == text
