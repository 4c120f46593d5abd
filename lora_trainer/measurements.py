"""Measurements of a clip's picture, from small grey frames and their times, and of its sound."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lora_trainer.manifest import DatasetItem
from mova.media.streams import opened, video_frames, video_stream
from mova.metrics.health import loudness
from mova.metrics.sync import THUMBNAIL_WIDTH

MAX_SECONDS = 120.0
STILL_LEVELS = 2  # of 255: the largest change anywhere that codecs leave in a still
BLACK_LEVEL = 20.0  # mean, of 255; video black is 16
CUT_LEVELS = 25.0
CUT_RATIO = 6.0  # times the clip's usual difference
NEAR = 12  # frames, before and after a jump, of which two look alike if it is a flash
SILENT_DB = -50.0
FRAME_SECONDS = 0.05
PEAK = 0.97  # a gain never goes past it
SPEECH_GATE = 0.35  # of `speech_score`


@dataclass(frozen=True)
class Picture:
    """Grey frames uint8 [F, h, w], THUMBNAIL_WIDTH wide, their seconds [F], and how many were corrupt."""

    frames: np.ndarray
    times: np.ndarray
    corrupt: int

    @property
    def changes(self) -> np.ndarray:
        """Absolute difference of each frame from the one before, in levels: [F, h, w], 0 for the first."""
        levels = self.frames.astype(np.int16)
        return np.abs(np.diff(levels, axis=0, prepend=levels[:1]))

    @property
    def differences(self) -> np.ndarray:
        """The mean of `changes` in each frame."""
        return self.changes.mean(axis=(1, 2))


def read_picture(item: DatasetItem) -> Picture:
    """The first MAX_SECONDS of a clip's picture. Raises UserError if it cannot be decoded."""
    frames, times, corrupt = [], [], 0
    with opened(item.video) as container:
        video = video_stream(container, item.name)
        height = max(2, round(THUMBNAIL_WIDTH * video.height / video.width))
    size = {"width": THUMBNAIL_WIDTH, "height": height, "format": "gray", "interpolation": "AREA"}
    for frame in video_frames(item.video):
        if times and frame.time - times[0] > MAX_SECONDS:
            break
        times.append(frame.time)
        corrupt += frame.is_corrupt
        frames.append(frame.reformat(**size).to_ndarray())
    return Picture(np.stack(frames), np.array(times) - times[0], corrupt)


def frozen_span(picture: Picture) -> tuple[float, float]:
    """The longest span of seconds in which nothing moves; (0, 0) if there is none."""
    still = picture.changes.max(axis=(1, 2)) <= STILL_LEVELS
    still[0] = False
    spans = [(float(picture.times[start - 1]), float(picture.times[end])) for start, end in runs(still)]
    return max(spans, key=lambda span: span[1] - span[0], default=(0.0, 0.0))


def black_spans(picture: Picture) -> list[tuple[float, float]]:
    """Spans of seconds in which the picture is black."""
    black = picture.frames.mean(axis=(1, 2)) < BLACK_LEVEL
    ends = np.append(picture.times[1:], picture.times[-1] + float(np.diff(picture.times[-2:]).sum()))
    return [(float(picture.times[start]), float(ends[end])) for start, end in runs(black)]


def cuts(picture: Picture) -> list[float]:
    """Seconds at which the picture changes as a whole: a jump far over what is usual, with no way back.

    A flash is not a cut: after it the picture is as before.
    """
    differences = picture.differences
    usual = float(np.median(differences[1:])) if len(differences) > 1 else 0.0
    limit = max(CUT_LEVELS, CUT_RATIO * usual)
    found = []
    for index in np.flatnonzero(differences > limit):
        before = picture.frames[max(0, index - NEAR) : index].astype(np.int16)
        after = picture.frames[index : index + NEAR]
        apart = min(float(np.abs(after - frame).mean(axis=(1, 2)).min()) for frame in before)
        if apart > limit / 2:
            found.append(float(picture.times[index]))
    return found


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    yield from zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)


def at_rate(picture: Picture, frame_rate: float, seconds: float) -> np.ndarray:
    """The frames nearest to the ticks of a constant rate, float32 [F, h, w], for up to `seconds`."""
    ticks = np.arange(0, min(seconds, picture.times[-1]), 1 / frame_rate)
    between = (picture.times[1:] + picture.times[:-1]) / 2
    return picture.frames[np.searchsorted(between, ticks)].astype(np.float32)


def to_loudness(wave: np.ndarray, sample_rate: int, target: float) -> np.ndarray:
    """`wave` brought to `target` LUFS, or as near as its peaks allow; silence stays silence."""
    current = loudness(wave[None], sample_rate)
    if current is None:
        return wave
    gain = min(10 ** ((target - current) / 20), PEAK / max(float(np.abs(wave).max()), 1e-9))
    return (wave * gain).astype(np.float32)


def cancellation(channels: np.ndarray) -> float:
    """dB that the mono mix of stereo `channels` [2, S] loses; 0 for mono. Opposite phase loses all of it."""
    if len(channels) < 2:
        return 0.0
    apart = np.square(channels.astype(np.float64)).mean()
    mixed = np.square(channels.astype(np.float64).mean(axis=0)).mean()
    return float(10 * np.log10((apart + 1e-12) / (mixed + 1e-12)))


def speech_score(wave: np.ndarray, sample_rate: int) -> float:
    """Share, 0 to 1, of level swings at the pace of syllables (3 to 8 Hz) where a voice's pitch is heard.

    A guess: for a hint, never for a decision.
    """
    levels = np.maximum(frame_levels(wave, sample_rate), SILENT_DB)
    if len(levels) < 20:
        return 0.0
    spectrum = np.square(np.abs(np.fft.rfft(levels - levels.mean())))
    rates = np.fft.rfftfreq(len(levels), FRAME_SECONDS)
    paced = spectrum[(rates >= 3) & (rates <= 8)].sum() / max(spectrum[rates > 0.5].sum(), 1e-9)
    return float(paced * voiced_ratio(wave, sample_rate))


def voiced_ratio(wave: np.ndarray, sample_rate: int) -> float:
    """Share of the audible frames that repeat at a pitch from 80 to 350 Hz."""
    size = round(0.04 * sample_rate)
    frames = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    frames = frames[np.square(frames).mean(axis=1) > 10 ** (SILENT_DB / 10)]
    if not len(frames):
        return 0.0
    spectrum = np.square(np.abs(np.fft.rfft(frames, 2 * size)))
    similar = np.fft.irfft(spectrum)[:, :size]
    lags = slice(round(sample_rate / 350), round(sample_rate / 80))
    return float((similar[:, lags].max(axis=1) > 0.5 * similar[:, 0]).mean())


def frame_levels(wave: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level in dB (0 = full-scale square) of every FRAME_SECONDS of `wave` [S]."""
    size = max(1, round(FRAME_SECONDS * sample_rate))
    whole = wave[: len(wave) // size * size].reshape(-1, size).astype(np.float64)
    return 10 * np.log10(np.square(whole).mean(axis=1) + 1e-12)
