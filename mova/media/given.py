"""Pictures and sounds that people bring to a run: how long a file lasts, its frames and its samples.

Second 0 of a video is its first frame, and of a sound its first sample; of a sound that is taken from the
video's own file it is the video's first frame.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from mova.errors import UserError
from mova.media.images import fit_image
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
from mova.shapes import MAX_FRAMES, TEMPORAL_STRIDE
from mova.tracks import frames_for_sound

MAX_SECONDS = 600.0
CODEC_TAIL = 0.1  # seconds that a codec may add to fill its last packet
PART_OF_A_FRAME = 0.1  # that may be missing at the end: stamps of some containers are rounded


@dataclass(frozen=True)
class VideoFacts:
    """A file's picture: its length, the second of its first frame, and its upright size."""

    seconds: float
    start: float
    height: int
    width: int
    has_sound: bool

    def num_frames(self, frame_rate: float) -> int:
        """Frames at a rate, at least one."""
        return max(1, int(self.seconds * frame_rate + PART_OF_A_FRAME))


@dataclass(frozen=True)
class AudioFacts:
    """A file's sound: its length, the second of its first sample, and its kind."""

    seconds: float
    start: float
    sample_rate: int
    channels: int


def probe_video(path: Path) -> VideoFacts:
    """The facts of the picture of `path`: all its packets are looked at, its first frame is decoded.

    Raises:
        UserError: it cannot be read, has no frames, or is over MAX_SECONDS long.
    """
    with opened_file(path) as container:
        video = video_stream(container, path.name)
        check_duration(container, path.name)
        upright = Upright(video, path.name)
        has_sound = container.streams.best("audio") is not None
        rate = float(video.average_rate or 0)
        times, last_duration = packet_times(container, video, path.name)
    first = next(video_frames(path), None)
    if first is None or not times:
        raise UserError(f"{path.name} has no frames; give a video with at least one")
    upright(first)
    height, width = upright.size[::-1]
    length = max(times) + (last_duration or (1 / rate if rate else 0.04)) - first.time
    check_seconds(length, path.name)
    return VideoFacts(length, first.time, height, width, has_sound)


def probe_audio(path: Path) -> AudioFacts:
    """The facts of the sound of `path`, decoded to its end.

    Raises:
        UserError: it cannot be read, has no samples, or is over MAX_SECONDS long.
    """
    with opened_file(path) as container:
        if container.streams.best("audio") is None:
            raise UserError(f"{path.name} has no sound; give a file that has, such as a wav")
        check_duration(container, path.name)
        audio = audio_stream(container, path.name)
        declared = float((audio.duration or 0) * audio.time_base)
    first, end = None, 0.0
    for frame in audio_frames(path):
        first = first or frame
        end = max(end, frame.time + frame.samples / frame.sample_rate)
        check_seconds(end - first.time, path.name)
    if first is None or end <= first.time:
        raise UserError(f"{path.name} has no samples; give a sound that is not empty")
    seconds = end - first.time
    if 0 < seconds - declared < CODEC_TAIL:
        seconds = declared
    return AudioFacts(seconds, first.time, first.sample_rate, first.layout.nb_channels)


def frames_to_follow(video: Path | None, audio: Path | None, frame_rate: float) -> int | None:
    """The number of frames (4k+1) of a clip as long as the video, else the audio; None without either.

    Raises:
        UserError: as `probe_video` and `probe_audio`, or it would have over MAX_FRAMES.
    """
    if video is not None:
        num_frames = probe_video(video).num_frames(frame_rate)
        if num_frames >= MAX_FRAMES + TEMPORAL_STRIDE:
            raise UserError(
                f"{video.name} lasts {num_frames / frame_rate:.1f} s; a clip has up to {MAX_FRAMES} frames "
                f"({MAX_FRAMES / frame_rate:.1f} s at {frame_rate:g} frames/s): cut it, or give num_frames",
                "video",
            )
        return (num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
    if audio is not None:
        return frames_for_sound(probe_audio(audio).seconds, frame_rate)
    return None


def read_video(
    path: Path,
    facts: VideoFacts,
    height: int,
    width: int,
    num_frames: int,
    frame_rate: float,
    fit: str = "crop",
    position: float = 0.5,
) -> np.ndarray:
    """The first frames of a video at a rate and size, up to `num_frames`: uint8 [F, height, width, 3].

    Frames are shown by their time stamps, those of a varying rate too. `fit` and `position` are as for
    `mova.media.images.fit_image`.

    Raises:
        UserError: as `probe_video`, or it ends before it should.
    """
    with opened_file(path) as container:
        upright = Upright(video_stream(container, path.name), path.name)
    num_frames = min(num_frames, facts.num_frames(frame_rate))
    images: list[np.ndarray] = []
    last: av.VideoFrame | None = None
    for frame in at_rate(video_frames(path), facts.seconds, frame_rate):
        if frame is not last:
            image = np.asarray(fit_image(upright(frame), height, width, fit, position))
        last = frame
        images.append(image)
        if len(images) == num_frames:
            return np.stack(images)
    raise UserError(f"{path.name} ends at frame {len(images)} of {num_frames}; get it again")


def at_rate(frames: Iterable[av.VideoFrame], seconds: float, frame_rate: float) -> Iterator[av.VideoFrame]:
    """The frame to show at each tick of `frame_rate`, the nearest in time, from the first one's time on.

    The last one stays for as long as it lasts, half a second if it does not say, and up to `seconds`.
    """
    shown, start, tick = None, 0.0, 0
    for frame in frames:
        if shown is None:
            start = frame.time
        else:
            middle = (shown.time + frame.time) / 2 - start
            while tick / frame_rate < middle:
                yield shown
                tick += 1
        shown = frame
    if shown is None:
        return
    lasts = float((shown.duration or 0) * shown.time_base)
    end = min(seconds, shown.time - start + max(lasts, 0.5))
    while tick == 0 or tick + 1 <= end * frame_rate + PART_OF_A_FRAME:
        yield shown
        tick += 1


def read_audio(path: Path, facts: AudioFacts, start: float, seconds: float) -> np.ndarray:
    """The samples of a sound from second `start` of its file: float32 [1 or 2, S] at its own rate.

    Up to `seconds` of them; more channels than two are mixed down. Raises UserError as `probe_audio`.
    """
    length = min(seconds, facts.start + facts.seconds - start)
    num_samples = max(1, round(length * facts.sample_rate))
    track = SoundTrack(facts.sample_rate, facts.channels, start, num_samples)
    for frame in audio_frames(path):
        if not track.add(frame):
            break
    track.finish()
    return track.wave


@contextmanager
def opened_file(path: Path) -> Iterator[InputContainer]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; check its name")
    with opened(path) as container:
        yield container


def check_duration(container: InputContainer, name: str) -> None:
    """Raise UserError if the file says that it is too long; what it says is not trusted otherwise."""
    check_seconds((container.duration or 0) / av.time_base, name)


def check_seconds(seconds: float, name: str) -> None:
    if seconds > MAX_SECONDS:
        raise UserError(f"{name} lasts {seconds / 60:.0f} min; give at most {MAX_SECONDS / 60:.0f} min of it")
