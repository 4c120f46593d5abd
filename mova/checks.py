"""What can be told about a request before a model is loaded, so that a mistake costs no wait. No torch."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from mova.guidance import branches
from mova.images import load_first_frame
from mova.outputs import check_output
from mova.prompting.cleaning import clean_prompt
from mova.shapes import FRAME_RATES, MAX_PROMPT_TOKENS, check_num_frames, check_size
from mova.strengths import by_tower, is_repo
from mova.types import MAX_SEED, MAX_STEPS, SHIFTS, GenerationRequest, Strength, UserError, check_finite

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


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
