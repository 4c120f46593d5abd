"""Clips of a data set with their captions, from a folder, a manifest file, or a dataset repo of the Hub."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_trainer.rows import AUDIO_KEYS, CAPTION_KEYS, VIDEO_KEYS, read_rows, read_text
from mova import hub
from mova.errors import UserError, printable
from mova.files import is_sidecar
from mova.media.formats import AUDIO_FORMATS, VIDEO_FORMATS

logger = logging.getLogger(__name__)

MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.json")
OWN = (*MANIFESTS, "mended.json")
HUB = "hf://datasets/"
SUFFIXES = (".txt", *VIDEO_FORMATS, *AUDIO_FORMATS)
WANTED = [*MANIFESTS, *(f"*{spelling}" for suffix in SUFFIXES for spelling in (suffix, suffix.upper()))]
MAX_CAPTION_BYTES = 100_000
SHOWN = 20  # files that are named where some are left out


@dataclass(frozen=True)
class DatasetItem:
    """One clip: `name` is its path in the data set; `audio` is None where the sound is in the container.

    Only its seconds from `start` to `end` (None: the end of the file) are used. One with `is_silent` teaches
    the picture only, whatever sound it has. A clip for regularization shows what the model can already.
    """

    name: str
    video: Path
    caption: str
    audio: Path | None = None
    start: float = 0.0
    end: float | None = None
    is_regularization: bool = False
    is_silent: bool = False


def read_clips(source: str, regularization: str | None) -> list[DatasetItem]:
    """The clips of `source` and after them those of `regularization`, whose names begin with "keep/".

    Raises:
        UserError: as `read_items`, or a clip is in both.
    """
    items = read_items(source)
    if regularization is None:
        return items
    try:
        items_of_base = read_items(regularization)
    except UserError as error:
        raise UserError(
            f"data.regularization: {error}; `python -m lora_trainer regularize` makes clips for it"
        ) from error
    # "keep/" is what runs of earlier versions have in their indexes.
    others = [replace(item, name=f"keep/{item.name}", is_regularization=True) for item in items_of_base]
    learnt = {item.video.resolve() for item in items}
    if twice := [item.name for item in others if item.video.resolve() in learnt]:
        raise UserError(
            f"data.regularization: {', '.join(twice[:5])} also in data.path; keep the two folders apart"
        )
    return items + others


def read_items(source: str, **hub_options: object) -> list[DatasetItem]:
    """The clips of a folder, a manifest (.jsonl, .csv, .json) or "hf://datasets/OWNER/NAME", by name.

    In a folder, `metadata.jsonl`, `.csv` or `.json` lists the clips; without one every clip needs a `.txt`
    of its name. A sound file of a clip's name replaces the container's sound. `hub_options` (token, revision,
    ...) go to the Hub, of which only such files are fetched.

    Raises:
        UserError: nothing is there, or a row, file or caption is missing; each is named.
    """
    within = None
    if source.startswith(HUB):
        within = path = hub.download(source.removeprefix(HUB), WANTED, repo_type="dataset", **hub_options)
    else:
        path = Path(source).expanduser()
    if path.is_dir():
        folder = Folder.read(path)
        manifest = next((path / name for name in MANIFESTS if (path / name).is_file()), None)
        items = read_manifest(manifest, within) if manifest else scan_folder(folder)
        if text := left_out(folder, items):
            logger.warning("%s", printable(text))
    elif path.is_file():
        items = read_manifest(path, within)
    else:
        raise UserError(f"there are no clips at {source}; give a folder, a manifest or {HUB}OWNER/NAME")
    names = [item.name for item in items]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source} lists {', '.join(twice)} more than once; keep one row of each")
    return sorted(items, key=lambda item: item.name)


@dataclass(frozen=True)
class Folder:
    """The files of a folder and of those in it, linked ones too, but for what systems leave there.

    Each folder and each clip is there once, however many links lead to it. `passed` says what else there is.
    """

    path: Path
    files: list[Path]
    passed: list[str]

    @staticmethod
    def read(path: Path) -> "Folder":
        files: list[Path] = []
        passed: list[str] = []
        seen, clips = set(), {}
        waiting = [path]
        while waiting:
            folder = waiting.pop(0)
            if os.path.realpath(folder) in seen:
                continue
            seen.add(os.path.realpath(folder))
            try:
                found = sorted(each for each in folder.iterdir() if not is_sidecar(each.name))
            except OSError as error:
                passed.append(f"{folder.relative_to(path)} ({error.strerror})")
                continue
            folders = [each for each in found if each.is_dir()]
            # Links last, so that a file has the name of the folder that it lies in.
            waiting += sorted(folders, key=Path.is_symlink)
            for file in (each for each in found if each not in folders):
                name, real = str(file.relative_to(path)), os.path.realpath(file)
                if not file.is_file():
                    passed.append(f"{name} (a link to nothing)")
                elif file.suffix.lower() not in VIDEO_FORMATS:
                    files.append(file)
                elif real in clips:
                    passed.append(f"{name} (the same file as {clips[real]})")
                else:
                    clips[real] = name
                    files.append(file)
        return Folder(path, files, passed)


def scan_folder(folder: Folder) -> list[DatasetItem]:
    """A clip for each video with a `.txt` of its name. Raises UserError naming those without."""
    videos = sorted(path for path in folder.files if path.suffix.lower() in VIDEO_FORMATS)
    if not videos:
        raise UserError(
            f"{folder.path} holds no clips ({', '.join(VIDEO_FORMATS)}); put clips and .txt captions there"
        )
    missing = [video.name for video in videos if not companions(video, (".txt",))]
    if missing:
        raise UserError(
            f"{folder.path}: {', '.join(missing)} lack a caption; write what is seen and heard into NAME.txt"
        )
    items, problems = [], []
    for video in videos:
        try:
            caption = read_caption(companions(video, (".txt",))[0])
            name = str(video.relative_to(folder.path))
            items.append(DatasetItem(name, video, caption, companion_sound(video)))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n- ".join([f"{len(problems)} of {len(videos)} clips cannot be used:", *problems]))
    return items


def left_out(folder: Folder, items: list[DatasetItem]) -> str:
    """A sentence about the files of a folder that no clip uses; empty if there are none."""
    used = {os.path.realpath(path) for item in items for path in (item.video, item.audio) if path is not None}
    clips = {path.with_suffix("") for path in folder.files if path.suffix.lower() != ".txt"}
    names = [
        str(path.relative_to(folder.path))
        for path in folder.files
        if os.path.realpath(path) not in used
        and path.name not in OWN
        and not (path.suffix.lower() == ".txt" and path.with_suffix("") in clips)
    ]
    names += folder.passed
    if not names:
        return ""
    count = len({item.video for item in items})
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return (
        f"{folder.path}: {count} of {count + len(names)} files are used; left out: {shown}. "
        f"Clips are {', '.join(VIDEO_FORMATS)}; each needs a caption"
    )


def read_caption(path: Path) -> str:
    """The text of a caption. Raises UserError if it is too long, or not text."""
    if path.is_file() and path.stat().st_size > MAX_CAPTION_BYTES:
        raise UserError(f"{path} has over {MAX_CAPTION_BYTES} bytes, too many for a caption; shorten it")
    return read_text(path).strip()


def companions(video: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of a video's name with these suffixes, in small or capital letters."""
    found = []
    for suffix in suffixes:
        spellings = video.with_suffix(suffix), video.with_suffix(suffix.upper())
        found += [path for path in spellings if path.is_file()][:1]
    return found


def companion_sound(video: Path) -> Path | None:
    """The sound file of a video's name. Raises UserError if there are several."""
    found = companions(video, AUDIO_FORMATS)
    if len(found) > 1:
        raise UserError(f"{video} has {len(found)} sound files of its name; keep one")
    return found[0] if found else None


def read_manifest(path: Path, within: Path | None = None) -> list[DatasetItem]:
    """The rows of a manifest; paths are relative to it. `within` is a folder that files must lie in."""
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} lists no clips")
    items = []
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        video, caption = column(row, VIDEO_KEYS), column(row, CAPTION_KEYS)
        if video is None or caption is None:
            raise UserError(
                f"{where} needs a clip ({', '.join(VIDEO_KEYS)}) and a caption ({', '.join(CAPTION_KEYS)})"
            )
        audio = column(row, AUDIO_KEYS)
        clip = resolve(video, path.parent, VIDEO_FORMATS, within, where)
        sound = resolve(audio, path.parent, AUDIO_FORMATS | VIDEO_FORMATS, within, where) if audio else None
        is_silent = str(row.get("sound", "")).lower() in ("false", "no", "0")
        sound = None if is_silent or sound == clip else sound or companion_sound(clip)
        start, end = seconds(row, "start", where) or 0.0, seconds(row, "end", where)
        if end is not None and end <= start:
            raise UserError(f"{where}: end {end:g} is not after start {start:g}")
        name = f"{video}#{start:g}" if start else video  # one file may be listed in several parts
        items.append(DatasetItem(name, clip, caption.strip(), sound, start, end, is_silent=is_silent))
    return items


def seconds(row: Mapping[str, Any], key: str, where: str) -> float | None:
    value = row.get(key)
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1e6:
        raise UserError(f"{where}: {key} {value!r} is not a number of seconds")
    return number


def column(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((row[key] for key in keys if isinstance(row.get(key), str) and row[key].strip()), None)


def resolve(name: str, folder: Path, formats: Mapping[str, str], within: Path | None, where: str) -> Path:
    path = folder / name
    # By the name alone: the Hub's cache links its files into a store outside the snapshot.
    if within is not None and (".." in Path(name).parts or Path(name).is_absolute()):
        raise UserError(f"{where}: {name} points out of the data set; such a data set is not read")
    if path.suffix.lower() not in formats:
        raise UserError(f"{where}: {name} is none of {', '.join(formats)}; convert it, or take the row out")
    if not path.is_file():
        raise UserError(f"{where}: there is no file {path}")
    return path
