"""Which forwards a guided step needs, and how their velocities combine.

The paper's dual guidance (equation 6) steers by the text T and by the bridge B:

    v = v(0,0) + s_B (v(0,B) - v(0,0)) + s_T (v(T,B) - v(0,B))

Gathered by forward this is a weighted sum, and a forward whose weight is zero need not run. So text
guidance (s_B = 1), no guidance (s_B = s_T = 1) and equal scales are all cases of the same sum.
"""

from dataclasses import dataclass

from mova.errors import check_finite

MAX_SCALE = 30.0


@dataclass(frozen=True)
class Branch:
    """One forward of a step: with the prompt or the negative prompt, with or without the bridge."""

    use_prompt: bool
    use_bridge: bool
    weight: float


def branches(guidance_scale: float, bridge_guidance_scale: float = 1.0) -> list[Branch]:
    """The forwards of a step, one to three of them, whose weights sum to 1.

    Raises:
        UserError: a scale is not a number or out of range.
    """
    check_finite("guidance_scale", guidance_scale, 0, MAX_SCALE)
    check_finite("bridge_guidance_scale", bridge_guidance_scale, 0, MAX_SCALE)
    every = (
        Branch(use_prompt=False, use_bridge=False, weight=1 - bridge_guidance_scale),
        Branch(use_prompt=False, use_bridge=True, weight=bridge_guidance_scale - guidance_scale),
        Branch(use_prompt=True, use_bridge=True, weight=guidance_scale),
    )
    return [branch for branch in every if branch.weight != 0]
