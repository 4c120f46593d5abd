"""Few-step adapters: what their header says, and that a run which does not follow it is refused or told."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mova.adapters.edits import merge
from mova.adapters.files import Adapter, AdapterMetadata, LoraUpdate, write_adapter
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import TOWERS
from mova.adapters.turbo import Turbo, turbo_of
from mova.errors import UserError
from mova.request import GenerationRequest
from mova.scheduler import PairScheduler
from tests.tiny import SHORT_RUN

TURBO = Turbo(steps=2, video_shift=5.0, audio_shift=5.0)
RUN = SHORT_RUN | {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
MODULE = "video_dit.blocks.0.self_attn.q"


def adapter(turbo=TURBO, module=MODULE):
    torch.manual_seed(1)
    update = LoraUpdate(torch.randn(2, 48) / 4, torch.randn(48, 2) / 4, 2.0)
    return Adapter({module: update}, AdapterMetadata("tiny", (), {}, turbo))


@pytest.fixture
def path(tmp_path):
    write_adapter(tmp_path / "turbo.safetensors", adapter())
    return tmp_path / "turbo.safetensors"


@pytest.fixture
def attached(pipeline):
    pipeline.load_lora_weights(adapter())
    yield pipeline
    pipeline.unload_lora_weights()


def run(pipeline, **changes):
    return pipeline(generator=torch.Generator().manual_seed(0), **(RUN | changes))


def test_a_file_says_its_steps_and_the_schedulers_sigmas(path):
    assert turbo_of(path) == read_adapter(path).metadata.turbo == TURBO
    sigmas = torch.tensor(TURBO.record()["sigmas"])
    assert torch.allclose(sigmas, PairScheduler(num_train_timesteps=1000, shift=5.0).sigmas(2), atol=1e-6)


def test_files_that_say_nothing_are_no_turbo_adapters(tmp_path):
    write_adapter(tmp_path / "plain.safetensors", adapter(turbo=None))
    assert turbo_of(tmp_path / "plain.safetensors") is None
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("text.safetensors", "none.safetensors", ""):
        assert turbo_of(tmp_path / name) is None


@pytest.mark.parametrize(
    "record", [{}, {"steps": 2}, TURBO.record() | {"steps": 0}, TURBO.record() | {"steps": "4"}, 4]
)
def test_a_malformed_header_is_refused(tmp_path, record):
    said = {"version": 1, "base_model": "", "trigger_words": [], "recipe": {}, "turbo": record}
    described = json.dumps(said)
    tensors = {f"{MODULE}.lora_A.weight": torch.ones(2, 48), f"{MODULE}.lora_B.weight": torch.ones(48, 2)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"mova_adapter": described})
    with pytest.raises(UserError, match="names no steps that can be run"):
        read_adapter(tmp_path / "x.safetensors")


def test_guidance_is_refused_by_its_field_before_anything_is_loaded(path):
    request = GenerationRequest("a bell", adapters=((str(path), 1.0),), guidance_scale=1.0)
    request.check()
    for field in ("guidance_scale", "bridge_guidance_scale", "audio_guidance_scale"):
        with pytest.raises(UserError, match=rf"{field}=3 with .*turbo\.safetensors.*set {field}=1") as caught:
            request.replace(**{field: 3.0}).check()
        assert caught.value.field == field
    request.replace(guidance_scale=3.0, adapters=((str(path), 0.0),)).check()


def test_the_pipeline_refuses_guidance_while_the_adapter_acts(attached):
    with pytest.raises(UserError, match="guidance_scale=5 with a few-step adapter"):
        run(attached, guidance_scale=5.0)
    attached.set_adapters("default", 0.0)
    run(attached, guidance_scale=5.0)
    attached.set_adapters("default", {"video": 0.5})
    with pytest.raises(UserError, match="guidance_scale"):
        run(attached, guidance_scale=5.0)
    attached.disable_lora()
    run(attached, guidance_scale=5.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"num_inference_steps": 3}, "set num_inference_steps=2"),
        ({"video_shift": 3.0}, "set video_shift=5"),
        ({"solver": "unipc"}, "set solver=euler"),
    ],
)
def test_other_steps_are_run_and_said(attached, changes, said):
    notes = run(attached, **changes).notes
    assert len(notes) == bool(said)
    assert all(note.endswith(said) for note in notes)


def test_a_personal_adapter_acts_beside_it_with_its_own_strength(attached):
    alone = run(attached).frames
    attached.load_lora_weights(adapter(None, "video_dit.blocks.1.self_attn.q"), adapter_name="own")
    attached.set_adapters(["default", "own"], [1.0, 0.5])
    both = run(attached).frames
    assert not torch.equal(alone, both)
    with pytest.raises(UserError, match="guidance_scale"):
        run(attached, guidance_scale=2.0)
    attached.set_adapters(["default", "own"], [1.0, 0.0])
    assert torch.equal(run(attached).frames, alone)


def test_a_merged_adapter_is_still_to_be_run_so(path):
    merged = merge([(read_adapter(path), 1.0), (adapter(None), 0.5)])
    assert merged.metadata.turbo == TURBO
    with pytest.raises(UserError, match="have learnt different steps"):
        merge([(read_adapter(path), 1.0), (adapter(Turbo(4, 5.0, 5.0)), 1.0)])


def test_an_adapter_of_the_time_projection_acts_as_its_product_added_to_the_weight(fresh):
    """The layer runs in float32 from its weight, past peft's own forward."""
    torch.manual_seed(2)
    layers = {
        f"{tower}.time_projection.1": LoraUpdate(torch.randn(2, dim) / 4, torch.randn(6 * dim, 2) / 4, 3.0)
        for tower, dim in zip(TOWERS[:3], (48, 48, 32), strict=True)
    }
    merged, attached = fresh(), fresh()
    base = run(merged).frames
    with torch.no_grad():
        for key, lora in layers.items():
            tower, _, path = key.partition(".")
            getattr(merged, tower).get_submodule(path).weight += lora.scale * lora.up @ lora.down
    attached.load_lora_weights(Adapter(layers))
    expected = run(merged).frames
    assert not torch.allclose(base, expected, atol=1e-3)
    assert torch.allclose(run(attached).frames, expected, atol=1e-4)
    attached.fuse_lora()
    assert torch.allclose(run(attached).frames, expected, atol=1e-4)
    attached.unfuse_lora()
    attached.disable_lora()
    assert torch.equal(run(attached).frames, base)
