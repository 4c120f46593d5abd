"""int8 and nf4 bases: what they round to, that LoRA learns on them as on any other, and what stays as it was."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lora_trainer import plan_memory
from lora_trainer.config import read_config
from lora_trainer.encode import checkpoint_folder
from lora_trainer.engine import Engine
from lora_trainer.lora import save_adapter
from lora_trainer.model import load_model
from lora_trainer.overfit import overfit, overfit_config
from lora_trainer.quantised import QuantisedLinear, held_bytes, linear_layers, quantise
from mova.strengths import TOWERS
from mova.types import UserError
from tests.lora_trainer.conftest import run_steps
from tests.lora_trainer.test_engine import equal, through_a_file

CPU = torch.device("cpu")
# The levels of 4-bit normal floats as their authors publish them (QLoRA, appendix E).
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@pytest.fixture(params=["int8", "nf4"])
def base(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return request.param


def rounded(weight, base):
    """The nearest value that the base can hold, by a plain search."""
    if base == "int8":
        scale = weight.abs().amax(1, keepdim=True) / 127
        return (weight / scale).round() * scale
    flat = nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    scale, levels = flat.abs().amax(1, keepdim=True), torch.tensor(NF4)
    nearest = ((flat / scale)[..., None] - levels).abs().argmin(-1)
    return (levels[nearest] * scale).flatten()[: weight.numel()].view_as(weight)


def rounded_engine(engine, base, **changes):
    """An engine whose plain layers hold the rounded weights."""
    plain = engine(**changes)
    for name in TOWERS:
        for layer in linear_layers(getattr(plain.pipeline, name)).values():
            layer.weight.data = rounded(layer.weight.data, base)
    return plain


def quantised_in(model):
    return {path: m for path, m in model.named_modules() if isinstance(m, QuantisedLinear)}


@pytest.mark.parametrize("shape", [(48, 64), (7, 9)])  # the second leaves half a byte and a block open
def test_a_layer_computes_with_the_nearest_values_that_its_base_holds(base, shape):
    torch.manual_seed(0)
    plain = nn.Linear(shape[1], shape[0]).requires_grad_(False)
    layer = QuantisedLinear(plain, base, CPU)
    expected = rounded(plain.weight, base)
    assert torch.allclose(layer.weight, expected, atol=1e-6)
    x = torch.randn(2, 3, shape[1], requires_grad=True)
    out = layer(x)
    out.square().sum().backward()
    again = x.detach().clone().requires_grad_()
    direct = nn.functional.linear(again, layer.weight, plain.bias)
    direct.square().sum().backward()
    assert torch.equal(out, direct)
    assert torch.allclose(x.grad, again.grad, atol=1e-6)
    stored = {"codes": layer.codes.nbytes, "scales": layer.scales.nbytes}
    assert stored == held_bytes(plain, base)


def test_a_row_of_zeros_stays_zero(base):
    plain = nn.Linear(64, 2).requires_grad_(False)
    plain.weight[0] = 0
    weight = QuantisedLinear(plain, base, CPU).weight
    assert weight.isfinite().all()
    assert not weight[0].any()


def test_only_linear_layers_of_blocks_and_bridge_are_quantised(engine, base):
    plain, small = engine(), engine(run__base=base)
    for name in TOWERS:
        ours, theirs = (getattr(each.pipeline, name) for each in (small, plain))
        layers = {path.removesuffix(".base_layer") for path in quantised_in(ours)}
        assert layers == {path.removesuffix(".base_layer") for path in linear_layers(theirs)}
        kinds = {path.split(".", 2)[-1] for path in layers}
        block = {f"{kind}_attn.{one}" for kind in ("self", "cross") for one in "qkvo"} | {"ffn.0", "ffn.2"}
        assert kinds == ({f"inner.{one}" for one in "qkvo"} if name == "dual_tower_bridge" else block)
        other = {key: value for key, value in ours.state_dict().items() if key in theirs.state_dict()}
        assert equal(other, {key: theirs.state_dict()[key] for key in other})
        assert ours.dtype == theirs.dtype


def test_loss_and_gradients_are_those_of_the_rounded_weights(engine, base):
    small, expected, plain = engine(run__base=base), rounded_engine(engine, base), engine()
    for each in (small, expected, plain):
        run_steps(each, 1)  # LoRA B is no longer zero
        each.micro_batch()
    for key in ("video_loss", "audio_loss"):
        assert small.sums[key] == pytest.approx(expected.sums[key], rel=1e-5)
        # Rounding moves the loss by its own size: int8 about 0.5 % of a weight, nf4 about 9 %.
        assert small.sums[key] == pytest.approx(plain.sums[key], rel={"int8": 1e-3, "nf4": 2e-2}[base])
    for key, weight in expected.lora.weights.items():
        if weight.grad is not None:
            close = torch.allclose(small.lora.weights[key].grad, weight.grad, rtol=1e-3, atol=1e-5)
            assert close, key


def test_without_its_lora_the_quantised_base_is_there_bit_for_bit(engine, parts, base):
    trained = engine(run__base=base)
    before = trained.measure()
    run_steps(trained, 2)
    assert trained.measure() != before
    with trained.lora.without(*trained.towers):
        assert trained.measure_layers() == before if hasattr(trained, "measure_layers") else True


@pytest.mark.parametrize("offload", ["experts", "layers"])
def test_quantised_weights_that_come_and_go_change_no_bit(engine, base, offload):
    changes = {"run__base": base, "run__gradient_checkpointing": True}
    resident, moving = engine(**changes), engine(run__offload=offload, **changes)
    assert run_steps(resident, 3) == run_steps(moving, 3)
    assert equal(resident.lora.weights, moving.lora.weights)
    assert resident.measure() == moving.measure()


def test_checkpointing_and_resuming_inside_a_step_change_no_bit(engine, base, tmp_path):
    whole = engine(run__base=base, run__dropout=0.2)
    record = run_steps(whole, 3)
    first = engine(run__base=base, run__dropout=0.2)
    run_steps(first, 1)
    first.micro_batch()
    resumed = engine(run__base=base, run__dropout=0.2)
    resumed.restore(through_a_file(first.state(), tmp_path))
    assert run_steps(resumed, 2) == record
    assert equal(resumed.lora.weights, whole.lora.weights)
