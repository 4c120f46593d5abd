"""Whether every tower learns: norms of gradients and updates, and an alarm when they stay at nothing."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

NOTHING = 1e-12


def norm(tensors: Iterable[Tensor]) -> float:
    """The L2 norm of all tensors together."""
    return float(torch.nn.utils.get_total_norm([tensor.detach() for tensor in tensors]))


class Watch:
    """Counts for each tower the steps in a row in which it ran but did not learn."""

    def __init__(self, towers: Iterable[str], patience: int) -> None:
        self.idle = dict.fromkeys(towers, 0)
        self.patience = patience

    def alarms(self, gradients: dict[str, float], updates: dict[str, float]) -> list[str]:
        """Sentences about towers that have just reached `patience` steps without learning.

        The dictionaries have the towers that ran in this step; NaN counts as not learning.
        """
        found = []
        for tower, gradient in gradients.items():
            learns = gradient > NOTHING and updates[tower] > NOTHING and math.isfinite(gradient)
            self.idle[tower] = 0 if learns else self.idle[tower] + 1
            if self.idle[tower] == self.patience:
                found.append(
                    f"{tower} did not learn in its last {self.patience} steps (gradient {gradient:.2g}, "
                    f"update {updates[tower]:.2g}); check its loss weight and learning rate, or switch it off"
                )
        return found
