"""Picture and sound of one span of seconds of a clip, whatever its frame rate, size and codec.

Time 0 is the clip's first frame. Frames are chosen by their own time stamps, never by index, and sound is
placed by its time stamps on the same axis; so a clip of 30 or of varying frame rate stays in sync.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from PIL import Image

from lora_trainer.manifest import AUDIO_FORMATS, VIDEO_FORMATS, DatasetItem
from mova.errors import UserError
from mova.media.clips import FROM_YUV
from mova.media.images import fit_image
from mova.media.sound import resample
from mova.shapes import MAX_SIDE

MAX_BYTES = 20 * 2**30
SEEK_BACK = 1.0  # seconds; decoders of sound need a run-up
GAP = 0.02  # seconds; time stamps of some containers are only exact to a millisecond


@dataclass(frozen=True)
class Probe:
    """What the packets of a clip say. Seconds count from the first frame; early sound starts below 0."""

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
    with opened(item.video) as container:
        video = video_stream(container, item.video)
        times, last = packet_times(container, video)
        shown = next(decoded(container, video, item.name), None)
        if shown is None:
            raise UserError(f"{item.name} holds no frames; export the clip again")
        first, frame_rate = shown.time, float(video.average_rate or video.guessed_rate or 24)
        end = max(times) + (last or 1 / frame_rate)
        height, width = upright_size(video, shown)
    sound = (None, 0.0, 0, 0)
    with opened(item.audio or item.video) as container:
        if audio := container.streams.best("audio"):
            starts, last = packet_times(container, audio)
            if starts:
                origin = first if item.audio is None else min(starts)
                start = min(starts) - origin
                sound = (start, max(starts) + last - min(starts), audio.rate, audio.channels)
    if item.audio is not None and sound[0] is None:
        raise UserError(f"{item.audio} holds no sound; export it again, or remove it")
    return Probe(end - first, len(times), frame_rate, height, width, *sound)


def read_frames(item: DatasetItem, times: np.ndarray, height: int, width: int) -> np.ndarray:
    """For each of `times` (seconds, ascending) the nearest frame, cropped and resized: uint8 [F, H, W, 3].

    Raises:
        UserError: the clip is damaged or ends before the last of `times`.
    """
    with opened(item.video) as container:
        video = video_stream(container, item.video)
        origin = first_time(item)
        if times[0] > SEEK_BACK:
            container.seek(int((origin + times[0] - SEEK_BACK / 2) / video.time_base), stream=video)
        frames = decoded(container, video, item.name)
        ratio = pixel_aspect(video)
        images = [
            image
            for frame, count in nearest(frames, times + origin)
            for image in [np.asarray(fit_image(upright(frame, ratio), height, width))] * count
        ]
    if len(images) < len(times):
        raise UserError(f"{item.name} ends before {times[-1]:.2f} s; the file is cut short: export it again")
    return np.stack(images)


def nearest(frames: Iterator[av.VideoFrame], times: np.ndarray) -> Iterator[tuple[av.VideoFrame, int]]:
    """The frames shown nearest to each of `times`, with how many of them each serves.

    Ends early where the frames end; the last frame lasts as long as the one before it.
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
        until = int(np.searchsorted(times, last.time + gap + 1e-6, side="right"))
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
    with opened(path) as container:
        audio = container.streams.best("audio")
        if audio is None:
            raise UserError(f"{item.name} has no sound; add it, or set data.without_sound to mute")
        rate, layout = audio.rate, "mono" if audio.channels == 1 else "stereo"
        to_float = av.AudioResampler(format="fltp", layout=layout)
        origin = first_time(item) if item.audio is None else first_packet(path)
        if start > SEEK_BACK:
            container.seek(int((origin + start - SEEK_BACK) / audio.time_base), stream=audio)
        sound = np.zeros((1 if layout == "mono" else 2, round(seconds * rate)), np.float32)
        position = None
        for frame in decoded(container, audio, item.name):
            stamped = round((frame.time - origin - start) * rate)
            if position is None or abs(stamped - position) > GAP * rate:
                position = stamped
            if position >= sound.shape[1]:
                break
            for piece in to_float.resample(frame):
                samples = piece.to_ndarray()
                place(samples, sound, position)
                position += samples.shape[1]
    return sound, rate


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path.name} has over {MAX_BYTES // 2**30} GiB; cut it into shorter clips")
        kind = (VIDEO_FORMATS | AUDIO_FORMATS)[suffix]
        with av.open(f"file:{path}", format=kind, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror}); export the clip again") from error


def video_stream(container: InputContainer, path: Path) -> av.VideoStream:
    video = container.streams.best("video")
    if video is None or not video.codec_context:
        raise UserError(f"{path.name} has no picture that can be decoded; export it as mp4")
    if max(video.width, video.height) > 4 * MAX_SIDE:
        raise UserError(f"{path.name} is {video.width}x{video.height}; give sides up to {4 * MAX_SIDE}")
    video.thread_type = "AUTO"
    return video


def packet_times(container: InputContainer, stream: av.stream.Stream) -> tuple[list[float], float]:
    """Seconds at which the packets of a stream show, and the duration of the last."""
    packets = [p for p in container.demux(stream) if p.pts is not None and not p.is_discard]
    container.seek(0)
    times = [float(packet.pts * packet.time_base) for packet in packets]
    last = max(packets, key=lambda packet: packet.pts) if packets else None
    return times, float((last.duration or 0) * last.time_base) if last else 0.0


def first_time(item: DatasetItem) -> float:
    with opened(item.video) as container:
        video = video_stream(container, item.video)
        frame = next(decoded(container, video, item.name), None)
    if frame is None:
        raise UserError(f"{item.name} holds no frames; export the clip again")
    return frame.time


def first_packet(path: Path) -> float:
    with opened(path) as container:
        times, _ = packet_times(container, container.streams.best("audio"))
    return min(times, default=0.0)


def decoded(container: InputContainer, stream: av.stream.Stream, name: str) -> Iterator[av.frame.Frame]:
    try:
        yield from (frame for frame in container.decode(stream) if frame.time is not None)
    except av.FFmpegError as error:
        raise UserError(f"{name} is damaged ({error.strerror}); export the clip again") from error


def upright_size(video: av.VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    """(height, width) as shown: pixels made square, and turned as a phone's clip asks."""
    width = round(video.width * pixel_aspect(video))
    return (width, video.height) if frame.rotation % 180 else (video.height, width)


def pixel_aspect(video: av.VideoStream) -> float:
    """Width of a pixel over its height; files from old cameras have other than 1."""
    ratio = float(video.sample_aspect_ratio or 1)
    return ratio if 0.1 < ratio < 10 else 1.0


def upright(frame: av.VideoFrame, pixel_ratio: float) -> Image.Image:
    image = Image.fromarray(frame.to_ndarray(format="rgb24", interpolation=FROM_YUV))
    if pixel_ratio != 1:
        image = image.resize((round(image.width * pixel_ratio), image.height), Image.Resampling.BICUBIC)
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image


def place(samples: np.ndarray, sound: np.ndarray, at: int) -> None:
    """Copy `samples` [C, n] into `sound` [C, S] at sample `at`; what lies outside is cut."""
    samples, span = samples[:, max(-at, 0) :], sound[:, max(at, 0) :]
    length = min(samples.shape[1], span.shape[1])
    span[:, :length] = samples[:, :length]
