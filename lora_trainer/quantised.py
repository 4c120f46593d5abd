"""Frozen linear layers held in 8 or 4 bits; they are widened to the computing dtype each time they run.

int8: a scale for each row, its largest value being 127. nf4: bitsandbytes' 4-bit normal floats, a scale for
each block of 64. Codes, scales and bias are plain frozen parameters, so swaps and streaming move them like
any others. Widening is the same in the forward and the backward pass; no widened weight is kept in between.
"""

import re
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mova.errors import UserError

LAYER = re.compile(r"(?:blocks|(?:audio_to_video|video_to_audio)_conditioners)\.(?P<index>\d+)\.")
BASES = ("int8", "nf4")
BLOCK = 64  # neighbours in a weight that share a scale in nf4


class QuantisedLinear(nn.Module):
    """`F.linear` with the weight that was quantised; gradients reach the input only."""

    def __init__(self, layer: nn.Linear, base: str, device: torch.device) -> None:
        """Quantised on `device`, held where `layer` was."""
        super().__init__()
        self.base, self.dtype = base, layer.weight.dtype
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        codes, scales = (to_int8 if base == "int8" else to_nf4)(weight.to(device).float())
        self.codes, self.scales = (
            nn.Parameter(part.to(weight.device), requires_grad=False) for part in (codes, scales)
        )
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer computes with: [out_features, in_features]."""
        return self.widen(self.codes, self.scales)

    def widen(self, codes: Tensor, scales: Tensor) -> Tensor:
        shape = torch.Size((self.out_features, self.in_features))
        if self.base == "nf4":
            return from_nf4(codes, scales, shape, self.dtype)
        wide = torch.empty(shape, dtype=self.dtype, device=codes.device)
        return torch.mul(codes, scales, out=wide)  # in float32, rounded once

    def forward(self, x: Tensor) -> Tensor:
        return WidenedLinear.apply(x, self.codes, self.scales, self)


class WidenedLinear(torch.autograd.Function):
    """Widens the weight again in the backward pass, where autograd would have kept the wide one.

    Codes are saved the usual way: asking for them is what brings a checkpointed, streamed layer back.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        codes: Tensor,
        scales: Tensor,
        layer: QuantisedLinear,
    ) -> Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.layer = layer
        return F.linear(x, layer.widen(codes, scales), layer.bias)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, None, None, None]:
        return gradient @ ctx.layer.widen(*ctx.saved_tensors), None, None, None


def to_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scales = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scales).round().to(torch.int8), scales


def to_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes, state = bitsandbytes().functional.quantize_4bit(
        weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=False
    )
    return codes, state.absmax.float()


def from_nf4(codes: Tensor, scales: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    library = bitsandbytes().functional
    # As one row: on processors with AVX-512, 0.50 takes each row to begin with a scale of its own.
    row = torch.Size((1, shape.numel()))
    state = library.QuantState(scales, shape=row, dtype=dtype, blocksize=BLOCK, quant_type="nf4")
    return library.dequantize_4bit(codes, state).view(shape)


def check_base(base: str) -> None:
    """Raise UserError where the library that `base` needs is missing."""
    if base == "nf4":
        bitsandbytes()


def bitsandbytes() -> ModuleType:
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(
            'run.base nf4 needs bitsandbytes 0.50 or newer: run `pip install "bitsandbytes>=0.50"`, or set '
            "run.base to int8, which needs no library"
        ) from error


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The frozen linear layers of a tower's blocks or of the bridge, by path; no embeddings, no heads."""
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and LAYER.match(path) and ".lora_" not in path
    }


def quantise(model: nn.Module, base: str, device: torch.device) -> None:
    """Replace a tower's linear layers by quantised ones. Its LoRA must be in place: it keeps its dtype."""
    for path, layer in linear_layers(model).items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, QuantisedLinear(layer, base, device))


def held_bytes(layer: nn.Linear, base: str) -> dict[str, int]:
    """Bytes of a quantised layer's codes and scales."""
    count = layer.weight.numel()
    if base == "int8":
        return {"codes": count, "scales": 4 * layer.out_features}
    return {"codes": -(-count // 2), "scales": 4 * -(-count // BLOCK)}
