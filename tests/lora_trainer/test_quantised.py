"""int8 and nf4 bases: what they round to, that LoRA learns on them, and that nothing else changes."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_trainer.__main__ import main
from lora_trainer.plan import memory
from lora_trainer.quantised import QuantisedLinear, held_bytes, linear_layers, quantise
from lora_trainer.validation import measure
from mova.adapters.strengths import TOWERS
from tests.lora_trainer.conftest import run_steps
from tests.lora_trainer.test_engine import equal, through_a_file
from tests.lora_trainer.test_lora import save
from tests.tiny import relative_error

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


def hold_rounded(pipeline, base):
    for name in TOWERS:
        for layer in linear_layers(getattr(pipeline, name)).values():
            layer.weight.data = rounded(layer.weight.data, base)
    return pipeline


def quantised_in(model):
    return {path: m for path, m in model.named_modules() if isinstance(m, QuantisedLinear)}


@pytest.mark.parametrize("shape", [(48, 64), (7, 9)])  # the second leaves half a byte and a block open
def test_a_layer_computes_with_the_nearest_values_that_its_base_holds(base, shape):
    torch.manual_seed(0)
    plain = nn.Linear(shape[1], shape[0]).requires_grad_(False)
    x = torch.randn(2, 3, shape[1], requires_grad=True)
    again = x.detach().clone().requires_grad_()
    with torch.compiler.set_stance("force_eager"):  # bitsandbytes compiles for the odd shape: half a minute
        layer = QuantisedLinear(plain, base, CPU)
        out = layer(x)
        out.square().sum().backward()
        direct = nn.functional.linear(again, layer.weight, plain.bias)
        direct.square().sum().backward()
        held = layer.weight
    assert torch.allclose(held, rounded(plain.weight, base), atol=1e-6)
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
        ours_held, theirs_held = ours.state_dict(), theirs.state_dict()
        other = ours_held.keys() & theirs_held.keys()
        assert equal({key: ours_held[key] for key in other}, {key: theirs_held[key] for key in other})
        assert ours.dtype == theirs.dtype


def test_loss_and_gradients_are_those_of_the_rounded_weights(engine, base):
    small, expected, plain = engine(run__base=base), engine(), engine()
    hold_rounded(expected.pipeline, base)
    for each in (small, expected, plain):
        run_steps(each, 1)  # LoRA B is no longer zero
        each.micro_batch()
    for key in ("video_loss", "audio_loss"):
        assert small.sums[key] == pytest.approx(expected.sums[key], rel=1e-5)
        # Rounding moves a weight by about 0.5 % (int8) or 9 % (nf4); here the loss by 0.06 % or 1.3 %.
        assert small.sums[key] != plain.sums[key]
        assert small.sums[key] == pytest.approx(plain.sums[key], rel={"int8": 1e-3, "nf4": 2e-2}[base])
    for key, weight in expected.lora.weights.items():
        if weight.grad is not None:
            close = torch.allclose(small.lora.weights[key].grad, weight.grad, rtol=1e-3, atol=1e-5)
            assert close, key


def test_without_its_lora_the_quantised_base_is_there_bit_for_bit(engine, parts, base):
    trained = engine(run__base=base)
    _, _, bare = parts()
    for name in TOWERS:
        quantise(getattr(bare, name), base, CPU)
    alone = {name: measure(bare, each, trained.load) for name, each in trained.measured.items()}
    assert trained.measure() == alone
    run_steps(trained, 2)
    assert trained.measure() != alone
    with trained.lora.without(*trained.towers):
        assert trained.measure() == alone


@pytest.mark.parametrize("offload", ["experts", "layers"])
def test_quantised_weights_that_come_and_go_change_no_bit(engine, base, offload):
    changes = {"run__base": base, "run__gradient_checkpointing": True}
    resident, moving = engine(**changes), engine(run__offload=offload, **changes)
    assert run_steps(resident, 3) == run_steps(moving, 3)
    assert equal(resident.lora.weights, moving.lora.weights)
    assert resident.measure() == moving.measure()


def test_stopping_inside_a_step_and_resuming_changes_no_bit(engine, base, tmp_path):
    changes = {"run__base": base, "run__dropout": 0.2, "run__dtype": "bfloat16"}
    whole = engine(**changes)
    record = run_steps(whole, 3)
    first = engine(**changes)
    run_steps(first, 1)
    first.micro_batch()
    resumed = engine(**changes)
    resumed.restore(through_a_file(first.state(), tmp_path))
    assert run_steps(resumed, 2) == record
    assert equal(resumed.lora.weights, whole.lora.weights)


def test_autograd_keeps_nothing_wide(engine, base):
    """The bytes saved for the backward pass, but for codes and scales, are those of the plain base."""

    def saved_bytes(each):
        each.pipeline.residency.activate("video_dit")
        frozen = {p.untyped_storage().data_ptr() for p in each.pipeline.dual_tower.parameters()}
        saved = {}

        def pack(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            each._backward(0)
        return sum(size for key, (size, _) in saved.items() if key not in frozen)

    assert saved_bytes(engine(run__base=base)) == saved_bytes(engine())


def test_plan_counts_the_bytes_that_are_held(engine, base):
    trained = engine(run__base=base)
    towers = memory.build_towers(Path(trained.config.model))
    for name in TOWERS:
        frozen = [p.nbytes for p in getattr(trained.pipeline, name).parameters() if not p.requires_grad]
        assert memory.frozen_bytes(towers, name, trained.config, 4) == sum(frozen)


def test_the_adapter_works_on_the_plain_base(engine, fresh, base, tmp_path):
    trained = engine(run__base=base, run__accumulation=1)
    run_steps(trained, 2)
    path = save(trained, tmp_path / "adapter.safetensors")
    text = {key: trained.cache.text("")[None] for key in ("prompt_embeds", "negative_prompt_embeds")}
    small = {"height": 32, "width": 64, "num_frames": 9, "num_inference_steps": 2, "output_type": "latent"}

    def run(pipeline):
        return pipeline(generator=torch.Generator().manual_seed(0), **text, **small)

    ours, bases = run(trained.pipeline), (fresh(), hold_rounded(fresh(), base))
    before = [run(pipeline) for pipeline in bases]
    for pipeline in bases:
        pipeline.load_lora_weights(path)
    after = [run(pipeline) for pipeline in bases]
    for kind in ("frames", "audio"):
        on_plain, on_rounded = (getattr(new, kind) for new in after)
        assert relative_error(on_rounded, getattr(ours, kind)) < 1e-5
        # What the adapter changes is the same change on both bases, but for the rounding.
        changes = [getattr(new, kind) - getattr(old, kind) for new, old in zip(after, before, strict=True)]
        assert relative_error(*changes) < {"int8": 0.02, "nf4": 0.2}[base]
        assert relative_error(on_plain, getattr(before[0], kind)) > 1e-2


@pytest.mark.parametrize("command", ["train", "overfit"])
def test_a_missing_library_is_named_before_anything_is_done(settings, command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    config = settings()
    path = config.output.parent / "config.yaml"
    path.write_text(config.model_dump_json())
    assert main([command, str(path), "--base", "nf4"]) == 2
    assert 'pip install "bitsandbytes>=0.50"`, or set run.base to int8' in capsys.readouterr().err
    assert not config.output.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", [(640, 512), (7, 9)])
def test_the_gpu_holds_and_computes_the_same(base, shape):
    torch.manual_seed(0)
    plain = nn.Linear(shape[1], shape[0], dtype=torch.bfloat16).requires_grad_(False)
    ours, theirs = (QuantisedLinear(plain, base, torch.device(kind)).cuda() for kind in ("cuda", "cpu"))
    # Where a value lies between two codes the devices may round it to either.
    assert (ours.codes == theirs.codes.cuda()).float().mean() > 0.999
    assert relative_error(ours.weight.float().cpu(), rounded(plain.weight.float(), base)) < 0.005
    x = torch.randn(3, shape[1], dtype=torch.bfloat16, device="cuda", requires_grad=True)
    ours(x).float().square().sum().backward()
    again = x.detach().cpu().float().requires_grad_()
    wide = rounded(plain.weight.float(), base)
    nn.functional.linear(again, wide, plain.bias.float()).square().sum().backward()
    assert relative_error(x.grad.float().cpu(), again.grad) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offload", ["none", "experts", "layers"])
def test_a_run_on_the_gpu_has_the_losses_of_the_cpu(engine, base, offload, tmp_path):
    changes = {"run__base": base, "run__gradient_checkpointing": True, "run__offload": offload}
    gpu = engine(**changes, run__device="cuda", data__cache=str(tmp_path / "cache"))
    cpu = engine(**changes)
    ours, theirs = run_steps(gpu, 3), run_steps(cpu, 3)
    for key in ("video_loss", "audio_loss"):
        assert ours[key] == pytest.approx(theirs[key], rel=0.02)
