"""Picture and sound of a file by their time stamps: what both readers of clips, `mova.media.clips` and the
trainer's, stand on.

Nothing that a file says of itself is taken on trust. A seek counts once a frame at or before the wanted
second came out, else it is made from further back, at last from the start. Stamps are put in order, and
refused where they jump. Size, sample format, channels and sample rate may change from frame to frame.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from PIL import Image

from mova.errors import UserError
from mova.media.colours import to_rgb
from mova.media.formats import AUDIO_FORMATS, VIDEO_FORMATS
from mova.shapes import MAX_SIDE

MAX_BYTES = 20 * 2**30
FURTHER_BACK = (0.0, 4.0, 30.0, None)  # seconds before the first seek's; None: the start
GUESSED_AFTER_SEEKS = ("mpeg", "mp3", "aac")  # stamps are counted from the start, or from a packet before
RATE_CHECKED = 24  # frames for which a guess may be off
REORDERED = 8  # frames over which stamps may be mixed up
SHORT_JUMP = 0.5  # seconds by which a stamp may fall behind; more means recordings joined without new stamps
LONG_JUMP = 600.0  # seconds without a frame; a screen may stand still for long, but not that long
GAP = 0.02  # seconds; time stamps of some containers are only exact to a millisecond


@contextmanager
def opened(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[InputContainer]:
    """The clip or sound at `path`. Raises UserError for what libav says of it here or in the block."""
    try:
        if path.stat().st_size > max_bytes:
            raise UserError(f"{path.name} has over {max_bytes // 2**30} GiB; cut it into shorter clips")
        kind = (VIDEO_FORMATS | AUDIO_FORMATS).get(path.suffix.lower(), "mp4")
        # `file:` keeps a name from being a URL.
        with av.open(f"file:{path}", format=kind, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path.name} cannot be read ({error.strerror}); export the clip again") from error


def video_stream(container: InputContainer, name: str, max_side: int = 4 * MAX_SIDE) -> av.VideoStream:
    """The picture. Raises UserError unless it can be decoded, in sides up to `max_side`."""
    video = container.streams.best("video")
    if video is None or not video.codec_context:
        raise UserError(f"{name} has no picture that can be decoded; export it as mp4")
    if max(video.width, video.height) > max_side:
        raise UserError(f"{name} is {video.width}x{video.height}; give sides up to {max_side}")
    video.thread_type = "AUTO"
    return video


def audio_stream(container: InputContainer, name: str) -> av.AudioStream:
    """The sound. Raises UserError unless it can be decoded."""
    audio = container.streams.best("audio")
    if audio is None or not audio.codec_context:
        raise UserError(f"{name} has no sound that can be decoded; add it, or set data.without_sound to mute")
    return audio


def video_frames(path: Path, since: float | None = None, run_up: float = 0.0) -> Iterator[av.VideoFrame]:
    """Frames by time, from one at or before second `since` on; None: all. Seconds are the file's own.

    The first seek aims at `run_up` seconds before. Raises UserError as `opened`.
    """
    for container, seek in _attempts(path, since, run_up):
        frames = decoded(container, video_stream(container, path.name), path.name, seek)
        if seek is not None:  # a decoder that starts between key frames may show what is not there
            frames = itertools.dropwhile(lambda frame: not frame.key_frame or frame.is_corrupt, frames)
        frames = in_order(frames, path.name)
        if VIDEO_FORMATS.get(path.suffix.lower()) == "mpeg":
            frames = evened(frames)
        first = next(frames, None)
        if seek is None or (first is not None and first.time <= since):
            yield from frames if first is None else itertools.chain([first], frames)
            return


def audio_frames(path: Path, since: float | None = None, run_up: float = 0.0) -> Iterator[av.AudioFrame]:
    """Sound from second `since` - `run_up` on or from before it, as `video_frames`.

    Decoders need the run-up: what they say first after a seek is not yet what was recorded.
    """
    for container, seek in _attempts(path, since, run_up):
        frames = in_order(decoded(container, audio_stream(container, path.name), path.name, seek), path.name)
        first = next(frames, None)
        if seek is None or (first is not None and first.time <= since - run_up / 2):
            yield from frames if first is None else itertools.chain([first], frames)
            return


def _attempts(
    path: Path, since: float | None, run_up: float
) -> Iterator[tuple[InputContainer, float | None]]:
    """The file opened again and again, with seconds to seek to, from ever further back."""
    kind = (VIDEO_FORMATS | AUDIO_FORMATS).get(path.suffix.lower())
    is_seekable = since is not None and kind not in GUESSED_AFTER_SEEKS
    for back in FURTHER_BACK if is_seekable else (None,):
        with opened(path) as container:
            yield container, None if back is None else since - run_up - back


def decoded(
    container: InputContainer, stream: av.stream.Stream, name: str, seek: float | None = None
) -> Iterator[av.frame.Frame]:
    """Frames as the decoder gives them. Raises UserError where it fails after it had begun.

    What it cannot decode before its first frame belongs to a part that was recorded, or sought, midway.
    """
    has_begun, error = False, None
    try:
        if seek is not None:
            container.seek(int(seek / stream.time_base), stream=stream)
        for packet in packets(container, stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as fault:
                if has_begun:
                    raise
                error = fault
                continue
            has_begun = has_begun or bool(frames)
            yield from frames
    except av.FFmpegError as fault:
        error = fault
    if error is not None and (has_begun or seek is None):
        raise UserError(f"{name} is damaged ({error.strerror}); export the clip again") from error


def packets(container: InputContainer, stream: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of a stream, also past where another one appears that was not there at the start."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:  # PyAV looks the new stream up among those it knows; asked again it passes it over
            continue


def in_order(frames: Iterable[av.frame.Frame], name: str) -> Iterator[av.frame.Frame]:
    """Frames with time stamps, ascending. Raises UserError where the stamps jump.

    A decoder gives frames in the order in which they show. Where their stamps have another one, as those of
    H.264 in AVI, it is the stamps that were mixed up.
    """
    waiting: deque[av.frame.Frame] = deque()
    stamps: list[int] = []
    last = None
    for frame in itertools.chain(frames, itertools.repeat(None)):
        if frame is not None:
            if frame.pts is not None:
                waiting.append(frame)
                heapq.heappush(stamps, frame.pts)
            if len(waiting) <= REORDERED:
                continue
        if not waiting:
            return
        shown = waiting.popleft()
        shown.pts = heapq.heappop(stamps)
        check_step(last, shown.time, name)
        last = shown.time
        yield shown


def evened(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Frames of which each is stamped where the one before ends, unless what they say stays otherwise.

    Few packets of a program stream have a stamp. libav guesses the others, for some at a time a frame off.
    """
    expected, off = None, 0
    for frame in frames:
        lasts = frame.duration or 0
        if expected is not None:
            distance = abs(frame.pts - expected)
            off = off + 1 if distance > 0.25 * lasts else 0
            if distance < 1.5 * lasts and off < RATE_CHECKED:
                frame.pts = expected
        expected = frame.pts + lasts
        yield frame


def check_step(last: float | None, time: float, name: str) -> None:
    """Raise UserError if time stamps jump from `last` to `time`."""
    if last is not None and not -SHORT_JUMP <= time - last <= LONG_JUMP:
        raise UserError(
            f"{name} has time stamps that jump from {last:.2f} s to {time:.2f} s, as in recordings that were "
            f"joined; give them new ones: ffmpeg -i {name} -c copy joined.mkv"
        )


def packet_times(container: InputContainer, stream: av.stream.Stream, name: str) -> tuple[list[float], float]:
    """Seconds at which the packets of a stream show, and the duration of the last of them.

    Raises:
        UserError: the stamps jump.
    """
    times, last, shown_last = [], None, (float("-inf"), 0.0)
    for packet in packets(container, stream):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or packet.is_discard:
            continue
        time = float(stamp * packet.time_base)
        order = time if packet.dts is None else float(packet.dts * packet.time_base)
        check_step(last, order, name)
        last = order
        times.append(time)
        shown_last = max(shown_last, (time, float((packet.duration or 0) * packet.time_base)))
    return times, shown_last[1]


class Upright:
    """Decoded frames as RGB images, upright and of square pixels.

    Frames of another size than the first are brought to it; UserError if their shape is another.
    """

    def __init__(self, video: av.VideoStream, name: str) -> None:
        ratio = float(video.sample_aspect_ratio or 1)
        self.pixel_ratio = ratio if 0.1 < ratio < 10 else 1.0  # width over height
        self.name = name
        self.size: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> Image.Image:
        image = Image.fromarray(to_rgb(frame, self.name))
        if self.pixel_ratio != 1:
            size = round(image.width * self.pixel_ratio), image.height
            image = image.resize(size, Image.Resampling.BICUBIC)
        if frame.rotation % 360:
            image = image.rotate(frame.rotation, expand=True)
        width, height = self.size = self.size or image.size
        if abs(image.width * height - width * image.height) > 0.02 * width * image.height:
            raise UserError(
                f"{self.name} changes from {width}x{height} to {image.width}x{image.height} at "
                f"{frame.time:.2f} s; cut it there"
            )
        return image if image.size == self.size else image.resize(self.size, Image.Resampling.BICUBIC)


class SoundTrack:
    """Sound laid by its time stamps from second `start` on: `wave` float32 [1 or 2, S] at `rate`.

    More than two channels are mixed down to two, and it has two as soon as any part has. What has another
    rate is resampled.
    """

    def __init__(self, rate: int, channels: int, start: float, num_samples: int) -> None:
        self.start, self.rate = start, rate
        self.wave = np.zeros((1 if channels == 1 else 2, num_samples), np.float32)
        self._kind: tuple[str, str, int] | None = None
        self._resampler: av.AudioResampler | None = None
        self._position: int | None = None

    def add(self, frame: av.AudioFrame) -> bool:
        """Lay a frame; False once it begins after the end."""
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind:
            self.finish()
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            self._kind = kind
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
        stamped = round((frame.time - self.start) * self.rate)
        if self._position is None or abs(stamped - self._position) > GAP * self.rate:
            self._position = stamped
        if self._position >= self.wave.shape[1]:
            return False
        for piece in self._resampler.resample(frame):
            self._lay(piece.to_ndarray())
        return True

    def finish(self) -> None:
        """Lay what a change of rate still holds back."""
        if self._resampler is not None and self._kind[2] != self.rate:
            for piece in self._resampler.resample(None):
                self._lay(piece.to_ndarray())

    def _lay(self, samples: np.ndarray) -> None:
        if len(samples) > len(self.wave):
            self.wave = np.repeat(self.wave, 2, axis=0)  # not swresample, which makes mono 3 dB softer
        at, length = self._position, self.wave.shape[1]
        begin, end = max(at, 0), min(at + samples.shape[1], length)
        if begin < end:
            self.wave[:, begin:end] = samples[:, begin - at : end - at]
        self._position += samples.shape[1]
