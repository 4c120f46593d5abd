"""A folder of clips to train on, with a `.txt` for each, as the trainer reads it.

Fixes of the doctor are noted in `mended.json` and leave the clips as they are. Names are made safe when a
clip comes in; a clip is never replaced by another. What is removed can be restored until it is forgotten.
"""

import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_trainer.jobs.runs import link_or_copy
from lora_trainer.manifest import MAX_CAPTION_BYTES, DatasetItem, companion_sound, read_caption
from mova.errors import UserError
from mova.files import is_sidecar, new_output, read_json, sha256_of, write_json
from mova.media.formats import AUDIO_FORMATS, VIDEO_FORMATS

MENDED, REMOVED = "mended.json", "removed"
MAX_CLIPS = 200
UNSAFE = re.compile(r"[^\w. -]+")


class ClipSet:
    """The clips in `folder`, which need not be there yet; at most `max_bytes` of them."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def videos(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.suffix.lower() in VIDEO_FORMATS and path.is_file() and not is_sidecar(path.name)
        )

    def items(self) -> list[DatasetItem]:
        """The clips with their captions, with their fixes; a caption may be empty."""
        fixes, items = self._fixes(), []
        for video in self.videos():
            text = video.with_suffix(".txt")
            item = DatasetItem(
                video.name, video, read_caption(text) if text.is_file() else "", companion_sound(video)
            )
            fix = fixes.get(video.name, {})
            is_silent = fix.get("is_silent", False)
            sound = self.folder / fix["audio"] if "audio" in fix else item.audio
            part = {"start": fix.get("start", 0.0), "end": fix.get("end")}
            items.append(replace(item, **part, audio=None if is_silent else sound, is_silent=is_silent))
        return items

    def add(self, files: Iterable[Path]) -> list[str]:
        """Take in clips, captions (.txt) and sounds of the same name; a sentence for each left out."""
        files, refused = [file for file in files if not is_sidecar(file.name)], []
        named: dict[str, str] = {}  # stems as they were, and as they are now
        order = [*(f for f in files if f.suffix.lower() in VIDEO_FORMATS)]
        order += [f for f in files if f not in order]
        for file in order:
            suffix = file.suffix.lower()
            try:
                if suffix in VIDEO_FORMATS:
                    named[file.stem] = self._add_clip(file)
                elif suffix in AUDIO_FORMATS or suffix == ".txt":
                    self._add_companion(file, named.get(file.stem, safe_stem(file.stem)))
                else:
                    refused.append(
                        f"{file.name} is not a clip; give {', '.join(VIDEO_FORMATS)}, .txt captions"
                    )
            except UserError as error:
                refused.append(str(error))
        return refused

    def write_captions(self, captions: Mapping[str, str]) -> None:
        """Save captions by clip. Raises UserError for one that is too long, BackendError on a full disk."""
        names = {video.name for video in self.videos()}
        for name, text in captions.items():
            text = " ".join(str(text).split())
            if len(text.encode()) > MAX_CAPTION_BYTES:
                raise UserError(f"the text of {name} is over {MAX_CAPTION_BYTES} bytes; shorten it")
            path = (self.folder / name).with_suffix(".txt")
            if name in names and (not path.is_file() or read_caption(path) != text):
                with new_output(path, overwrite=True) as temporary:
                    temporary.write_text(text, encoding="utf-8")

    def remove(self, name: str) -> None:
        """Take a clip out, with its caption and sound. Raises UserError: there is none of that name."""
        video, away = self._video(name), self._away(name)
        shutil.rmtree(away, ignore_errors=True)
        away.mkdir(parents=True)
        for path in self._files(video):
            path.rename(away / path.name)
        fixes = self._fixes()
        write_json(away / MENDED, fixes.pop(name, {}))
        self._write_fixes(fixes)

    def restore(self, name: str) -> None:
        """Put a removed clip back. Raises UserError: it was forgotten, or another has its name now."""
        away = self._away(name)
        if not away.is_dir():
            raise UserError(f"{name} is gone for good; upload it again")
        if any(video.stem == away.name for video in self.videos()):
            raise UserError(f"another clip is called {name} now; remove or rename that first")
        fix = read_json(away / MENDED)
        for path in away.iterdir():
            if path.name != MENDED:
                path.rename(self.folder / path.name)
        self._write_fixes(self._fixes() | ({name: fix} if fix else {}))
        shutil.rmtree(away)

    def forget(self, name: str) -> None:
        """Delete a removed clip for good, with a sound that was written for it alone."""
        away = self._away(name)
        sound = read_json(away / MENDED).get("audio") if away.is_dir() else None
        shutil.rmtree(away, ignore_errors=True)
        if sound and not any(fix.get("audio") == sound for fix in self._fixes().values()):
            (self.folder / sound).unlink(missing_ok=True)

    def fix(self, name: str, **changes: Any) -> None:  # noqa: ANN401 - as below
        """Note that a part of a clip is used (`start`, `end` in seconds), another sound (`audio`), or none.

        `audio` is the name of a file in the folder; `is_silent` is for none.
        """
        fixes = self._fixes()
        fixes[name] = fixes.get(name, {}) | {
            key: value for key, value in changes.items() if value is not None
        }
        self._write_fixes(fixes)

    def reset(self, name: str) -> None:
        """Use the clip as it came in."""
        fixes = self._fixes()
        fixes.pop(name, None)
        self._write_fixes(fixes)

    def split(self, name: str, times: Iterable[float]) -> list[str]:
        """Make each part of a clip between `times` (seconds) a clip of its own; the names of the new ones.

        They are the same file, and begin with the same caption. Raises UserError: there are too many clips.
        """
        video = self._video(name)
        item = next(item for item in self.items() if item.name == name)
        inside = [time for time in sorted(times) if item.start < time < (item.end or time + 1)]
        if len(self.videos()) + len(inside) > MAX_CLIPS:
            raise UserError(f"{name} cannot be split: there would be over {MAX_CLIPS} clips")
        whole, names = self._fixes().get(name, {}), []
        for start, end in zip(inside, [*inside[1:], item.end], strict=True):
            stem = self._free_stem(video.stem)
            for path in self._files(video):
                link_or_copy(path, self.folder / f"{stem}{path.suffix}")
            names.append(f"{stem}{video.suffix}")
            self.fix(names[-1], **whole | {"start": start, "end": end})
        if inside:
            self.fix(name, end=inside[0])
        return names

    def last_change(self) -> float:
        """When something was last added or taken out, in seconds since 1970."""
        return self.folder.stat().st_mtime if self.folder.is_dir() else time.time()

    def _add_clip(self, file: Path) -> str:
        videos = self.videos()
        if len(videos) >= MAX_CLIPS:
            raise UserError(f"{file.name} was not taken: there are {MAX_CLIPS} clips already")
        sizes = {path.stat().st_ino: path.stat().st_size for path in videos}  # parts of a clip are one file
        size = sum(sizes.values()) + file.stat().st_size
        if size > self.max_bytes:
            limit = f"{self.max_bytes / 2**30:.3g} GB"
            raise UserError(
                f"{file.name} was not taken: all clips together may have {limit}; cut or shrink them"
            )
        digest = sha256_of(file)
        for video in videos:
            if video.stat().st_size == file.stat().st_size and sha256_of(video) == digest:
                raise UserError(f"{file.name} was not taken: it is the same file as {video.name}")
        name = self._free_stem(safe_stem(file.stem))
        with new_output(self.folder / f"{name}{file.suffix.lower()}") as temporary:
            shutil.copyfile(file, temporary)
        return name

    def _add_companion(self, file: Path, stem: str) -> None:
        if stem not in {video.stem for video in self.videos()}:
            raise UserError(f"{file.name} belongs to no clip here; give it the name of one")
        if file.suffix.lower() == ".txt":
            read_caption(file)
        with new_output(self.folder / f"{stem}{file.suffix.lower()}", overwrite=True) as temporary:
            shutil.copyfile(file, temporary)

    def _video(self, name: str) -> Path:
        video = next((video for video in self.videos() if video.name == name), None)
        if video is None:
            raise UserError(f"{name} is not here any more")
        return video

    def _files(self, video: Path) -> list[Path]:
        """The clip, its caption and its sound."""
        companions = {".txt", *AUDIO_FORMATS}
        return [
            path
            for path in self.folder.iterdir()
            if path == video or (path.stem == video.stem and path.suffix.lower() in companions)
        ]

    def _away(self, name: str) -> Path:
        return self.folder / REMOVED / safe_stem(Path(name).stem)

    def _free_stem(self, stem: str) -> str:
        taken = {video.stem for video in self.videos()}
        return next(name for name in (stem, *(f"{stem}-{i}" for i in range(2, 1000))) if name not in taken)

    def _fixes(self) -> dict[str, dict[str, Any]]:
        return read_json(self.folder / MENDED)

    def _write_fixes(self, fixes: Mapping[str, Any]) -> None:
        write_json(self.folder / MENDED, fixes)


def safe_stem(stem: str) -> str:
    """A file's name without what shells, browsers and other systems stumble over."""
    return UNSAFE.sub("_", stem).strip(" ._-")[:80] or "clip"
