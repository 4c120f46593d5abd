"""What each micro-batch is: which windows, which expert.

All of it follows from its number and nothing from what ran before, so resuming needs no state.
"""

import math
from collections import defaultdict
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lora_trainer.config import EXPERTS

if TYPE_CHECKING:
    from lora_trainer.latent_cache import CacheEntry

BLOCK = 10  # micro-batches


class BatchSampler:
    """Micro-batches of windows of one bucket each; every window once an epoch, shuffled anew each time."""

    def __init__(self, entries: "list[CacheEntry]", batch_size: int, seed: int) -> None:
        self.entries, self.batch_size, self.seed = entries, batch_size, seed
        self.epoch = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, number: int) -> "list[CacheEntry]":
        """The windows of micro-batch `number`, counted over the whole run and all processes."""
        per_epoch = len(self.epoch(0))
        return self.epoch(number // per_epoch)[number % per_epoch]

    def _shuffled(self, epoch: int) -> "list[list[CacheEntry]]":
        generator = np.random.default_rng([self.seed, epoch])
        buckets = defaultdict(list)
        for index in generator.permutation(len(self.entries)):
            buckets[self.entries[index].bucket].append(self.entries[index])
        batches = [
            buckets[bucket][start : start + self.batch_size]
            for bucket in sorted(buckets)
            for start in range(0, len(buckets[bucket]), self.batch_size)
        ]
        return [batches[index] for index in generator.permutation(len(batches))]


class MixedSampler:
    """Micro-batches of two orders, each going on where it was left: `share` of them from `kept`.

    In every BLOCK micro-batches in a row the share is exact, up to rounding, which the next block makes good.
    Within a block they are shuffled, so that neither expert always gets the same kind.
    """

    def __init__(self, new: BatchSampler, kept: BatchSampler, share: float, seed: int) -> None:
        self.new, self.kept, self.seed = new, kept, seed
        self.share = Fraction(share).limit_denominator(1000)
        self.block = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, number: int) -> "list[CacheEntry]":
        """As `Order.batch`."""
        block, place = divmod(number, BLOCK)
        flags = self.block(block)
        before = self._kept_before(block) + sum(flags[:place])
        return self.kept.batch(before) if flags[place] else self.new.batch(number - before)

    def _shuffled(self, block: int) -> list[bool]:
        count = self._kept_before(block + 1) - self._kept_before(block)
        order = np.random.default_rng([self.seed, block, BLOCK]).permutation(BLOCK)
        return [bool(place < count) for place in order]

    def _kept_before(self, block: int) -> int:
        return math.floor(block * BLOCK * self.share)


def expert_at(step: int, high_share: float, hold_steps: int) -> str:
    """The expert of an optimizer step: `hold_steps` in a row the same, `high_share` of them `video_dit`.

    Evenly spread, the high-noise expert first.
    """
    share = Fraction(high_share).limit_denominator(1000)
    turn = step // hold_steps
    high = share > 0 and (turn * share) % 1 < share
    return EXPERTS[0] if high else EXPERTS[1]
