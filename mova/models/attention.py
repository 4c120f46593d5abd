"""Attention with full-width query and key norms, its kernels, and the two rotary embeddings MOVA uses.

The towers rotate interleaved pairs in complex form; the bridge rotates the two halves of a head, at
positions that place video frames and audio latents on one time axis.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

from mova.kernels import FLASH_4, TORCH
from mova.models.sharding import ContextGather, HeadExchange

ROPE_THETA = 10000.0
KERNELS = (TORCH, FLASH_4, *(backend.value for backend in AttentionBackendName))
MAX_KERNEL_ERROR = 0.1  # against torch's; bfloat16 takes 0.003 of it, kernels in 8 bits more


class Attention(nn.Module):
    """Multi-head attention of `x` over `context`, both normalised over their full width before the heads.

    `kernel` is one of `KERNELS`; torch's own are taken in the order that `dual_tower` sets. Where a picture's
    tokens are shared out among processes, `exchange` brings the parts together.
    """

    def __init__(self, dim: int, context_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel = TORCH
        self.exchange: HeadExchange | ContextGather | None = None
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
        if self.exchange is None:
            return self.o(attention(self.kernel, q, k, v).flatten(-2))
        q, k, v = self.exchange.before(q, k, v)
        return self.o(self.exchange.after(attention(self.kernel, q, k, v)).flatten(-2))


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

    def keys_values(self, y: Tensor, y_rotary: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, S, H, D] of `y`, at their positions: all that queries need of it."""
        heads = (self.num_heads, -1)
        k = self.norm_k(self.k(y)).unflatten(-1, heads)
        return rotate_halves(k, y_rotary), self.v(y).unflatten(-1, heads)

    def attend_to(self, x: Tensor, x_rotary: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """As `forward`, with what `keys_values` returned in place of `y`."""
        q = self.norm_q(self.q(x)).unflatten(-1, (self.num_heads, -1))
        return self.attend(rotate_halves(q, x_rotary), keys, values)


def attention(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of `q` [B, L, H, D] over `k` and `v` [B, S, H, D], by one of `KERNELS`."""
    if kernel == FLASH_4:
        return flash_4(q, k, v)
    if kernel != TORCH:
        return dispatch_attention_fn(q, k, v, backend=kernel)
    # Called directly: the library's cuDNN backend copies q, k and v to make them contiguous.
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


@torch.library.custom_op("mova::flash_attention_4", mutates_args=())
def flash_4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-4, as one operation to the compiler: a block stays one graph."""
    from flash_attn.cute import flash_attn_func

    out = flash_attn_func(q, k, v)
    return out[0] if isinstance(out, tuple) else out  # with or without the log-sum-exp, by version


@flash_4.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001 - the real one's arguments
    return q.new_empty(q.shape)


@torch.no_grad()
def obstacle(kernel: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Run a kernel on a few tokens; the reason, in words, that it cannot be used here, or "" if it works."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 128, 2, head_dim)
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
    try:
        found = attention(kernel, q, k, v).float()
    except Exception as error:  # third-party packages, whose failures have no type of their own
        reason = next(iter(str(error).strip().splitlines()), "")
        return f"fails here ({type(error).__name__}: {reason[:100]})"
    expected = attention(TORCH, q, k, v).float()
    wrong = ((found - expected).norm() / expected.norm()).item()
    return "" if wrong < MAX_KERNEL_ERROR else f"is {wrong:.0%} off torch's result"


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
