"""The processes of one training (`accelerate launch`): who am I, and what do all of us have together.

Every process runs its own micro-batches; gradients are averaged over all of them before the step. The model
is never wrapped, since which tower runs changes from step to step.
"""

from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn

WAIT = timedelta(hours=6)  # the others wait while the first validates and samples


class Workers:
    """This process among `count`; `rank` 0 is the one that writes."""

    def __init__(self, device: torch.device) -> None:
        state = PartialState(cpu=device.type == "cpu", timeout=WAIT)
        self.rank, self.count = state.process_index, state.num_processes
        self.device = state.device if self.count > 1 else device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def any(self, flags: Iterable[bool]) -> list[bool]:
        """Which of `flags` are true in any process."""
        flags = list(flags)
        if self.count == 1:
            return flags
        values = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values]

    def add(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.count > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes; one that has none counts as zero."""
        if self.count == 1:
            return
        weights = list(weights)
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        everything = torch.cat([weight.grad.flatten() for weight in weights])  # one message, not hundreds
        dist.all_reduce(everything)
        sums = everything.split([weight.numel() for weight in weights])
        for weight, total in zip(weights, sums, strict=True):
            weight.grad.copy_(total.view_as(weight))

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()
