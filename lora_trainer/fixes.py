"""What the doctor can mend without a guess: in a manifest that refers to the clips, which stay as they are.

A file listed twice is listed once; black at the ends is left out by seconds; of stereo in opposite phase one
channel is written as the clip's sound. Everything else is for a person to decide.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lora_trainer.config import Config
from lora_trainer.doctor import Clip, Examination, without_black_ends
from lora_trainer.manifest import Item
from lora_trainer.reading import read_channels
from mova.media import write_wav
from mova.outputs import new_output

FOLDER = "mended"


def mend(examination: Examination, config: Config) -> Iterator[str]:
    """Write OUTPUT/mended/metadata.jsonl; yields a sentence for each change, and the folder to train on."""
    folder = config.output / FOLDER
    rows, changes = [], 0
    for clip in (clip for clip in examination.clips if not clip.item.kept):
        checks = {finding.check for finding in clip.findings if finding.fixable}
        changes += len(checks)
        if "duplicate" in checks:
            yield f"{clip.item.name}: left out, it is there twice"
            continue
        item = clip.item
        if "black" in checks:
            item = without_black_ends(clip)
            until = "the end" if item.end is None else f"{item.end:.2f} s"
            yield f"{clip.item.name}: used from {item.start:.2f} s to {until}"
        if "stereo" in checks:
            item = replace(item, audio=louder_channel(clip, folder))
            yield f"{clip.item.name}: its sound is one channel, {item.audio.name}"
        rows.append(row_of(item, folder))
    if not changes:
        yield "nothing here can be mended without a guess"
        return
    path = folder / "metadata.jsonl"
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    yield f"mended: train with --data {folder}"


def row_of(item: Item, folder: Path) -> dict[str, object]:
    paths = {"video": item.video, "audio": item.audio}
    row: dict[str, object] = {
        key: os.path.relpath(path.resolve(), folder.resolve())
        for key, path in paths.items()
        if path is not None
    }
    row["caption"] = item.caption
    if item.start:
        row["start"] = round(item.start, 4)
    if item.end is not None:
        row["end"] = round(item.end, 4)
    return row


def louder_channel(clip: Clip, folder: Path) -> Path:
    """Write the stronger channel of a clip's sound beside the manifest, and return its path."""
    sound, rate = read_channels(clip.item, 0.0, clip.probe.seconds)  # the clip's own was cut at a limit
    channel = sound[int(np.square(sound).mean(axis=1).argmax())]
    path = folder / f"{clip.digest[:16]}.wav"
    write_wav(path, channel, rate, overwrite=True)
    return path
