"""All figures of a clip, and their meaning in plain words."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from mova.metrics.health import AudioHealth, VideoHealth, audio_health, video_health
from mova.metrics.sync import Sync, measure_sync, thumbnails

# ITU-R BT.1359: viewers notice sound that is 45 ms early or 125 ms late, and reject 90 early or 185 late.
NOTICED_MS = (-45, 125)
REJECTED_MS = (-90, 185)
LOUDEST_LUFS, SOFTEST_LUFS = -8.0, -38.0
CLIPPED = 0.001
SILENT = 0.95  # share of a clip: two seconds may hold one word. The paper filters training data at 0.8
NARROW_HZ = 1000  # the paper's gate
OFFSET = 0.02
POOR_PSNR_DB = 20
FLICKER_LEVELS = 2.0
FROZEN, PLAIN = 0.95, 0.5


@dataclass(frozen=True)
class ClipHealth:
    seconds: float
    sync: Sync
    audio: AudioHealth
    video: VideoHealth

    @property
    def synchrony(self) -> float:
        """Correlation (0..1) of sound and picture, 0 where the sound is early or late: compares clips."""
        sync = self.sync
        is_in_time = sync.offset_ms is not None and NOTICED_MS[0] <= sync.offset_ms <= NOTICED_MS[1]
        return max(0.0, sync.correlation) if is_in_time else 0.0

    def problems(self) -> tuple[str, ...]:
        """Problems of the clip, a sentence each."""
        return _sync_problems(self.sync) + _audio_problems(self.audio) + _video_problems(self.video)

    def sentences(self) -> tuple[str, ...]:
        """The clip in plain words: what is wrong or that nothing is, then how sound and picture match."""
        problems = self.problems()
        timing = (_timing(self.sync),)
        return problems + timing if problems else ("Picture and sound show no technical fault.", *timing)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the fields, whether the offset is clear, and the sentences."""
        figures = dataclasses.asdict(self)
        figures["sync"]["is_clear"] = self.sync.is_clear
        return figures | {"problems": list(self.problems()), "sentences": list(self.sentences())}


def measure(
    frames: np.ndarray,
    waveform: np.ndarray,
    sample_rate: int,
    frame_rate: float,
    first_frame: np.ndarray | None = None,
) -> ClipHealth:
    """The figures of a clip: frames uint8 [F, H, W, 3], waveform float [S] or [channels, S] in -1..1.

    `first_frame` uint8 [H, W, 3] is the picture that the clip was to start from.

    Raises:
        ValueError: sizes or types are not these, or the sound holds NaN or infinite values.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, not uint8 [F, H, W, 3]")
    channels = np.atleast_2d(np.asarray(waveform, np.float32))
    if channels.ndim != 2 or not 1 <= channels.shape[0] <= 8 or not channels.shape[1]:
        raise ValueError(f"waveform is {channels.shape}, not [S] or [channels, S]")
    if not np.isfinite(channels).all():
        raise ValueError("the waveform holds NaN or infinite values")
    if first_frame is not None and first_frame.shape != frames.shape[1:]:
        raise ValueError(f"first_frame is {first_frame.shape}, the clip's frames {frames.shape[1:]}")
    luma = thumbnails(frames)
    return ClipHealth(
        seconds=len(frames) / frame_rate,
        sync=measure_sync(luma, channels.mean(0), sample_rate, frame_rate),
        audio=audio_health(channels, sample_rate),
        video=video_health(frames, luma, first_frame),
    )


def _sync_problems(sync: Sync) -> tuple[str, ...]:
    if not sync.is_clear or sync.offset_ms is None or NOTICED_MS[0] <= sync.offset_ms <= NOTICED_MS[1]:
        return ()
    side = "after" if sync.offset_ms > 0 else "before"
    rejected = not REJECTED_MS[0] <= sync.offset_ms <= REJECTED_MS[1]
    weight = "this disturbs" if rejected else "attentive viewers notice"
    return (f"The sound comes {abs(sync.offset_ms):.0f} ms {side} what is seen: {weight}.",)


def _timing(sync: Sync) -> str:
    if sync.offset_ms is None or not sync.is_clear:
        return "Sync cannot be measured: picture and sound do not both have clear events."
    what = "lips and voice" if sync.evidence == "speech" else "sounds and what is seen"
    text = f"The timing of {what} matches (offset {sync.offset_ms:+.0f} ms)"
    if _sync_problems(sync):
        text = f"Apart from the shift of {sync.offset_ms:+.0f} ms the rhythm of {what} matches"
    if sync.rival_ms is not None:
        text += f"; the rhythm is so regular that {sync.rival_ms:+.0f} ms would fit nearly as well"
    return text + "."


def _audio_problems(audio: AudioHealth) -> tuple[str, ...]:
    if audio.loudness_lufs is None:
        return ("The clip is silent.",)
    problems = []
    if audio.silence_ratio > SILENT:
        problems.append(f"{audio.silence_ratio:.0%} of the clip is silent.")
    if audio.clipped_ratio > CLIPPED:
        problems.append(f"The sound is distorted: {audio.clipped_ratio:.1%} of it is cut off at full level.")
    if audio.loudness_lufs > LOUDEST_LUFS:
        problems.append(f"The sound is very loud ({audio.loudness_lufs:.0f} LUFS).")
    if audio.loudness_lufs < SOFTEST_LUFS:
        problems.append(f"The sound is very quiet ({audio.loudness_lufs:.0f} LUFS).")
    if audio.bandwidth_hz < NARROW_HZ:
        problems.append(f"The sound is dull: nothing is heard above {audio.bandwidth_hz:.0f} Hz.")
    if abs(audio.dc_offset) > OFFSET:
        problems.append(f"The sound has a constant offset of {audio.dc_offset:.0%}, which can make clicks.")
    return tuple(problems)


def _video_problems(video: VideoHealth) -> tuple[str, ...]:
    problems = []
    if video.plain_ratio > PLAIN:
        problems.append(f"{video.plain_ratio:.0%} of the picture's frames are of one plain colour.")
    if video.frozen_ratio > FROZEN:
        problems.append("The picture stands still.")
    if video.flicker_levels > FLICKER_LEVELS:
        problems.append("The picture flickers: its brightness jumps from frame to frame.")
    psnr = video.first_frame_psnr_db
    if psnr is not None and psnr < POOR_PSNR_DB:
        problems.append(f"The clip does not start from the given picture ({psnr:.0f} dB PSNR).")
    return tuple(problems)
