"""Clips: mp4 with sound and the settings that made it, wav, numbered PNGs; and reading a clip back.

A file is written under a temporary name in its own folder and takes its name when it is complete, so a name
never shows half a clip, a clip that lost its sound, or a clip in the place of one nobody offered up.

AAC delays sound by 1024 samples, which the mp4's edit list takes back. With the movie's time scale set to the
sample rate that list is exact: sound starts with the first frame and its length is known to the sample.
"""

import errno
import itertools
import json
import os
import secrets
import shutil
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
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

from mova.shapes import MAX_FRAMES, MAX_SIDE
from mova.types import BackendError, UserError, check_finite

CRF = 17  # x264's usual mark for no visible loss
AUDIO_BIT_RATE = 192_000
AAC_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
MAX_SETTINGS_BYTES = 1_000_000
MAX_CLIP_BYTES = 2**30
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# swscale's default is one level too dark on average: a chain of clips, each going on from the last frame of the
# one before, would fade. With these flags the average error is zero.
EXACT_COLOR = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class Clip:
    """A decoded clip: frames uint8 [F, H, W, 3], waveform float32 [channels, S] of the same duration."""

    frames: np.ndarray
    waveform: np.ndarray
    frame_rate: float
    sample_rate: int


def check_output(path: Path, overwrite: bool = False, needed_bytes: int = 0) -> None:
    """Raise unless a file can be written at `path`. Writers ask it themselves; ask it before a long run too.

    Raises:
        UserError: the name is taken (and `overwrite` is off), is a folder's, or lies where nothing can be written.
        BackendError: the disk has less than `needed_bytes` free.
    """
    with _explained(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the name of a file")
        if path.exists() and not overwrite:
            raise _taken(path)
        _check_writable(path)
        free_bytes = shutil.disk_usage(_nearest_folder(path)).free
    if free_bytes < needed_bytes:
        raise BackendError(
            f"{path} needs {needed_bytes / 2**20:.0f} MiB and its disk has {free_bytes / 2**20:.0f} MiB free; "
            "delete something there or choose a folder on another disk"
        )


@contextmanager
def new_output(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for the block to write. It becomes `path` when the block ends well.

    It is removed when the block does not. Missing folders are made. Without `overwrite` nothing is replaced,
    not even a file that another process put there meanwhile.

    Raises:
        UserError, BackendError: as `check_output`, and for any OSError of the block (a full disk, say).
    """
    check_output(path, overwrite)
    with _temporary_beside(path) as temporary:
        yield temporary
        if not overwrite:
            _claim(path)
        temporary.replace(path)


def write_mp4(
    path: Path,
    frames: np.ndarray | Iterable[np.ndarray],
    waveform: np.ndarray,
    frame_rate: float,
    sample_rate: int,
    settings: dict[str, Any],
    overwrite: bool = False,
) -> None:
    """Write H.264 (yuv420p, BT.709) and AAC as an mp4 that starts to play before it has loaded.

    `frames` is uint8 [F, H, W, 3], or an iterable of such chunks; `waveform` float [S] or [channels, S], of which
    the first int(sample_rate * F / frame_rate) samples are used, cut to [-1, 1] as any player would.
    `frame_rate` is taken as the nearest fraction with a denominator up to 1001. A `sample_rate` that AAC does
    not have is resampled to the next one above. `settings` must be JSON-ready; `read_settings` gives them back.

    Raises:
        ValueError: sizes or types are not these, or the sound is shorter than the video.
        BackendError: the sound holds NaN or infinite values, or the disk is full.
        UserError: as `check_output`; or the settings have over MAX_SETTINGS_BYTES.
    """
    check_finite("frame_rate", frame_rate, 1, 120)
    waveform = _checked_waveform(waveform)
    # ASCII: prompts may hold lone surrogates (undecodable bytes of argv), which have no UTF-8.
    comment = json.dumps(settings, allow_nan=False)
    if len(comment) > MAX_SETTINGS_BYTES:
        raise UserError(
            f"the settings take {len(comment)} bytes of {MAX_SETTINGS_BYTES} at most; shorten the prompt"
        )
    rate = Fraction(frame_rate).limit_denominator(1001)
    images = _each_image(frames)
    first = next(images, None)
    if first is None:
        raise ValueError("there are no frames to write")
    aac_rate = next((rate for rate in AAC_SAMPLE_RATES if rate >= sample_rate), AAC_SAMPLE_RATES[-1])
    options = {"movflags": "+faststart", "movie_timescale": str(aac_rate)}
    with (
        new_output(path, overwrite) as temporary,
        av.open(f"file:{temporary}", "w", format="mp4", options=options) as container,
    ):
        container.metadata["comment"] = comment
        video = _add_video(container, first.shape, rate)
        audio = container.add_stream("aac", rate=aac_rate, layout=_layout(waveform), bit_rate=AUDIO_BIT_RATE)
        start = 0
        for index, image in enumerate(itertools.chain([first], images)):
            container.mux(video.encode(_video_frame(image, index, 1 / rate)))
            # The sound of this frame goes with it, so that a player finds both in one place.
            end = int(sample_rate * (index + 1) / frame_rate)
            if end > waveform.shape[1]:
                raise ValueError(
                    f"the sound ends before the video: {waveform.shape[1]} samples, {end} or more needed"
                )
            container.mux(audio.encode(_audio_frame(waveform, start, end, sample_rate)))
            start = end
        container.mux(video.encode())
        container.mux(audio.encode())


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `write_mp4` put into the clip at `path`.

    Raises:
        UserError: no mp4 is there, or one that carries none.
    """
    with _open_mp4(path) as container:
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


def read_clip(path: Path, max_frames: int = MAX_FRAMES) -> Clip:
    """The clip at `path`: an mp4 or mov of constant frame rate, with sound.

    The waveform has exactly int(sample_rate * F / frame_rate) samples, and starts with the first frame; where
    the file has no sound in that span there is silence.

    Raises:
        UserError: no such clip is there, it is damaged, has no sound, more than `max_frames`, or a side over MAX_SIDE.
    """
    with _open_mp4(path) as container:
        video, audio = _checked_streams(path, container)
        frame_rate, sample_rate = float(video.average_rate), audio.rate
        to_float = av.AudioResampler(format="fltp")
        images: list[np.ndarray] = []
        pieces = [np.empty((audio.channels, 0), np.float32)]
        starts: dict[type, float] = {}
        for frame in container.decode(video, audio):
            starts.setdefault(type(frame), frame.time)
            if isinstance(frame, av.VideoFrame):
                if len(images) == max_frames:
                    raise UserError(f"{path.name} has over {max_frames} frames; cut it to that length")
                images.append(frame.to_ndarray(format="rgb24", interpolation=EXACT_COLOR))
            elif frame.time < max_frames / frame_rate:
                pieces += [piece.to_ndarray() for piece in to_float.resample(frame)]
    if not images:
        raise UserError(f"{path.name} holds no frame that can be decoded; give another clip")
    late = round((starts.get(av.AudioFrame, 0.0) - starts[av.VideoFrame]) * sample_rate)
    waveform = np.zeros((audio.channels, int(sample_rate * len(images) / frame_rate)), np.float32)
    sound = np.concatenate(pieces, axis=1)[:, max(-late, 0) :][:, : waveform.shape[1] - max(late, 0)]
    waveform[:, max(late, 0) :][:, : sound.shape[1]] = sound
    return Clip(np.stack(images), waveform, frame_rate, sample_rate)


def write_wav(path: Path, waveform: np.ndarray, sample_rate: int, overwrite: bool = False) -> None:
    """Write float [S] or [channels, S], cut to [-1, 1], as 16-bit PCM. Raises as `write_mp4` does."""
    samples = np.rint(_checked_waveform(waveform).T * 32767).astype("<i2")  # [S, channels]
    with new_output(path, overwrite) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())


def write_png_sequence(
    folder: Path, frames: np.ndarray | Iterable[np.ndarray], overwrite: bool = False
) -> None:
    """Write frame_00000.png, frame_00001.png, ... of uint8 [F, H, W, 3] (or chunks of it) into a folder of their own.

    The folder may exist if it is empty. `overwrite` also takes one that holds such frames and nothing else.

    Raises:
        UserError: the folder holds something, or cannot be written.
        BackendError: the disk is full.
    """
    with _explained(folder):
        held = list(folder.iterdir()) if folder.exists() else []
        if held and not overwrite:
            raise _taken(folder)
        foreign = next((file.name for file in held if not file.match("frame_*.png")), None)
        if foreign:
            raise UserError(
                f"{folder} holds {foreign}, which is no frame; choose a folder that can be replaced"
            )
        _check_writable(folder)
    with _temporary_beside(folder) as temporary:
        temporary.mkdir()
        for index, image in enumerate(_each_image(frames)):
            Image.fromarray(image).save(temporary / f"frame_{index:05d}.png")
        for file in held:
            file.unlink()
        if folder.exists():
            folder.rmdir()  # refuses when something came in meanwhile
        temporary.rename(folder)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise BackendError(
                f"{path} cannot be written: the disk is full; free some space and try again"
            ) from error
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; choose another name or folder"
        ) from error


def _taken(path: Path) -> UserError:
    return UserError(f"{path} exists; choose another name, or replace it with --overwrite")


def _nearest_folder(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _check_writable(path: Path) -> None:
    folder = _nearest_folder(path)
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is a file, not a folder; choose another folder")
    locked = next((item for item in (path, folder) if item.exists() and not os.access(item, os.W_OK)), None)
    if locked:
        raise UserError(f"{path} cannot be written: {locked} is read-only; choose another name or folder")


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    temporary = path.parent / f".mova-{secrets.token_hex(8)}.part"
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _claim(path: Path) -> None:
    """Make `path` an empty file unless it exists, in one step. (A hard link would do; exFAT and shares have none.)"""
    try:
        path.open("xb").close()
    except FileExistsError:
        raise _taken(path) from None


def _checked_waveform(waveform: np.ndarray) -> np.ndarray:
    """float32 [channels, S] in [-1, 1]."""
    waveform = np.atleast_2d(np.asarray(waveform, np.float32))
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or waveform.shape[1] == 0:
        raise ValueError(
            f"waveform has shape {waveform.shape}; expected [S] or [channels, S] with 1 or 2 channels"
        )
    if not np.isfinite(waveform).all():
        raise BackendError(
            "the model's sound holds NaN or infinite values; run it again without quantisation, or in float32"
        )
    return waveform.clip(-1, 1)


def _each_image(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    size = None
    for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
        size = size or chunk.shape[1:]
        if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[1:] != size or size[-1] != 3:
            raise ValueError(
                f"frames are {chunk.dtype} {chunk.shape}; expected uint8 [F, H, W, 3] of one size"
            )
        yield from chunk


def _add_video(container: OutputContainer, shape: tuple[int, ...], frame_rate: Fraction) -> av.VideoStream:
    video = container.add_stream("libx264", rate=frame_rate, options={"crf": str(CRF)})
    video.height, video.width, video.pix_fmt = shape[0], shape[1], "yuv420p"
    video.codec_context.color_range = ColorRange.MPEG
    video.codec_context.colorspace = Colorspace.ITU709
    video.codec_context.color_primaries = ColorPrimaries.BT709
    video.codec_context.color_trc = ColorTrc.BT709
    return video


def _video_frame(image: np.ndarray, index: int, time_base: Fraction) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=EXACT_COLOR,
    )
    frame.pts, frame.time_base = index, time_base
    return frame


def _audio_frame(waveform: np.ndarray, start: int, end: int, sample_rate: int) -> av.AudioFrame:
    samples = np.ascontiguousarray(waveform[:, start:end])
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=_layout(waveform))
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, start, Fraction(1, sample_rate)
    return frame


def _layout(waveform: np.ndarray) -> str:
    return "mono" if waveform.shape[0] == 1 else "stereo"


@contextmanager
def _open_mp4(path: Path) -> Iterator[InputContainer]:
    """The forced format keeps a playlist from opening other files, and `file:` a name from being an address."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; give an mp4 clip")
    if path.stat().st_size > MAX_CLIP_BYTES:
        raise UserError(f"{path.name} is over {MAX_CLIP_BYTES // 2**30} GiB; give a shorter clip")
    try:
        with av.open(f"file:{path}", format="mp4", metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise UserError(
            f"{path.name} is damaged or not an mp4 clip ({error.strerror}); give another"
        ) from error


def _checked_streams(path: Path, container: InputContainer) -> tuple[av.VideoStream, av.AudioStream]:
    if not container.streams.video or not container.streams.audio:
        raise UserError(f"{path.name} lacks a picture or a sound track; give a clip that has both")
    video, audio = container.streams.video[0], container.streams.audio[0]
    if max(video.width, video.height) > MAX_SIDE:
        raise UserError(
            f"{path.name} is {video.width}x{video.height}; give a clip with sides up to {MAX_SIDE}"
        )
    video.thread_type = "AUTO"
    return video, audio
