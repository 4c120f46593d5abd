import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mova import checkpoint
from mova.errors import UserError
from mova.models.dit import AudioDiT
from mova.pipeline import MOVAPipeline

REAL_AUDIO_DIT = {
    "dim": 1536,
    "in_dim": 128,
    "ffn_dim": 8960,
    "out_dim": 128,
    "text_dim": 4096,
    "freq_dim": 256,
    "eps": 1e-6,
    "patch_size": [1],
    "num_heads": 12,
    "num_layers": 4,
}
# An option of each kind that a released checkpoint leaves off, or at one value; and another value.
REFUSED = [
    ("video_dit", "has_image_input", True),
    ("video_dit", "has_image_pos_emb", True),
    ("video_dit", "has_ref_conv", True),
    ("video_dit", "add_control_adapter", True),
    ("video_dit", "seperated_timestep", True),
    ("video_dit_2", "fuse_vae_embedding_in_latents", True),
    ("audio_dit", "vae_type", "oobleck"),
    ("dual_tower_bridge", "interaction_strategy", "shallow_focus"),
    ("dual_tower_bridge", "apply_cross_rope", False),
    ("dual_tower_bridge", "apply_first_frame_bias_in_rope", True),
    ("dual_tower_bridge", "trainable_condition_scale", True),
    ("dual_tower_bridge", "pooled_adaln", True),
    ("audio_vae", "continuous", False),
    ("audio_vae", "use_weight_norm", True),
    ("scheduler", "extra_one_step", False),
    ("scheduler", "sigma_min", 0.003),
    ("scheduler", "sigma_max", 1.002),
    ("scheduler", "exponential_shift", True),
    ("scheduler", "exponential_shift_mu", 0.5),
    ("scheduler", "inverse_timesteps", True),
    ("scheduler", "reverse_sigmas", True),
    ("scheduler", "shift_terminal", 0.1),
    ("video_vae", "is_residual", True),
    ("video_vae", "patch_size", 4),
    ("video_vae", "scale_factor_spatial", 16),
    ("text_encoder", "model_type", "t5"),
]


def config_path(folder, name):
    return folder / name / checkpoint.COMPONENTS[name].config_name


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def weights(folder, name="audio_dit"):
    return next((folder / name).glob("*.safetensors"))


def edit_weights(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(folder, parts=3):
    """Split the one file in `folder` into shards and an index, as the releases do with the large ones."""
    whole = next(folder.glob("*.safetensors"))
    tensors = load_file(whole)
    weight_map = {}
    for index in range(parts):
        name = f"{whole.stem}-{index + 1:05}-of-{parts:05}.safetensors"
        keys = sorted(tensors)[index::parts]
        save_file({key: tensors[key] for key in keys}, folder / name)
        weight_map |= dict.fromkeys(keys, name)
    whole.unlink()
    size = sum(tensor.nbytes for tensor in tensors.values())
    index_path = folder / f"{whole.name}.index.json"
    index_path.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": weight_map}))
    return index_path


def refusal(folder, name):
    """The sentence with which loading a component is refused."""
    with pytest.raises(UserError) as caught:
        checkpoint.load_components(folder, [name], torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", checkpoint.COMPONENTS)
def test_a_missing_component_folder_is_named(checkpoint_copy, name):
    shutil.rmtree(checkpoint_copy / name)
    assert f"no folder {name}/" in refusal(checkpoint_copy, name)


@pytest.mark.parametrize("name", [name for name in checkpoint.COMPONENTS if name != "tokenizer"])
def test_a_config_that_is_missing_or_broken_is_named(checkpoint_copy, name):
    path = config_path(checkpoint_copy, name)
    for content, complaint in (("{", "is not JSON"), ("[1]", "no JSON object"), (None, "cannot be read")):
        path.unlink() if content is None else path.write_text(content)
        assert refusal(checkpoint_copy, name).startswith(f"{path} ")
        assert complaint in refusal(checkpoint_copy, name)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("video_dit", "num_heads"),
        ("audio_dit", "ffn_dim"),
        ("dual_tower_bridge", "audio_fps"),
        ("audio_vae", "decoder_rates"),
        ("scheduler", "shift"),
    ],
)
def test_no_default_stands_in_for_a_missing_config_key(checkpoint_copy, name, key):
    path = config_path(checkpoint_copy, name)
    edit_json(path, lambda config: config.pop(key))
    assert refusal(checkpoint_copy, name).startswith(f"{path}: {key} is missing")


@pytest.mark.parametrize(
    "name", ["video_dit", "audio_dit", "dual_tower_bridge", "audio_vae", "scheduler", "video_vae"]
)
def test_an_unknown_option_is_refused_by_name(checkpoint_copy, name):
    path = config_path(checkpoint_copy, name)
    edit_json(path, lambda config: config.update(magic=True))
    assert refusal(checkpoint_copy, name).startswith(f"{path}: unknown option magic=True")


@pytest.mark.parametrize(("name", "key", "value"), REFUSED)
def test_an_option_that_no_release_enables_is_refused_with_file_and_key(checkpoint_copy, name, key, value):
    path = config_path(checkpoint_copy, name)
    edit_json(path, lambda config: config.update({key: value}))
    assert refusal(checkpoint_copy, name).startswith(f"{path}: {key}={value!r} is not supported")


def test_inert_options_and_null_for_false_are_accepted(checkpoint_copy):
    path = config_path(checkpoint_copy, "audio_dit")
    inert = {"require_clip_embedding": True, "in_dim_control_adapter": None, "has_ref_conv": None}
    edit_json(path, lambda config: config.update(inert))
    assert checkpoint.load_components(checkpoint_copy, ["audio_dit"], None)["audio_dit"].config.dim == 32


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("video_dit", {"dim": "48"}),
        ("video_dit", {"dim": -48}),
        ("audio_dit", {"patch_size": [2]}),
        ("dual_tower_bridge", {"head_dim": 0}),
        ("audio_vae", {"encoder_rates": 8}),
        ("text_encoder", {"num_layers": "two"}),
    ],
)
def test_a_config_value_that_builds_no_network_is_a_sentence(checkpoint_copy, name, change):
    path = config_path(checkpoint_copy, name)
    edit_json(path, lambda config: config.update(change))
    assert refusal(checkpoint_copy, name).startswith(f"{path} does not describe a network that can be built")


@pytest.mark.parametrize("ratio", [None, "0.9", 1.5, -0.1, float("nan")])
def test_a_boundary_ratio_is_needed_and_checked(checkpoint_copy, ratio):
    path = checkpoint_copy / "model_index.json"
    edit_json(
        path,
        lambda index: index.pop("boundary_ratio") if ratio is None else index.update(boundary_ratio=ratio),
    )
    with pytest.raises(UserError, match="boundary_ratio"):
        MOVAPipeline.from_pretrained(checkpoint_copy)


def test_a_missing_shard_is_named(checkpoint_copy):
    shard(checkpoint_copy / "text_encoder")
    (checkpoint_copy / "text_encoder" / "model-00002-of-00003.safetensors").unlink()
    sentence = refusal(checkpoint_copy, "text_encoder")
    assert "lacks model-00002-of-00003.safetensors of its 3 shards" in sentence
    assert "finish the download" in sentence


@pytest.mark.parametrize("content", ["{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_file_names_is_refused(checkpoint_copy, content):
    index = shard(checkpoint_copy / "video_dit")
    index.write_text(content)
    assert refusal(checkpoint_copy, "video_dit").startswith(f"{index} has no weight_map")


def test_weights_must_be_one_file_or_have_one_index(checkpoint_copy):
    path = weights(checkpoint_copy)
    shutil.copy(path, path.with_name("other.safetensors"))
    assert "found 2 of them and no index" in refusal(checkpoint_copy, "audio_dit")
    path.unlink()
    path.with_name("other.safetensors").unlink()
    assert "found none" in refusal(checkpoint_copy, "audio_dit")
    index = shard(checkpoint_copy / "video_dit")
    shutil.copy(index, index.with_name("diffusion_pytorch_model.fp16.safetensors.index.json"))
    assert "has 2 indexes" in refusal(checkpoint_copy, "video_dit")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.3, 0.9, -1])
def test_a_truncated_file_is_named_with_the_advice_to_download_it_again(checkpoint_copy, kept):
    path = weights(checkpoint_copy)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    sentence = refusal(checkpoint_copy, "audio_dit")
    assert sentence.startswith(f"{path} cannot be read")
    assert sentence.endswith("delete it and download it again")


def test_a_page_or_a_pointer_in_place_of_weights_is_recognised(checkpoint_copy):
    path = weights(checkpoint_copy)
    path.write_text("<!DOCTYPE html><html><body>404 not found</body></html>" * 20)
    assert refusal(checkpoint_copy, "audio_dit").endswith("delete it and download it again")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 225664\n")
    assert refusal(checkpoint_copy, "audio_dit").endswith("run `git lfs pull`")


@pytest.mark.parametrize("name", checkpoint.MODULES)
def test_tensors_are_loaded_strictly(checkpoint_copy, name):
    path = weights(checkpoint_copy, name)
    key = sorted(load_file(path))[0]
    shutil.copy(path, path.with_name("whole"))
    edit_weights(path, lambda tensors: tensors.pop(key))
    assert refusal(checkpoint_copy, name).startswith(f"{path.parent}: ")
    assert "is missing" in refusal(checkpoint_copy, name)
    shutil.copy(path.with_name("whole"), path)
    edit_weights(path, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert refusal(checkpoint_copy, name).startswith(f"{path}: extra is unknown")
    shutil.copy(path.with_name("whole"), path)
    edit_weights(path, lambda tensors: tensors.update({key: tensors[key][..., :-1].contiguous()}))
    assert f"{path}: {key} is " in refusal(checkpoint_copy, name)
    assert "download both again" in refusal(checkpoint_copy, name)


@pytest.mark.parametrize("content", ["", "<html>", "{}"])
def test_a_broken_tokenizer_is_a_sentence(checkpoint_copy, content):
    path = checkpoint_copy / "tokenizer" / "tokenizer.json"
    path.write_text(content)
    assert refusal(checkpoint_copy, "tokenizer").startswith(f"{path} is ")
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    assert refusal(checkpoint_copy, "tokenizer").startswith(f"{path.parent} holds no readable tokenizer")


@pytest.mark.parametrize("embedding", ["shared.weight", "encoder.embed_tokens.weight"])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_text_encoder_loads_under_either_name_of_its_embedding(
    checkpoint_copy, golden, embedding, sharded
):
    folder = checkpoint_copy / "text_encoder"
    names = {"shared.weight", "encoder.embed_tokens.weight"}

    def rename(tensors):
        held = names & tensors.keys()
        tensors[embedding] = tensors.pop(held.pop())

    edit_weights(folder / "model.safetensors", rename)
    if sharded:
        shard(folder)
    encoder = checkpoint.load_components(checkpoint_copy, ["text_encoder"], torch.float32)["text_encoder"]
    expected = checkpoint.load_components(golden / "checkpoint", ["text_encoder"], torch.float32)[
        "text_encoder"
    ]
    for (key, tensor), other in zip(
        encoder.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), key
    # One parameter, not two: placing the encoder must not copy its largest matrix twice.
    assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
    assert sum(p.numel() for p in encoder.parameters()) == 45_472


def test_every_component_comes_whole_in_its_dtype_and_without_gradients(golden):
    parts = checkpoint.load_components(golden / "checkpoint", checkpoint.MODULES, torch.bfloat16)
    for name, part in parts.items():
        tensors = [*part.parameters(), *part.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}
        assert not part.training
        assert not any(tensor.requires_grad for tensor in tensors)
        assert part.dtype == (torch.float32 if name == "audio_vae" else torch.bfloat16)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux does")
def test_loaded_weights_are_views_of_the_file(tmp_path):
    """400 MB in layers of real shape: loading takes no memory of its own, and no time."""

    def private_bytes():
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024

    (tmp_path / "config.json").write_text(json.dumps(REAL_AUDIO_DIT))
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in AudioDiT(**REAL_AUDIO_DIT).state_dict().items()}
    tensors = {key: torch.randn(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(tensors, path)
    sample = tensors["blocks.3.ffn.0.weight"].clone()
    del tensors
    assert path.stat().st_size > 400e6
    before = private_bytes()
    module = checkpoint.load_module("audio_dit", tmp_path, torch.bfloat16)
    assert torch.equal(module.blocks[3].ffn[0].weight, sample)
    assert private_bytes() - before < 0.05 * path.stat().st_size
