"""Windows of clips: a span of seconds, a size and a length that the model takes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_trainer.config import Config, Data
from lora_trainer.decode import Probe, probe
from lora_trainer.manifest import DatasetItem, read_clips
from mova.catalog import ModelSpec, find_model
from mova.errors import UserError
from mova.shapes import frames_for_seconds, parse_size, size_for_aspect

LENGTHS = (1.0, 0.75, 0.5, 0.25)  # of the model's length, where the config names no num_frames
ASPECTS = (16 / 9, 4 / 3, 1.0, 3 / 4, 9 / 16)
RECORD = (
    *("name", "clip", "file", "text", "caption", "num_frames", "height", "width", "frame_rate", "has_sound"),
    "kept",
)
KEYS = {"kept": "is_regularization"}  # fields by their key in a record, where they differ
TOLERANCE = 0.5  # frames that a clip may be short; its last frame stands that long


class UnusableClipError(UserError):
    """A clip without a window: `kind` is "short" (`seconds` were needed) or "no sound"."""

    def __init__(self, kind: str, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.kind, self.seconds = kind, seconds


@dataclass(frozen=True)
class Window:
    """Seconds `start` to `start + num_frames / frame_rate` of a clip, at a size in pixels, with its caption.

    `file` and `text` name its latents and its caption's embedding in the cache, once they are there. A window
    that is read from an index has no `item`: training needs the cache only.
    """

    name: str
    clip: str
    caption: str
    num_frames: int
    height: int
    width: int
    frame_rate: float
    has_sound: bool
    is_regularization: bool = False
    file: str = ""
    text: str = ""
    start: float = field(default=0.0, compare=False)
    item: DatasetItem | None = field(default=None, compare=False)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Window":
        """A window of an index or a checkpoint, of which the oldest have no "kept"."""
        return cls(**{KEYS.get(key, key): value for key, value in record.items()})

    def record(self) -> dict[str, Any]:
        """The window as an index or a checkpoint holds it."""
        return {key: getattr(self, KEYS.get(key, key)) for key in RECORD}

    @property
    def seconds(self) -> float:
        return self.num_frames / self.frame_rate

    @property
    def times(self) -> np.ndarray:
        """Seconds of the frames."""
        return self.start + np.arange(self.num_frames) / self.frame_rate

    @property
    def bucket(self) -> tuple[int, int, int]:
        return self.height, self.width, self.num_frames


def lengths(data: Data, model: ModelSpec) -> tuple[int, ...]:
    """Lengths in frames that windows may have, longest first."""
    if data.num_frames is not None:
        return data.num_frames
    seconds = [model.num_frames / model.frame_rate * share for share in LENGTHS]
    counts = {frames_for_seconds(each, data.frame_rate) for each in seconds}
    return tuple(sorted((count for count in counts if count > 1), reverse=True))


def size_of(data: Data, model: ModelSpec) -> tuple[int, int]:
    return parse_size(data.size) if data.size else (model.height, model.width)


def bucket_size(probe: Probe, data: Data, model: ModelSpec) -> tuple[int, int]:
    """(height, width) for a clip: with buckets, of the configured number of pixels and the nearest aspect."""
    height, width = size_of(data, model)
    if not data.buckets:
        return height, width
    sizes = {(height, width), *(size_for_aspect(aspect, height * width) for aspect in ASPECTS)}
    aspect = probe.width / probe.height
    # The configured size wins a near tie: 640x352 is 1.82, and a bucket of 16:9 next to it would cut more.
    return min(
        sorted(sizes), key=lambda hw: abs(np.log(hw[1] / hw[0] / aspect)) + 0.05 * (hw != (height, width))
    )


def windows_of(item: DatasetItem, probe: Probe, data: Data, model: ModelSpec) -> list[Window]:
    """One after the other, each the longest that still fits. Raises UnusableClipError if none does."""
    has_sound = probe.has_sound and not item.is_silent
    size, counts = bucket_size(probe, data, model), lengths(data, model)
    end = probe.seconds if item.end is None else min(item.end, probe.seconds)
    windows, start = [], item.start
    while True:
        left = (end - start) * data.frame_rate + TOLERANCE
        count = next((count for count in counts if count <= left), None)
        if count is None:
            break
        windows.append(
            Window(
                name=f"{item.name}@{start:.3f}",
                clip=item.name,
                caption=caption_of(item, data),
                num_frames=count,
                height=size[0],
                width=size[1],
                frame_rate=data.frame_rate,
                has_sound=has_sound,
                is_regularization=item.is_regularization,
                start=start,
                item=item,
            )
        )
        start += count / data.frame_rate
    if not windows:
        need = counts[-1] / data.frame_rate
        raise UnusableClipError(
            "short",
            f"{item.name} lasts {end - item.start:.2f} s; the shortest window is {counts[-1]} frames, "
            f"{need:.2f} s: set data.num_frames lower, or take the clip out",
            need,
        )
    if not probe.has_sound and not item.is_silent and data.without_sound == "refuse":
        raise UnusableClipError(
            "no sound",
            f"{item.name} has no sound; add it, take the clip out, or set data.without_sound to mute "
            "(such clips then teach the picture only)",
        )
    return windows


def clips_of(config: Config) -> list[DatasetItem]:
    """The clips to learn and those for regularization; of those that the run generates, the ones there are.

    Raises UserError as `read_clips`.
    """
    generated = config.regularization_folder
    is_there = config.data.regularization_count and any(generated.glob("*.mp4"))
    return read_clips(config.data.path, str(generated) if is_there else config.data.regularization)


def check_held_out(windows: Iterable[Window], held_out: int) -> None:
    """Raise UserError unless a clip is left to learn when `held_out` are held out."""
    clips = len({window.clip for window in windows if not window.is_regularization})
    if held_out >= clips:
        raise UserError(
            f"{clips} clips, of which data.held_out keeps {held_out} back; "
            f"give more clips, or set data.held_out to {max(0, clips - 1)}"
        )


def plan_windows(config: Config, items: list[DatasetItem] | None = None) -> list[Window]:
    """Every window of the data set, or of `items`.

    Raises:
        UserError: names each clip that cannot be used, and why.
    """
    model, windows, problems = find_model(config.model), [], []
    for item in clips_of(config) if items is None else items:
        try:
            windows += windows_of(item, probe(item), config.data, model)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(bullet_list(f"{len(problems)} clips cannot be used", problems))
    return windows


def caption_of(item: DatasetItem, data: Data) -> str:
    """The prompt of a clip: its caption, of a clip to learn after the person's trigger, if there is one."""
    return item.caption if item.is_regularization else f"{data.caption_prefix}{item.caption}"


def bullet_list(what: str, problems: list[str]) -> str:
    return f"{what}:" + "".join(f"\n- {problem}" for problem in problems)
