"""The sharing of a step among several processes: guidance first, then the picture. No torch."""

import os
from dataclasses import dataclass
from math import ceil

from mova.errors import UserError

MODES = ("auto", "branches", "ulysses")
MAX_GPUS = 64
ULYSSES_SHARE = 0.9  # of a process that shares a forward: the rest goes into messages and the sound


@dataclass(frozen=True)
class Layout:
    """`forwards` of a step on `branches` groups of `ulysses` processes: each group shares its forwards."""

    forwards: int
    branches: int
    ulysses: int

    @classmethod
    def choose(cls, forwards: int, count: int, num_heads: int, mode: str = "auto") -> "Layout":
        """For `count` processes, as many branches as there are forwards, and Ulysses among those left.

        The picture's heads are shared out evenly. "branches" leaves Ulysses out, so that every bit is as with
        one process; "ulysses" puts all on every forward.
        """
        branches = 1 if mode == "ulysses" else min(forwards, count)
        most = 1 if mode == "branches" else count // branches
        return cls(forwards, branches, max(n for n in range(1, most + 1) if num_heads % n == 0))

    def place(self, index: int) -> range:
        """The processes that run forward `index`."""
        start = index % self.branches * self.ulysses
        return range(start, start + self.ulysses)

    @property
    def speedup(self) -> float:
        """Over one process, about."""
        shared = self.ulysses * ULYSSES_SHARE if self.ulysses > 1 else 1
        return self.forwards / ceil(self.forwards / self.branches) * shared

    def __str__(self) -> str:
        used = self.branches * self.ulysses
        parts = [f"{self.branches} forwards at once"] if self.branches > 1 else []
        parts += [f"{self.ulysses} GPUs share a forward"] if self.ulysses > 1 else []
        return f"{used} GPU{'s' if used > 1 else ''} at work: {', '.join(parts) or 'one forward at a time'}"


def check_gpus(gpus: int, device: str | None) -> None:
    """Raise UserError unless `gpus` is a number of them that can be used with `device`."""
    if not 1 <= gpus <= MAX_GPUS:
        raise UserError(f"{gpus} GPUs are asked for; choose from 1 to {MAX_GPUS}")
    if gpus > 1 and device not in (None, "", "cuda", "cpu"):
        raise UserError(
            f"device {device!r} is a single one; several GPUs are the first that CUDA_VISIBLE_DEVICES shows"
        )


def launched_processes() -> tuple[int, int]:
    """This process's rank and the number of processes, as torchrun set them; (0, 1) without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
