"""Figures of what a run kept and of its seams: changes outside a span, steps, clicks, colour and the speaker.

A seam is where given material meets made material. Times are seconds of the clip, pictures uint8
[F, H, W, 3], sounds float32 [S].
"""

from collections.abc import Sequence

import numpy as np

from recipes.pocket.evaluation.recognise import band_levels
from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE

Span = tuple[float, float]
Frames = tuple[int, int]  # the first, and the one after the last
STRIDE = 4  # frames of a latent; latent 0 is frame 0 alone
CLICK_SECONDS = 0.01  # on each side of a seam: where a cut or its fade can click
AROUND_SECONDS = 0.06  # on each side: the sound with which a click is compared
CLICK_DB = -40.0  # of full scale; smaller steps are not heard
CLICK_RATIO = 2.0  # how far a click stands out from the sound around it
ONSET_FRAMES = 2.0  # an onset so near a seam is the seam's, unless an event explains it
VOICED_DB = 25.0  # below a sound's loudest column; fainter ones are pauses


def made_frames(spans: Sequence[Span], num_frames: int) -> np.ndarray:
    """Bool [F]: frames of the latents that a span touches, which are made as wholes."""
    starts = np.arange(num_frames) / FRAME_RATE
    touched = np.zeros(num_frames, bool)
    for start, end in spans:
        touched |= (starts + 1 / FRAME_RATE > start + 1e-3) & (starts < end - 1e-3)
    latents = (np.arange(num_frames) + STRIDE - 1) // STRIDE
    return np.isin(latents, latents[touched])


def picture_change(true: np.ndarray, made: np.ndarray, spans: Sequence[Span]) -> float:
    """The largest difference in levels of 255 outside the spans."""
    outside = ~made_frames(spans, len(true))
    if not outside.any():
        return 0.0
    return float(np.abs(true[outside].astype(int) - made[: len(true)][outside]).max())


def sound_change(true: np.ndarray, made: np.ndarray, spans: Sequence[Span]) -> float:
    """The largest difference of samples outside the spans, where full scale is 1."""
    outside = np.ones(len(true), bool)
    for start, end in spans:
        outside[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = False
    return float(np.abs(true - made[: len(true)])[outside].max(initial=0.0))


def picture_seams(spans: Sequence[Span], num_frames: int) -> list[int]:
    """Frames whose predecessor is of the other kind, given or made."""
    return (np.flatnonzero(np.diff(made_frames(spans, num_frames))) + 1).tolist()


def picture_steps(frames: np.ndarray, seams: Sequence[int]) -> list[float]:
    """Mean difference in levels of 255 between each of these frames and the one before."""
    return [float(np.abs(frames[seam].astype(int) - frames[seam - 1]).mean()) for seam in seams]


def sound_seams(spans: Sequence[Span], seconds: float) -> list[float]:
    """Ends of the spans that lie within a clip of so many seconds."""
    return [edge for span in spans for edge in span if 0 < edge < seconds - 1e-3]


def level_step(waveform: np.ndarray, seam: float) -> float:
    """Decibels of full scale: the largest bend of the waveform, its second difference, at a seam."""
    return 20 * float(np.log10(_bends(waveform, seam, CLICK_SECONDS).max(initial=0.0) + 1e-6))


def is_click(waveform: np.ndarray, seam: float) -> bool:
    """True if a step is loud enough to be heard and stands out from the sound around the seam."""
    step = _bends(waveform, seam, CLICK_SECONDS).max(initial=0.0)
    around = _bends(waveform, seam, AROUND_SECONDS)
    skip = round((AROUND_SECONDS - CLICK_SECONDS) * SAMPLE_RATE)
    around = np.concatenate((around[:skip], around[-skip:])).max(initial=0.0)
    return bool(step > 10 ** (CLICK_DB / 20) and step > CLICK_RATIO * around)


def _bends(waveform: np.ndarray, seam: float, reach: float) -> np.ndarray:
    first, last = (round((seam + side * reach) * SAMPLE_RATE) for side in (-1, 1))
    return np.abs(np.diff(waveform[max(first, 0) : last].astype(np.float64), 2))


def extra_onsets(heard: Sequence[float], explained: Sequence[float], seams: Sequence[float]) -> int:
    """Number of onsets near a seam that no event explains, seen or heard in the true clip."""
    near = ONSET_FRAMES / FRAME_RATE
    return sum(
        any(abs(onset - seam) <= near for seam in seams)
        and not any(abs(onset - event) <= near for event in explained)
        for onset in heard
    )


def colour_drift(frames: np.ndarray, windows: Sequence[Frames]) -> list[float]:
    """Levels of 255 by which the mean colour of each later window differs from the first one's, a window."""
    means = [frames[start:end].mean((0, 1, 2)) for start, end in windows]
    return [float(np.abs(mean - means[0]).mean()) / count for count, mean in enumerate(means[1:], 1)]


def voice_distance(first: np.ndarray | None, second: np.ndarray | None) -> float | None:
    """Decibels between two voice spectra; None if one is silent."""
    if first is None or second is None:
        return None
    return float(np.sqrt(np.mean((first - second) ** 2)))


def voice_spectrum(waveform: np.ndarray) -> np.ndarray | None:
    """Mean decibels [bands] of the columns near the loudest, without their mean level; None of silence."""
    if len(waveform) < SAMPLE_RATE // 10 or np.abs(waveform).max() < 1e-3:
        return None
    levels = band_levels(waveform)
    loud = levels.max(1) > levels.max() - VOICED_DB
    spectrum = levels[loud].mean(0)
    return spectrum - spectrum.mean()
