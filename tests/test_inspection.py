import json
import re

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel

from benchmarks import released_sizes
from mova.checkpoint import MODULES, load_components
from mova.errors import UserError
from mova.inspection import Checkpoint, ComponentSummary, inspect_checkpoint, report
from mova.machine import GIB, Machine
from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.request import GenerationRequest
from mova.shapes import ClipShape

# reference/checkpoint.md 1.2: parameters and tensors of each component of the releases.
RELEASED = {
    "video_dit": (14_288_901_184, 1095),
    "video_dit_2": (14_288_901_184, 1095),
    "audio_dit": (1_419_193_472, 825),
    "dual_tower_bridge": (2_659_737_600, 720),
    "audio_vae": (371_539_137, 224),
    "video_vae": (126_892_531, 194),
    "text_encoder": (5_680_910_336, 242),
}
REQUEST = GenerationRequest("any")  # as the released scripts run


@pytest.fixture(scope="module")
def released_checkpoint():
    """The releases as `inspect_checkpoint` would see them: counted on the meta device, bf16."""
    with torch.device("meta"):
        networks = {
            "video_dit": VideoDiT(**released_sizes.VIDEO_DIT),
            "video_dit_2": VideoDiT(**released_sizes.VIDEO_DIT),
            "audio_dit": AudioDiT(**released_sizes.AUDIO_DIT),
            "dual_tower_bridge": Bridge(**released_sizes.BRIDGE),
            "audio_vae": AudioVAE(**released_sizes.AUDIO_VAE),
            "video_vae": AutoencoderKLWan(),
            "text_encoder": UMT5EncoderModel(UMT5Config(**released_sizes.TEXT_ENCODER)),
        }
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    tensors = {name: len({id(p) for p in network.parameters()}) for name, network in networks.items()}
    assert {name: (counts[name], tensors[name]) for name in networks} == RELEASED
    configs = {
        "video_dit": released_sizes.VIDEO_DIT,
        "audio_dit": released_sizes.AUDIO_DIT,
        "dual_tower_bridge": released_sizes.BRIDGE,
        "audio_vae": released_sizes.AUDIO_VAE,
        "video_vae": dict(networks["video_vae"].config),
    }
    return Checkpoint(configs, {name: ComponentSummary(n, 2 * n, ("BF16",)) for name, n in counts.items()})


def machine(vram, ram=256):
    return Machine("cuda", f"a card of {vram} GB", vram * GIB, ram * GIB, 16, has_bfloat16=True)


def test_inspecting_counts_what_is_loaded(golden):
    checkpoint = inspect_checkpoint(golden / "checkpoint")
    modules = load_components(golden / "checkpoint", MODULES, None)
    for name, module in modules.items():
        held = checkpoint.contents[name]
        assert held.parameters == sum(p.numel() for p in module.parameters())
        assert held.size == sum(p.nbytes for p in module.parameters())
        assert held.dtypes == ("F32",)


def test_inspecting_gives_the_shapes_that_the_pipeline_uses(golden, pipeline):
    checkpoint = inspect_checkpoint(golden / "checkpoint")
    assert checkpoint.clip_shape(32, 64, 9, 24.0) == pipeline.clip_shape(32, 64, 9, 24.0)


@pytest.mark.parametrize("damage", ["config", "option", "shard", "cut", "folder", "index"])
def test_inspecting_refuses_what_loading_would_refuse(checkpoint_copy, damage):
    folder = checkpoint_copy / "audio_dit"
    weights = folder / "diffusion_pytorch_model.safetensors"
    if damage == "config":
        (folder / "config.json").unlink()
    elif damage == "option":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"has_ref_conv": True}))
    elif damage == "shard":
        index = {"weight_map": {"blocks.0.modulation": "gone.safetensors"}}
        (folder / f"{weights.name}.index.json").write_text(json.dumps(index))
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "folder":
        folder.rename(folder.with_name("elsewhere"))
    else:
        (checkpoint_copy / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=str(checkpoint_copy)):
        inspect_checkpoint(checkpoint_copy)


@pytest.mark.parametrize(
    ("height", "width", "num_frames", "tera"),
    [(352, 640, 193, 2766), (352, 640, 97, 1028), (352, 640, 49, 436), (720, 1280, 193, 30565)],
)
def test_a_forward_costs_what_the_reference_counts(released_checkpoint, height, width, num_frames, tera):
    shape = ClipShape(height, width, num_frames, 24.0, 48000, 960)
    assert released_checkpoint.forward_flops(shape) == pytest.approx(tera * 1e12, rel=0.01)


@pytest.mark.parametrize(
    ("vram", "expert", "text_encoder"),
    [
        (12, "cuda, layer by layer", "cuda while it runs"),
        (16, "cuda, layer by layer", "cuda while it runs"),
        (24, "cuda, layer by layer", "cuda while it runs"),
        (32, "cuda, layer by layer", "cuda while it runs"),
        (48, "cuda while it runs", "cuda while it runs"),
        (80, "cuda", "cuda while it encodes"),
        (96, "cuda", "cuda"),
        (141, "cuda", "cuda"),
    ],
)
def test_the_report_says_where_the_released_model_goes(released_checkpoint, vram, expert, text_encoder):
    lines = report(released_checkpoint, machine(vram), REQUEST).splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    assert rows["video_dit"] == f"video_dit          14,288,901,184  26.6 GiB  BF16  {expert}"
    assert rows["text_encoder"].endswith(f"BF16  {text_encoder}")
    assert rows["all"].split() == ["all", "38,836,075,444", "72.3", "GiB"]
    used = float(re.search(r"([\d.]+) GiB of", rows["placement:"])[1])
    assert 8 < used < vram
    assert "2,766 TFLOP a forward" in rows["time:"]


def test_a_choice_by_hand_is_in_the_report(released_checkpoint):
    assert "layer by layer" in report(released_checkpoint, machine(141), REQUEST, offload="layers")
    both, one = (report(released_checkpoint, machine(141), REQUEST, hold_both=held) for held in (True, False))
    assert "video_dit_2        14,288,901,184  26.6 GiB  BF16  cuda while it denoises" in one
    assert "cuda while it denoises" not in both


def test_what_does_not_fit_is_said_with_what_to_change(released_checkpoint):
    text = report(released_checkpoint, machine(4, ram=8), REQUEST)
    assert text.count("does not fit") == len(MODULES) + 1
    assert "choose fewer frames or a smaller size" in text


def test_working_memory_follows_the_type_of_the_weights(released_checkpoint):
    card = machine(141)
    half, full = (released_checkpoint.workspace(REQUEST, card, dtype) for dtype in ("bfloat16", "float32"))
    assert 1.9 < full / half < 2
    assert released_checkpoint.workspace(REQUEST, card, None) == half
