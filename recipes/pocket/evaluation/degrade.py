"""Degradation of true clips to about what an autoencoder leaves, to check that the detectors still work."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from recipes.pocket.world.clip import SAMPLE_RATE


@dataclass(frozen=True)
class Degradation:
    """Amounts of loss. Levels are relative to a full-scale picture, or to the loudest sound."""

    name: str
    blur: float = 0.0  # pixels
    grain: float = 0.0  # of 255
    levels: int = 256
    mixed_frames: float = 0.0  # share of a frame's neighbours in it, as a temporal stride leaves
    hiss_db: float = -200.0
    cutoff: float = 8000.0  # Hz
    smear: float = 0.0  # random gain in each time-frequency cell, decibels


DEGRADATIONS = (
    Degradation("soft", blur=0.8, grain=3, levels=64, mixed_frames=0.08, hiss_db=-42, cutoff=7000, smear=2),
    Degradation("worn", blur=1.3, grain=6, levels=48, mixed_frames=0.15, hiss_db=-34, cutoff=6000, smear=4),
)


def degrade_frames(frames: np.ndarray, degradation: Degradation, rng: np.random.Generator) -> np.ndarray:
    """Uint8 [F, H, W, 3]."""
    blurred = [
        np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(degradation.blur)))
        for frame in frames
    ]
    soft = np.stack(blurred).astype(np.float32)
    neighbours = (np.roll(soft, 1, 0) + np.roll(soft, -1, 0)) / 2
    neighbours[[0, -1]] = soft[[0, -1]]
    soft += degradation.mixed_frames * (neighbours - soft)
    soft += degradation.grain * rng.standard_normal(soft.shape, np.float32)
    step = 256 / degradation.levels
    return np.clip(np.floor(soft / step) * step + step / 2, 0, 255).astype(np.uint8)


def degrade_sound(waveform: np.ndarray, degradation: Degradation, rng: np.random.Generator) -> np.ndarray:
    """Float32 [S]."""
    window, hop = 512, 128
    padded = np.pad(waveform, window)
    starts = np.arange(0, len(padded) - window, hop)
    shape = np.hanning(window + 1)[:-1]
    spectra = np.fft.rfft(padded[starts[:, None] + np.arange(window)] * shape)
    spectra *= 10 ** (degradation.smear / 20 * rng.standard_normal(spectra.shape))
    spectra *= np.fft.rfftfreq(window, 1 / SAMPLE_RATE) < degradation.cutoff
    sound = np.zeros(len(padded))
    for start, block in zip(starts, np.fft.irfft(spectra) * shape, strict=True):
        sound[start : start + window] += block
    sound = sound[window : window + len(waveform)] / 1.5  # overlapping squared windows add up to 1.5
    peak = np.abs(waveform).max()
    sound += peak * 10 ** (degradation.hiss_db / 20) * rng.standard_normal(len(sound))
    return np.clip(sound, -1, 1).astype(np.float32)
