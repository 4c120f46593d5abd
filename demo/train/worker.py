"""Functions of the train tab's process, as they need torch or time: review clips, fix them, plan a run.

They take and return plain values, which cross between processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_trainer.clip_folder import ClipSet
from lora_trainer.doctor import SEVERITIES, Finding
from lora_trainer.jobs.hub import Offer
from lora_trainer.manifest import DatasetItem
from mova.errors import UserError

if TYPE_CHECKING:
    from lora_trainer.config import Config
    from lora_trainer.doctor import ExaminedClip

MEASURED_CLIPS = 64  # whose measurements are cached: a changed caption needs no new measurement
MEASUREMENTS = ("probe", "picture", "sound", "sample_rate", "digest", "tried")
PREVIEW_SIDE, PREVIEW_RATE, PREVIEW_SECONDS, PREVIEW_SAMPLES = 384, 24.0, 30.0, 48000
# Assumed of a rented machine: to install the toolkit, and to download and load the model.
SETUP_SECONDS, SETUP_BYTES_A_SECOND = 240, 150e6
SAFE_ACTS = {
    "black": "trim",
    "stereo": "one_channel",
}  # by the kind of a finding that is fixed without a guess
OFFLOADS = ("none", "experts", "layers")  # fastest first


@dataclass(frozen=True)
class ClipReview:
    """A clip as the page shows it; `preview` is None where the clip cannot be read."""

    name: str
    seconds: float
    height: int
    width: int
    preview: Path | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Review:
    """All clips, their seconds and windows to learn from, and their findings."""

    clips: tuple[ClipReview, ...] = ()
    seconds: float = 0.0
    windows: int = 0

    @property
    def fixable(self) -> int:
        """Findings that can be fixed without a guess."""
        return sum(finding.fixable for clip in self.clips for finding in clip.findings)

    @property
    def errors(self) -> list[Finding]:
        """Findings that keep clips out of training; a missing caption belongs to the next step."""
        found = [finding for clip in self.clips for finding in clip.findings]
        return [f for f in found if f.severity == "error" and f.kind != "caption"]

    @property
    def unusable(self) -> list[str]:
        """Names of the clips with such findings."""
        return sorted({finding.clip for finding in self.errors})

    @property
    def uncaptioned(self) -> list[str]:
        return [clip.name for clip in self.clips if any(f.kind == "caption" for f in clip.findings)]


@dataclass(frozen=True)
class Cost:
    """Cost of a run: bytes and seconds by part; `changes` are settings that made it fit."""

    card: str
    vram: int
    is_gpu: bool
    fits: bool
    device: dict[str, int]
    host: dict[str, int]
    disk: dict[str, int]
    seconds: dict[str, float]
    step_seconds: float
    advice: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)


def config_of(settings: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> "Config":
    from lora_trainer.config import read_config

    return read_config(None, {**settings, **(changes or {})})


def review(settings: Mapping[str, Any], items: Sequence[DatasetItem], previews: Path) -> Review:
    """The doctor's findings, and a small clip of each to play."""
    from lora_trainer.doctor import examine

    examination = examine(config_of(settings), items=list(items), read=read_once)
    clips = tuple(review_clip(clip, previews) for clip in examination.clips)
    return Review(clips, sum(w.seconds for w in examination.windows), len(examination.windows))


def review_clip(clip: "ExaminedClip", previews: Path) -> ClipReview:
    findings = sorted(clip.findings, key=lambda f: SEVERITIES.index(f.severity))
    if clip.probe is None or clip.picture is None:
        return ClipReview(clip.item.name, 0.0, 0, 0, None, tuple(findings))
    path = previews / f"{clip.digest[:24]}.mp4"
    if not path.is_file():
        write_preview(clip, path)
    probe = clip.probe
    return ClipReview(clip.item.name, probe.seconds, probe.height, probe.width, path, tuple(findings))


def write_preview(clip: "ExaminedClip", path: Path) -> None:
    """Write the clip small, in a form that every browser plays."""
    import numpy as np

    from lora_trainer.decode import read_frames, read_sound
    from mova.media.clips import write_mp4

    item, probe = replace(clip.item, start=0.0, end=None), clip.probe
    scale = min(1.0, PREVIEW_SIDE / max(probe.height, probe.width))
    height, width = (max(16, round(side * scale / 2) * 2) for side in (probe.height, probe.width))
    seconds = min(probe.seconds, PREVIEW_SECONDS)
    times = np.arange(max(1, int(seconds * PREVIEW_RATE))) / PREVIEW_RATE
    frames = read_frames(item, times, height, width)
    count = int(len(frames) / PREVIEW_RATE * PREVIEW_SAMPLES) + 1
    has_sound = clip.probe.has_sound
    sound = read_sound(item, 0.0, count, PREVIEW_SAMPLES) if has_sound else np.zeros(count, np.float32)
    try:
        write_mp4(path, frames, sound, PREVIEW_RATE, PREVIEW_SAMPLES, {}, overwrite=True)
    except UserError:
        if not path.is_file():  # else another review was quicker
            raise


@lru_cache(maxsize=MEASURED_CLIPS)
def measure(item: DatasetItem, stamps: tuple[tuple[int, int], ...]) -> "tuple[ExaminedClip, str]":
    """Measurements of a clip, and the fault that ended them; `stamps` tell changed files apart."""
    from lora_trainer.doctor import ExaminedClip, read_clip

    del stamps
    clip = ExaminedClip(item)
    try:
        read_clip(clip)
    except UserError as error:
        return clip, str(error)
    return clip, ""


def read_once(clip: "ExaminedClip") -> None:
    """Measure a clip, or recall the measurements of the same files. Raises UserError as `read_clip`."""
    files = [path for path in (clip.item.video, clip.item.audio) if path is not None and path.exists()]
    stamps = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    measured, fault = measure(replace(clip.item, caption=""), stamps)
    for name in MEASUREMENTS:
        setattr(clip, name, getattr(measured, name))
    if fault:
        raise UserError(fault)


def fix_clips(settings: Mapping[str, Any], clips: ClipSet) -> list[str]:
    """Fix what needs no guess; a sentence for each change."""
    from lora_trainer.doctor import examine

    changes = []
    for clip in examine(config_of(settings), items=clips.items(), read=read_once).clips:
        name, kinds = clip.item.name, {finding.kind for finding in clip.findings if finding.fixable}
        if "duplicate" in kinds:
            clips.remove(name)
            changes.append(f"{name} was there twice; one is left.")
            continue
        changes += [apply(clip, clips, act) for kind, act in SAFE_ACTS.items() if kind in kinds]
    return changes


def fix_clip(settings: Mapping[str, Any], clips: ClipSet, name: str, act: str) -> str:
    """Do what a button of a clip's card says; a sentence on it. Raises UserError: there is nothing to do."""
    from lora_trainer.doctor import examine

    items = [item for item in clips.items() if item.name == name]
    if not items:
        raise UserError(f"{name} is not here any more")
    (clip,) = examine(config_of(settings), items=items, read=read_once).clips
    return apply(clip, clips, act)


def apply(clip: "ExaminedClip", clips: ClipSet, act: str) -> str:
    """Note the change in `clips`, which leaves the files as they are; a sentence on it."""
    from lora_trainer.doctor import louder_channel, shifted_sound, trimmed

    name = clip.item.name
    found = {finding.kind: finding.values for finding in clip.findings}
    if act == "trim":
        item = trimmed(clip)
        clips.fix(name, start=item.start or None, end=item.end)
        until = "the end" if item.end is None else f"{item.end:.2f} s"
        return f"{name} is used from {item.start:.2f} s to {until}."
    if act == "one_channel":
        clips.fix(name, audio=louder_channel(clip, clips.folder).name)
        return f"{name} is heard from one of its two channels."
    if act == "shift" and "sync" in found:
        seconds = found["sync"]["seconds"]
        clips.fix(name, audio=shifted_sound(clip, seconds, clips.folder).name)
        return f"The sound of {name} is {abs(seconds):.2f} s {'earlier' if seconds > 0 else 'later'} now."
    if act == "split" and "cut" in found:
        parts = clips.split(name, found["cut"]["times"])
        return f"{name} is {len(parts) + 1} clips now. Say in each caption what it shows."
    if act == "picture_only":
        clips.fix(name, is_silent=True)
        return f"{name} teaches the picture only."
    raise UserError(f"{name} has changed since; look at it again")


def estimate_cost(
    settings: Mapping[str, Any], items: Sequence[DatasetItem], hardware: Offer | None = None
) -> Cost:
    """The cost of a run with the fastest offloading that fits.

    The machine is this one, or the rented `hardware`, which must be set up first.
    """
    from lora_trainer.plan.estimate import SHORTER, estimate_run, fitting
    from lora_trainer.plan.inputs import find_card, plan_inputs, rented_card

    config = config_of(settings)
    card = rented_card(config, hardware) if hardware else find_card(config, None)
    inputs = plan_inputs(config, list(items))
    plan, changes = estimate_run(config, card, inputs), {}
    for offload in OFFLOADS[1:] if card.is_gpu and not plan.fits else ():
        other = config_of(settings, {"run.offload": offload})
        if (then := estimate_run(other, card, inputs)).fits:
            config, plan, changes = other, then, {"run.offload": offload}
            break
    shorter = [{"data.num_frames": (count,)} for count in SHORTER if count < plan.largest.num_frames]
    found = [] if plan.fits else list(fitting(config, card, inputs, shorter))[:1]
    seconds_that_fit = [change["data.num_frames"][0] / config.data.frame_rate for change, _ in found]
    advice = tuple(f"Set Max clip length to {seconds:.1f} s or less." for seconds in seconds_that_fit)
    if not plan.fits and not advice:
        advice = ("Choose a lower rank under Advanced, or a machine with more memory.",)
    seconds, fits = plan.seconds, plan.fits
    if hardware:
        seconds = {"setup": SETUP_SECONDS + inputs.download / SETUP_BYTES_A_SECOND, **seconds}
        if fits and 0 < hardware.disk < sum(plan.disk.values()):
            fits, advice = False, (f"Its disk has {hardware.disk / 1e9:.0f} GB.",)
    return Cost(
        card.name, card.vram, card.is_gpu, fits, plan.device, plan.host, plan.disk, seconds,
        plan.step_seconds, advice, changes,
    )  # fmt: skip
