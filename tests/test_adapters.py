import pytest
import torch
from safetensors.torch import save_file

from mova.types import UserError
from tests.tiny import relative_error

SMALL = {
    "prompt": "a ball falls",
    "height": 32,
    "width": 48,
    "num_frames": 5,
    "num_inference_steps": 4,
    "output_type": "latent",
}
MODULE = "video_dit.blocks.0.self_attn.q"


def run(pipeline):
    out = pipeline(generator=torch.Generator().manual_seed(0), **SMALL)
    return out.frames, out.audio


@pytest.fixture
def attach(pipeline):
    """Attaches adapters to the shared pipeline and takes them off again."""
    yield lambda source, name="default": pipeline.load_lora_weights(source, adapter_name=name)
    pipeline.unload_lora_weights()


def matrices(rank=2, size=48, module=MODULE):
    torch.manual_seed(1)
    return {
        f"{module}.lora_A.weight": torch.randn(rank, size) / 4,
        f"{module}.lora_B.weight": torch.randn(size, rank) / 4,
    }


def write(path, tensors, alpha=None):
    save_file(tensors, path, metadata=None if alpha is None else {"alpha": str(alpha)})
    return path


def test_strength_zero_is_the_base_model_bit_for_bit(pipeline, golden, attach):
    base = run(pipeline)
    attach(golden / "lora_upstream_accelerate")
    assert relative_error(run(pipeline)[0], base[0]) > 0.01
    pipeline.set_adapters(["default"], [0.0])
    assert torch.equal(run(pipeline)[0], base[0])
    pipeline.unload_lora_weights()
    assert torch.equal(run(pipeline)[1], base[1])


def test_each_tower_has_its_own_strength(pipeline, golden, attach):
    base = run(pipeline)
    attach(golden / "lora_upstream_accelerate")
    full = run(pipeline)
    towers = ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge")
    pipeline.set_adapters(["default"], [dict.fromkeys(towers, 0.0) | {"audio_dit": 1.0}])
    some = run(pipeline)
    assert relative_error(some[1], base[1]) > 0
    assert relative_error(some[0], base[0]) < relative_error(full[0], base[0])


def test_an_adapter_adds_its_scaled_product_to_the_weight(pipeline, tmp_path, attach):
    layer = pipeline.video_dit.blocks[0].self_attn.q
    weight, tensors = layer.weight.data.clone(), matrices()
    x = torch.randn(3, 48)
    attach(write(tmp_path / "a.safetensors", tensors, alpha=6))
    down, up = tensors.values()
    expected = x @ (weight + 6 / 2 * up @ down).T + layer.bias
    with torch.no_grad():
        assert torch.allclose(pipeline.video_dit.blocks[0].self_attn.q(x), expected, atol=1e-5)


def test_two_adapters_add_up(pipeline, tmp_path, attach):
    attach(write(tmp_path / "a.safetensors", matrices()), "first")
    attach(write(tmp_path / "b.safetensors", matrices()), "second")
    pipeline.set_adapters(["first", "second"], [0.5, 0.5])
    both = run(pipeline)
    pipeline.set_adapters(["first"], [1.0])
    assert relative_error(run(pipeline)[0], both[0]) < 1e-5


def with_changes(**changes):
    return matrices() | changes


DAMAGED = [
    (matrices(module="video_dit.blocks.9.self_attn.q"), "no linear layer video_dit.blocks.9"),
    (matrices(module="text_encoder.block.0"), "is no LoRA key"),
    (matrices(size=24), "is for a layer 24x24"),
    (with_changes(**{f"{MODULE}.lora_A.weight": torch.full((2, 48), float("nan"))}), "NaN"),
    (
        with_changes(**{f"{MODULE}.lora_A.weight": torch.zeros(2, 48, dtype=torch.int32)}),
        "not a matrix of floats",
    ),
    ({f"{MODULE}.lora_A.weight": torch.zeros(2, 48)}, "only one of its two matrices"),
    (with_changes(**{f"{MODULE}.lora_B.weight": torch.zeros(48, 3)}), "ranks 2 and 3, no pair"),
    (matrices(rank=300), "rank 300"),
    ({"weight": torch.zeros(2, 2)}, "is no LoRA key"),
]


@pytest.mark.parametrize(("tensors", "sentence"), DAMAGED, ids=[sentence for _, sentence in DAMAGED])
def test_an_adapter_that_does_not_fit_is_refused_and_nothing_attached(pipeline, tmp_path, tensors, sentence):
    path = write(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(UserError, match=sentence):
        pipeline.load_lora_weights(path)
    assert not any("lora" in name for name, _ in pipeline.video_dit.named_parameters())


def test_files_that_are_no_adapters_are_refused(pipeline, tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04.")
    (tmp_path / "empty").mkdir()
    for name in ("text.safetensors", "pickle.pt", "empty", "missing.safetensors"):
        with pytest.raises(UserError, match=name):
            pipeline.load_lora_weights(tmp_path / name)


def test_an_upstream_folder_with_code_in_its_pickle_is_refused(pipeline, tmp_path):
    class Exploit:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Exploit()}, tmp_path / "lora_weights.pt")
    torch.save({"alpha": 8}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match="cannot be read as an upstream adapter"):
        pipeline.load_lora_weights(tmp_path)


def test_an_empty_upstream_folder_says_that_nothing_was_saved(pipeline, tmp_path):
    torch.save({}, tmp_path / "lora_weights.pt")
    torch.save({"alpha": 8}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match="saved nothing"):
        pipeline.load_lora_weights(tmp_path)
