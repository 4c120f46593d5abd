"""Clips continued window by window. Each window holds the end of the one before, so the voice stays.

Every finished window is kept in a folder next to the clip, so that a run which was stopped is resumed. The
folder is named after all that decides the windows, and removed when the clip is written.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mova.adapters.files import Adapter
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import Strength
from mova.backends import timed
from mova.backends.given import GivenTracks, padded
from mova.backends.local import LocalBackend, to_uint8, warnings
from mova.files import new_output
from mova.media.clips import HELD_AUDIO_BIT_RATE, write_mp4
from mova.media.given import probe_video
from mova.media.sound import resample
from mova.request import GenerationRequest, GenerationResult, Progress, ProgressCallback, run_settings
from mova.tracks import Window, extend, plan_extension

Piece = tuple[np.ndarray, np.ndarray]  # frames uint8 [F, H, W, 3], samples float32 [S] at the model's rate


@dataclass(frozen=True)
class Extension:
    """`source` made longer by `seconds`, or up to three frames more.

    `request` is a window's: its prompt, size, rate and steps; its `num_frames` is the length of a window, and
    each window adds the number of its first new frame to the `seed`. `overlap` seconds of a window are held.
    """

    source: Path
    request: GenerationRequest
    seconds: float
    overlap: float

    def request_of(self, window: Window) -> GenerationRequest:
        """The request of one window, with the source in place of the clip so far."""
        made = (window.made(self.request.frame_rate),)
        return self.request.replace(
            image=None,
            video=self.source,
            audio=self.source,
            regenerate_video=made,
            regenerate_audio=made,
            num_frames=window.num_frames,
            seed=(self.request.seed + window.start + window.overlap) % 2**63,
        )

    def windows(self) -> tuple[Window, ...]:
        """The windows that are made. Raises UserError for the seconds, the overlap or the source."""
        request = self.request
        num_frames = probe_video(self.source).num_frames(request.frame_rate)
        return plan_extension(num_frames, self.seconds, request.frame_rate, self.overlap, request.num_frames)

    def settings(self, model: str, out: Path) -> dict[str, Any]:
        """The settings of the clip: those of the request with its source, and the extension's own."""
        request = self.request.replace(image=None, video=self.source, audio=self.source)
        extension = {"seconds": self.seconds, "overlap": self.overlap}
        return run_settings(request, model, out) | {"extension": extension}

    def folder(self, backend: LocalBackend, out: Path) -> Path:
        """The folder of the finished windows, next to `out`."""
        text = json.dumps([self.settings(backend.model, out), backend.fixed], sort_keys=True, default=str)
        return out.parent / f".mova-extend-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def extend_clip(
    backend: LocalBackend,
    extension: Extension,
    out: Path,
    progress: ProgressCallback | None = None,
    should_stop: Callable[[], bool] | None = None,
    overwrite: bool = False,
) -> GenerationResult:
    """Write the longer clip to `out`, an mp4. The picture of the source is encoded again with the rest.

    The stage of the progress is "window 2 of 3" and so on; its steps are those of all windows.

    Raises:
        UserError, BackendError, Cancelled: as `LocalBackend.generate`. Finished windows are kept.
    """
    request, windows = extension.request, extension.windows()
    for window in windows:
        extension.request_of(window).check(out, overwrite)
    given = read_whole(extension)
    adapters = [(read_adapter(source), strength) for source, strength in request.adapters]
    settings = extension.settings(backend.model, out)
    folder = extension.folder(backend, out)
    report, steps = progress or (lambda _: None), len(windows) * request.total_steps
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        report(Progress("load"))
        rate = backend.load(request).audio_vae.config.sample_rate
    first = given.frames, heard_by_model(given, rate)
    with timed(seconds, "generate"):
        make = window_maker(backend, extension, adapters, report, should_stop)
        pieces = [first, *made_pieces(folder, windows, first, request.frame_rate, rate, make)]
    with timed(seconds, "write"):
        report(Progress("write", steps, steps))
        settings |= {"dtype": backend.placement.dtype, "fp8": backend.placement.fp8}
        sound, sound_rate = joined_sound(given, [samples for _, samples in pieces], rate)
        num_frames = sum(len(frames) for frames, _ in pieces)
        sound = padded(sound, int(sound_rate * num_frames / request.frame_rate) + 1)
        images = (frames for frames, _ in pieces)
        write_mp4(
            out,
            images,
            sound,
            request.frame_rate,
            sound_rate,
            settings,
            overwrite,
            audio_bit_rate=HELD_AUDIO_BIT_RATE,
        )
    shutil.rmtree(folder)
    told = warnings(backend.load(request), request) + given.notes_on_size()
    return GenerationResult(out, request, backend.model, seconds, told)


def read_whole(extension: Extension) -> GivenTracks:
    """The source from its first frame to its last."""
    request = extension.request
    num_frames = probe_video(extension.source).num_frames(request.frame_rate)
    return GivenTracks.read(
        request.replace(video=extension.source, audio=extension.source, num_frames=num_frames)
    )


def heard_by_model(given: GivenTracks, rate: int) -> np.ndarray:
    """The sound [S] at the model's rate, as long as the frames."""
    length = int(rate * len(given.frames) / given.request.frame_rate)
    return padded(resample(given.sound.mean(axis=0), given.audio.sample_rate, rate)[None], length)[0, :length]


def window_maker(
    backend: LocalBackend,
    extension: Extension,
    adapters: list[tuple[Adapter, Strength]],
    report: ProgressCallback,
    should_stop: Callable[[], bool] | None,
) -> Callable[[np.ndarray, np.ndarray, Window], Piece]:
    """The `make` of `mova.tracks.extend`, with `backend`."""
    windows = extension.windows()
    steps = extension.request.total_steps

    def make(frames: np.ndarray, sound: np.ndarray, window: Window) -> Piece:
        index = windows.index(window)

        def report_in_all(own: Progress) -> None:
            stage, step = f"window {index + 1} of {len(windows)}", index * steps + own.step
            report(replace(own, stage=stage, step=step, steps=len(windows) * steps))

        request = extension.request_of(window)
        tracks = {
            "video": frames,
            "audio": torch.from_numpy(sound),
            "regenerate_audio": request.regenerate_audio,
        }
        output = backend.run(request, adapters, None, tracks, report_in_all, should_stop)
        return to_uint8(output.frames[0]), output.audio[0, 0].numpy()

    return make


def made_pieces(
    folder: Path,
    windows: tuple[Window, ...],
    first: Piece,
    frame_rate: float,
    rate: int,
    make: Callable[[np.ndarray, np.ndarray, Window], Piece],
) -> Iterator[Piece]:
    """Each window's new part: those in `folder`, then the others, made and put there."""
    files = [folder / f"window-{index:03d}.npz" for index in range(1, len(windows) + 1)]
    done = [load_piece(file) for file in itertools.takewhile(Path.exists, files)]
    yield from done
    frames, sound = (np.concatenate(parts) for parts in zip(first, *done, strict=True))
    left = windows[len(done) :]
    for file, piece in zip(
        files[len(done) :], extend(make, frames, sound, frame_rate, rate, left), strict=True
    ):
        with new_output(file, overwrite=True) as temporary, temporary.open("wb") as opened:
            np.savez(opened, frames=piece[0], sound=piece[1])
        yield piece


def load_piece(file: Path) -> Piece:
    with np.load(file, allow_pickle=False) as arrays:
        return arrays["frames"], arrays["sound"]


def joined_sound(given: GivenTracks, parts: list[np.ndarray], rate: int) -> tuple[np.ndarray, int]:
    """The source's own samples and then those made, float32 [channels, S], and the higher rate of the two."""
    own, own_rate = given.sound, given.audio.sample_rate
    if own_rate < rate:
        own, own_rate = np.stack([resample(channel, own_rate, rate) for channel in own]), rate
    whole = resample(np.concatenate(parts), rate, own_rate)
    length = int(own_rate * len(given.frames) / given.request.frame_rate)
    own = padded(own[:, :length], length)
    return np.concatenate(
        (own, np.broadcast_to(whole[length:], (len(own), len(whole) - length))), axis=1
    ), own_rate
