"""Ulysses: a picture's tokens shared out among processes, each of which attends with a share of the heads.

The sound is not shared out: every process has all of it, for it is 0.04 % of the arithmetic. So the bridge to
the picture needs no messages, and the bridge to the sound gathers the picture's keys and values.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class TokenShards:
    """Equal parts of a sequence, in order, one to each process of `group`; the end is filled with zeros.

    The filling is cut off before anything attends to it, so any number of tokens will do.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.count = group.rank(), group.size()
        self.length = 0  # tokens of the whole sequence

    def split(self, x: Tensor, dim: int) -> Tensor:
        """This process's part of `x` along `dim`, which has one entry for each token."""
        self.length = x.shape[dim]
        part = -(-self.length // self.count)
        start = min(self.rank * part, self.length)
        own = x.narrow(dim, start, min(part, self.length - start))
        missing = part - own.shape[dim]
        return F.pad(own, (0, 0) * (x.ndim - 1 - dim) + (0, missing)) if missing else own

    def gather(self, x: Tensor) -> Tensor:
        """All tokens [B, L, ...] of the parts `x` [B, n, ...]."""
        parts = self._exchange(x.expand(self.count, *x.shape))
        return parts.transpose(0, 1).flatten(1, 2)[:, : self.length]

    def to_heads(self, x: Tensor) -> Tensor:
        """All tokens of this process's heads [B, L, H / N, D], of its tokens `x` [B, n, H, D]."""
        parts = self._exchange(x.unflatten(2, (self.count, -1)).movedim(2, 0))  # [N, B, n, H / N, D]
        return parts.transpose(0, 1).flatten(1, 2)[:, : self.length]

    def to_tokens(self, x: Tensor) -> Tensor:
        """The inverse of `to_heads`: [B, n, H, D] of [B, L, H / N, D]."""
        missing = -self.length % self.count
        padded = F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x
        parts = self._exchange(padded.unflatten(1, (self.count, -1)).transpose(0, 1))
        return parts.movedim(0, 2).flatten(2, 3)

    def _exchange(self, parts: Tensor) -> Tensor:
        """Part i of `parts` [N, ...] goes to process i; returned are those that came, by sender."""
        parts = parts.contiguous()
        came = torch.empty_like(parts)
        dist.all_to_all_single(came, parts, group=self.group)
        return came


class HeadExchange:
    """For self-attention of the picture: each process attends over all tokens with its share of the heads."""

    def __init__(self, shards: TokenShards) -> None:
        self.shards = shards

    def before(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.shards.to_heads(q), self.shards.to_heads(k), self.shards.to_heads(v)

    def after(self, out: Tensor) -> Tensor:
        return self.shards.to_tokens(out)


class ContextGather:
    """For attention of the sound over the picture: keys and values of all tokens come to every process."""

    def __init__(self, shards: TokenShards) -> None:
        self.shards = shards

    def before(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, self.shards.gather(k), self.shards.gather(v)

    def after(self, out: Tensor) -> Tensor:
        return out
