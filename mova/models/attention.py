"""Attention with full-width query and key norms, and the two rotary embeddings MOVA uses.

The towers rotate interleaved pairs in complex form; the bridge rotates the two halves of a head, at
positions that place video frames and audio latents on one time axis.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

ROPE_THETA = 10000.0


class Attention(nn.Module):
    """Multi-head attention of `x` over `context`, both normalised over their full width before the heads.

    `backend` may name a diffusers attention backend; None is PyTorch's own, in the order `dual_tower` sets.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.backend: str | None = None
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(context_dim, dim)
        self.v = nn.Linear(context_dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(dim, eps=eps)
        self.norm_k = nn.RMSNorm(dim, eps=eps)

    def project(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, L, H, D] of `x` [B, L, dim], keys and values [B, S, H, D] of `context` [B, S, ...]."""
        heads = (self.num_heads, -1)
        q = self.norm_q(self.q(x)).unflatten(-1, heads)
        k = self.norm_k(self.k(context)).unflatten(-1, heads)
        return q, k, self.v(context).unflatten(-1, heads)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.backend is not None:
            return self.o(dispatch_attention_fn(q, k, v, backend=self.backend).flatten(-2))
        # Called directly: the library's cuDNN backend copies q, k and v to make them contiguous.
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class SelfAttention(Attention):
    """Attention of tokens among themselves, at rotary positions."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__(dim, dim, num_heads, eps)

    def forward(self, x: Tensor, rotary: Tensor) -> Tensor:
        q, k, v = self.project(x, x)
        return self.attend(rotate_pairs(q, rotary), rotate_pairs(k, rotary), v)


class TextAttention(Attention):
    """Attention over the text. There is no mask: the zeros behind the prompt attend too, as in training."""

    def __init__(self, dim: int, num_heads: int, eps: float) -> None:
        super().__init__(dim, dim, num_heads, eps)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.attend(*self.project(x, text))


class CrossModalAttention(Attention):
    """Attention of one modality's tokens over the other's, both at positions on the shared time axis."""

    def forward(self, x: Tensor, y: Tensor, x_rotary: Tensor, y_rotary: Tensor) -> Tensor:
        q, k, v = self.project(x, y)
        return self.attend(rotate_halves(q, x_rotary), rotate_halves(k, y_rotary), v)


def rotate_pairs(x: Tensor, rotary: Tensor) -> Tensor:
    """`x` [B, L, H, D] with each pair of neighbouring channels turned by `rotary` [L, D/2, 2] (cos, sin).

    The arithmetic is float32. Inductor fuses the real form and not the complex one; uncompiled the complex
    form is the faster (fewer passes over memory).
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        cos, sin = rotary[:, None].unbind(-1)
        a, b = pairs.unbind(-1)
        turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotary)[:, None])
    return turned.flatten(-2).to(x.dtype)


def rotate_halves(x: Tensor, rotary: Tensor) -> Tensor:
    """`x` [B, L, H, D] with channel i and i + D/2 turned together by `rotary` [L, D, 2] (cos, sin)."""
    cos, sin = rotary[:, None].to(x.dtype).unbind(-1)
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


@lru_cache(maxsize=8)
def grid_rotary(grid: tuple[int, ...], head_dim: int, device: torch.device) -> Tensor:
    """Rotary table [L, head_dim/2, 2] of a token grid, float32, last axis fastest.

    The channels are shared out among the axes as the released towers do: head_dim // 3 to each of height
    and width, the rest to time; a one-axis grid takes them all.
    """
    minor = head_dim // 3
    widths = (head_dim,) if len(grid) == 1 else (head_dim - 2 * minor, minor, minor)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies(width) for axis, width in zip(axes, widths, strict=True)]
    return cos_sin(torch.cat(angles, dim=-1)).to(device)


@lru_cache(maxsize=8)
def time_rotary(positions: tuple[float, ...], repeats: int, head_dim: int, device: torch.device) -> Tensor:
    """Rotary table [L, head_dim, 2] of the bridge, float32; each position is that of `repeats` tokens."""
    time = torch.tensor(positions, dtype=torch.float64).repeat_interleave(repeats)
    angles = time[:, None] * frequencies(head_dim)
    return cos_sin(torch.cat((angles, angles), dim=-1)).to(device)


def frequencies(width: int) -> Tensor:
    return ROPE_THETA ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def cos_sin(angles: Tensor) -> Tensor:
    return torch.stack((angles.cos(), angles.sin()), dim=-1).float()
