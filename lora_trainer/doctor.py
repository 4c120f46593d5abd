"""Findings about clips before they are trained on. No torch: the page shows them."""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lora_trainer import measurements
from lora_trainer.config import Config
from lora_trainer.decode import Probe, probe, read_channels, read_frames, read_sound
from lora_trainer.journal import Report
from lora_trainer.manifest import DatasetItem
from lora_trainer.measurements import Picture
from lora_trainer.windows import UnusableClipError, Window, caption_of, clips_of, windows_of
from mova.catalog import find_model
from mova.errors import UserError
from mova.files import new_output, sha256_of
from mova.media.clips import write_wav
from mova.metrics.health import audio_health
from mova.metrics.report import NOTICED_MS
from mova.metrics.sync import measure_sync
from mova.prompting.quotes import find_quotes
from mova.shapes import MAX_PROMPT_TOKENS
from mova.text import TokenMeter, count_words

logger = logging.getLogger(__name__)
SEVERITIES = ("error", "warning", "note")
SILENCE_GATE, BANDWIDTH_GATE = 0.8, 1000.0  # the paper's
LOUDNESS_RANGE = (-35.0, -12.0)  # LUFS
CLIPPED_GATE = 0.001
CANCELLED_DB = 6.0
FROZEN_GATE = 1.0  # seconds
START_GATE = 0.04  # seconds
NEAR = 0.01  # seconds: ends of parts are written rounded
TRIED, TRIED_RATE = (16, 16), 16000  # height and width, sample rate at which windows are tried
SYNC_RATE, SYNC_SECONDS = 24.0, 20.0  # frames a second and length that are looked at
TOKENS_PER_WORD = 1.5  # of UMT5 in English prose; only where no tokenizer is at hand
SPEAKING = re.compile(
    r"\b(says?|said|saying|speaks?|speaking|talks?|talking|asks?|tells?|sings?|singing)\b", re.I
)
FOLDER = "mended"
EVEN_LUFS = -23.0  # to which all clips may be brought
SHOT = 0.1  # seconds: a cut nearer to the end of a part or of black is that end
EDGE = 0.25  # seconds from the end of a part at which something still counts as being there


@dataclass(frozen=True)
class Finding:
    """A fault of a clip: `kind` names it and `values` has its numbers, for whoever has words of their own.

    `figure` and `fix` are the words of the command line. `fixable`: the function `fix` can correct it in a
    copy of the data set, without a guess.
    """

    clip: str
    kind: str
    severity: str
    figure: str
    fix: str
    fixable: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class ExaminedClip:
    """Measurements of one clip; parts that could not be read are None."""

    item: DatasetItem
    probe: Probe | None = None
    picture: Picture | None = None
    sound: np.ndarray | None = None  # float32 [1 or 2, S]
    sample_rate: int = 0
    digest: str = ""
    tried: dict[tuple[float, int, float], str] = field(default_factory=dict)  # what failed, "" for nothing
    findings: list[Finding] = field(default_factory=list)

    @property
    def mono(self) -> np.ndarray:
        return self.sound.mean(axis=0)

    @property
    def span(self) -> tuple[float, float]:
        """The seconds that are used."""
        end = self.probe.seconds if self.item.end is None else self.item.end
        return self.item.start, end

    @property
    def heard(self) -> np.ndarray:
        """The sound of the seconds that are used, float32 [1 or 2, S]."""
        start, end = (round(each * self.sample_rate) for each in self.span)
        return self.sound[:, start:end]


@dataclass(frozen=True)
class Examination:
    clips: list[ExaminedClip]
    windows: list[Window]

    @property
    def findings(self) -> list[Finding]:
        return [finding for clip in self.clips for finding in clip.findings]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


def examine(
    config: Config,
    report: Report = lambda *_: None,
    items: list[DatasetItem] | None = None,
    read: "Callable[[ExaminedClip], None] | None" = None,
) -> Examination:
    """Every finding about `items`, by default the data set of `config`.

    `read` measures a clip, by default from its file. Raises UserError if there is no data set at all.
    """
    items = clips_of(config) if items is None else items
    read = read or read_clip
    clips, windows = [], []
    for done, item in enumerate(items):
        report("clips", done, len(items))
        clip = ExaminedClip(item)
        clips.append(clip)
        with clip_errors(clip):
            read(clip)
            planned = windows_of(item, clip.probe, config.data, find_model(config.model))
            windows += planned
            clip.findings += check_windows(clip, planned)
        for check in (check_sound, check_streams, check_picture, check_caption):
            with clip_errors(clip):
                clip.findings += check(clip, config)
    report("clips", len(items), len(items))
    for clip, finding in check_duplicates([clip for clip in clips if not clip.item.is_regularization]):
        clip.findings.append(finding)
    return Examination(clips, windows)


@contextmanager
def clip_errors(clip: ExaminedClip) -> Iterator[None]:
    """Make whatever goes wrong in the block a finding of the clip: the other clips are still examined."""
    try:
        yield
    except Exception as error:
        logger.debug("%s", clip.item.name, exc_info=error)
        kind, values = "unreadable" if clip.picture is None else "unusable", {}
        if isinstance(error, UnusableClipError):
            kind, values = error.kind, {"seconds": error.seconds}
        figure = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        clip.findings.append(Finding(clip.item.name, kind, "error", figure, "see above", values=values))


def read_clip(clip: ExaminedClip) -> None:
    """Measure what can be; raises UserError at the first part that cannot."""
    item = clip.item
    clip.digest = sha256_of(item.video)
    clip.probe = probe(item)
    clip.picture = measurements.read_picture(item)
    if clip.probe.has_sound and not item.is_silent:
        length = min(clip.probe.seconds, measurements.MAX_SECONDS)
        clip.sound, clip.sample_rate = read_channels(item, 0.0, length)


def check_windows(clip: ExaminedClip, windows: list[Window]) -> Iterator[Finding]:
    """Read every window as training will; a finding if some cannot be read."""
    failures: list[tuple[float, str]] = []
    for window in windows:
        key = window.start, window.num_frames, window.frame_rate
        if key not in clip.tried:
            clip.tried[key] = failure(window)
        if clip.tried[key]:
            failures.append((window.start, clip.tried[key]))
    if failures:
        start, reason = failures[0]
        figure = f"{len(failures)} of {len(windows)} windows cannot be read, from {start:.2f} s: {reason}"
        fix = "export the clip again, or cut it there"
        yield Finding(clip.item.name, "windows", "error", figure, fix, values={"start": start})


def failure(window: Window) -> str:
    """The reason why a window cannot be read; empty if it can."""
    try:
        read_frames(window.item, window.times, *TRIED)
        if window.has_sound:
            read_sound(window.item, window.start, round(window.seconds * TRIED_RATE), TRIED_RATE)
    except UserError as error:
        return str(error)
    return ""


def check_sound(clip: ExaminedClip, config: Config) -> Iterator[Finding]:
    found = maker(clip)
    if clip.sound is None or not clip.heard.size:
        return
    facts = audio_health(clip.heard.mean(axis=0)[None], clip.sample_rate)
    silent, level = facts.silence_ratio, facts.loudness_lufs
    lost = measurements.cancellation(clip.heard)
    if lost >= CANCELLED_DB:
        fix = "the channels are in opposite phase; use one of them (--fix writes it)"
        yield found("stereo", "error", f"the mono mix loses {lost:.0f} dB", fix, fixable=True)
        return
    if silent >= SILENCE_GATE:
        severity = "error" if silent > 0.999 else "warning"
        yield found("silence", severity, f"{silent:.0%} silent", "take the clip out, or cut it to its sound")
    if silent > 0.999 or level is None:
        return
    if facts.clipped_ratio > CLIPPED_GATE:
        figure = f"{facts.clipped_ratio:.2%} of samples at full scale"
        yield found("clipping", "warning", figure, "export it less loud")
    if not LOUDNESS_RANGE[0] <= level <= LOUDNESS_RANGE[1] and config.data.loudness is None:
        fix = f"set data.loudness {EVEN_LUFS:g} to level all clips"
        yield found("loudness", "warning", f"{level:.0f} LUFS", fix, lufs=level)
    if facts.bandwidth_hz < BANDWIDTH_GATE:
        figure = f"nothing above {facts.bandwidth_hz:.0f} Hz"
        yield found("bandwidth", "warning", figure, "find a better recording")


def check_streams(clip: ExaminedClip, config: Config) -> Iterator[Finding]:
    found, facts = maker(clip), clip.probe
    if facts is None:
        return
    if facts.has_sound and not clip.item.is_silent:
        if abs(facts.sound_start) > START_GATE:
            late = f"sound starts {facts.sound_start:+.2f} s from the picture"
            fix = "it stays so; check that this is intended"
            yield found("start", "note", late, fix, seconds=facts.sound_start)
        end = facts.sound_start + facts.sound_seconds
        if min(clip.span[1], facts.seconds) - end > 0.25:
            missing = facts.seconds - end
            figure = f"sound ends {missing:.2f} s early"
            yield found("ends early", "warning", figure, "cut the clip there", seconds=missing, end=end)
    if facts.frame_rate < config.data.frame_rate * 0.8:
        figure = f"{facts.frame_rate:.3g} frames/s, trained at {config.data.frame_rate:g}"
        fix = "frames are repeated, so motion stutters; film at 24 up"
        yield found("frame rate", "warning", figure, fix, rate=facts.frame_rate)
    if clip.sound is not None and clip.picture is not None:
        luma = measurements.at_rate(clip.picture, SYNC_RATE, SYNC_SECONDS)
        wave = clip.mono[: int(len(luma) / SYNC_RATE * clip.sample_rate)]
        sync = measure_sync(luma, wave, clip.sample_rate, SYNC_RATE)
        if sync.is_clear and not NOTICED_MS[0] <= sync.offset_ms <= NOTICED_MS[1]:
            figure = f"sound is {sync.offset_ms / 1000:+.2f} s from what is seen"
            fix = "shift the sound in an editor, or take the clip out: desync is learnt too"
            yield found("sync", "warning", figure, fix, seconds=sync.offset_ms / 1000)


def check_picture(clip: ExaminedClip, config: Config) -> Iterator[Finding]:
    found, picture = maker(clip), clip.picture
    if picture is None:
        return
    if picture.corrupt:
        figure = f"{picture.corrupt} frames are corrupt"
        yield found("damage", "error", figure, "export the clip again", frames=picture.corrupt)
    first, last = clip.span
    start, end = measurements.frozen_span(picture)
    start, end = max(start, first), min(end, last)
    if end - start > FROZEN_GATE:
        figure = f"nothing moves for {end - start:.1f} s"
        at_edge = start <= first + EDGE or end >= last - EDGE
        yield found("frozen", "warning", figure, "cut that part out", start=start, end=end, at_edge=at_edge)
    black = measurements.black_spans(picture)
    for start, end in black:
        if end <= first + NEAR or start >= last - NEAR:
            continue  # not in the part that is used
        outer = start <= 0.05 or end >= picture.times[-1]
        fix = "cut it off (--fix leaves it out)" if outer else "cut that part out"
        figure = f"black from {start:.2f} to {end:.2f} s"
        yield found("black", "warning", figure, fix, fixable=outer, start=start, end=end, at_edge=outer)
    ends = [first, last, *(edge for span in black for edge in span)]
    if times := [
        time
        for time in measurements.cuts(picture)
        if first < time < last and min(abs(time - edge) for edge in ends) > SHOT
    ]:
        where = ", ".join(f"{time:.2f}" for time in times[:5])
        fix = 'split there; one row with "start" and "end" for each shot in metadata.jsonl does it'
        yield found("cut", "warning", f"{len(times)} hard cuts, at {where} s", fix, times=times)
    height, width = clip.probe.height, clip.probe.width
    model = find_model(config.model)
    if min(height, width) < 0.7 * min(model.height, model.width) and config.data.size is None:
        figure = f"{width}x{height}, trained at {model.width}x{model.height}"
        yield found("size", "warning", figure, "it is enlarged and teaches blur; set data.size lower")


def check_caption(clip: ExaminedClip, config: Config) -> Iterator[Finding]:
    found, caption = maker(clip), clip.item.caption
    if not caption:
        yield found("caption", "error", "the caption is empty", "write what is seen and heard")
        return
    if SPEAKING.search(caption) and not find_quotes(caption):
        fix = 'write the words: She says, "Good morning."'
        yield found("quotes", "warning", "somebody speaks or sings, no words are quoted", fix)
    elif clip.sound is not None and not find_quotes(caption):
        syllables = measurements.speech_score(clip.heard.mean(axis=0), clip.sample_rate)
        if syllables > measurements.SPEECH_GATE:
            fix = "if somebody speaks, quote the words"
            yield found("quotes", "note", "it sounds like speech, no words are quoted", fix)
    tokens, exact = token_count(caption_of(clip.item, config.data), config.model)
    if tokens > MAX_PROMPT_TOKENS:
        figure = f"{'' if exact else 'about '}{tokens} tokens, {MAX_PROMPT_TOKENS} are read"
        yield found("long caption", "error" if exact else "warning", figure, "shorten it", tokens=tokens)


def check_duplicates(clips: list[ExaminedClip]) -> Iterator[tuple[ExaminedClip, Finding]]:
    """The same file twice, clips that look the same, and captions used for several clips."""
    files, captions = defaultdict(list), defaultdict(list)
    for clip in clips:
        part = (clip.digest, clip.item.start, clip.item.end)
        files[part].append(clip)
        captions[clip.item.caption].append(clip)
    for (digest, *_), same in files.items():
        for clip in same[1:] if digest else []:
            figure, values = f"the same file as {same[0].item.name}", {"other": same[0].item.name}
            fix = "keep one (--fix does)"
            yield clip, Finding(clip.item.name, "duplicate", "warning", figure, fix, True, values)
    different = [clip for same in files.values() for clip in same[:1] if clip.picture is not None]
    for index, clip in enumerate(different):
        twin = next((other for other in different[:index] if looks_same(clip, other)), None)
        if twin is not None and clip.digest != twin.digest:  # else two parts of a file
            figure, values = f"looks the same as {twin.item.name}", {"other": twin.item.name}
            fix = "keep the better one"
            yield clip, Finding(clip.item.name, "duplicate", "warning", figure, fix, values=values)
    for caption, same in captions.items():
        for clip in same[1:] if caption else []:
            figure = f"the same caption as {same[0].item.name}"
            fix, values = "describe what differs, or it cannot be asked for", {"other": same[0].item.name}
            yield clip, Finding(clip.item.name, "same caption", "warning", figure, fix, values=values)


def looks_same(one: ExaminedClip, other: ExaminedClip) -> bool:
    """True if two clips show the same at 16 moments, up to differences in encoding."""
    lengths = one.picture.times[-1], other.picture.times[-1]
    shapes = one.picture.frames.shape[1:], other.picture.frames.shape[1:]
    if abs(lengths[0] - lengths[1]) > 0.2 or shapes[0] != shapes[1]:
        return False
    moments = np.linspace(0, min(lengths), 16)
    frames = [
        clip.picture.frames[
            np.searchsorted(clip.picture.times, moments - 1e-3).clip(0, len(clip.picture.times) - 1)
        ]
        for clip in (one, other)
    ]
    return float(np.abs(frames[0].astype(np.int16) - frames[1]).mean()) < 1.5


def token_count(caption: str, model: str) -> tuple[int, bool]:
    """Tokens of a caption, and whether they were counted; else it is a guess, as nothing is downloaded."""
    folder = Path(find_model(model).source).expanduser()
    if (folder / "tokenizer" / "tokenizer.json").is_file():
        return TokenMeter(folder).count(caption), True
    return round(TOKENS_PER_WORD * count_words(caption)), False


def maker(clip: ExaminedClip) -> Callable[..., Finding]:
    def found(
        kind: str, severity: str, figure: str, fix: str, fixable: bool = False, **values: object
    ) -> Finding:
        return Finding(clip.item.name, kind, severity, figure, fix, fixable, values)

    return found


def without_black_ends(clip: ExaminedClip) -> DatasetItem:
    """The item without black at its start and end."""
    item = clip.item
    start, end = item.start, item.end
    for black_start, black_end in measurements.black_spans(clip.picture):
        if black_start <= 0.05:
            start = max(start, black_end)
        elif black_end >= clip.picture.times[-1]:
            end = min(black_start, np.inf if end is None else end)
    return replace(item, start=start, end=end)


def trimmed(clip: ExaminedClip) -> DatasetItem:
    """The item without what is black, still or silent at its start and end, as its findings have it."""
    start, end = first, last = clip.span
    for finding in clip.findings:
        values = finding.values
        if finding.kind == "ends early":
            end = min(end, values["end"])
        elif finding.kind in ("black", "frozen") and values["start"] <= first + EDGE:
            start = max(start, values["end"])
        elif finding.kind in ("black", "frozen") and values["end"] >= last - EDGE:
            end = min(end, values["start"])
    return replace(clip.item, start=start, end=None if end == clip.probe.seconds else end)


def fix(examination: Examination, config: Config) -> Iterator[str]:
    """Write OUTPUT/mended/metadata.jsonl; yields a sentence for each change, and the folder to train on."""
    folder = config.output / FOLDER
    rows, changes = [], 0
    for clip in (clip for clip in examination.clips if not clip.item.is_regularization):
        kinds = {finding.kind for finding in clip.findings if finding.fixable}
        changes += len(kinds)
        if "duplicate" in kinds:
            yield f"{clip.item.name}: left out, it is there twice"
            continue
        item = clip.item
        if "black" in kinds:
            item = without_black_ends(clip)
            until = "the end" if item.end is None else f"{item.end:.2f} s"
            yield f"{clip.item.name}: used from {item.start:.2f} s to {until}"
        if "stereo" in kinds:
            item = replace(item, audio=louder_channel(clip, folder))
            yield f"{clip.item.name}: its sound is one channel, {item.audio.name}"
        rows.append(row_of(item, folder))
    if not changes:
        yield "nothing here can be fixed without a guess"
        return
    path = folder / "metadata.jsonl"
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    yield f"fixed: train with --data {folder}"


def row_of(item: DatasetItem, folder: Path) -> dict[str, object]:
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
    if item.is_silent:
        row["sound"] = False
    return row


def louder_channel(clip: ExaminedClip, folder: Path) -> Path:
    """Write the stronger channel of a clip's sound next to the manifest, and return its path."""
    sound, rate = read_channels(clip.item, 0.0, clip.probe.seconds)  # the clip's own was cut at a limit
    channel = sound[int(np.square(sound).mean(axis=1).argmax())]
    path = folder / f"{clip.digest[:16]}.wav"
    write_wav(path, channel, rate, overwrite=True)
    return path


def shifted_sound(clip: ExaminedClip, seconds: float, folder: Path) -> Path:
    """Write a clip's sound `seconds` earlier into `folder`, and return its path."""
    sound, rate = read_channels(clip.item, 0.0, clip.probe.seconds)
    count = round(seconds * rate)
    silence = np.zeros((len(sound), abs(count)), np.float32)
    moved = [sound[:, count:], silence] if count > 0 else [silence, sound[:, : sound.shape[1] + count]]
    path = folder / f"{clip.digest[:16]}-{round(1000 * seconds):+d}ms.wav"
    write_wav(path, np.concatenate(moved, axis=1), rate, overwrite=True)
    return path
