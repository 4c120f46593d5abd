"""What a run is asked for, what it gives back, and how it fails. No torch: the page and the CLI import it."""

import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np

MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
SHIFTS = (0.01, 100)  # of a noise schedule


class UserError(ValueError):
    """Something the person asked for cannot be done as asked. The message says what to change."""


class BackendError(RuntimeError):
    """The machine or server that runs the model failed. The message says what to try."""


class Cancelled(Exception):  # noqa: N818 - a request that was honoured, not a fault
    """The run was stopped on request; nothing was written."""


@dataclass(frozen=True)
class Progress:
    """One report of a running generation.

    `step` counts finished denoising steps of `steps`. `preview` is None or the clip so far
    as uint8 [T, h, w, 3]: one frame for each latent frame, at 1/8 of the size.
    """

    stage: str
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    preview: np.ndarray | None = None


ProgressCallback = Callable[[Progress], None]
Strength = float | dict[str, float]  # of an adapter: for all towers, or by tower (mova.strengths)


@dataclass(frozen=True)
class GenerationRequest:
    """Everything that decides a clip. Two equal requests make the same clip on the same model.

    `image` is a path, or None for text alone (the model then starts from a white frame). Sizes are in
    pixels. `crop_position` is which part of an image is kept where it is cut: 0 its left or upper end, 1 the
    other; 0.5, the middle, is what the models were released with. A `seed` of None is replaced by a random
    one when the run starts and reported in the result.
    """

    prompt: str
    image: Path | None = None
    negative_prompt: str = ""
    height: int = 352
    width: int = 640
    num_frames: int = 193
    frame_rate: float = 24.0
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    bridge_guidance_scale: float = 1.0
    video_shift: float | None = None
    audio_shift: float | None = None
    seed: int | None = None
    fit: str = "crop"
    crop_position: float = 0.5
    adapters: tuple[tuple[str, Strength], ...] = ()

    def to_settings(self, beside: Path | None = None) -> dict[str, Any]:
        """The request as JSON-ready values, the form that is written into a clip.

        Files that lie in the folder `beside`, the clip's own, are written by their name alone: the folder can
        be moved, and a clip that is given away does not tell where it was made.
        """
        settings = dataclasses.asdict(self)
        settings["image"] = _name_of(self.image, beside) if self.image else None
        settings["adapters"] = [[_name_of(source, beside), strength] for source, strength in self.adapters]
        return settings

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "GenerationRequest":
        """The request that `to_settings` wrote.

        Keys that are no field of a request (those of the run, such as the model) are left out.

        Raises:
            UserError: the prompt is missing, or a value has the wrong type.
        """
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        values = {key: value for key, value in settings.items() if key in known}
        if not isinstance(values.get("prompt"), str):
            raise UserError("the settings hold no prompt; they were not written by this toolkit")
        try:
            values["adapters"] = tuple(
                (str(source), read_strength(strength)) for source, strength in values.get("adapters", ())
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"the settings hold malformed adapters: {values['adapters']!r}") from error
        if isinstance(values.get("image"), str):
            values["image"] = Path(values["image"])
        for key, value in values.items():
            kind = known[key] if isinstance(known[key], UnionType | type) else tuple
            kind = kind | int if kind in (float, float | None) else kind
            if not isinstance(value, kind) or isinstance(value, bool):
                raise UserError(f"the settings hold {key}={value!r}, which has the wrong type")
        return cls(**values)

    def found_beside(self, folder: Path) -> "GenerationRequest":
        """The request with files that `to_settings` wrote without their folder looked for in `folder`."""
        image = self.image
        if image and not image.is_absolute() and (folder / image.name).is_file():
            image = folder / image.name
        adapters = tuple(
            (
                str(folder / source)
                if Path(source).name == source and (folder / source).exists()
                else source,
                strength,
            )
            for source, strength in self.adapters
        )
        return self.replace(image=image, adapters=adapters)

    def seeded(self) -> "GenerationRequest":
        """The request with a seed: its own, or a random one."""
        return self if self.seed is not None else self.replace(seed=secrets.randbelow(2**31))

    def replace(self, **changes: object) -> "GenerationRequest":
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class GenerationResult:
    """A finished clip: where it is, the request with its seed filled in, and seconds by stage."""

    path: Path
    request: GenerationRequest
    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _name_of(source: str | Path, beside: Path | None) -> str:
    path = Path(source)
    return path.name if beside is not None and path.parent == beside and path.exists() else str(source)


def read_strength(value: object) -> Strength:
    """A number or numbers by name, as settings hold them. Raises TypeError or ValueError if it is neither."""
    if isinstance(value, dict):
        return {str(name): float(number) for name, number in value.items()}
    return float(value)


def check_finite(name: str, value: float, low: float, high: float) -> None:
    """Raise UserError unless `low <= value <= high` and value is a number."""
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        raise UserError(f"{name}={value!r} is not a number; give one from {low:g} to {high:g}")
    if not low <= value <= high:
        raise UserError(f"{name}={value} is out of range; give one from {low:g} to {high:g}")
