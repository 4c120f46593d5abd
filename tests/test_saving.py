import json

import pytest
import torch
from safetensors.torch import load_file

from mova import checkpoint
from mova.errors import UserError
from mova.pipeline import MOVAPipeline

# What the writing libraries add, and what transformers 5 keeps in tokenizer.json instead of here.
ADDED = {
    "_diffusers_version",
    "transformers_version",
    "is_decoder",
    "scale_decoder_outputs",
    "tie_word_embeddings",
}
TOKENIZER = {"added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"}


@pytest.fixture(scope="module")
def original(golden):
    return MOVAPipeline.from_pretrained(golden / "checkpoint")


@pytest.fixture(scope="module")
def saved(original, tmp_path_factory):
    """The golden checkpoint, saved by a pipeline that has been used."""
    original.encode_prompt("a bell rings")
    folder = tmp_path_factory.mktemp("saved")
    original.save_pretrained(folder)
    return folder


def weight_tensors(folder):
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


def test_saving_gives_every_config_key_and_released_name_back(saved, golden):
    for path in sorted((golden / "checkpoint").rglob("*.json")):
        if path.name == "special_tokens_map.json":  # its content is in the two other files
            continue
        before = json.loads(path.read_text())
        after = json.loads((saved / path.relative_to(golden / "checkpoint")).read_text())
        skipped = ADDED | (TOKENIZER if path.name == "tokenizer_config.json" else set())
        differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert differing <= skipped, path
    index = json.loads((saved / "model_index.json").read_text())
    assert index["video_dit"] == ["mova.diffusion.models.wan_video_dit", "WanModel"]
    assert index["tokenizer"] == ["transformers", "T5TokenizerFast"]


@pytest.mark.parametrize("shard_size", [None, "100KB"])
def test_saved_weights_are_equal_bit_for_bit_whole_and_sharded(saved, golden, original, tmp_path, shard_size):
    if shard_size:
        saved = tmp_path
        original.save_pretrained(saved, max_shard_size=shard_size)
        assert len(list((saved / "video_dit").glob("*.safetensors"))) > 2
        assert (saved / "text_encoder" / "model.safetensors.index.json").exists()
    for name in checkpoint.MODULES:
        before, after = weight_tensors(golden / "checkpoint" / name), weight_tensors(saved / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before), name


def test_a_saved_checkpoint_loads_and_runs_as_the_original(saved, original):
    loaded = MOVAPipeline.from_pretrained(saved)
    request = {
        "prompt": "a bell rings",
        "height": 32,
        "width": 32,
        "num_frames": 5,
        "num_inference_steps": 2,
        "output_type": "latent",
    }
    for pipeline in (original, loaded):
        pipeline.set_progress_bar_config(disable=True)
    before, after = (
        pipeline(**request, generator=torch.Generator().manual_seed(7)) for pipeline in (original, loaded)
    )
    assert torch.equal(before.frames, after.frames)
    assert torch.equal(before.audio, after.audio)


def test_saving_over_a_checkpoint_is_refused_as_the_weights_may_be_views_of_it(checkpoint_copy):
    pipeline = MOVAPipeline.from_pretrained(checkpoint_copy)
    before = {path: path.read_bytes() for path in checkpoint_copy.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a checkpoint; choose another folder"):
        pipeline.save_pretrained(checkpoint_copy)
    assert before == {path: path.read_bytes() for path in checkpoint_copy.rglob("*") if path.is_file()}


def test_without_a_text_encoder_embeddings_stand_in_for_texts(golden, original, tmp_path):
    pipeline = MOVAPipeline.from_pretrained(golden / "checkpoint", text_encoder=None, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    request = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 2, "output_type": "latent"}
    texts = {"prompt": "a bell rings", "negative_prompt": "noise"}
    embeds = {f"{name}_embeds": original.encode_prompt(text) for name, text in texts.items()}
    expected = original(**request, **texts, generator=torch.Generator().manual_seed(7))
    output = pipeline(**request, **embeds, generator=torch.Generator().manual_seed(7))
    assert torch.equal(output.frames, expected.frames)
    with pytest.raises(UserError, match="no text encoder; give prompt_embeds"):
        pipeline(**request, prompt="a bell rings")
    pipeline.save_pretrained(tmp_path)
    assert not (tmp_path / "text_encoder").exists()
    MOVAPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    with pytest.raises(UserError, match="no folder text_encoder/"):
        MOVAPipeline.from_pretrained(tmp_path)
