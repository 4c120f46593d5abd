import dataclasses
import logging
import sys
import types

import pytest
import torch

from mova import kernels
from mova.errors import UserError
from mova.kernels import FLASH_4, TORCH, AttentionKernels, choose_kernels, parse_kernels
from mova.machine import GIB, Machine
from mova.models.attention import attention, obstacle
from mova.placement import Placement, choose, place, use_kernels
from tests import tiny
from tests.tiny import SHORT_RUN

CPU = torch.device("cpu")
H200 = Machine("cuda", "NVIDIA H200", 139 * GIB, 128 * GIB, 16, has_bfloat16=True, capability=(9, 0))


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(kernels, "has_flash_4", lambda: True)


@pytest.fixture
def flash_attn(monkeypatch):
    """A stand-in for the package with its signature and layout; returns the calls' shapes."""
    calls = []

    def flash_attn_func(q, k, v):
        calls.append(tuple(q.shape))
        heads_first = (each.transpose(1, 2) for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(*heads_first)
        return out.transpose(1, 2).contiguous(), None  # with the log-sum-exp, as some versions

    package, module = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.cute")
    module.flash_attn_func = flash_attn_func
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", module)
    return calls


@pytest.mark.parametrize(
    ("capability", "taken"),
    [((9, 0), True), ((10, 0), True), ((10, 3), True), ((8, 0), False), ((8, 9), False), ((12, 0), False)],
)
def test_flash_4_is_taken_for_the_video_on_the_cards_that_it_is_made_for(installed, capability, taken):
    chosen = choose_kernels(dataclasses.replace(H200, capability=capability), "bfloat16")
    assert chosen == AttentionKernels(video=FLASH_4 if taken else TORCH)


@pytest.mark.parametrize(
    ("machine", "dtype", "reason"),
    [
        (Machine("cpu", "CPU", GIB, GIB, 2, has_bfloat16=True), "bfloat16", "needs a Hopper card"),
        (Machine("mps", "Apple GPU", GIB, GIB, 8, has_bfloat16=True), "bfloat16", "needs a Hopper card"),
        (H200, "float32", "does not compute in float32"),
    ],
)
def test_without_it_torchs_kernels_are_used_and_the_reason_is_said(installed, machine, dtype, reason):
    chosen = choose_kernels(machine, dtype)
    assert chosen == AttentionKernels()
    assert reason in str(chosen)


def test_a_card_that_could_use_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(kernels, "has_flash_4", lambda: False)
    chosen = choose_kernels(H200, "bfloat16")
    assert chosen == AttentionKernels()
    assert "pip install" in str(chosen)


def test_kernels_are_given_for_the_video_or_by_role():
    assert parse_kernels(FLASH_4) == AttentionKernels(video=FLASH_4)
    given = parse_kernels("video=torch, bridge=_native_cudnn")
    assert given == AttentionKernels(bridge="_native_cudnn")
    assert (
        str(given) == "torch for video, torch for text, _native_cudnn for bridge, torch for audio (as asked)"
    )


@pytest.mark.parametrize("text", ["", "video=", "picture=torch", "torch,video=torch"])
def test_a_malformed_choice_is_refused_with_the_roles(text):
    with pytest.raises(UserError, match="the roles are video, text, bridge, audio"):
        parse_kernels(text)


def test_an_unknown_kernel_is_refused_before_anything_loads():
    with pytest.raises(UserError, match="no attention kernel 'warp' for text; choose torch, flash-attn-4"):
        choose(H200, {"audio_vae": 1}, 1, attention=AttentionKernels(text="warp"))


def test_each_role_gets_its_own_kernel(flash_attn):
    tower = tiny.dual_tower()
    wanted = AttentionKernels(video=FLASH_4, text="_native_math", bridge="native")
    assert use_kernels(tower, wanted, CPU, torch.float32) == wanted
    video, audio, bridge = tower.video_dit.blocks[1], tower.audio_dit.blocks[1], tower.dual_tower_bridge
    assert (video.self_attn.kernel, video.cross_attn.kernel) == (FLASH_4, "_native_math")
    assert (audio.self_attn.kernel, audio.cross_attn.kernel) == (TORCH, "_native_math")
    assert {each.inner.kernel for each in bridge.conditioners()} == {"native"}
    plain = tiny.dual_tower()
    with torch.no_grad():
        for ours, theirs in zip(tower(**tiny.inputs(tower)), plain(**tiny.inputs(plain)), strict=True):
            assert tiny.relative_error(ours, theirs) < 1e-5


def test_a_block_with_flash_4_stays_one_graph_and_hands_over_tokens_before_heads(flash_attn):
    tower = tiny.dual_tower(video_layers=1)
    use_kernels(tower, AttentionKernels(video=FLASH_4), CPU, torch.float32)
    block, rotary = tower.video_dit.blocks[0], tower.video_dit.rotary((2, 3, 4), CPU)
    arguments = (torch.randn(1, 24, 24), torch.randn(1, 4, 24), torch.randn(1, 6, 24), rotary)
    flash_attn.clear()
    with torch.no_grad():
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(*arguments), block(*arguments), atol=1e-5)
    assert flash_attn == [(1, 24, 2, 12)] * 2


def test_a_kernel_that_fails_or_is_wrong_is_said_once_and_torchs_is_used(flash_attn, monkeypatch, caplog):
    """The package is here, and its first call ends in an error of its own."""

    def failing(q, k, v):
        raise KeyError("no such instruction\non this card")

    monkeypatch.setattr(sys.modules["flash_attn.cute"], "flash_attn_func", failing)
    tower = tiny.dual_tower()
    with caplog.at_level(logging.WARNING):
        used = use_kernels(tower, AttentionKernels(video=FLASH_4), CPU, torch.float32)
    assert used == AttentionKernels()
    assert tower.video_dit.blocks[0].self_attn.kernel == TORCH
    (message,) = [record.getMessage() for record in caplog.records if record.name == "mova.placement"]
    assert message.startswith("video attention falls back to torch's: flash-attn-4 fails here (KeyError")
    assert "\n" not in message
    monkeypatch.setattr(sys.modules["flash_attn.cute"], "flash_attn_func", lambda q, k, v: -q)
    assert "off torch's result" in obstacle(FLASH_4, CPU, torch.float32, 12)


def test_a_kernel_that_is_not_installed_is_named(caplog):
    assert "fails here" in obstacle(FLASH_4, CPU, torch.float32, 12)
    assert "fails here" in obstacle("xformers", CPU, torch.float32, 12)


def test_torchs_kernel_is_called_as_before_bit_for_bit():
    q, k, v = (torch.randn(2, 9, 3, 8) for _ in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    assert torch.equal(attention(TORCH, q, k, v), plain.transpose(1, 2))


def test_placing_with_a_kernel_that_fails_makes_the_same_clip(pipeline, fresh, caplog):
    placed = fresh()
    place(placed, Placement("cpu", "float32", attention=AttentionKernels(video=FLASH_4)))
    assert "falls back" in caplog.text
    clips = [
        each(generator=torch.Generator().manual_seed(0), **SHORT_RUN).frames for each in (placed, pipeline)
    ]
    assert torch.equal(*clips)
