"""The two tracks of a run, picture and sound: what was given, what of it stays, what is made. Loads no torch.

A track is made, held, or partly held. Spans are in seconds; what the towers can hold are whole latents, so a
span grows to the latents that it touches: picture latent 0 is frame 0 and latent k > 0 the frames 4k-3 to 4k,
a sound latent is `hop_length` samples. The picture is put back outside these latents (the made frames of a
latent do not follow on its given ones), the sound outside the exact span.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mova.errors import UserError, check_finite
from mova.shapes import MAX_FRAMES, TEMPORAL_STRIDE, ClipShape, check_num_frames

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Span = tuple[float, float]
Regenerate = bool | Sequence[Span]

TOLERANCE = 1e-3  # seconds; spans are typed with three decimals
SAME_MOMENT = 1e-6  # seconds, under a sample
VIDEO_RAMP, AUDIO_RAMP = 1, 3  # made latents at a seam that are drawn to what was given
MAX_EXTENSION_SECONDS = 600.0
Starts = tuple[float, float]  # sigmas that picture and sound start from


@dataclass(frozen=True)
class Track:
    """One track of a run. Held whole, its sigma and timestep are 0 in every step; the default is all made."""

    given: "Tensor | None" = None  # clean latents [B, C, T, ...] of what the user brought
    keep: "Tensor | None" = None  # [T], 1 stays as given, 0 is made; None: all is made
    strength: float = 1.0  # what is made starts from `given` noised to this sigma; 1 is pure noise

    @property
    def start(self) -> float:
        """The sigma it starts from."""
        return 0.0 if self.keep is not None and bool((self.keep == 1).all()) else self.strength

    def to(self, device: "torch.device") -> "Track":
        given, keep = (None if each is None else each.to(device) for each in (self.given, self.keep))
        return replace(self, given=given, keep=keep)

    def put_back(self, sample: "Tensor", given: "Tensor | None") -> "Tensor":
        """`sample` where the track is made, `given`, noised like the sample, where it is kept."""
        if self.keep is None:
            return sample
        keep = self.keep.view(-1, *[1] * (sample.ndim - 3))
        return keep * given + (1 - keep) * sample


def passes(starts: Starts, refine: int) -> list[Starts]:
    """The starts of each pass of a run: of the first, and of the `refine` further ones.

    These make the sound again with the picture held, then the picture with the sound held, and so on.
    """
    sound, picture = (0.0, starts[1]), (starts[0], 0.0)
    return [starts, *(picture if number % 2 else sound for number in range(refine))]


def refining(track: Track, latents: "Tensor", start: float) -> Track:
    """`track` in a further pass, over the clean `latents` of the pass before: held if it starts at 0."""
    keep = latents.new_ones(latents.shape[2]) if start == 0 else track.keep
    return replace(track, given=latents, keep=keep)


def check_given(name: str, regenerate: Regenerate) -> None:
    """Raise UserError if some of the track `name` ("video", "audio"), which was not given, is regenerated."""
    if regenerate:
        raise UserError(f"regenerate_{name} needs {name}; give it, or leave regenerate_{name} out")


def check_strength(strength: float, has_start: bool) -> None:
    """Raise UserError unless 0 < strength <= 1 and, below 1, there is something to start from."""
    check_finite("strength", strength, 0, 1)
    if strength == 0:
        raise UserError("strength=0 makes nothing; give one above 0, or leave the track out of regenerate_*")
    if strength < 1 and not has_start:
        raise UserError(
            f"strength={strength:g} has nothing to start from; give video or audio with regenerate_video or "
            "regenerate_audio"
        )


def check_refine(refine: int, is_held: bool) -> None:
    """Raise UserError if there are further passes though one of the tracks is held whole."""
    if refine and is_held:
        raise UserError(
            f"refine={refine} makes sound and picture again in turn, but one is kept whole; set refine=0"
        )


def spans_to_make(name: str, regenerate: Regenerate, seconds: float) -> tuple[Span, ...]:
    """The spans of a given track that are made, in order, within a clip of `seconds`.

    `name` is that of the argument, for the messages. True is the whole clip, False is nothing.

    Raises:
        UserError: a span is not a pair of numbers, is reversed, outside the clip, or overlaps another.
    """
    if isinstance(regenerate, bool):
        return ((0.0, seconds),) if regenerate else ()
    spans = []
    for span in regenerate:
        if len(span) != 2:
            raise UserError(f"{name}: got {span!r}; a span is (start, end) in seconds")
        start, end = span
        for bound in span:
            check_finite(name, bound, 0, seconds + TOLERANCE)
        if start >= end:
            raise UserError(f"{name}: the span {start:g}-{end:g} s ends before it starts; give start, end")
        spans.append((float(start), min(float(end), seconds)))
    spans.sort()
    for (start, end), (next_start, next_end) in itertools.pairwise(spans):
        if next_start < end - TOLERANCE:
            raise UserError(
                f"{name}: {start:g}-{end:g} s and {next_start:g}-{next_end:g} s overlap; make them one"
            )
    return tuple(spans)


def frames_for_sound(seconds: float, frame_rate: float) -> int:
    """The number of frames (4k+1) of a clip for a sound of `seconds`: under one frame of it is cut.

    Raises:
        UserError: the clip would have over MAX_FRAMES.
    """
    if seconds > MAX_FRAMES / frame_rate:
        raise UserError(
            f"the sound lasts {seconds:.1f} s; a clip has up to {MAX_FRAMES} frames ("
            f"{MAX_FRAMES / frame_rate:.1f} s at {frame_rate:g} frames/s): cut the sound, or give num_frames"
        )
    return max(0, math.ceil((seconds * frame_rate - 2) / TEMPORAL_STRIDE)) * TEMPORAL_STRIDE + 1


def video_keep(spans: Sequence[Span], shape: ClipShape) -> np.ndarray:
    """Float32 [T]: 0 for each picture latent with a frame in a span, else 1."""
    frames = np.arange(shape.num_frames)
    starts = frames / shape.frame_rate
    touched = _touched(spans, starts, starts + 1 / shape.frame_rate, TOLERANCE / 2)
    keep = np.ones(shape.latent_frames, np.float32)
    keep[(frames[touched] + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE] = 0
    return keep


def audio_keep(spans: Sequence[Span], shape: ClipShape) -> np.ndarray:
    """Float32 [L]: 0 for each sound latent with a sample in a span, else 1."""
    edges = np.arange(shape.audio_latents + 1) * shape.hop_length / shape.sample_rate
    return (~_touched(spans, edges[:-1], edges[1:], SAME_MOMENT)).astype(np.float32)


def made_frames(keep: np.ndarray) -> np.ndarray:
    """Bool [4T-3]: the frames of the picture latents that are not kept."""
    return np.repeat(keep < 1, [1] + [TEMPORAL_STRIDE] * (len(keep) - 1))


def ramped(keep: np.ndarray, length: int, given: int) -> np.ndarray:
    """`keep` rising to 1 over the `length` made latents next to those kept, a third of a made run at most.

    Only in the first `given` latents: past them there is nothing to rise to.
    """
    result = keep.copy()
    for start, end in runs(keep == 0):
        steps = min(length, (end - start - 1) // 2)
        rise = np.arange(1, steps + 1, dtype=np.float32) / (steps + 1)
        if end < len(keep):
            result[end - steps : end] = rise
        if start > 0:
            result[start : start + steps] = rise[::-1]
    result[given:] = keep[given:]
    return result


def _touched(spans: Sequence[Span], starts: np.ndarray, ends: np.ndarray, tolerance: float) -> np.ndarray:
    touched = np.zeros(len(starts), bool)
    for start, end in spans:
        touched |= (starts < end - tolerance) & (ends > start + tolerance)
    return touched


def runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """The (start, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


@dataclass(frozen=True)
class Window:
    """One window of a continued clip, in frames of the whole clip. Its first `overlap` frames are held.

    `overlap` and `num_frames` are 4k+1, so the held picture is whole latents.
    """

    start: int
    overlap: int
    num_frames: int

    def made(self, frame_rate: float) -> Span:
        """The span that is made, of the picture and of the sound, in seconds from the window's start."""
        return self.overlap / frame_rate, self.num_frames / frame_rate


def plan_extension(
    num_frames: int, seconds: float, frame_rate: float, overlap_seconds: float, window_frames: int
) -> tuple[Window, ...]:
    """The windows that make a clip of `num_frames` longer by at least `seconds`, under four frames more.

    Each is `window_frames` long, the length that the model was trained at, if the clip is long enough: the
    last one holds more instead of being shorter.

    Raises:
        UserError: the seconds or the overlap are out of range.
    """
    check_num_frames(window_frames)
    check_finite("seconds", seconds, 1 / frame_rate, MAX_EXTENSION_SECONDS)
    check_finite("overlap", overlap_seconds, 1 / frame_rate, (window_frames - TEMPORAL_STRIDE) / frame_rate)
    missing = math.ceil(seconds * frame_rate / TEMPORAL_STRIDE - TOLERANCE) * TEMPORAL_STRIDE
    overlap = min(_whole_latents(num_frames), overlap_frames(overlap_seconds, frame_rate))
    windows = []
    while missing > 0:
        new = min(missing, window_frames - overlap)
        held = max(overlap, min(window_frames - new, _whole_latents(num_frames)))
        windows.append(Window(num_frames - held, held, held + new))
        num_frames, missing = num_frames + new, missing - new
    return tuple(windows)


def overlap_frames(seconds: float, frame_rate: float) -> int:
    """The frames (4k+1) that an overlap of so many seconds holds."""
    return _whole_latents(round(seconds * frame_rate))


def extend(
    make: Callable[[np.ndarray, np.ndarray, Window], tuple[np.ndarray, np.ndarray]],
    frames: np.ndarray,
    waveform: np.ndarray,
    frame_rate: float,
    sample_rate: int,
    windows: Sequence[Window],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Continue a clip window by window; yields what each adds: uint8 [f, H, W, 3] and float32 [s].

    `frames` [F, H, W, 3] and `waveform` [S] are the clip so far. `make(frames, waveform, window)` is given
    the held part and returns the whole window, as a pipeline does for `video`, `audio`, `num_frames` and
    `regenerate_audio=[window.made(frame_rate)]`. What was decoded is handed on and encoded again; raw latents
    drift after some eight windows. To resume, give the clip so far and the windows that are left.
    """
    for window in windows:
        first = int(window.start * sample_rate / frame_rate)
        held = frames[window.start :], waveform[first:]
        if len(held[0]) != window.overlap:
            raise ValueError(f"got a clip of {len(frames)} frames, expected {window.start + window.overlap}")
        longer, sound = make(*held, window)
        added = longer[window.overlap :], sound[len(held[1]) :]
        frames, waveform = np.concatenate((frames, added[0])), np.concatenate((waveform, added[1]))
        yield added


def _whole_latents(num_frames: int) -> int:
    """The largest 4k+1 up to `num_frames`."""
    return (num_frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
