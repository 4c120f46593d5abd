"""`python -m mova evaluate`: measure clips, for people and for programs."""

import json
import sys
from pathlib import Path

import numpy as np

from mova.errors import UserError, printable
from mova.media.clips import read_clip, read_settings
from mova.media.images import load_first_frame
from mova.metrics.report import ClipHealth, measure
from mova.request import GenerationRequest, check_source


def evaluate_clips(paths: list[Path], image: Path | None = None, as_json: bool = False) -> int:
    """Print the figures of each clip and return the exit code: 2 if one could not be read, else 0."""
    results, code = [], 0
    for path in paths:
        try:
            health = evaluate_clip(path, image)
        except UserError as error:
            code = 2
            if as_json:
                results.append({"file": str(path), "error": str(error)})
            sys.stderr.write(f"error: {printable(str(error))}\n")
            continue
        if as_json:
            results.append({"file": str(path)} | health.to_dict())
        else:
            sys.stdout.write(describe(path, health))
    if as_json:
        sys.stdout.write(json.dumps(results, indent=2, allow_nan=False) + "\n")
    return code


def evaluate_clip(path: Path, image: Path | None = None) -> ClipHealth:
    """The figures of the clip at `path`, against `image` or, if it is there, that of its settings.

    Raises:
        UserError: the clip or `image` cannot be read.
    """
    clip = read_clip(path)
    height, width = clip.frames.shape[1:3]
    first = load_first_frame(image, height, width) if image else _own_first_frame(path, height, width)
    return measure(clip.frames, clip.waveform, clip.sample_rate, clip.frame_rate, first)


def describe(path: Path, health: ClipHealth) -> str:
    """The sentences, then a line for each figure."""
    sync, audio, video = health.sync, health.audio, health.video
    figures = {
        "offset": _figure(sync.offset_ms, "+.0f", "ms") + ("" if sync.is_clear else ", not clear"),
        "found by": f"{sync.evidence}, confidence {sync.confidence:.2f}, {sync.sound_events} onsets",
        "fit": f"{sync.correlation:.2f}, unrelated sounds {sync.baseline:.2f}",
        "loudness": _figure(audio.loudness_lufs, ".1f", "LUFS"),
        "peak": _figure(audio.peak_db, ".1f", "dBFS") + f", {audio.clipped_ratio:.2%} cut off",
        "silence": f"{audio.silence_ratio:.0%}",
        "bandwidth": f"{audio.bandwidth_hz:.0f} Hz",
        "constant offset": f"{audio.dc_offset:+.4f}",
        "first frame": _figure(video.first_frame_psnr_db, ".1f", "dB PSNR"),
        "motion": f"{video.motion_levels:.2f} levels a frame, {video.frozen_ratio:.0%} of frames still",
        "flicker": f"{video.flicker_levels:.2f} levels",
        "plain frames": f"{video.plain_ratio:.0%}",
    }
    lines = [f"{printable(str(path))}: {health.seconds:.2f} s", *health.sentences()]
    lines += [f"  {name:<16}{value}" for name, value in figures.items()]
    return "\n".join(lines) + "\n"


def _own_first_frame(path: Path, height: int, width: int) -> np.ndarray | None:
    """The picture the clip's settings name, if the clip has settings and the picture is there unchanged."""
    try:
        settings = read_settings(path)
        request = GenerationRequest.from_settings(settings)
        if request.image is None:
            return None
        check_source("image", request.image, settings.get("image_sha256"))
        return load_first_frame(request.image, height, width, request.fit, request.crop_position)
    except UserError:  # a clip of another tool, a moved picture: there is nothing to compare with
        return None


def _figure(value: float | None, form: str, unit: str) -> str:
    return "none" if value is None else f"{value:{form}} {unit}"
