"""How far the mouth of a talking face is open, frame by frame, and how loud its voice is then."""

import numpy as np

from pocket.clip import FRAME_RATE, SAMPLE_RATE

ACROSS, ABOVE, BELOW = 0.45, 0.24, 0.42  # of half a head, around the middle of the mouth
SHADES = 7  # steps of a colour channel
SOFTEN = np.array((0.25, 0.5, 0.25))  # lips move as slowly as three frames
LARGEST_LAG = 6  # frames


def mouth_opening(frames: np.ndarray, layout: dict[str, float]) -> np.ndarray:
    """Pixels of teeth, tongue and dark inside: those in colours that were fewer when closed. float [F].

    Frames uint8 [F, H, W, 3]; layout as in `pocket.clip.Clip`. Counting colours, wherever they are, does not
    mind that the head moves.
    """
    s = layout["half_head"]
    rows = slice(round(layout["mouth_y"] - ABOVE * s), round(layout["mouth_y"] + BELOW * s))
    columns = slice(round(layout["x"] - ACROSS * s), round(layout["x"] + ACROSS * s))
    counts = np.stack([_colour_counts(frame[rows, columns].reshape(-1, 3)) for frame in frames])
    return np.clip(counts - counts[0], 0, None).sum(1)


def _colour_counts(pixels: np.ndarray) -> np.ndarray:
    """How many pixels have each shade, float [SHADES**3]; a pixel between two shades counts for both."""
    place = pixels.astype(np.float32) * ((SHADES - 1) / 255)
    below = np.minimum(place.astype(int), SHADES - 2)
    part = place - below
    counts = np.zeros(SHADES**3)
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, part, 1 - part).prod(1)
        counts += np.bincount((below + corner) @ (SHADES**2, SHADES, 1), weight, SHADES**3)
    return counts


def loudness(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """Root mean square of each frame's samples, float [F], softened as the lips are."""
    edges = np.arange(num_frames + 1) * SAMPLE_RATE // FRAME_RATE
    power = np.add.reduceat(
        np.pad(np.square(waveform, dtype=np.float64), (0, 1)), np.minimum(edges, len(waveform))
    )
    return np.convolve(np.sqrt(power[:-1] / np.diff(edges)), SOFTEN, "same")


def lag_correlations(opening: np.ndarray, loud: np.ndarray) -> np.ndarray:
    """Correlation when the sound is moved `lag` frames earlier, lag = -6 .. 6: float [13].

    Zero where either does not change. A positive best lag means that the sound is late.
    """
    return np.array(
        [_shifted_correlation(opening, loud, lag) for lag in range(-LARGEST_LAG, LARGEST_LAG + 1)]
    )


def _shifted_correlation(opening: np.ndarray, loud: np.ndarray, lag: int) -> float:
    first = opening[max(-lag, 0) : len(opening) - max(lag, 0)]
    second = loud[max(lag, 0) : len(loud) - max(-lag, 0)]
    first, second = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / scale) if scale > 1e-9 else 0.0
