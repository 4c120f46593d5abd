from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from mova import catalog, machine, shapes
from mova.catalog import MODELS
from mova.errors import UserError
from mova.guidance import branches
from mova.request import GenerationRequest

SMALL = (
    {"dim": 48, "ffn_dim": 80, "num_layers": 4},
    {"dim": 32, "ffn_dim": 48, "num_layers": 3},
    {"visual_hidden_dim": 48, "audio_hidden_dim": 32, "visual_layers": 4, "audio_layers": 3},
)


@pytest.mark.parametrize("model", MODELS.values())
def test_every_model_has_a_size_and_length_that_can_run(model):
    shapes.check_size(model.height, model.width)
    shapes.check_num_frames(model.num_frames)
    assert catalog.find_model(model.name) is model


@pytest.mark.parametrize("model", MODELS.values())
def test_every_model_has_every_preset_and_each_makes_a_request_that_can_run(model):
    assert tuple(preset.name for preset in model.presets) == catalog.PRESET_NAMES
    for preset in model.presets:
        assert model.preset(preset.name) is preset
        request = GenerationRequest("a clip", **model.defaults(preset))
        shapes.check_num_frames(request.num_frames)
        assert request.num_inference_steps == preset.num_inference_steps
    steps = [preset.num_inference_steps for preset in model.presets]
    assert steps == sorted(steps)


def test_presets_are_of_the_lengths_they_say():
    model = MODELS["360p"]
    frames = {preset.name: model.clip_length(preset) for preset in model.presets}
    assert frames == {"quick": 97, "standard": 193, "full": 193}


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
    with pytest.raises(UserError, match="no preset 'fast'; choose one of quick, standard, full"):
        MODELS["360p"].preset("fast")


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
    shape = shapes.ClipShape(352, 640, 193, 24.0, 48000, 960)
    flops = machine.forward_flops(*SMALL, shape)

    def seconds(steps=10, forwards=2, device="NVIDIA H200"):
        return machine.estimate_seconds(flops, steps, forwards, device, cores=2)

    assert seconds(steps=20) == pytest.approx(2 * seconds())
    assert seconds(forwards=len(branches(5, 3))) == pytest.approx(1.5 * seconds())
    assert (
        seconds()
        < seconds(device="NVIDIA A100-SXM4-80GB")
        < seconds(device="a new card")
        < seconds(device="CPU")
    )


def test_the_estimate_holds_the_measured_and_reported_seconds_of_a_step():
    """Guided steps of 360p, 193 frames: H200 measured, the others as their owners report them."""
    for device, seconds in (
        ("NVIDIA H200", 9.57),
        ("NVIDIA H100 80GB HBM3", 9.0),
        ("NVIDIA GeForce RTX 4090", 37.5),
    ):
        assert machine.estimate_seconds(2766e12, 1, 2, device, 1) == pytest.approx(seconds, rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.01, "1 s"), (8.4, "8 s"), (99, "99 s"), (120, "2 min"), (5400, "90 min"), (9000, "2.5 h")],
)
def test_durations_are_rounded_as_people_say_them(seconds, text):
    assert machine.human_seconds(seconds) == text
