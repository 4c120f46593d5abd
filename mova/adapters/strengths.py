"""Which adapter, and how strongly it acts. No torch: requests and the command line use it.

A strength is one number for the whole adapter, or a number by tower; towers that are not named have 1.
"""

import re
from collections.abc import Mapping

from mova.errors import UserError, check_finite

Strength = float | dict[str, float]  # of an adapter: for all towers, or by tower (mova.strengths)


EXPERTS = ("video_dit", "video_dit_2")  # for high and for low noise
TOWERS = (*EXPERTS, "audio_dit", "dual_tower_bridge")
PARTS = {
    "video": EXPERTS,
    "high": EXPERTS[:1],
    "low": EXPERTS[1:],
    "audio": ("audio_dit",),
    "bridge": ("dual_tower_bridge",),
} | {tower: (tower,) for tower in TOWERS}
RANGE = (-10, 10)
_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(/[^:]+\.safetensors)?")


def find_towers(name: str) -> tuple[str, ...]:
    """The towers that `name` stands for. Raises UserError if it is none of `PARTS`."""
    if name not in PARTS:
        raise UserError(f"{name!r} is not a part of the model; choose from {', '.join(PARTS)}")
    return PARTS[name]


def by_tower(strength: Strength, source: str = "the adapter") -> dict[str, float]:
    """The strength of every tower. A name for one tower wins over a name for several.

    Raises:
        UserError: a name or a number is none, or out of range; `source` is who is complained about.
    """
    if not isinstance(strength, Mapping):
        check_finite(f"the strength of {source}", strength, *RANGE)
        return dict.fromkeys(TOWERS, float(strength))
    strengths = dict.fromkeys(TOWERS, 1.0)
    for name in sorted(strength, key=lambda name: -len(find_towers(name))):
        check_finite(f"the strength of {source} for {name}", strength[name], *RANGE)
        strengths |= dict.fromkeys(find_towers(name), float(strength[name]))
    return strengths


def is_repo(source: str) -> bool:
    """True if `source` may name a Hub repo (org/name) or a file in one (org/name/folder/file.safetensors)."""
    file = source.count("/") == 1 and source.endswith((".safetensors", ".pt"))
    return not file and _REPO.fullmatch(source) is not None


def parse_adapter(text: str) -> tuple[str, Strength]:
    """(source, strength) of SOURCE, SOURCE:0.8 or SOURCE:video=0.8,audio=1. UserError if malformed."""
    source, _, given = text.rpartition(":")
    if not source:
        return text, 1.0
    if "=" not in given:
        try:
            return source, float(given)
        except ValueError:  # the colon belongs to the path
            return text, 1.0
    strengths = {}
    for item in given.split(","):
        name, _, number = (each.strip() for each in item.partition("="))
        find_towers(name)
        try:
            strengths[name] = float(number)
        except ValueError:
            raise UserError(f"{item!r} in {text} is not a strength; write it as {name}=0.8") from None
    return source, strengths
