"""Windows and expert of each micro-batch.

Both follow from its number and from nothing that ran before, so resuming needs no state.
"""

import math
from collections import defaultdict
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lora_trainer.config import EXPERTS

if TYPE_CHECKING:
    from lora_trainer.windows import Window

BLOCK = 10  # micro-batches


class BatchSampler:
    """Micro-batches of windows of one bucket each; every window once per epoch, reshuffled every epoch."""

    def __init__(self, windows: "list[Window]", batch_size: int, seed: int) -> None:
        self.windows, self.batch_size, self.seed = windows, batch_size, seed
        self.epoch = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, number: int) -> "list[Window]":
        """The windows of micro-batch `number`, counted over the whole run and all processes."""
        per_epoch = len(self.epoch(0))
        return self.epoch(number // per_epoch)[number % per_epoch]

    def _shuffled(self, epoch: int) -> "list[list[Window]]":
        generator = np.random.default_rng([self.seed, epoch])
        buckets = defaultdict(list)
        for index in generator.permutation(len(self.windows)):
            buckets[self.windows[index].bucket].append(self.windows[index])
        batches = [
            buckets[bucket][start : start + self.batch_size]
            for bucket in sorted(buckets)
            for start in range(0, len(buckets[bucket]), self.batch_size)
        ]
        return [batches[index] for index in generator.permutation(len(batches))]


class MixedSampler:
    """Micro-batches of two samplers, each continued where it was left: `share` from `regularization`.

    In every BLOCK micro-batches in a row the share is exact up to rounding, which the next block evens out.
    Within a block they are shuffled, so that neither expert always gets the same kind.
    """

    def __init__(self, new: BatchSampler, regularization: BatchSampler, share: float, seed: int) -> None:
        self.new, self.regularization, self.seed = new, regularization, seed
        self.share = Fraction(share).limit_denominator(1000)
        self.block = lru_cache(maxsize=2)(self._shuffled)

    def batch(self, number: int) -> "list[Window]":
        """As `BatchSampler.batch`."""
        block, place = divmod(number, BLOCK)
        flags = self.block(block)
        before = self._regularization_before(block) + sum(flags[:place])
        return self.regularization.batch(before) if flags[place] else self.new.batch(number - before)

    def _shuffled(self, block: int) -> list[bool]:
        count = self._regularization_before(block + 1) - self._regularization_before(block)
        order = np.random.default_rng([self.seed, block, BLOCK]).permutation(BLOCK)
        return [bool(place < count) for place in order]

    def _regularization_before(self, block: int) -> int:
        return math.floor(block * BLOCK * self.share)


def expert_at(step: int, high_share: float, hold_steps: int) -> str:
    """The expert of an optimizer step: `hold_steps` in a row the same, `high_share` of them `video_dit`.

    Evenly spread, the high-noise expert first.
    """
    share = Fraction(high_share).limit_denominator(1000)
    hold = step // hold_steps
    high = share > 0 and (hold * share) % 1 < share
    return EXPERTS[0] if high else EXPERTS[1]
