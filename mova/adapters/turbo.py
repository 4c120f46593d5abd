"""Few-step ("turbo") adapters: how one is to be run, as its header says. No torch.

Such an adapter has learnt the steps of one schedule, guidance included. More guidance on top of it doubles
what it learnt; other steps it has never seen.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mova.errors import UserError, check_finite
from mova.sigmas import shifted

MAX_STEPS = 100
SHIFTS = (0.01, 100)
MAX_HEADER = 8 * 2**20  # bytes: 10,000 tensors with long names, and the metadata


@dataclass(frozen=True)
class Turbo:
    """The schedule that an adapter learnt: its steps, one forward each, and the shifts of its sigmas."""

    steps: int
    video_shift: float
    audio_shift: float

    @property
    def shifts(self) -> tuple[float, float]:
        return self.video_shift, self.audio_shift

    def record(self) -> dict[str, Any]:
        """As it is written in a header; the sigmas, of video and audio, are for other programs."""
        return {
            "steps": self.steps,
            "video_shift": self.video_shift,
            "audio_shift": self.audio_shift,
            "guidance_scale": 1.0,
            "bridge_guidance_scale": 1.0,
            "sigmas": [
                [round(shifted(part, shift), 6) for shift in (self.video_shift, self.audio_shift)]
                for part in (1 - step / self.steps for step in range(self.steps + 1))
            ],
        }

    @classmethod
    def of_record(cls, record: object, source: object) -> "Turbo | None":
        """What a header says, or None if it says nothing. Raises UserError if it is malformed."""
        if record is None:
            return None
        try:
            steps, video_shift, audio_shift = (record[key] for key in ("steps", "video_shift", "audio_shift"))
            check_finite("steps", steps, 1, MAX_STEPS, whole=True)
            for shift in (video_shift, audio_shift):
                check_finite("shift", shift, *SHIFTS)
        except (LookupError, TypeError, UserError) as error:
            raise UserError(f"{source}: its header names no steps that can be run ({error})") from error
        return cls(int(steps), float(video_shift), float(audio_shift))

    def check_guidance(self, scales: Mapping[str, float | None], source: object) -> None:
        """Raise UserError, with the field of the first scale that is not 1."""
        for name, scale in scales.items():
            if scale not in (None, 1):
                raise UserError(
                    f"{name}={scale:g} with {source}, which has learnt the guidance itself and needs one "
                    f"forward a step; set {name}=1, or leave the adapter out",
                    name,
                )

    def other_schedule(
        self,
        source: object,
        steps: int,
        shifts: tuple[float | None, float | None] = (None, None),
        solver: str = "euler",
        shift: float | None = None,
    ) -> str:
        """A sentence if a run's steps are not those that were learnt, else "".

        `shift` is the checkpoint's, which a run has where its own is None; the learnt ones if it is None.
        """
        given = [
            (learnt if shift is None else shift) if own is None else own
            for own, learnt in zip(shifts, self.shifts, strict=True)
        ]
        wanted = {
            f"num_inference_steps={self.steps}": steps == self.steps,
            f"video_shift={self.video_shift:g}": given[0] == self.video_shift,
            f"audio_shift={self.audio_shift:g}": given[1] == self.audio_shift,
            "solver=euler": solver == "euler",
        }
        missed = ", ".join(setting for setting, is_met in wanted.items() if not is_met)
        return f"{source} has learnt other steps than this run takes; set {missed}" if missed else ""


def turbo_of(path: Path) -> Turbo | None:
    """What the header of a local safetensors file says; None for any file that is not a turbo adapter.

    It only looks: whether the file can be attached is checked where it is read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            content = json.loads(file.read(length)) if length <= MAX_HEADER else {}
            record = json.loads(content["__metadata__"]["mova_adapter"]).get("turbo")
        return Turbo.of_record(record, path)
    except (OSError, struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
