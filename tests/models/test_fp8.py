import pytest
import torch
from torch import nn

from mova.models.fp8 import FP8, Fp8Linear, fp8_layers, to_8_bits, to_fp8
from mova.placement import compile_blocks
from tests import tiny
from tests.tiny import relative_error


def linear(in_features=48, out_features=32, dtype=torch.bfloat16):
    torch.manual_seed(0)
    layer = nn.Linear(in_features, out_features).requires_grad_(False).to(dtype)
    layer.weight *= torch.logspace(-3, 3, out_features)[:, None]  # rows of very different size
    return layer


def plain_fp8(row):
    """The codes and the scale of a row, one number at a time, in float64, as defined."""
    scale = max(abs(value) for value in row) / 448
    table = sorted({float(code) for code in torch.arange(256, dtype=torch.uint8).view(FP8) if code == code})
    return [min(table, key=lambda code: abs(code - value / scale)) for value in row], scale


def test_every_row_is_rounded_to_the_nearest_codes_at_its_own_scale():
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1e-4], [1], [30], [1e5]]
    )
    codes, scales = to_fp8(x.bfloat16())
    for row, found, scale in zip(x.bfloat16().tolist(), codes.double().tolist(), scales, strict=True):
        expected, exact = plain_fp8(row)
        assert scale.item() == pytest.approx(exact, rel=1e-6)
        assert found == expected


def test_rows_of_zeros_and_of_the_largest_numbers_survive():
    codes, scales = to_fp8(torch.tensor([[0.0] * 16, [3e38] * 16]).bfloat16())
    assert (codes[0].float() == 0).all()
    assert (codes[1].float() == 448).all()
    assert torch.isfinite(scales).all()


@pytest.mark.parametrize("shape", [(3, 48), (2, 5, 48)])
def test_a_product_equals_one_in_float64_of_the_same_codes(multiplying, shape):
    layer = linear()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    ours = Fp8Linear(layer)(x)
    (x_codes, x_scale), (codes, scale) = to_fp8(x.flatten(0, -2)), to_fp8(layer.weight)
    exact = (x_codes.double() * x_scale) @ (codes.double() * scale).T + layer.bias.double()
    assert ours.dtype == torch.bfloat16
    assert ours.shape == (*shape[:-1], 32)
    assert relative_error(ours.double(), exact.view(ours.shape)) < 2**-8
    assert relative_error(ours.double(), layer(x).double()) < 0.06


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_where_nothing_multiplies_fp8_the_weight_is_widened_and_inputs_stay_exact(dtype):
    layer, x = linear(dtype=dtype), torch.randn(3, 48, dtype=dtype)
    small = Fp8Linear(layer)
    codes, scale = to_fp8(layer.weight.bfloat16())
    assert torch.equal(small(x), nn.functional.linear(x, (codes.float() * scale).to(dtype), layer.bias))


def test_shapes_that_no_card_multiplies_are_widened(multiplying):
    layer = linear(in_features=40)
    x = torch.randn(3, 40).bfloat16()
    assert torch.equal(
        Fp8Linear(layer)(x), nn.functional.linear(x, Fp8Linear(layer).widened(x.dtype), layer.bias)
    )


def test_gradients_reach_the_input_through_the_widened_weight(multiplying):
    small, x = Fp8Linear(linear()), torch.randn(3, 48).bfloat16().requires_grad_()
    small(x).sum().backward()
    assert torch.equal(x.grad[0], small.widened(torch.bfloat16).sum(0, dtype=torch.float32).bfloat16())


def test_large_layers_of_experts_and_of_the_bridges_picture_side_are_taken_and_no_others():
    tower = tiny.dual_tower(video_layers=2, audio_layers=1)
    named = {
        name: set(fp8_layers(name, getattr(tower, name)))
        for name in ("video_dit", "audio_dit", "dual_tower_bridge")
    }
    attention = {f"{kind}.{part}" for kind in ("self_attn", "cross_attn") for part in "qkvo"}
    inside = attention | {"ffn.0", "ffn.2"}
    assert named["video_dit"] == {f"blocks.{i}.{layer}" for i in (0, 1) for layer in inside}
    assert named["audio_dit"] == set()
    assert named["dual_tower_bridge"] == {
        *(f"audio_to_video_conditioners.0.inner.{part}" for part in "qkvo"),
        *(f"video_to_audio_conditioners.0.inner.{part}" for part in "kv"),
    }


@pytest.mark.slow
def test_blocks_in_fp8_are_one_graph_each_and_compute_as_uncompiled(multiplying):
    tower = tiny.dual_tower(video_heads=2, head_dim=24, bridge_head_dim=24).to(torch.bfloat16)
    for name in ("video_dit", "dual_tower_bridge"):
        to_8_bits(name, getattr(tower, name))
    arguments = tiny.inputs(tower)
    with torch.no_grad():
        eager = tower(**arguments)
        block, rest = tower.video_dit.blocks[0], (torch.randn(1, 4, 48), torch.randn(1, 6, 48))
        x, (text, modulation) = torch.randn(1, 72, 48).bfloat16(), (each.bfloat16() for each in rest)
        rotary = tower.video_dit.rotary((3, 4, 6), x.device)
        explained = torch._dynamo.explain(block)(x, text, modulation, rotary)
        assert (explained.graph_count, explained.graph_break_count) == (1, 0)
        compile_blocks(tower)
        compiled = tower(**arguments)
    for ours, reference in zip(compiled, eager, strict=True):
        assert relative_error(ours, reference) < 0.03
