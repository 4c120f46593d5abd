import math

import pytest
import torch

from mova.models.attention import grid_rotary, rotate_halves, rotate_pairs, time_rotary

CPU = torch.device("cpu")


def slow_pairs(x, positions, widths):
    """Turn each pair of channels by its own angle, one number at a time, in float64."""
    out = x.double().clone()
    for token, position in enumerate(positions):
        channel = 0
        for at, width in zip(position, widths, strict=True):
            for i in range(width // 2):
                angle = at * 10000 ** (-2 * i / width)
                a, b = x[:, token, :, channel].double(), x[:, token, :, channel + 1].double()
                out[:, token, :, channel] = a * math.cos(angle) - b * math.sin(angle)
                out[:, token, :, channel + 1] = a * math.sin(angle) + b * math.cos(angle)
                channel += 2
    return out


def slow_halves(x, positions):
    out = x.double().clone()
    half = x.shape[-1] // 2
    for token, position in enumerate(positions):
        for i in range(half):
            angle = position * 10000 ** (-i / half)
            a, b = x[:, token, :, i].double(), x[:, token, :, i + half].double()
            out[:, token, :, i] = a * math.cos(angle) - b * math.sin(angle)
            out[:, token, :, i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


@pytest.mark.parametrize(
    ("grid", "head_dim"), [((2, 3, 4), 12), ((5, 2, 1), 24), ((3, 2, 2), 128), ((7,), 16)]
)
def test_tower_rotation_equals_a_slow_plain_one(grid, head_dim):
    x = torch.randn(2, math.prod(grid), 3, head_dim)
    positions = torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid)).tolist()
    minor = head_dim // 3
    widths = [head_dim] if len(grid) == 1 else [head_dim - 2 * minor, minor, minor]
    ours = rotate_pairs(x, grid_rotary(grid, head_dim, CPU))
    assert torch.allclose(ours.double(), slow_pairs(x, positions, widths), atol=1e-5)


def test_released_head_is_shared_out_as_44_42_42():
    table = grid_rotary((2, 2, 2), 128, CPU)  # token 4 is the first of frame 1, at row 0 and column 0
    moved = table[4, :, 1] != 0
    assert moved[:22].all()
    assert not moved[22:].any()


def test_bridge_rotation_equals_a_slow_plain_one():
    positions = (0.0, 25 / 3, 50 / 3)
    x = torch.randn(2, 6, 3, 16)
    ours = rotate_halves(x, time_rotary(positions, 2, 16, CPU))
    assert torch.allclose(ours.double(), slow_halves(x, [p for p in positions for _ in range(2)]), atol=1e-5)


def test_complex_and_real_rotation_agree():
    x, table = torch.randn(1, 24, 2, 12), grid_rotary((2, 3, 4), 12, CPU)
    compiled = torch.compile(rotate_pairs, backend="aot_eager", fullgraph=True)
    assert torch.allclose(rotate_pairs(x, table), compiled(x, table), atol=1e-6)


def test_rotation_keeps_bfloat16_within_one_rounding():
    x, table = torch.randn(1, 24, 2, 12).bfloat16(), grid_rotary((2, 3, 4), 12, CPU)
    exact = rotate_pairs(x.float(), table)
    assert (rotate_pairs(x, table).float() - exact).abs().max() <= 2**-8 * exact.abs().max()
