"""Which clips there are, with their captions: a folder, a manifest file, or a dataset repo of the Hub."""

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mova import hub
from mova.errors import UserError
from mova.media.formats import AUDIO_FORMATS, VIDEO_FORMATS

MANIFESTS = ("metadata.jsonl", "metadata.csv", "metadata.json")
HUB = "hf://datasets/"
WANTED = [*MANIFESTS, "*.txt", *(f"*{suffix}" for suffix in VIDEO_FORMATS | AUDIO_FORMATS)]
# What other trainers call the same columns.
VIDEO_KEYS = ("video", "video_path", "file_name", "file_path", "media_path", "path")
AUDIO_KEYS = ("audio", "audio_path", "input_audio")
CAPTION_KEYS = ("caption", "prompt", "text")
MAX_CAPTION_BYTES = 100_000


@dataclass(frozen=True)
class DatasetItem:
    """One clip: `name` is its path in the data set; `audio` is None where the sound is in the container.

    Only its seconds from `start` to `end` (None: the end of the file) are used. One that is `kept` shows what
    the model can already.
    """

    name: str
    video: Path
    caption: str
    audio: Path | None = None
    start: float = 0.0
    end: float | None = None
    kept: bool = False


def read_clips(source: str, keep: str | None) -> list[DatasetItem]:
    """The clips of `source` and after them those of `keep`, whose names begin with "keep/".

    Raises:
        UserError: as `read_items`, or a clip is in both.
    """
    items = read_items(source)
    if keep is None:
        return items
    try:
        kept = [replace(item, name=f"keep/{item.name}", kept=True) for item in read_items(keep)]
    except UserError as error:
        raise UserError(f"data.keep: {error}; `python -m lora_trainer keep` makes clips for it") from error
    learnt = {item.video.resolve() for item in items}
    if twice := [item.name for item in kept if item.video.resolve() in learnt]:
        raise UserError(f"data.keep: {', '.join(twice[:5])} also in data.path; keep the two folders apart")
    return items + kept


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
        manifest = next((path / name for name in MANIFESTS if (path / name).is_file()), None)
        items = read_manifest(manifest, within) if manifest else scan_folder(path)
    elif path.is_file():
        items = read_manifest(path, within)
    else:
        raise UserError(f"there are no clips at {source}; give a folder, a manifest or {HUB}OWNER/NAME")
    names = [item.name for item in items]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source} lists {', '.join(twice)} more than once; keep one row of each")
    return sorted(items, key=lambda item: item.name)


def scan_folder(folder: Path) -> list[DatasetItem]:
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_FORMATS)
    if not videos:
        raise UserError(
            f"{folder} holds no clips ({', '.join(VIDEO_FORMATS)}); put clips and .txt captions there"
        )
    missing = [video.name for video in videos if not video.with_suffix(".txt").is_file()]
    if missing:
        raise UserError(
            f"{folder}: {', '.join(missing)} lack a caption; write what is seen and heard into NAME.txt"
        )
    return [
        DatasetItem(
            str(video.relative_to(folder)),
            video,
            read_caption(video.with_suffix(".txt")),
            sound_beside(video),
        )
        for video in videos
    ]


def read_caption(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CAPTION_BYTES:
            raise UserError(f"{path} has over {MAX_CAPTION_BYTES} bytes, too many for a caption; shorten it")
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a caption ({error}); save it as UTF-8 text") from error


def sound_beside(video: Path) -> Path | None:
    found = [video.with_suffix(suffix) for suffix in AUDIO_FORMATS if video.with_suffix(suffix).is_file()]
    if len(found) > 1:
        raise UserError(f"{video} has {len(found)} sound files beside it; keep one")
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
        sound = None if sound == clip else sound or sound_beside(clip)
        start, end = seconds(row, "start", where) or 0.0, seconds(row, "end", where)
        if end is not None and end <= start:
            raise UserError(f"{where}: end {end:g} is not after start {start:g}")
        name = f"{video}#{start:g}" if start else video  # one file may be listed in several parts
        items.append(DatasetItem(name, clip, caption.strip(), sound, start, end))
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
        raise UserError(f"{where}: {key} {value!r} is no number of seconds")
    return number


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".csv":
            rows: Any = list(csv.DictReader(text.splitlines()))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix == ".json":
            rows = json.loads(text)
        else:
            raise UserError(f"{path} is no manifest; give a folder, or a .jsonl, .csv or .json file")
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as {path.suffix} ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be a list of rows with a clip and a caption each")
    return rows


def column(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((row[key] for key in keys if isinstance(row.get(key), str) and row[key].strip()), None)


def resolve(name: str, folder: Path, formats: Mapping[str, str], within: Path | None, where: str) -> Path:
    path = folder / name
    # By the name alone: the Hub's cache links its files into a store beside the snapshot.
    if within is not None and (".." in Path(name).parts or Path(name).is_absolute()):
        raise UserError(f"{where}: {name} points out of the data set; such a data set is not read")
    if path.suffix.lower() not in formats:
        raise UserError(f"{where}: {name} is none of {', '.join(formats)}; convert it, or take the row out")
    if not path.is_file():
        raise UserError(f"{where}: there is no file {path}")
    return path
