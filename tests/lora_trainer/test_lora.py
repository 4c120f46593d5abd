"""Which layers get LoRA, and that the file holds all that was trained and works in the pipeline."""

import json
from collections import Counter

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from lora_trainer.lora import save_adapter
from lora_trainer.train import adapter_card
from mova.adapters.strengths import TOWERS
from mova.errors import UserError
from tests.lora_trainer.conftest import run_steps
from tests.tiny import relative_error

ATTENTION = {"video_dit": 4 * 8, "video_dit_2": 4 * 8, "audio_dit": 3 * 8, "dual_tower_bridge": 3 * 2 * 4}


def layer_counts(engine):
    return {
        name: sum(isinstance(m, LoraLayer) for m in getattr(engine.pipeline, name).modules())
        for name in TOWERS
    }


def test_targets_mean_exactly_what_they_say(engine):
    attention = dict.fromkeys((f"towers__{name}__targets" for name in TOWERS), "attention")
    assert layer_counts(engine(**attention)) == ATTENTION
    with_ffn = {f"towers__{name}__targets": "attention_ffn" for name in TOWERS[:3]}
    found = layer_counts(engine(**with_ffn, towers__dual_tower_bridge__targets="video_to_audio"))
    assert found == {"video_dit": 40, "video_dit_2": 40, "audio_dit": 30, "dual_tower_bridge": 12}
    look = engine(preset="look")
    assert layer_counts(look)["audio_dit"] == layer_counts(look)["dual_tower_bridge"] == 0
    names = Counter(key.split(".")[-3] for key in look.lora.of_tower("video_dit"))
    assert names == {"q": 16, "k": 16, "v": 16, "o": 16, "0": 8, "2": 8}


@pytest.fixture
def trained(engine):
    """An engine after steps of both experts, with other ranks and alphas than the defaults."""
    trained = engine(towers__audio_dit__rank=5, towers__audio_dit__alpha=5, run__accumulation=1)
    run_steps(trained, 2)
    return trained


def save(engine, path):
    with engine.saved_weights() as weights:
        save_adapter(path, weights, engine.config, torch.float32, adapter_card(engine.config))
    return path


def test_the_saved_file_makes_the_pipeline_compute_what_was_trained(trained, fresh, tmp_path):
    path = save(trained, tmp_path / "adapter.safetensors")
    plain = fresh()
    small = {"height": 32, "width": 64, "num_frames": 9, "num_inference_steps": 4, "output_type": "latent"}

    def run(pipeline):
        text = {
            "prompt_embeds": trained.cache.text("")[None],
            "negative_prompt_embeds": trained.cache.text("")[None],
        }
        return pipeline(generator=torch.Generator().manual_seed(0), **text, **small)

    base, ours = run(plain), run(trained.pipeline)
    plain.load_lora_weights(path)
    loaded = run(plain)
    assert relative_error(loaded.frames, ours.frames) < 1e-5
    assert relative_error(loaded.audio, ours.audio) < 1e-5
    assert relative_error(loaded.frames, base.frames) > 1e-3
    assert relative_error(loaded.audio, base.audio) > 1e-3


def test_the_file_holds_every_tower_with_rank_alpha_and_recipe(trained, tmp_path):
    with safe_open(save(trained, tmp_path / "a.safetensors"), framework="pt") as file:
        keys, header = list(file.keys()), file.metadata()
        assert file.get_tensor("audio_dit.blocks.0.ffn.0.lora_A.weight").shape == (5, 32)
    assert len(keys) == 2 * (32 + 32 + 30 + 24)
    settings, card = json.loads(header["lora_adapter_metadata"]), json.loads(header["mova_adapter"])
    assert settings["audio_dit.r"] == settings["audio_dit.lora_alpha"] == 5
    assert settings["video_dit.r"] == 2
    assert card["recipe"]["objective"]["audio_weight"] == 1.0
    assert card["base_model"] == "checkpoint"  # no path of this machine


def test_nothing_and_nan_are_not_saved(trained, tmp_path):
    with pytest.raises(UserError, match="saved nothing"):
        save_adapter(
            tmp_path / "a.safetensors", {}, trained.config, torch.float32, adapter_card(trained.config)
        )
    weights = dict(trained.lora.weights)
    key = next(iter(weights))
    weights[key] = torch.full_like(weights[key], float("nan"))
    with pytest.raises(UserError, match="holds NaN"):
        save_adapter(
            tmp_path / "a.safetensors", weights, trained.config, torch.float32, adapter_card(trained.config)
        )
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_tower_can_be_switched_off_and_on(trained):
    entries = trained.measured["training"]
    with_all = trained.measure()["training"]
    with trained.lora.without(*TOWERS):
        base = trained.measure()["training"]
    assert base != with_all
    assert trained.measure()["training"] == with_all
    assert entries
