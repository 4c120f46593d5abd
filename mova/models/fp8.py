"""The large linear layers in 8 bits: weights and inputs as e4m3 floats, multiplied as such where a card can.

Each output channel of a weight and each token of an input has its own scale ("row-wise"), which on Hopper is
also faster than one for all. What the sound depends on most stays as it was: the audio tower, the sound's
side of the bridge, embeddings, norms and heads. Own code, as torchao's tensors cannot be views of the buffers
that layers are streamed through.
"""

import re
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova.adapters.strengths import EXPERTS

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # that e4m3 holds
SMALLEST_SCALE = 1e-12  # compiled kernels flush what is much smaller to zero
MULTIPLE = 16  # of both sides of a weight, for the card's instruction
EXPERT = r"blocks\.\d+\.(?:(?:self_attn|cross_attn)\.[qkvo]|ffn\.[02])"
BRIDGE = r"audio_to_video_conditioners\.\d+\.inner\.[qkvo]|video_to_audio_conditioners\.\d+\.inner\.[kv]"
# By component, the layers that are held in 8 bits, with or without adapters on them.
LAYERS = {
    name: re.compile(rf"(?:{layers})(?:\.base_layer)?")
    for name, layers in (*((expert, EXPERT) for expert in EXPERTS), ("dual_tower_bridge", BRIDGE))
}


class Fp8Linear(nn.Linear):
    """A frozen linear layer of `weight` e4m3 [out, in] times `weight_scale` float32 [out, 1].

    Where the device multiplies e4m3, inputs are rounded to it as well; elsewhere, and under gradients, the
    weight is widened to the input's dtype each time: the same weight, an exact input, and slower.
    """

    def __init__(self, layer: nn.Linear, device: torch.device | None = None, stays: bool = False) -> None:
        """`layer` in 8 bits, rounded on `device` (None: where it is) and held there if it `stays`."""
        nn.Module.__init__(self)  # nn.Linear's would allocate a wide weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        held = device if stays else layer.weight.device
        codes, scale = to_fp8(layer.weight.detach().to(device).bfloat16())
        self.weight, self.weight_scale = (
            nn.Parameter(part.to(held), requires_grad=False) for part in (codes, scale)
        )
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.can_multiply(x):
            codes, scale = to_fp8(x.flatten(0, -2))
            return self.multiply(codes, scale, x.dtype).unflatten(0, x.shape[:-1])
        return F.linear(x, self.widened(x.dtype), self.bias)

    def multiply(self, codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """The layer's output [N, out] for inputs of e4m3 `codes` [N, in] times `scale` float32 [N, 1]."""
        weight, own = self.weight.t(), self.weight_scale.t()
        return torch._scaled_mm(
            codes, weight, scale, own, bias=self.bias, out_dtype=dtype, use_fast_accum=True
        )

    def can_multiply(self, x: Tensor) -> bool:
        fits = self.in_features % MULTIPLE == 0 and self.out_features % MULTIPLE == 0
        learns = torch.is_grad_enabled() and x.requires_grad
        return fits and x.dtype == torch.bfloat16 and not learns and multiplies_fp8(x.device)

    def widened(self, dtype: torch.dtype) -> Tensor:
        """The weight that the layer computes with, [out, in]: multiplied in float32, rounded once."""
        return (self.weight.float() * self.weight_scale).to(dtype)


def to_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes e4m3 and scales float32 [N, 1] of `x` [N, K]: the largest value of a row becomes 448."""
    scale = (x.abs().amax(-1, keepdim=True).float() / LARGEST).clamp(min=SMALLEST_SCALE)
    return (x.float() / scale).to(FP8), scale


@torch.compiler.assume_constant_result
def multiplies_fp8(device: torch.device) -> bool:
    """True if the device has matrix products of e4m3 with a scale for each row."""
    return device.type == "cuda" and _has_products(device)


@cache
def _has_products(device: torch.device) -> bool:
    """Found by running one, as it takes the right card and the right torch."""
    if torch.cuda.get_device_capability(device) < (8, 9):
        return False
    codes, scale = torch.ones(16, 16, device=device).to(FP8), torch.ones(16, 1, device=device)
    try:
        torch._scaled_mm(codes, codes.t(), scale, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)
    except RuntimeError:
        return False
    return True


@cache
def holds_fp8(device_type: str) -> bool:
    """True if tensors of e4m3 can be on such a device and widened there; on Apple's they could not."""
    try:
        torch.ones(1).to(FP8).to(device_type).float()
    except (RuntimeError, TypeError):
        return False
    return True


def fp8_layers(name: str, module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the component `name` that are held, or are to be held, in 8 bits, by path."""
    if name not in LAYERS:
        return {}
    layers = {path: layer for path, layer in module.named_modules() if LAYERS[name].fullmatch(path)}
    return {path: layer for path, layer in layers.items() if isinstance(layer, nn.Linear)}


def to_8_bits(name: str, module: nn.Module, device: torch.device | None = None, stays: bool = False) -> None:
    """Replace the large layers of a component by layers in 8 bits; `device`, `stays` as for `Fp8Linear`."""
    layers = fp8_layers(name, module)
    for path, layer in layers.items():
        if not isinstance(layer, Fp8Linear):
            replace(module, path, Fp8Linear(layer, device, stays))
    if layers:
        module.register_to_config(quantization="fp8")


def widen(name: str, module: nn.Module, dtype: torch.dtype) -> None:
    """Replace the layers in 8 bits of a component by plain ones of the same, rounded, weights."""
    for path, layer in fp8_layers(name, module).items():
        if isinstance(layer, Fp8Linear):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
            plain.weight = nn.Parameter(layer.widened(dtype), requires_grad=False)
            plain.bias = layer.bias
            replace(module, path, plain)


def replace(module: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, layer)
