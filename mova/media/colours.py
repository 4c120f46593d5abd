"""Frames in 8-bit BT.709 RGB, whatever a file says of its matrix, range, primaries and transfer.

Matrix and range are swscale's work. HDR (HLG, PQ) and wide primaries go through linear light here: 1 is the
white of a sheet of paper, and what is brighter is rolled off in place of being cut. Standard-definition
primaries lie within a few levels of BT.709's and are tagged without being meant, so they are left alone.
"""

from functools import cache

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation

from mova.errors import UserError

# swscale's default darkens by one level on average, and smears colour.
FROM_YUV = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT

HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# Linear RGB to that of BT.709; both with a D65 white (ITU-R BT.2087; SMPTE EG 432-1).
TO_BT709 = {
    ColorPrimaries.BT2020: (
        (1.660491, -0.587641, -0.072850),
        (-0.124550, 1.132900, -0.008349),
        (-0.018151, -0.100579, 1.118730),
    ),
    ColorPrimaries.SMPTE432: (
        (1.224940, -0.224940, 0.0),
        (-0.042057, 1.042057, 0.0),
        (-0.019638, -0.078636, 1.098274),
    ),
}
# H.273 matrices that swscale has; it lacks 10 (constant luminance), 14 (ICtCp) and 15 (Dolby Vision).
MATRICES = (0, 1, 2, 3, 4, 5, 6, 7, 9)
LEVELS = 2**16
PAPER_HLG = 0.265  # scene light of the reference white, 75 % of the signal (ITU-R BT.2408)
PAPER_PQ = 203 / 10_000  # of PQ's 10,000 cd/m2 (ITU-R BT.2408)
PEAK = {
    ColorTrc.ARIB_STD_B67: 1 / PAPER_HLG,
    ColorTrc.SMPTE2084: 1000 / 203,
}  # 1,000 cd/m2 is the usual master
KNEE = 0.6  # of paper white: what is darker keeps its light


def to_rgb(frame: av.VideoFrame, name: str) -> np.ndarray:
    """uint8 [H, W, 3] of a decoded frame. Raises UserError where its colours are unknown."""
    if frame.colorspace not in MATRICES and not frame.format.is_rgb:
        raise UserError(
            f"{name} has colours of H.273 matrix {int(frame.colorspace)} (ICtCp, Dolby Vision or the like), "
            "which are not read; export it as SDR, BT.709"
        )
    if frame.color_trc not in HDR and frame.color_primaries not in TO_BT709:
        return frame.to_ndarray(format="rgb24", interpolation=FROM_YUV)
    signal = frame.to_ndarray(format="rgb48le", interpolation=FROM_YUV)
    light = linear_light(frame.color_trc)[signal]  # float32 [H, W, 3]
    if frame.color_primaries in TO_BT709:
        light = light @ np.array(TO_BT709[frame.color_primaries], np.float32).T
    if frame.color_trc in HDR:
        light = rolled_off(light, PEAK[frame.color_trc])
    return encoded()[(light.clip(0, 1) * (LEVELS - 1) + 0.5).astype(np.uint16)]


@cache
def linear_light(transfer: int) -> np.ndarray:
    """float32 [LEVELS]: light by signal, 1 for paper white."""
    signal = np.arange(LEVELS) / (LEVELS - 1)
    if transfer == ColorTrc.ARIB_STD_B67:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12) / PAPER_HLG
    elif transfer == ColorTrc.SMPTE2084:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) / PAPER_PQ
    elif transfer == ColorTrc.LINEAR:
        light = signal
    else:
        light = srgb_light(signal)
    return light.astype(np.float32)


@cache
def encoded() -> np.ndarray:
    """uint8 [LEVELS]: the level by light, with the curve that `srgb_light` undoes."""
    levels = srgb_light((np.arange(256) + 0.5) / 255)
    return np.searchsorted(levels[:-1], np.arange(LEVELS) / (LEVELS - 1), side="right").astype(np.uint8)


def srgb_light(signal: np.ndarray) -> np.ndarray:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def rolled_off(light: np.ndarray, peak: float) -> np.ndarray:
    """`light` [..., 3] up to `peak` brought below 1, by its brightest channel so that hues stay."""
    brightest = light.max(axis=-1, keepdims=True)
    # Rises with slope 1 from the knee and meets 1 at the peak.
    bend = 1 / ((peak - KNEE) / (1 - KNEE) - 1)
    share = ((brightest - KNEE) / (peak - KNEE)).clip(0, 1)
    bright = KNEE + (1 - KNEE) * (1 + bend) * share / (share + bend)
    return np.where(brightest > KNEE, light * (bright / brightest.clip(1e-6)), light)
