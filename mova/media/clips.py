"""Clips: mp4 with sound and the settings that made it, wav, numbered PNGs; and reading a clip back.

AAC delays sound by 1024 samples, which the mp4's edit list takes back. With the movie's time scale set to the
sample rate that list is exact: sound starts with the first frame and its length is known to the sample.
"""

import itertools
import json
import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.video.reformatter import ColorRange
from PIL import Image

from mova.errors import BackendError, UserError, check_finite
from mova.files import check_frames_folder, new_output, temporary_beside
from mova.media.formats import VIDEO_FORMATS
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
from mova.shapes import MAX_FRAMES, MAX_SIDE

X264 = {
    "crf": "17",  # the usual mark for no visible loss
    "x264-params": "cpu-independent=1",  # else AVX-512 encodes the same frames in another way each time
}
BT709 = 1  # H.273 gives it this number as matrix, primaries and transfer
AUDIO_BIT_RATE = 192_000
# Of people's own sound: a stereo voice at 48 kHz comes out with a correlation of 0.9998 in place of 0.9985.
HELD_AUDIO_BIT_RATE = 320_000
AAC_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AVCC = b"\x01"  # how the codec data of H.264 begin where its packets are as an mp4 holds them
MAX_SETTINGS_BYTES = 1_000_000
MAX_CLIP_BYTES = 2**30
MAX_RATE = 120.0  # frames a second

# swscale's defaults darken by one level on average, and put colour half a pixel from where H.264
# decoders look for it: a chain of clips, each continuing the last frame of the one before, would fade and
# smear. With these the average error is near zero.
TO_YUV = (
    "out_color_matrix=bt709:out_range=limited:out_h_chr_pos=0:out_v_chr_pos=128:"
    "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
)

Frames = np.ndarray | Iterable[np.ndarray]  # uint8 [F, H, W, 3], or such chunks one after the other


@dataclass(frozen=True)
class DecodedClip:
    """A decoded clip: frames uint8 [F, H, W, 3], waveform float32 [channels, S] of the same duration."""

    frames: np.ndarray
    waveform: np.ndarray
    frame_rate: float
    sample_rate: int


def write_mp4(
    path: Path,
    frames: Frames,
    waveform: np.ndarray,
    frame_rate: float,
    sample_rate: int,
    settings: dict[str, Any],
    overwrite: bool = False,
    audio_bit_rate: int = AUDIO_BIT_RATE,
) -> None:
    """Write H.264 (yuv420p, BT.709) with AAC, as an mp4 that plays before it is loaded to the end.

    `waveform` is float [S] or [channels, S]. Its first int(sample_rate * F / frame_rate) samples are used,
    cut to [-1, 1] as a player would. `frame_rate` becomes the nearest fraction with a denominator up to
    1001. A `sample_rate` that AAC lacks is resampled to the next above. `settings` is what JSON can hold.

    Raises:
        ValueError: sizes or types are not these, or the sound is shorter than the video.
        BackendError: the sound holds NaN or infinite values, or the disk is full.
        UserError: as `check_output`, or the settings have over MAX_SETTINGS_BYTES.
    """
    check_finite("frame_rate", frame_rate, 1, MAX_RATE)
    waveform = _checked_waveform(waveform)
    comment = settings_comment(settings)
    options = _mp4_options(_aac_rate(sample_rate))
    with (
        new_output(path, overwrite) as temporary,
        av.open(f"file:{temporary}", "w", format="mp4", options=options) as container,
    ):
        container.metadata["comment"] = comment
        _encode(container, _each_image(frames), waveform, frame_rate, sample_rate, audio_bit_rate)


def settings_comment(settings: dict[str, Any]) -> str:
    """The text that carries `settings` in a clip. Raises UserError if it is over MAX_SETTINGS_BYTES."""
    # ASCII, as a prompt from argv may hold lone surrogates (bytes that are no text), which UTF-8 has not.
    comment = json.dumps(settings, allow_nan=False)
    if len(comment) > MAX_SETTINGS_BYTES:
        raise UserError(f"settings of {len(comment)} bytes are over {MAX_SETTINGS_BYTES}; shorten the prompt")
    return comment


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `write_mp4` put into the clip at `path`.

    Raises:
        UserError: no mp4 is there, or one that carries none.
    """
    with open_clip(path) as container:
        comment = container.metadata.get("comment", "")
    try:
        settings = json.loads(comment) if len(comment) <= MAX_SETTINGS_BYTES else None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise UserError(
            f"{path.name} carries no settings; give a clip as this toolkit wrote it "
            "(sites and editors drop them when they re-encode)"
        )
    return settings


def read_clip(path: Path, max_frames: int = MAX_FRAMES) -> DecodedClip:
    """The clip at `path`, with sound, upright and of square pixels.

    Second 0 is the first frame that can be decoded, for both. Frames of a varying rate are laid out at the
    mean rate, each at its time. The waveform has int(sample_rate * F / frame_rate) samples, silent where the
    file has no sound.

    Raises:
        UserError: no clip is there, or it is damaged, silent, over `max_frames`, or over MAX_SIDE in a side.
    """
    with open_clip(path) as container:
        video, audio = checked_streams(path, container)
        frame_rate = float(video.average_rate)
        # Other containers guess their length.
        counted = (video.duration or 0) if container.format.name.startswith("mov") else 0
        expected_frames = counted * video.time_base * video.average_rate
        sample_rate, channels, upright = audio.rate, audio.channels, Upright(video, path.name)
    images: list[np.ndarray] = []
    times: list[float] = []
    for frame in video_frames(path):
        if len(images) == max_frames:
            raise UserError(f"{path.name} has over {max_frames} frames; cut it to that length")
        images.append(np.asarray(upright(frame)))
        times.append(frame.time)
    if not images or len(images) + 1 < expected_frames:  # an edit list may count a part of a frame as one
        raise UserError(f"{path.name} ends at frame {len(images)} of {round(expected_frames)}; get it again")
    shown, frame_rate = at_constant_rate(np.array(times) - times[0], frame_rate)
    if len(shown) > max_frames:
        raise UserError(f"{path.name} lasts over {max_frames} frames at {frame_rate:.3g} a second; cut it")
    track = SoundTrack(sample_rate, channels, times[0], int(sample_rate * len(shown) / frame_rate))
    for frame in audio_frames(path):
        if not track.add(frame):
            break
    track.finish()
    return DecodedClip(np.stack([images[index] for index in shown]), track.wave, frame_rate, sample_rate)


def at_constant_rate(times: np.ndarray, frame_rate: float) -> tuple[np.ndarray, float]:
    """Indices of the frames to show at ticks of one rate, and the rate: `frame_rate` if it is theirs.

    `times` are the seconds of all frames, ascending from 0. Where they keep no rate it is their mean.
    """
    if np.abs(times - np.arange(len(times)) / frame_rate).max() * frame_rate < 0.5:
        return np.arange(len(times)), frame_rate
    mean_rate = min((len(times) - 1) / times[-1], MAX_RATE) if times[-1] > 0 else frame_rate
    ticks = np.arange(max(1, round((times[-1] + 1 / mean_rate) * mean_rate))) / mean_rate
    return np.searchsorted((times[1:] + times[:-1]) / 2, ticks, side="right"), mean_rate


def write_wav(path: Path, waveform: np.ndarray, sample_rate: int, overwrite: bool = False) -> None:
    """Write float [S] or [channels, S], cut to [-1, 1], as 16-bit PCM. Raises as `write_mp4` does."""
    samples = np.rint(_checked_waveform(waveform).T * 32767).astype("<i2")  # [S, channels]
    with new_output(path, overwrite) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(samples.itemsize)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())


def write_png_sequence(folder: Path, frames: Frames, overwrite: bool = False) -> None:
    """Write frame_00000.png, frame_00001.png, ... into a folder of their own, all of them or none.

    The folder may be there if it is empty; with `overwrite`, also if it holds such frames and nothing else.

    Raises:
        ValueError: the frames are not uint8 [F, H, W, 3].
        UserError: the folder holds something else, or cannot be written.
        BackendError: the disk is full.
    """
    check_frames_folder(folder, overwrite)
    with temporary_beside(folder) as temporary:
        temporary.mkdir()
        for index, image in enumerate(_each_image(frames)):
            Image.fromarray(image).save(temporary / f"frame_{index:05d}.png")
        if folder.exists():
            for file in folder.glob("frame_*.png"):
                file.unlink()
            folder.rmdir()  # refuses if something came in meanwhile
        temporary.rename(folder)


def _checked_waveform(waveform: np.ndarray) -> np.ndarray:
    """float32 [channels, S] in [-1, 1]."""
    waveform = np.atleast_2d(np.asarray(waveform, np.float32))
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or waveform.shape[1] == 0:
        raise ValueError(f"waveform is {waveform.shape}, not [S] or [channels, S] with 1 or 2 channels")
    if not np.isfinite(waveform).all():
        raise BackendError(
            "the sound holds NaN or infinite values; run the model again without quantisation, or in float32"
        )
    return waveform.clip(-1, 1)


def _each_image(frames: Frames) -> Iterator[np.ndarray]:
    """Every image [H, W, 3] of `frames`. Raises ValueError unless they are as Frames says and one or more."""
    size = None
    for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
        size = size or chunk.shape[1:3]
        if chunk.dtype != np.uint8 or chunk.shape[1:] != (*size, 3) or not chunk.size:
            raise ValueError(f"frames are {chunk.dtype} {chunk.shape}, not uint8 [F, H, W, 3] of one size")
        yield from chunk
    if size is None:
        raise ValueError("there are no frames to write")


def _encode(
    container: OutputContainer,
    images: Iterator[np.ndarray],
    waveform: np.ndarray,
    frame_rate: float,
    sample_rate: int,
    audio_bit_rate: int,
) -> None:
    video, images = _add_video(container, images, frame_rate)
    audio = _add_audio(container, waveform, sample_rate, audio_bit_rate)
    start = 0
    for count in _mux_images(container, video, images):
        # A frame and its sound go in together, so that a player finds both in one place of the file.
        end = int(sample_rate * count / frame_rate)  # rounded as ClipShape.num_samples is
        if end > waveform.shape[1]:
            raise ValueError(
                f"the sound is shorter than the video: {waveform.shape[1]} samples, over {end} needed"
            )
        container.mux(audio.encode(_audio_frame(waveform, start, end, sample_rate)))
        start = end
    container.mux(video.encode())
    container.mux(audio.encode())


def _mux_images(
    container: OutputContainer, video: av.VideoStream, images: Iterator[np.ndarray]
) -> Iterator[int]:
    """Encode image by image, and yield how many are in; the encoder is not flushed."""
    time_base = 1 / video.codec_context.framerate
    to_yuv = _yuv_converter((video.height, video.width), time_base)
    for index, image in enumerate(images):
        to_yuv.push(_video_frame(image, index, time_base))
        container.mux(video.encode(to_yuv.pull()))
        yield index + 1


def _add_video(
    container: OutputContainer, images: Iterator[np.ndarray], frame_rate: float
) -> tuple[av.VideoStream, Iterator[np.ndarray]]:
    """The stream for `images`, and them, as the first is looked at for its size."""
    exact_rate = Fraction(frame_rate).limit_denominator(1001)
    first = next(images)
    video = container.add_stream("libx264", rate=exact_rate, options=X264)
    video.height, video.width, video.pix_fmt = first.shape[0], first.shape[1], "yuv420p"
    tags = video.codec_context
    tags.color_range = ColorRange.MPEG
    tags.colorspace = tags.color_primaries = tags.color_trc = BT709
    return video, itertools.chain([first], images)


def _add_audio(
    container: OutputContainer, waveform: np.ndarray, sample_rate: int, bit_rate: int
) -> av.AudioStream:
    return container.add_stream(
        "aac", rate=_aac_rate(sample_rate), layout=_layout(waveform), bit_rate=bit_rate
    )


def _yuv_converter(shape: tuple[int, ...], time_base: Fraction) -> Graph:
    graph = Graph()
    graph.link_nodes(
        graph.add_buffer(height=shape[0], width=shape[1], format="rgb24", time_base=time_base),
        graph.add("scale", TO_YUV),
        graph.add("format", "yuv420p"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _video_frame(image: np.ndarray, index: int, time_base: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    frame.pts, frame.time_base = index, time_base
    return frame


def _audio_frame(waveform: np.ndarray, start: int, end: int, sample_rate: int) -> av.AudioFrame:
    samples = np.ascontiguousarray(waveform[:, start:end])
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=_layout(waveform))
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
    return frame


def _aac_rate(sample_rate: int) -> int:
    """The rate at which AAC can hold sound of `sample_rate`: its own, or the next above."""
    return min((rate for rate in AAC_SAMPLE_RATES if rate >= sample_rate), default=AAC_SAMPLE_RATES[-1])


def _mp4_options(sample_rate: int) -> dict[str, str]:
    return {"movflags": "+faststart", "movie_timescale": str(sample_rate)}


def _layout(waveform: np.ndarray) -> str:
    return "mono" if waveform.shape[0] == 1 else "stereo"


@contextmanager
def open_clip(path: Path) -> Iterator[InputContainer]:
    """The clip at `path`, opened. Raises UserError for what libav says of it here or in the block.

    The forced format keeps a playlist from opening other files; `file:` keeps a name from being a URL.
    """
    kind = VIDEO_FORMATS.get(path.suffix.lower(), "mp4")
    try:
        if not path.is_file():
            raise UserError(f"{path} is not a file; give an mp4 clip")
        if path.stat().st_size > MAX_CLIP_BYTES:
            raise UserError(f"{path.name} has over {MAX_CLIP_BYTES // 2**30} GiB; give a shorter clip")
        with av.open(f"file:{path}", format=kind, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror
        raise UserError(f"{path.name} is damaged or not an {kind} clip ({reason}); give another") from error


def checked_streams(path: Path, container: InputContainer) -> tuple[av.VideoStream, av.AudioStream]:
    """Its picture and sound. Raises UserError unless both can be decoded, in sides up to MAX_SIDE."""
    video, audio = container.streams.best("video"), container.streams.best("audio")
    if not video or not audio or not video.codec_context or not audio.codec_context or not video.average_rate:
        raise UserError(
            f"{path.name} lacks a picture or sound that can be decoded; give a clip that has both"
        )
    if max(video.width, video.height) > MAX_SIDE:
        raise UserError(
            f"{path.name} is {video.width}x{video.height}; give a clip with sides up to {MAX_SIDE}"
        )
    video.thread_type = "AUTO"
    return video, audio


@dataclass(frozen=True)
class ClipFacts:
    """Measurements of a clip that was decoded to its end."""

    num_frames: int
    height: int
    width: int
    frame_rate: float
    sound_seconds: float


def measure_clip(path: Path, max_frames: int = MAX_FRAMES) -> ClipFacts:
    """Decode the mp4 at `path` to its end, holding one frame at a time.

    Raises:
        UserError: no clip is there, or it is damaged, lacks picture or sound, or has over `max_frames`.
    """
    num_frames, samples = 0, 0
    with open_clip(path) as container:
        video, audio = checked_streams(path, container)
        for frame in container.decode(video, audio):
            if isinstance(frame, av.VideoFrame):
                num_frames += 1
                if num_frames > max_frames:
                    raise UserError(f"{path.name} has over {max_frames} frames; cut it to that length")
            else:
                samples += frame.samples
        frame_rate = float(video.average_rate)
        return ClipFacts(num_frames, video.height, video.width, frame_rate, samples / audio.rate)


def copy_with_settings(source: Path, path: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
    """Write the picture and sound of the mp4 `source`, bit for bit, to `path` with `settings` in it.

    Raises:
        UserError: as `mova.media.clips.read_clip`, and as `mova.files.check_output` for `path`.
        BackendError: the disk is full.
    """
    comment = settings_comment(settings)
    # The source is opened first: what fails in the writing is then explained as such, not as its damage.
    with open_clip(source) as container:
        chosen = checked_streams(source, container)
        options = _mp4_options(chosen[1].rate)
        with (
            new_output(path, overwrite) as temporary,
            av.open(f"file:{temporary}", "w", format="mp4", options=options) as output,
        ):
            output.metadata["comment"] = comment
            copies = {stream.index: output.add_stream_from_template(stream) for stream in chosen}
            for packet in container.demux(*chosen):
                if packet.dts is not None:  # the last one of a stream is empty
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)


def obstacle_to_copying(source: Path) -> str:
    """The reason why the picture of `source` cannot be copied into an mp4 that browsers play, or "".

    Raises:
        UserError: `source` cannot be read.
    """
    with opened(source) as container:
        video = video_stream(container, source.name)
        codec = video.codec_context
        if codec.name != "h264" or codec.pix_fmt not in ("yuv420p", "yuvj420p"):
            return f"it is {codec.name} {codec.pix_fmt}, which not every browser plays"
        if (codec.extradata or b"")[:1] != AVCC:
            return "its packets are those of another container"
        if any(packet.dts is None or packet.pts is None for packet in container.demux(video) if packet.size):
            return "its packets lack time stamps"
    return ""


def write_mp4_with_picture_of(
    source: Path,
    path: Path,
    waveform: np.ndarray,
    sample_rate: int,
    settings: dict[str, Any],
    overwrite: bool = False,
    audio_bit_rate: int = AUDIO_BIT_RATE,
) -> None:
    """Write the picture of `source`, packet by packet as it is, with a new sound, to the mp4 `path`.

    `waveform` is as for `write_mp4`, and used whole. Both begin at second 0.

    Raises:
        UserError: `source` cannot be read; else as `write_mp4`.
    """
    waveform = _checked_waveform(waveform)
    comment = settings_comment(settings)
    options = _mp4_options(_aac_rate(sample_rate))
    # The source is opened first: what fails in the writing is then explained as such, not as its damage.
    with opened(source) as container:
        video = video_stream(container, source.name)
        start = round(min(packet_times(container, video, source.name)[0]) / video.time_base)
    with (
        opened(source) as container,
        new_output(path, overwrite) as temporary,
        av.open(f"file:{temporary}", "w", format="mp4", options=options) as output,
    ):
        output.metadata["comment"] = comment
        video = video_stream(container, source.name)
        copy = output.add_stream_from_template(video)
        audio = _add_audio(output, waveform, sample_rate, audio_bit_rate)
        written = 0
        for packet in container.demux(video):
            if not packet.size:  # the last one of a stream is empty
                continue
            packet.pts, packet.dts = packet.pts - start, packet.dts - start
            packet.stream = copy
            end = min(int(packet.dts * video.time_base * sample_rate), waveform.shape[1])
            if end > written:
                output.mux(audio.encode(_audio_frame(waveform, written, end, sample_rate)))
                written = end
            output.mux(packet)
        if written < waveform.shape[1]:
            output.mux(audio.encode(_audio_frame(waveform, written, waveform.shape[1], sample_rate)))
        output.mux(audio.encode())


def can_copy_sound(source: Path) -> bool:
    """Whether the sound of `source` is AAC as an mp4 holds it. Raises UserError if it cannot be read."""
    with opened(source) as container:
        codec = audio_stream(container, source.name).codec_context
        is_mp4 = {"mp4", "mov"} & set(container.format.name.split(","))
        return bool(is_mp4 and codec.name == "aac" and codec.extradata)


def write_mp4_with_sound_of(
    source: Path,
    path: Path,
    frames: Frames,
    frame_rate: float,
    settings: dict[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a new picture with the sound of `source`, packet by packet as it is, to the mp4 `path`.

    Raises:
        UserError: `source` cannot be read; else as `write_mp4`.
    """
    comment = settings_comment(settings)
    with opened(source) as container:
        audio = audio_stream(container, source.name)
        packets = (packet for packet in container.demux(audio) if packet.size)
        packet = next(packets, None)
        with (
            new_output(path, overwrite) as temporary,
            av.open(f"file:{temporary}", "w", format="mp4", options=_mp4_options(audio.rate)) as output,
        ):
            output.metadata["comment"] = comment
            video, images = _add_video(output, _each_image(frames), frame_rate)
            copy = output.add_stream_from_template(audio)
            for count in _mux_images(output, video, images):
                while packet is not None and packet.dts * packet.time_base < count / frame_rate:
                    packet.stream = copy
                    output.mux(packet)
                    packet = next(packets, None)
            output.mux(video.encode())
