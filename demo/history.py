"""Clips of each browser on the disk: kept for a while, found again after a reload, shown to nobody else.

A clip is a folder. Its `entry.json` is written last: a folder without one belongs to a run in progress, or to
an interrupted one, and is deleted by `History.sweep`.
"""

import json
import re
import secrets
import shutil
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mova.errors import UserError
from mova.files import new_output
from mova.media.clips import read_clip, write_wav
from mova.media.images import crop_box, fit_image, open_image
from mova.media.plots import contact_sheet
from mova.metrics import ClipHealth, measure

ENTRY, CLIP, SOUND, SETTINGS, POSTER, STRIP = (
    "entry.json",
    "clip.mp4",
    "sound.wav",
    "settings.json",
    "poster.webp",
    "strip.png",
)
FIRST_FRAME = "first.png"
REMOVED = "removed.json"  # the entry of a clip that its owner removed
UNDO_SECONDS = 10.0
CLIP_ID = re.compile(r"[0-9a-f]{24}")
CLIPS, TRAINING = "clips", "training"
STRIP_WIDTH, STRIP_FRAMES = 960, 8
POSTER_SIDE, CROP_SIDE = 320, 480


@dataclass(frozen=True)
class ClipRecord:
    """A finished clip: its time (seconds since 1970), settings, measurements, what of them is wrong, and the
    visitor's own words for it.
    """

    clip_id: str
    created: float
    settings: dict[str, Any]
    seconds: float = 0.0
    health: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    title: str = ""
    folder: Path = field(default=Path(), compare=False)

    @property
    def name(self) -> str:
        """The beginning of its title or prompt."""
        text = " ".join((self.title or str(self.settings["prompt"])).split())
        return text if len(text) <= 60 else f"{text[:59].rstrip()}…"

    @property
    def clip(self) -> Path:
        return self.folder / CLIP

    @property
    def first_frame(self) -> Path | None:
        path = self.folder / FIRST_FRAME
        return path if path.is_file() else None


class History:
    """Clips under `root`, in a folder for each visitor."""

    def __init__(self, root: Path, keep_hours: float, keep_clips: int) -> None:
        self.root = root / CLIPS
        self.keep_seconds = keep_hours * 3600
        self.keep_clips = keep_clips

    def new_folder(self, owner: str) -> Path:
        """An empty folder for a clip of `owner`."""
        folder = self.root / owner / secrets.token_hex(12)
        folder.mkdir(parents=True)
        return folder

    def finish(self, folder: Path, record: ClipRecord) -> None:
        """Add the clip in `folder`. Raises BackendError if the disk is full."""
        values = asdict(record)
        del values["folder"]
        with new_output(folder / ENTRY) as temporary:
            temporary.write_text(json.dumps(values), encoding="utf-8")

    def discard(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)

    def records(self, owner: str) -> list[ClipRecord]:
        """The owner's clips that have not expired, newest first."""
        folders = (self.root / owner).iterdir() if (self.root / owner).is_dir() else ()
        found = [record for record in map(read_record, folders) if record and not self._is_expired(record)]
        return sorted(found, key=lambda record: record.created, reverse=True)[: self.keep_clips]

    def record(self, owner: str, clip_id: object) -> ClipRecord:
        """One of the owner's clips. Raises UserError if it is not theirs, or has expired."""
        folder = self.root / owner / str(clip_id)
        found = read_record(folder) if CLIP_ID.fullmatch(str(clip_id)) else None
        if found is None or self._is_expired(found):
            raise UserError("this clip is no longer here; clips are kept for a limited time")
        return found

    def remove(self, owner: str, clip_id: object) -> None:
        """Take a clip out of the list; `sweep` deletes it after a while in which it can be brought back."""
        folder = self.record(owner, clip_id).folder
        (folder / ENTRY).touch()
        (folder / ENTRY).rename(folder / REMOVED)

    def bring_back(self, owner: str, clip_id: object) -> ClipRecord:
        """Undo `remove`. Raises UserError if the clip is deleted."""
        folder = self.root / owner / str(clip_id)
        if CLIP_ID.fullmatch(str(clip_id)) and (folder / REMOVED).is_file():
            (folder / REMOVED).rename(folder / ENTRY)
        return self.record(owner, clip_id)

    def add_training_clip(self, owner: str, clip_id: object) -> int:
        """Copy a clip and its prompt to the owner's training clips; their number then."""
        record, folder = self.record(owner, clip_id), self.training_folder(owner)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.clip, folder / f"{record.clip_id}.mp4")
        (folder / f"{record.clip_id}.txt").write_text(str(record.settings["prompt"]), encoding="utf-8")
        return len(list(folder.glob("*.mp4")))

    def training_folder(self, owner: str) -> Path:
        """Folder of the owner's training clips, each with its caption as .txt."""
        return self.root.parent / TRAINING / owner

    def sweep(self, running: frozenset[Path] = frozenset()) -> int:
        """Delete expired clips, those over `keep_clips`, and interrupted runs; the number deleted."""
        deleted = 0
        for owner in self.root.iterdir() if self.root.is_dir() else ():
            kept = {record.folder for record in self.records(owner.name)}
            for folder in owner.iterdir():
                if folder not in kept and folder not in running and not _is_just_removed(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                    deleted += 1
            if not any(owner.iterdir()):
                owner.rmdir()
        return deleted

    def _is_expired(self, record: ClipRecord) -> bool:
        return time.time() - record.created > self.keep_seconds


def _is_just_removed(folder: Path) -> bool:
    try:
        return time.time() - (folder / REMOVED).stat().st_mtime < UNDO_SECONDS
    except FileNotFoundError:
        return False


def read_record(folder: Path) -> ClipRecord | None:
    """The clip in `folder`, or None while it is not finished."""
    try:
        values = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    values |= {name: tuple(values.get(name, ())) for name in ("health", "warnings", "problems")}
    return ClipRecord(**values, folder=folder)


def describe_clip(folder: Path) -> ClipHealth:
    """Write sound, poster and strip next to the clip, and measure it."""
    clip = read_clip(folder / CLIP)
    write_wav(folder / SOUND, clip.waveform, clip.sample_rate)
    poster = Image.fromarray(clip.frames[len(clip.frames) // 3])
    poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
    _save(poster, folder / POSTER, "WEBP")
    strip = contact_sheet(small_frames(clip.frames), clip.waveform, clip.sample_rate, STRIP_FRAMES, dark=True)
    _save(strip, folder / STRIP, "PNG")
    return measure(clip.frames, clip.waveform, clip.sample_rate, clip.frame_rate)


def small_frames(frames: np.ndarray) -> np.ndarray:
    """The frames that go onto a strip, uint8 [STRIP_FRAMES, h, w, 3], each at its moment."""
    width = STRIP_WIDTH // STRIP_FRAMES
    height = max(1, round(width * frames.shape[1] / frames.shape[2]))
    chosen = (np.arange(STRIP_FRAMES) * len(frames) / STRIP_FRAMES).astype(int)
    resized = [Image.fromarray(frames[i]).resize((width, height), Image.Resampling.BICUBIC) for i in chosen]
    return np.stack([np.asarray(image) for image in resized])


def draw_crop(path: Path, height: int, width: int, fit: str, position: float = 0.5) -> tuple[bytes, str]:
    """A WebP of the first frame, and the side of it that is cut: "width", "height", or "" for none.

    With "crop" what falls outside is dimmed, with "pad" the picture is as it will be.

    Raises:
        UserError: as `mova.media.images.open_image`.
    """
    changed = path.stat().st_mtime_ns if path.is_file() else 0
    return _draw_crop(path, changed, height, width, fit, position)


@lru_cache(maxsize=64)  # the form asks again with each of its changes, and a photo takes a fifth of a second
def _draw_crop(
    path: Path, changed: int, height: int, width: int, fit: str, position: float
) -> tuple[bytes, str]:
    del changed  # another file of that name
    image = open_image(path)
    cut = ""
    if fit == "pad":
        image = fit_image(image, height, width, fit)
    else:
        left, top, right, bottom = crop_box(image.size, height, width)
        cut = "width" if right - left < image.width else "height" if bottom - top < image.height else ""
    image.thumbnail((CROP_SIDE, CROP_SIDE))
    if fit == "crop":
        box = crop_box(image.size, height, width, position)
        dimmed = Image.blend(image, Image.new("RGB", image.size, "#808890"), 0.72)
        dimmed.paste(image.crop(box), box[:2])
        image = dimmed
    return as_webp(image), cut


def as_webp(image: Image.Image) -> bytes:
    """A small picture for the page."""
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def save_last_frame(clip: Path) -> Path:
    """The clip's last frame as a PNG next to it."""
    return save_frame(clip, -1)


def save_frame(clip: Path, index: int) -> Path:
    """A frame of the clip as a PNG next to it. Raises UserError as `read_clip`."""
    path = clip.with_name(f"{clip.stem}-{'last' if index < 0 else 'first'}.png")
    _save(Image.fromarray(read_clip(clip).frames[index]), path, "PNG")
    return path


def _save(image: Image.Image, path: Path, kind: str) -> None:
    with new_output(path, overwrite=True) as temporary:
        image.save(temporary, kind)
