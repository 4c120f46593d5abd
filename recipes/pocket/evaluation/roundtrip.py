"""Round trips of true clips through the model's autoencoders: the best that a generator could reach."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mova.encoders import EncoderMixin
from mova.metrics.health import psnr
from mova.pipeline import MOVAPipeline
from recipes.pocket.evaluation.generate import to_frames
from recipes.pocket.world.clip import Clip

WINDOW, HOP = 512, 128  # samples
DEPTH_DB = 70.0  # below the true clip's loudest; what is fainter counts as equal


@dataclass(frozen=True)
class RoundTrip:
    frames: np.ndarray  # uint8 [F, H, W, 3]
    waveform: np.ndarray  # float32 [S]
    psnr: float  # decibels, over all frames
    last_frame_psnr: float  # a causal decoder that drifts shows it here
    log_spectral_distance: float  # decibels


def round_trips(pipeline: MOVAPipeline, clips: Sequence[Clip], batch: int) -> Iterator[RoundTrip]:
    """Each clip encoded at full length, as one piece, and decoded."""
    for first in range(0, len(clips), batch):
        part = clips[first : first + batch]
        frames = round_trip_frames(pipeline, np.stack([clip.frames for clip in part]))
        sounds = round_trip_sound(pipeline, np.stack([clip.waveform for clip in part]))
        for clip, pictures, sound in zip(part, frames, sounds, strict=True):
            yield RoundTrip(
                pictures,
                sound,
                psnr(pictures, clip.frames),
                psnr(pictures[-1], clip.frames[-1]),
                log_spectral_distance(clip.waveform, sound),
            )


def log_spectral_distance(true: np.ndarray, other: np.ndarray) -> float:
    """Decibels: root mean square over frequency, mean over time, of the difference of log power spectra."""
    first, second = _decibels(true), _decibels(other)
    floor = first.max() - DEPTH_DB
    difference = np.maximum(first, floor) - np.maximum(second, floor)
    return float(np.sqrt((difference**2).mean(1)).mean())


@torch.no_grad()
def round_trip_frames(pipeline: EncoderMixin, frames: np.ndarray) -> np.ndarray:
    """Uint8 [B, F, H, W, 3], both ways."""
    video = torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with pipeline.residency.use("video_vae"):
        vae = pipeline.video_vae
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
    return to_frames(pipeline.decode_video(pipeline.normalise_latents(latents)))


@torch.no_grad()
def round_trip_sound(pipeline: EncoderMixin, waveforms: np.ndarray) -> np.ndarray:
    """Encode and decode sounds float32 [B, S]."""
    with pipeline.residency.use("audio_vae"):
        vae = pipeline.audio_vae
        latents = vae.encode(torch.from_numpy(waveforms)[:, None].to(vae.device, vae.dtype)).mode()
    return pipeline.decode_audio(latents)[:, 0, : waveforms.shape[1]].numpy()


def _decibels(waveform: np.ndarray) -> np.ndarray:
    """Power spectra [columns, bins]."""
    blocks = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP] * np.hanning(WINDOW)
    return 10 * np.log10(np.abs(np.fft.rfft(blocks)) ** 2 + 1e-10)
