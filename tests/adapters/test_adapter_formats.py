"""Every format gives the same adapter as the golden file, its keys written out by hand here."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mova.adapters.files import Adapter, LoraUpdate, write_adapter
from mova.adapters.formats import export_tensors, find_module
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import TOWERS
from mova.errors import UserError

EXPERTS = {"high": "video_dit", "low": "video_dit_2"}


@pytest.fixture(scope="module")
def upstream(golden):
    """The golden adapter's matrices by upstream's keys: rank 4, alpha 8, all four towers."""
    return torch.load(golden / "lora_upstream_accelerate" / "lora_weights.pt", weights_only=True)


@pytest.fixture(scope="module")
def adapter(golden):
    return read_adapter(golden / "lora_upstream_accelerate")


def of_tower(tensors, tower):
    prefix = f"{tower}."
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def assert_same(found, expected, towers=TOWERS):
    wanted = {key: lora for key, lora in expected.layers.items() if key.partition(".")[0] in towers}
    assert found.layers.keys() == wanted.keys()
    for key, lora in wanted.items():
        assert torch.equal(found.layers[key].down, lora.down)
        assert torch.equal(found.layers[key].up, lora.up)
        assert found.layers[key].scale == pytest.approx(lora.scale, rel=1e-6)


def test_upstreams_accelerate_folder_is_read_whole_whatever_it_calls_its_rank(adapter, upstream, golden):
    config = torch.load(golden / "lora_upstream_accelerate" / "lora_config.pt", weights_only=True)
    assert isinstance(config["rank"], str)
    assert len(adapter.layers) == len(upstream) // 2 == 112
    assert {(lora.rank, lora.alpha, lora.scale) for lora in adapter.layers.values()} == {(4, 8.0, 2.0)}
    assert adapter.notes == ()


def test_upstreams_low_resource_file_has_no_weight_in_its_keys(tmp_path, upstream, adapter):
    state = {key.removesuffix(".weight"): tensor for key, tensor in upstream.items()}
    content = {"lora_state_dict": state, "rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": ["q"]}
    torch.save(content, tmp_path / "lora_weights.pt")
    torch.save({"step": 100}, tmp_path / "training_state.pt")
    assert_same(read_adapter(tmp_path), adapter)
    assert_same(read_adapter(tmp_path / "lora_weights.pt"), adapter)


def test_upstreams_diffsynth_variant_has_an_adapter_name_in_its_keys(tmp_path, upstream, adapter):
    state = {key.replace(".weight", ".default.weight"): tensor for key, tensor in upstream.items()}
    torch.save(state, tmp_path / "lora_weights.pt")
    torch.save({"rank": "LoRALinear", "alpha": 8}, tmp_path / "lora_config.pt")
    assert_same(read_adapter(tmp_path), adapter)


def test_a_rank_of_16_written_over_another_is_not_trusted_and_the_alpha_can_be_given(tmp_path, upstream):
    torch.save(upstream, tmp_path / "lora_weights.pt")
    torch.save({"rank": 16, "alpha": 16.0}, tmp_path / "lora_config.pt")
    with pytest.raises(
        UserError, match="matrices of rank 4, its header says 16, so its alpha cannot be trusted"
    ):
        read_adapter(tmp_path)
    assert {lora.scale for lora in read_adapter(tmp_path, alpha=8).layers.values()} == {2.0}


def test_an_alpha_of_16_in_upstreams_file_is_doubted_aloud(tmp_path, upstream):
    torch.save(upstream, tmp_path / "lora_weights.pt")
    torch.save({"rank": "LoRALinear", "alpha": 16.0}, tmp_path / "lora_config.pt")
    (note,) = read_adapter(tmp_path).notes
    assert "upstream writes alpha 16 whatever was trained" in note
    torch.save({"rank": 4, "alpha": torch.tensor(8.0)}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match=r"states no alpha \(alpha=tensor"):
        read_adapter(tmp_path)
    (tmp_path / "lora_config.pt").unlink()
    with pytest.raises(UserError, match="states no alpha"):
        read_adapter(tmp_path)


def kohya(tensors, prefix, alpha=8.0):
    """As kohya's networks name them: dots become underscores, each module with an alpha."""
    written = {}
    for key, tensor in tensors.items():
        module, _, half = key.removesuffix(".weight").rpartition(".")
        stem = prefix + module.replace(".", "_")
        written[f"{stem}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = tensor
        written[f"{stem}.alpha"] = torch.tensor(alpha)
    return written


def diffusers_wan(tensors, prefix):
    """As diffusers names Wan's layers."""
    names = {
        "self_attn": "attn1",
        "cross_attn": "attn2",
        "q": "to_q",
        "k": "to_k",
        "v": "to_v",
        "o": "to_out.0",
    }
    return {
        f"{prefix}{'.'.join(names.get(part, part) for part in key.split('.'))}": tensor
        for key, tensor in tensors.items()
    }


FORMATS = {
    "DiffSynth": lambda tensors: {k.replace(".weight", ".default.weight"): t for k, t in tensors.items()},
    "VideoX-Fun": lambda tensors: kohya(tensors, "lora_unet__"),
    "musubi": lambda tensors: kohya(tensors, "lora_unet_"),
    "ComfyUI": lambda tensors: {f"diffusion_model.{key}": tensor for key, tensor in tensors.items()},
    "ComfyUI with down and up": lambda tensors: {
        f"diffusion_model.{key}".replace("lora_A", "lora_down").replace("lora_B", "lora_up"): tensor
        for key, tensor in tensors.items()
    },
    "peft": lambda tensors: {f"base_model.model.{key}": tensor for key, tensor in tensors.items()},
    "diffusers": lambda tensors: diffusers_wan(tensors, "transformer."),
}
STATES_ALPHA = ("VideoX-Fun", "musubi")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("noise", ["high", "low"])
def test_a_file_for_one_expert_goes_to_that_expert_by_its_name(tmp_path, upstream, adapter, name, noise):
    tower = EXPERTS[noise]
    path = tmp_path / f"style_{noise}_noise_000100.safetensors"
    save_file(FORMATS[name](of_tower(upstream, tower)), path)
    found = read_adapter(path, alpha=None if name in STATES_ALPHA else 8.0)
    assert_same(found, adapter, [tower])
    assert found.notes == (f"for {noise}, by the file's name",)


@pytest.mark.parametrize("name", FORMATS)
def test_without_an_alpha_the_scale_is_1_and_that_is_said(tmp_path, upstream, name):
    path = tmp_path / "high.safetensors"
    tensors = FORMATS[name](of_tower(upstream, "video_dit"))
    save_file({key: tensor for key, tensor in tensors.items() if not key.endswith("alpha")}, path)
    found = read_adapter(path)
    assert {lora.scale for lora in found.layers.values()} == {1.0}
    assert any("alpha is not stated" in note for note in found.notes)


def test_a_high_and_a_low_file_in_a_folder_are_one_adapter(tmp_path, upstream, adapter):
    for noise, tower in EXPERTS.items():
        save_file(
            kohya(of_tower(upstream, tower), "lora_unet_"),
            tmp_path / f"wan2.2-lora_{noise.upper()}.safetensors",
        )
    assert_same(read_adapter(tmp_path), adapter, EXPERTS.values())


def test_two_experts_in_one_file_of_diffusers_are_not_inverted(tmp_path, upstream, adapter):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    first = diffusers_wan(of_tower(upstream, "video_dit"), "transformer.")
    second = diffusers_wan(of_tower(upstream, "video_dit_2"), "transformer_2.")
    save_file(first | second, path)
    assert_same(read_adapter(path, alpha=8), adapter, EXPERTS.values())


def test_a_file_that_tells_no_expert_is_refused_and_can_be_told(tmp_path, upstream):
    path = tmp_path / "highway_below.safetensors"  # no word of it is high or low
    save_file(of_tower(upstream, "video_dit"), path)
    with pytest.raises(UserError, match=r"does not say what it is for.*--expert high\|low\|video\|audio"):
        read_adapter(path)
    for expert, towers in (
        ("low", {"video_dit_2"}),
        ("video", set(EXPERTS.values())),
        ("audio", {"audio_dit"}),
    ):
        found = read_adapter(path, expert=expert)
        assert {key.partition(".")[0] for key in found.layers} == towers


def test_the_bridges_layers_need_no_telling(tmp_path, upstream, adapter):
    path = tmp_path / "a.safetensors"
    save_file(kohya(of_tower(upstream, "dual_tower_bridge"), "lora_unet_"), path)
    assert_same(read_adapter(path), adapter, ["dual_tower_bridge"])


def test_peft_metadata_of_a_tower_decides_the_scale(tmp_path, upstream):
    path, state = tmp_path / "high.safetensors", of_tower(upstream, "video_dit")
    module = "blocks.1.self_attn.k"
    config = {"r": 4, "lora_alpha": 6, "alpha_pattern": {f"^{module}": 1}, "use_rslora": True}
    save_file(state, path, metadata={"lora_adapter_metadata": json.dumps(config)})
    layers = read_adapter(path).layers
    assert layers["video_dit.blocks.0.self_attn.q"].scale == 3.0
    assert layers[f"video_dit.{module}"].scale == 0.5


EXTRAS = {
    "diffusion_model.blocks.0.self_attn.q.diff_b": "changes biases",
    "diffusion_model.blocks.0.norm3.diff": "changes biases",
    "diffusion_model.blocks.0.self_attn.q.lora_B.bias": "is not a LoRA key",
    "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": "image attention",
    "diffusion_model.time_embedding.0.lora_A.weight": "time embedding",
    "diffusion_model.blocks.0.self_attn.q.dora_scale": "DoRA",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": "text encoder",
    "lora_unet_blocks_0_self_attn_q.lokr_w1": "LyCORIS",
    "lora_unet_input_blocks_4_1_proj_in.lora_down.weight": "is not a LoRA key",
    "text_encoder.block.0.lora_A.weight": "text encoder",
    "video_dit.time_embedding.0.lora_A.weight": "time embedding",
    "head.head.weight": "is not a LoRA key",
    "weight": "is not a LoRA key",
}


@pytest.mark.parametrize(("key", "reason"), EXTRAS.items(), ids=EXTRAS)
def test_what_is_no_lora_is_refused_with_a_reason_or_left_out_on_request(tmp_path, upstream, key, reason):
    path, tensors = tmp_path / "high.safetensors", of_tower(upstream, "video_dit")
    save_file(tensors | {key: torch.zeros(4)}, path)
    with pytest.raises(UserError, match=reason):
        read_adapter(path)
    found = read_adapter(path, skip_extras=True)
    assert len(found.layers) == len(tensors) // 2
    assert any(f"left out 1 tensors that are not LoRA, such as {key}" in note for note in found.notes)


def test_one_layer_under_two_names_is_refused(tmp_path, upstream):
    path, tensors = tmp_path / "high.safetensors", of_tower(upstream, "video_dit")
    save_file(tensors | kohya({key: t.clone() for key, t in tensors.items()}, "lora_unet_"), path)
    with pytest.raises(UserError, match="is there twice"):
        read_adapter(path)


def test_targets_mean_exactly_what_they_say():
    for name in (
        "blocks.0",
        "blocks.0.self_attn",
        "xblocks.0.self_attn.q",
        "blocks.0.ffn.1",
        "blocks.0.norm3",
    ):
        assert find_module(name) is None
    assert find_module("blocks.10.ffn.0") == ("", "blocks.10.ffn.0")
    assert find_module("lora_unet_video_dit_2_blocks_3_ffn_2") == ("video_dit_2", "blocks.3.ffn.2")
    assert find_module("pipe.video_dit.blocks.0.cross_attn.o") == ("video_dit", "blocks.0.cross_attn.o")
    for part in ("text_embedding_2", "head_head"):
        assert find_module(f"lora_unet_{part}") == ("", part.replace("_2", ".2").replace("_head", ".head"))


@pytest.mark.parametrize("style", ["kohya", "comfyui"])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_export_comes_back_as_the_same_update(tmp_path, adapter, style, rslora):
    layers = {key: LoraUpdate(each.down, each.up, 8.0, rslora) for key, each in adapter.layers.items()}
    before = Adapter(layers)
    files = export_tensors(before, style)
    assert files.keys() == {"high", "low", "audio", "bridge"}
    for name, (tensors, header) in files.items():
        save_file(tensors, tmp_path / f"out-{name}.safetensors", metadata=header)
    assert_same(read_adapter(tmp_path), before)


def test_exported_keys_are_those_that_kohyas_tools_and_comfyui_look_for(adapter):
    high, _ = export_tensors(adapter, "kohya")["high"]
    stem = "lora_unet_blocks_0_self_attn_q"
    assert {key for key in high if key.startswith(f"{stem}.")} == {
        f"{stem}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    assert high[f"{stem}.alpha"].item() == 8.0
    bridge, _ = export_tensors(adapter, "comfyui")["bridge"]
    assert "diffusion_model.audio_to_video_conditioners.0.inner.q.lora_A.weight" in bridge


def test_ours_survives_every_conversion(tmp_path, adapter):
    write_adapter(tmp_path / "ours.safetensors", adapter)
    assert set(load_file(tmp_path / "ours.safetensors")) == {
        f"{key}.{half}.weight" for key in adapter.layers for half in ("lora_A", "lora_B")
    }
    assert_same(read_adapter(tmp_path / "ours.safetensors"), adapter)
