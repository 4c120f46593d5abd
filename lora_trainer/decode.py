"""Picture and sound of one span of seconds of a clip, whatever its frame rate, size and codec.

Time 0 is the clip's first frame. Frames are chosen by their own time stamps, never by index, and sound is
placed by its time stamps on the same axis; so a clip of 30 or of varying frame rate stays in sync.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from lora_trainer.manifest import DatasetItem
from mova.errors import UserError
from mova.media.colours import HDR, TO_BT709
from mova.media.images import fit_image
from mova.media.sound import resample
from mova.media.streams import (
    SoundTrack,
    Upright,
    audio_frames,
    audio_stream,
    opened,
    packet_times,
    video_frames,
    video_stream,
)

READER = 2
STEADY = (".mp4", ".m4v", ".mov", ".mkv", ".webm")  # of these, seeks and stamps were right before
SEEK_BACK = 1.0  # seconds; decoders of sound need a run-up


@dataclass(frozen=True)
class Probe:
    """Sizes and times by a clip's packets. Seconds count from the first frame; early sound starts below 0."""

    seconds: float
    num_frames: int
    frame_rate: float
    height: int
    width: int
    sound_start: float | None
    sound_seconds: float
    sample_rate: int
    channels: int

    @property
    def has_sound(self) -> bool:
        return self.sound_start is not None


def probe(item: DatasetItem) -> Probe:
    """Sizes and times of a clip, from its packets, without decoding.

    Raises:
        UserError: the clip or its sound file cannot be opened, has no picture, or is over the limits.
    """
    first = first_frame(item)
    with opened(item.video) as container:
        video = video_stream(container, item.name)
        times, last = packet_times(container, video, item.name)
        frame_rate = float(video.average_rate or video.guessed_rate or 24)
        end = max(times) + (last or 1 / frame_rate)
        width, height = Upright(video, item.name)(first).size
    sound = (None, 0.0, 0, 0)
    path = item.audio or item.video
    with opened(path) as container:
        if container.streams.best("audio") is not None:
            audio = audio_stream(container, item.name)
            starts, last = packet_times(container, audio, item.name)
            heard = first_sound(path)
            if heard is not None:
                start = 0.0 if item.audio else heard - first.time
                sound = (start, max(starts) + last - heard, audio.rate, audio.channels)
    if item.audio is not None and sound[0] is None:
        raise UserError(f"{item.audio} holds no sound; export it again, or remove it")
    return Probe(end - first.time, len(times), frame_rate, height, width, *sound)


def read_frames(item: DatasetItem, times: np.ndarray, height: int, width: int) -> np.ndarray:
    """For each of `times` (seconds, ascending) the nearest frame, cropped and resized: uint8 [F, H, W, 3].

    Raises:
        UserError: the clip is damaged or ends before the last of `times`.
    """
    origin = first_frame(item).time
    with opened(item.video) as container:
        upright = Upright(video_stream(container, item.name), item.name)
    since = origin + times[0] if times[0] > SEEK_BACK else None
    images = [
        image
        for frame, count in nearest(video_frames(item.video, since, SEEK_BACK / 2), times + origin)
        for image in [np.asarray(fit_image(upright(frame), height, width))] * count
    ]
    if len(images) < len(times):
        raise UserError(f"{item.name} ends before {times[-1]:.2f} s; the file is cut short: export it again")
    return np.stack(images)


def nearest(frames: Iterator[av.VideoFrame], times: np.ndarray) -> Iterator[tuple[av.VideoFrame, int]]:
    """The frames shown nearest to each of `times`, with how many of them each serves.

    Ends early where the frames end; the last frame lasts as long as it says, or as the one before it.
    """
    served, last, gap = 0, None, 0.05
    for frame in frames:
        if last is not None:
            gap = frame.time - last.time
            until = int(np.searchsorted(times, (last.time + frame.time) / 2 + 1e-6, side="right"))
            if until > served:
                yield last, until - served
                served = until
            if served == len(times):
                return
        last = frame
    if last is not None:
        lasts = max(gap, float((last.duration or 0) * last.time_base))
        until = int(np.searchsorted(times, last.time + lasts + 1e-6, side="right"))
        yield last, until - served


def read_sound(item: DatasetItem, start: float, num_samples: int, sample_rate: int) -> np.ndarray:
    """Mono sound float32 [num_samples] from second `start` on, silent where the clip has none.

    Raises:
        UserError: the clip is damaged or has no sound.
    """
    channels, rate = read_channels(item, start, num_samples / sample_rate)
    mono = channels.mean(axis=0)
    if rate != sample_rate:
        mono = resample(mono, rate, sample_rate)
    return np.pad(mono[:num_samples], (0, max(0, num_samples - len(mono))))


def read_channels(item: DatasetItem, start: float, seconds: float) -> tuple[np.ndarray, int]:
    """Sound float32 [1 or 2, S] at the file's own rate, and the rate. Raises as `read_sound`."""
    path = item.audio or item.video
    origin = first_frame(item).time if item.audio is None else first_sound(path) or 0.0
    with opened(path) as container:
        audio = audio_stream(container, item.name)
        track = SoundTrack(audio.rate, audio.channels, origin + start, round(seconds * audio.rate))
    since = origin + start if start > SEEK_BACK else None
    for frame in audio_frames(path, since, SEEK_BACK):
        if not track.add(frame):
            break
    track.finish()
    return track.wave, track.rate


def reader_of(item: DatasetItem) -> dict[str, int]:
    """The part of a cached window's identity that says how it was read; empty where that never changed.

    READER counts up when a clip of these kinds comes out otherwise: then what is cached of it is made again.
    """
    stamp = item.video.stat().st_mtime_ns
    guessed = item.audio is not None and item.audio.suffix.lower() not in (*STEADY, ".wav", ".flac")
    is_changed = guessed or _is_unusual(item.video, stamp)
    return {"reader": READER} if is_changed else {}


@lru_cache(maxsize=1000)
def _is_unusual(path: Path, stamp: int) -> bool:  # noqa: ARG001 - a file that is written again is another
    """True for wide or high-dynamic-range colours, and for containers with guessed time stamps."""
    frame = next(video_frames(path), None)
    colours = frame is not None and (frame.color_trc in HDR or frame.color_primaries in TO_BT709)
    return colours or path.suffix.lower() not in STEADY


def first_frame(item: DatasetItem) -> av.VideoFrame:
    """The frame that is second 0 of a clip: the first that can be decoded."""
    frame = next(video_frames(item.video), None)
    if frame is None:
        raise UserError(f"{item.name} holds no frames; export the clip again")
    return frame


def first_sound(path: Path) -> float | None:
    """The file's second of its first sound that can be decoded; None without any."""
    return next((frame.time for frame in audio_frames(path)), None)
