"""Which forwards a guided step needs, and how their velocities combine.

The paper's dual guidance (equation 6) steers by the text T and by the bridge B:

    v = v(0,0) + s_B (v(0,B) - v(0,0)) + s_T (v(T,B) - v(0,B))

Gathered by forward this is a weighted sum, and a forward whose weight is zero need not run. So text
guidance (s_B = 1), no guidance (s_B = s_T = 1) and equal scales are all cases of the same sum. Picture and
sound may have scales of their own: the forwards are shared, the weights are not.
"""

from dataclasses import dataclass

from mova.errors import UserError, check_finite

MAX_SCALE = 30.0
Interval = tuple[float, float]
ALWAYS: Interval = (0.0, 1.0)


@dataclass(frozen=True)
class Branch:
    """One forward of a step: with the prompt or the negative prompt, with or without the bridge."""

    use_prompt: bool
    use_bridge: bool
    weight: float
    audio_weight: float


UNGUIDED = [Branch(use_prompt=True, use_bridge=True, weight=1.0, audio_weight=1.0)]


@dataclass(frozen=True)
class Guidance:
    """The scales of a run, and the sigmas of the video, `interval`, between which they count.

    The audio's scales are the video's where they are None.
    """

    scale: float = 1.0
    bridge_scale: float = 1.0
    audio_scale: float | None = None
    audio_bridge_scale: float | None = None
    interval: Interval = ALWAYS

    @property
    def needs_negative(self) -> bool:
        """True if a step may have a forward with the negative prompt."""
        return any(not branch.use_prompt for branch in self.branches(self.interval[0]))

    def branches(self, sigma: float) -> list[Branch]:
        """The forwards of a step at `sigma`, one to three of them, whose weights sum to 1 for each track."""
        low, high = self.interval
        if not low <= sigma <= high:
            return UNGUIDED
        video = weights(self.scale, self.bridge_scale)
        audio = weights(
            self.scale if self.audio_scale is None else self.audio_scale,
            self.bridge_scale if self.audio_bridge_scale is None else self.audio_bridge_scale,
        )
        inputs = ((False, False), (False, True), (True, True))
        every = (
            Branch(*given, *pair) for given, pair in zip(inputs, zip(video, audio, strict=True), strict=True)
        )
        return [branch for branch in every if branch.weight or branch.audio_weight]


def weights(scale: float, bridge_scale: float) -> tuple[float, float, float]:
    """Of v(0,0), v(0,B) and v(T,B)."""
    return 1 - bridge_scale, bridge_scale - scale, scale


def check_interval(interval: Interval) -> None:
    """Raise UserError unless it is a pair of sigmas in order."""
    if len(interval) != 2:
        raise UserError(f"guidance_interval={interval!r} must be two sigmas, such as 0.3 and 1")
    for bound in interval:
        check_finite("guidance_interval", bound, 0, 1)
    low, high = interval
    if low > high:
        raise UserError(
            f"guidance_interval={low:g}, {high:g} ends before it starts; give {high:g} and {low:g}"
        )
