"""The step cache: steps without the video blocks, in which the sound is made with the picture last seen.

The video blocks are all but the whole of a forward and the audio tower next to nothing, so only they are left
out. The picture then keeps its velocity, and the audio tower reads what the bridge last read of the picture.
"""

import math
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from mova.guidance import Branch

FIRST_SHARE = 0.2  # of the steps, which lay the clip out: none of them is left out, nor is the last
MOST_IN_A_ROW = 3


class StepCache:
    """The steps of one run that can do without the video blocks, and what is kept for them.

    A step can while the picture's velocity is expected to have changed by less than `threshold` of it since
    the video blocks last ran; 0 is never. Expected is the change between the last two steps in which they
    ran, in proportion to sigma; of several clips the one that changes most decides. A picture that is held
    (sigma 0 throughout) is seen once.
    """

    def __init__(self, threshold: float, sigmas: Tensor) -> None:
        self.threshold = threshold
        self.sigmas: list[float] = sigmas.tolist()  # [N + 1], of the picture
        self.is_held = max(self.sigmas) == 0
        self.seen: set[bool] = set()  # `use_prompt` of forwards that remember the picture
        self.phase: tuple[str, Sequence[Branch]] = ("", ())
        self.computed: deque[tuple[float, Tensor]] = deque(maxlen=2)  # sigma, velocity
        self.reused = 0  # steps in a row

    def reuses(self, step: int, expert: str, forwards: Sequence[Branch]) -> bool:
        """True if `step` can do without the video blocks; the steps are asked for in order."""
        if self.is_held:
            seen = all(branch.use_prompt in self.seen for branch in forwards if branch.use_bridge)
            can = seen and bool(self.computed)
        else:
            if (expert, forwards) != self.phase:  # velocities of another kind
                self.phase = (expert, forwards)
                self.computed.clear()
            can = self._changes_little(step)
        can = can and bool(self.threshold)
        self.reused = self.reused + 1 if can else 0
        return can

    def _changes_little(self, step: int) -> bool:
        last_step = len(self.sigmas) - 2
        if len(self.computed) < 2 or step < math.ceil(FIRST_SHARE * (last_step + 1)) or step == last_step:
            return False
        (before, older), (now, newer) = self.computed
        if before == now or self.reused == MOST_IN_A_ROW:
            return False
        lengths = newer.flatten(1).norm(dim=1)
        change = ((newer - older).flatten(1).norm(dim=1) / lengths).max().item()
        return change * (now - self.sigmas[step]) / (before - now) < self.threshold

    def needs_picture(self, branch: Branch) -> bool:
        """True if a forward of the sound alone is not enough."""
        return branch.use_bridge or bool(branch.weight and not self.is_held)

    def remembers(self, branch: Branch) -> bool:
        """True if the forward keeps what the sound reads of the picture; it is asked of all that run.

        Without the bridge, or a threshold, there is nothing to remember.
        """
        if not (self.threshold and branch.use_bridge):
            return False
        self.seen.add(branch.use_prompt)
        return True

    def keep(self, step: int, velocity: Tensor) -> None:
        """Remember the picture's guided velocity of a step in which the video blocks ran."""
        self.computed.append((self.sigmas[step], velocity))

    @property
    def velocity(self) -> Tensor:
        """The picture's, as it was last computed."""
        return self.computed[-1][1]
