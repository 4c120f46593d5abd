"""What a run is asked for, what it gives back, and how it fails. No torch: the page and the CLI import it."""

import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

import numpy as np

from mova.adapters.strengths import Strength, by_tower, is_repo, read_strength
from mova.errors import UserError, check_finite
from mova.files import check_output, digest
from mova.guidance import branches
from mova.media.images import load_first_frame
from mova.shapes import FRAME_RATES, MAX_PROMPT_TOKENS, check_num_frames, check_size
from mova.text import clean_prompt

MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
SHIFTS = (0.01, 100)  # of a noise schedule


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


BYTES_PER_PIXEL = 0.15  # of an mp4, generously: moving noise at this quality takes 0.1
MAX_PROMPT_CHARACTERS = 20_000  # many times what the model reads, and the settings still fit into a clip


def check_request(request: GenerationRequest, out: Path, overwrite: bool = False) -> np.ndarray | None:
    """The first frame, fitted (uint8 [H, W, 3]), or None for text alone, when all else is in order too.

    Raises:
        UserError: something cannot be done as asked. BackendError: the disk has no room for the clip.
    """
    check_text("the prompt", request.prompt)
    check_text("the negative prompt", request.negative_prompt)
    if not clean_prompt(request.prompt):
        raise UserError("the prompt is empty; say what is seen and what is heard")
    check_size(request.height, request.width)
    check_num_frames(request.num_frames)
    check_finite("frame_rate", request.frame_rate, *FRAME_RATES)
    check_finite("num_inference_steps", request.num_inference_steps, 1, MAX_STEPS)
    branches(request.guidance_scale, request.bridge_guidance_scale)
    for name, shift in (("video_shift", request.video_shift), ("audio_shift", request.audio_shift)):
        if shift is not None:
            check_finite(name, shift, *SHIFTS)
    check_finite("crop_position", request.crop_position, 0, 1)
    if request.seed is not None:
        check_finite("seed", request.seed, 0, MAX_SEED)
    for source, strength in request.adapters:
        check_adapter(source, strength)
    pixels = request.height * request.width * request.num_frames
    check_output(out, overwrite, needed_bytes=int(pixels * BYTES_PER_PIXEL))
    if request.image is None:
        return None
    return load_first_frame(request.image, request.height, request.width, request.fit, request.crop_position)


def check_adapter(source: str, strength: Strength) -> None:
    by_tower(strength, source)
    if not Path(source).exists() and not is_repo(source):
        raise UserError(
            f"there is no adapter {source}; give a .safetensors file, its folder or a Hub repo id"
        )


def check_text(name: str, text: str) -> None:
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UserError(
            f"{name} has {len(text)} characters; the model reads {MAX_PROMPT_TOKENS} tokens, and up to "
            f"{MAX_PROMPT_CHARACTERS} characters are accepted: shorten it"
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{name} holds bytes that are no text; save or type it as UTF-8")


def check_source_image(image: Path, sha256: str | None) -> None:
    """Raise UserError unless `image`, from a clip's settings, is there and is what the clip was made from."""
    if not image.is_file():
        raise UserError(
            f"the clip was made from {image}, which is not here; give its first frame with --image"
        )
    if sha256 is not None and digest(image) != sha256:
        raise UserError(
            f"{image} has changed since the clip was made from it; give the first frame with --image"
        )


def run_settings(request: GenerationRequest, model: str, out: Path) -> dict[str, Any]:
    """What a clip at `out` carries of the run that makes it; both backends write it."""
    image_sha256 = digest(request.image) if request.image else None
    return request.to_settings(out.parent) | {"model": model, "image_sha256": image_sha256}
