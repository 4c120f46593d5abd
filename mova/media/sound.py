"""Sound at another sample rate."""

from fractions import Fraction

import av
import numpy as np


def resample(mono: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """float32 [S] at another rate, starting at the same moment."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=new_rate)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(mono[None], np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray() for piece in pieces], axis=1)[0]
