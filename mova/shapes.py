"""Arithmetic between pixels, latents, tokens and samples, and the sizes a model accepts. No torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mova.errors import UserError, check_finite

SPATIAL_MULTIPLE = 16  # video VAE stride 8, times the 2x2 patch of the video tower
TEMPORAL_STRIDE = 4
SPATIAL_STRIDE = 8
MAX_SIDE = 2048
MIN_SIDE = 32
MAX_FRAMES = 961  # 40 s at 24 frames/s, five times the trained length
FRAME_RATES = (1, 120)
MAX_PROMPT_TOKENS = 512


@dataclass(frozen=True)
class ClipShape:
    """The sizes of one clip in every space it passes through."""

    height: int
    width: int
    num_frames: int
    frame_rate: float
    sample_rate: int
    hop_length: int

    @classmethod
    def from_config(
        cls, audio_vae: Mapping[str, Any], height: int, width: int, num_frames: int, frame_rate: float
    ) -> "ClipShape":
        """The sizes with a checkpoint whose audio VAE has this config."""
        hop_length = math.prod(audio_vae["encoder_rates"])
        return cls(height, width, num_frames, frame_rate, audio_vae["sample_rate"], hop_length)

    @property
    def latent_frames(self) -> int:
        return (self.num_frames - 1) // TEMPORAL_STRIDE + 1

    @property
    def latent_height(self) -> int:
        return self.height // SPATIAL_STRIDE

    @property
    def latent_width(self) -> int:
        return self.width // SPATIAL_STRIDE

    @property
    def video_tokens(self) -> int:
        return self.latent_frames * (self.latent_height // 2) * (self.latent_width // 2)

    @property
    def num_samples(self) -> int:
        """Audio samples of exactly the video's length."""
        return int(self.sample_rate * self.num_frames / self.frame_rate)

    @property
    def audio_latents(self) -> int:
        return (self.num_samples - 1) // self.hop_length + 1

    @property
    def seconds(self) -> float:
        return self.num_frames / self.frame_rate


def nearest_side(pixels: int) -> int:
    """The valid height or width nearest to `pixels`."""
    return round(min(max(pixels, MIN_SIDE), MAX_SIDE) / SPATIAL_MULTIPLE) * SPATIAL_MULTIPLE


def frames_for_seconds(seconds: float, frame_rate: float) -> int:
    """The valid number of frames (4k+1) whose duration is nearest to `seconds`.

    Raises:
        UserError: the frame rate is out of range, or the clip would have over MAX_FRAMES.
    """
    check_finite("frame_rate", frame_rate, *FRAME_RATES)
    check_finite("seconds", seconds, 1 / frame_rate, MAX_FRAMES / frame_rate)
    return round((seconds * frame_rate - 1) / TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1


def check_size(height: int, width: int) -> None:
    """Raise UserError unless the towers can run at this size; the message names the nearest that works."""
    valid = [side % SPATIAL_MULTIPLE == 0 and MIN_SIDE <= side <= MAX_SIDE for side in (height, width)]
    if not all(valid):
        raise UserError(
            f"size {width}x{height} (width x height) will not do: each side must be a multiple of "
            f"{SPATIAL_MULTIPLE} from {MIN_SIDE} to {MAX_SIDE}; "
            f"nearest: {nearest_side(width)}x{nearest_side(height)}",
            "width" if valid[0] else "height",
        )


def check_num_frames(num_frames: int) -> None:
    """Raise UserError unless `num_frames` is 4k+1; the message names the neighbours that are."""
    if num_frames < 1 or num_frames > MAX_FRAMES:
        raise UserError(f"num_frames={num_frames} must be from 1 to {MAX_FRAMES} (193 is the trained length)")
    if num_frames % TEMPORAL_STRIDE != 1:
        below = (num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        raise UserError(f"num_frames={num_frames} must be 4k+1; nearest: {below}, {below + TEMPORAL_STRIDE}")


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from "WIDTHxHEIGHT", as people and other tools write it.

    Raises:
        UserError: the text is no size, or one the towers cannot run at.
    """
    try:
        width, height = (int(part) for part in text.lower().replace("\u00d7", "x").split("x"))
    except ValueError:
        raise UserError(f"size {text!r} is not WIDTHxHEIGHT; for example 640x352") from None
    check_size(height, width)
    return height, width


def size_for_aspect(aspect: float, pixels: int) -> tuple[int, int]:
    """(height, width) of about `pixels` in all whose width / height is nearest to `aspect`."""
    check_finite("aspect", aspect, 0.1, 10)
    height = math.sqrt(pixels / aspect)
    return nearest_side(round(height)), nearest_side(round(height * aspect))
