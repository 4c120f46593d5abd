"""Muon for the matrices inside the networks, AdamW for everything else, on float32 masters.

Muon (Jordan et al., 2024) orthogonalises the momentum of each matrix by five Newton-Schulz steps. Matrices of
one shape go through them together: one by one the launches would take longer than the training step. A
convolution is a matrix from all that its kernel sees to its channels.

Of the towers two things are AdamW's, at lower rates. The text encoder: its attention scores are neither
scaled nor normalised, under Muon they grew to hundreds, each token saw one other whatever their distance, and
no order was ever learnt. And where the bridge looks: its inputs are large, under Muon queries grew to 100
beside biases of 0.2, and what queries and keys have in common, by which they know their time, is lost.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95
MATRIX_SCALE = 0.4  # root mean square of an update over the learning rate; AdamW's is about 0.2
WEIGHT_DECAY = 0.01
TEXT_RATE, LOOK_RATE = 0.25, 0.05  # of the learning rate
LOOKS = (".inner.q.", ".inner.k.")  # of the bridge
END_RATE = 0.25  # of the learning rate, of a video VAE's ends, biases and gains
ENDS = ("conv_in.", "conv_out.")
AdamWRate = Callable[[str, Tensor], float | None]


class Muon:
    """Steps `masters`, tensors by name.

    `adamw_rate` says of each at which share of the learning rate AdamW steps it, or None: it is Muon's.
    Biases and gains do not decay: those of the norms say how sharply attention may look.
    """

    def __init__(self, masters: dict[str, Tensor], adamw_rate: AdamWRate) -> None:
        self.masters = masters
        groups: dict[tuple, list[str]] = defaultdict(list)
        others: dict[tuple, list[str]] = defaultdict(list)
        for name, tensor in masters.items():
            rate = adamw_rate(name, tensor)
            if rate is None:
                groups[(name.partition(".")[0], *tensor.shape)].append(name)
            else:
                others[(rate, is_matrix(tensor))].append(name)
        self.groups = list(groups.values())
        self.momenta = [torch.stack([torch.zeros_like(masters[n]) for n in names]) for names in self.groups]
        self.adam = torch.optim.AdamW(
            [
                {
                    "params": [masters[n] for n in names],
                    "scale": rate,
                    "weight_decay": WEIGHT_DECAY if is_decayed else 0.0,
                }
                for (rate, is_decayed), names in others.items()
            ],
            lr=0.0,
            betas=(0.9, 0.98),
            fused=True,
        )

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], learning_rate: float) -> None:
        """One step of all masters that `gradients` names; the others, and their momenta, stay as they are."""
        for names, momentum in zip(self.groups, self.momenta, strict=True):
            if names[0] in gradients:
                stacked = torch.stack([gradients[name] for name in names])
                momentum.lerp_(stacked, 1 - MOMENTUM)
                update = orthogonalised(stacked.lerp(momentum, MOMENTUM).flatten(2))
                scale = MATRIX_SCALE * learning_rate * max(update.shape[1:]) ** 0.5
                masters = [self.masters[name] for name in names]
                torch._foreach_mul_(masters, 1 - WEIGHT_DECAY * learning_rate)
                torch._foreach_add_(masters, list(update.float().view_as(stacked).unbind()), alpha=-scale)
        for group in self.adam.param_groups:
            group["lr"] = learning_rate * group["scale"]
        for name, master in self.masters.items():
            master.grad = gradients.get(name)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {"momenta": self.momenta, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for momentum, held in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(held)
        self.adam.load_state_dict(state["adam"])


def of_towers(name: str, tensor: Tensor) -> float | None:
    """AdamW's rates in the towers, the bridge and the text encoder."""
    if name.startswith("text_encoder."):
        return TEXT_RATE
    if any(look in name for look in LOOKS):
        return LOOK_RATE
    is_inside = tensor.ndim == 2 and any(part in name for part in (".blocks.", "_conditioners."))
    return None if is_inside else 1.0


def of_video_vae(name: str, tensor: Tensor) -> float | None:
    """AdamW's rate of the ends, biases and gains.

    After 300 steps from random weights, 4 windows each, Muon at 4e-3 was at 17.1 dB, AdamW at 1e-3 at 16.5.
    """
    return None if is_matrix(tensor) and not any(end in name for end in ENDS) else END_RATE


def of_audio_vae(name: str, tensor: Tensor) -> float | None:  # noqa: ARG001 - as the others
    """AdamW's rate of all: with Muon at 1e-3 a trained one forgot its words within 70 steps."""
    return 1.0


def is_matrix(tensor: Tensor) -> bool:
    """False for biases and for gains, which in a VAE have further axes of length 1."""
    return sum(size > 1 for size in tensor.shape) > 1


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices to `matrices` [N, R, C], roughly: singular values near 1."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices  # slow where a processor has to emulate it
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if wide else x
