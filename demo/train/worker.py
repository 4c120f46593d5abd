"""What the page has done in a process beside it, as it needs torch or time: look over clips, count the cost.

The functions take and give plain values, which travel between processes.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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

REMEMBERED = 64  # clips whose measurements are kept: a changed caption needs no new look at the picture
PREVIEW_SIDE, PREVIEW_RATE, PREVIEW_SECONDS, PREVIEW_SAMPLES = 384, 24.0, 30.0, 48000
# Of a rented machine, assumed: to install the toolkit, and to download and load the model.
SETUP_SECONDS, SETUP_BYTES_A_SECOND = 240, 150e6
OFFLOADS = ("none", "experts", "layers")  # the faster first
_measured: OrderedDict[tuple[object, ...], dict[str, Any]] = OrderedDict()


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
class Looks:
    """All clips, what they amount to, and how many findings can be mended without a guess."""

    clips: tuple[ClipReview, ...] = ()
    seconds: float = 0.0
    windows: int = 0

    @property
    def fixable(self) -> int:
        return sum(finding.fixable for clip in self.clips for finding in clip.findings)

    @property
    def errors(self) -> list[Finding]:
        """What keeps clips from being learnt from; a missing caption is for the next step."""
        found = [finding for clip in self.clips for finding in clip.findings]
        return [f for f in found if f.severity == "error" and f.check != "caption"]

    @property
    def uncaptioned(self) -> int:
        return sum(finding.check == "caption" for clip in self.clips for finding in clip.findings)


@dataclass(frozen=True)
class Cost:
    """What a run would take: bytes by part, seconds by what takes them; `changes` made it fit."""

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


def review(settings: Mapping[str, Any], items: Sequence[DatasetItem], previews: Path) -> Looks:
    """The doctor's findings, and a small clip of each to play."""
    from lora_trainer.doctor import examine

    examination = examine(config_of(settings), items=list(items), read=remembered)
    clips = tuple(look_of(clip, previews) for clip in examination.clips)
    return Looks(clips, sum(w.seconds for w in examination.windows), len(examination.windows))


def fix_clips(settings: Mapping[str, Any], clips: ClipSet) -> list[str]:
    """Mend what needs no guess; a sentence for each change."""
    from lora_trainer.doctor import examine, louder_channel, without_black_ends

    told = []
    for clip in examine(config_of(settings), items=clips.items(), read=remembered).clips:
        name, checks = clip.item.name, {finding.check for finding in clip.findings if finding.fixable}
        if "duplicate" in checks:
            clips.remove(name)
            told.append(f"{name} was there twice: one is left.")
            continue
        if "black" in checks:
            item = without_black_ends(clip)
            clips.fix(name, start=item.start or None, end=item.end)
            until = "the end" if item.end is None else f"{item.end:.2f} s"
            told.append(f"{name} is used from {item.start:.2f} s to {until}.")
        if "stereo" in checks:
            clips.fix(name, audio=louder_channel(clip, clips.folder).name)
            told.append(f"{name} is heard from one of its two channels.")
    return told


def estimate_cost(
    settings: Mapping[str, Any], items: Sequence[DatasetItem], hardware: Offer | None = None
) -> Cost:
    """The plan of a run, with frozen weights kept where it fits the machine, the fastest way first.

    The machine is this one, or one that is rented, which must be set up first.
    """
    from lora_trainer.plan.estimate import advise, estimate_run
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
    advice = () if plan.fits else tuple(advise(config, card, inputs, plan))
    seconds, fits = plan.seconds, plan.fits
    if hardware:
        seconds = {"setup": SETUP_SECONDS + inputs.download / SETUP_BYTES_A_SECOND, **seconds}
        if fits and 0 < hardware.disk < sum(plan.disk.values()):
            fits, advice = False, (f"Its disk has {hardware.disk / 1e9:.0f} GB.",)
    return Cost(
        card.name, card.vram, card.is_gpu, fits, plan.device, plan.host, plan.disk, seconds,
        plan.step_seconds, advice, changes,
    )  # fmt: skip


def config_of(settings: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> "Config":
    from lora_trainer.config import read_config

    return read_config(None, {**settings, **(changes or {})})


def remembered(clip: "ExaminedClip") -> None:
    """Measure a clip, or recall what was measured of the same file."""
    from lora_trainer.doctor import read_clip

    files = [path for path in (clip.item.video, clip.item.audio) if path is not None]
    key = (*((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files if f.exists()), clip.item.start)
    if key not in _measured:
        read_clip(clip)
        _measured[key] = {
            name: getattr(clip, name)
            for name in ("probe", "picture", "sound", "sample_rate", "digest", "tried")
        }
        while len(_measured) > REMEMBERED:
            _measured.popitem(last=False)
    for name, value in _measured[key].items():
        setattr(clip, name, value)


def look_of(clip: "ExaminedClip", previews: Path) -> ClipReview:
    findings = sorted(clip.findings, key=lambda f: SEVERITIES.index(f.severity))
    if clip.probe is None or clip.picture is None:
        return ClipReview(clip.item.name, 0.0, 0, 0, None, tuple(findings))
    path = previews / f"{clip.digest[:24]}.mp4"
    if not path.is_file():
        write_preview(clip, path)
    probe = clip.probe
    return ClipReview(clip.item.name, probe.seconds, probe.height, probe.width, path, tuple(findings))


def write_preview(clip: "ExaminedClip", path: Path) -> None:
    """The clip, small, as every browser plays it."""
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
        if not path.is_file():  # else another look was quicker
            raise
