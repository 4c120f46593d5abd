"""The attention kernel of each role: what a card and its libraries can run, chosen and in words. No torch.

The video's self-attention is 55 to 83 % of a forward's arithmetic; in the other roles text and sound meet the
picture, and they cost next to nothing. So each has a kernel of its own, and exact ones are taken unasked.
"""

from dataclasses import dataclass, field, fields
from importlib import metadata

from mova.errors import UserError
from mova.machine import Machine

TORCH = "torch"  # its own kernels, in the order of `mova.models.dual_tower`
FLASH_4 = "flash-attn-4"
# Its kernels for other cards end the process where they should raise: only these majors are tried.
FLASH_4_MAJORS = (9, 10)  # Hopper, and Blackwell of data centres
INSTALL_FLASH_4 = 'pip install "flash-attn-4[cu13]==4.0.0b36"'


@dataclass(frozen=True)
class AttentionKernels:
    """A kernel by role: `TORCH`, `FLASH_4`, or one by its name in diffusers' dispatcher ("sage_hub").

    `video` and `audio` are the towers' self-attention, `text` their attention over the prompt, `bridge` that
    of each over the other. `why` says how it was chosen.
    """

    video: str = TORCH
    text: str = TORCH
    bridge: str = TORCH
    audio: str = TORCH
    why: str = field(default="", compare=False)

    def __str__(self) -> str:
        kernels = self.by_role()
        if len(set(kernels.values())) == 1:
            text = self.video
        else:
            text = ", ".join(f"{kernel} for {role}" for role, kernel in kernels.items())
        return f"{text} ({self.why})" if self.why else text

    def by_role(self) -> dict[str, str]:
        return {role: getattr(self, role) for role in ROLES}


ROLES = tuple(each.name for each in fields(AttentionKernels) if each.name != "why")


def parse_kernels(text: str) -> AttentionKernels:
    """Kernels of KERNEL, which is the video's, or of ROLE=KERNEL,ROLE=KERNEL. UserError if malformed."""
    chosen = {}
    for item in text.split(","):
        role, equals, kernel = (part.strip() for part in item.partition("="))
        if not equals:
            role, kernel = "video", role
        if role not in ROLES or not kernel or role in chosen:
            raise UserError(
                f"--attention {text!r} is not a kernel or a list such as video={FLASH_4},bridge={TORCH}; "
                f"the roles are {', '.join(ROLES)}"
            )
        chosen[role] = kernel
    return AttentionKernels(**chosen, why="as asked")


def choose_kernels(machine: Machine, dtype: str) -> AttentionKernels:
    """The fastest exact kernels of a machine, by its card and what is installed; none is tried here."""
    if machine.capability is None or machine.capability[0] not in FLASH_4_MAJORS:
        return AttentionKernels(why=f"{FLASH_4} needs a Hopper card or a B200")
    if dtype != "bfloat16":
        return AttentionKernels(why=f"{FLASH_4} does not compute in {dtype}")
    if not has_flash_4():
        return AttentionKernels(why=f"{FLASH_4} would be faster here: {INSTALL_FLASH_4}")
    return AttentionKernels(video=FLASH_4, why="exact, and the fastest of this card")


def has_flash_4() -> bool:
    """True if the package is installed; whether it works is for `mova.models.attention.obstacle` to find."""
    try:
        metadata.version(FLASH_4)
    except metadata.PackageNotFoundError:
        return False
    return True
