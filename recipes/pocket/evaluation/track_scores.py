"""Figures and scores of clips of which a track, or a part of one, was given."""

from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np

from recipes.pocket.evaluation import seams
from recipes.pocket.evaluation.aggregate import NEAR, Scores, agreement, event_offsets, score
from recipes.pocket.evaluation.detect import LARGEST_LAG, lag_correlations
from recipes.pocket.evaluation.evaluate import FIRST_SEED
from recipes.pocket.evaluation.measure import Figures, measure
from recipes.pocket.evaluation.recognise import onsets
from recipes.pocket.evaluation.seams import Frames, Span
from recipes.pocket.evaluation.track_runs import EXTENDED, Media, TrackCase, TrackRun
from recipes.pocket.world.clip import FRAME_RATE, NUM_FRAMES, SAMPLE_RATE
from recipes.pocket.world.render import make_scene

# Parts of a whole clip as long as what a window adds: events at a cut count less in both.
CUT_ALIKE: tuple[Frames, ...] = ((0, NUM_FRAMES - EXTENDED.overlap), (EXTENDED.overlap, NUM_FRAMES))
SPEAKER_SCENES = 96  # true clips among which the voices of speakers are compared
QUIET = 0.01  # root mean square; a face's window below it is left out of the lips' score


def measure_run(run: TrackRun, case: TrackCase, media: Media) -> Figures:
    """Figures of one clip; those of an extended one, and of a joint one beside it, are split at windows."""
    frames, waveform = media
    clip = case.clip
    figures = measure(frames, waveform, case.expected) | {"seed": case.seed}
    if clip.family == "ball" and run.video and not (run.regenerate_video or run.windows):
        # The picture is the true one: every true impact has to be heard.
        figures["seen_seconds"] = [(impact.frame + 0.5) / FRAME_RATE for impact in clip.events.impacts]
    video_spans, audio_spans = run.made_spans(media)
    if run.video:
        figures["picture_change"] = seams.picture_change(clip.frames, frames, video_spans)
    if run.audio:
        figures["sound_change"] = seams.sound_change(clip.waveform, waveform, audio_spans)
    if video_spans or audio_spans:
        figures |= _measure_seams(case, frames, waveform, figures, video_spans, audio_spans)
    if windows := _windows(run, len(frames)):
        figures["windows"] = [window_figures(clip.family, figures, *window) for window in windows]
    if run.windows > 1:
        figures |= _measure_additions(clip.family, frames, waveform, windows)
    return figures


def _measure_seams(
    case: TrackCase,
    frames: np.ndarray,
    waveform: np.ndarray,
    figures: Figures,
    video_spans: Sequence[Span],
    audio_spans: Sequence[Span],
) -> Figures:
    true = case.clip
    found: Figures = {}
    cuts = [cut for cut in seams.picture_seams(video_spans, len(frames)) if cut < len(true.frames)]
    if cuts:
        found["picture_steps"] = seams.picture_steps(frames, cuts)
        found["true_picture_steps"] = seams.picture_steps(true.frames, cuts)
    edges = seams.sound_seams(audio_spans, len(waveform) / SAMPLE_RATE)
    if edges:
        found["level_steps"] = [seams.level_step(waveform, edge) for edge in edges]
        found["true_level_steps"] = [seams.level_step(true.waveform, edge) for edge in edges]
        found["clicks"] = [seams.is_click(waveform, edge) for edge in edges]
        heard = figures.get("heard_seconds", onsets(waveform).tolist())
        explained = [*figures.get("seen_seconds", ()), *onsets(true.waveform)]
        found["extra_onsets"] = seams.extra_onsets(heard, explained, edges)
    return found


def _windows(run: TrackRun, num_frames: int) -> Sequence[Frames]:
    """The true clip and what each window adds to it, of an extended clip; else the parts of a joint one."""
    if run.windows > 1:
        return list(pairwise([0, *range(NUM_FRAMES, num_frames + 1, NUM_FRAMES - run.overlap)]))
    return () if run.video or run.audio else CUT_ALIKE


def _measure_additions(
    family: str, frames: np.ndarray, waveform: np.ndarray, windows: Sequence[Frames]
) -> Figures:
    """The clicks at all seams of an extended clip, its colour and its voice."""
    found: Figures = {
        "clicks": [seams.is_click(waveform, start / FRAME_RATE) for start, _ in windows[1:]],
        "colour_drift": seams.colour_drift(frames, windows),
    }
    if family == "face":
        first, *others = _voices(waveform, windows)
        found["voice_distances"] = [seams.voice_distance(first, other) for other in others]
    return found


def _voices(waveform: np.ndarray, parts: Sequence[Frames]) -> list[np.ndarray | None]:
    """The voice spectrum of each part of a clip."""
    samples = [[round(edge / FRAME_RATE * SAMPLE_RATE) for edge in part] for part in parts]
    return [seams.voice_spectrum(waveform[first:end]) for first, end in samples]


def window_figures(family: str, figures: Figures, first: int, last: int) -> Figures:
    """Figures of the frames from `first` up to `last`: events that are seen there, and sounds near them."""
    if family == "face":
        loud = np.array(figures["loudness"][first:last])
        opening = np.array(figures["opening"][first:last])
        said = bool(np.sqrt(np.mean(loud**2)) > QUIET)
        return {"correlation": float(lag_correlations(opening, loud)[LARGEST_LAG]) if said else None}
    start, end, near = first / FRAME_RATE, last / FRAME_RATE, NEAR / FRAME_RATE
    seen = [start <= at < end for at in figures["seen_seconds"]]
    heard = [start - near <= at < end + near for at in figures["heard_seconds"]]
    chosen = {"seen_seconds": seen, "heard_seconds": heard}
    if family == "piano":
        chosen |= {"seen": seen, "heard": heard}
    return {
        name: [value for value, inside in zip(figures[name], flags, strict=True) if inside]
        for name, flags in chosen.items()
    }


def score_run(family: str, rows: Sequence[Figures]) -> Scores:
    """Scores of a family's clips in one run. Shares are 0..1, levels are of 255."""
    found = score(family, rows)
    for key in ("picture_change", "sound_change"):
        if key in rows[0]:
            found[key] = float(max(row[key] for row in rows))
    if "picture_steps" in rows[0]:
        made, true = (
            np.concatenate([row[key] for row in rows]) for key in ("picture_steps", "true_picture_steps")
        )
        found |= {"picture_step": float(made.mean()), "true_picture_step": float(true.mean())}
        found["picture_step_ratio"] = float(made.mean() / max(true.mean(), 1e-6))
    if "level_steps" in rows[0]:
        for name, key in (("level_step", "level_steps"), ("true_level_step", "true_level_steps")):
            found[name] = float(np.percentile(np.concatenate([row[key] for row in rows]), 95))
        found["clicks"] = float(np.mean(np.concatenate([row["clicks"] for row in rows])))
        found["extra_onsets"] = float(np.mean([row["extra_onsets"] for row in rows]))
    if "windows" in rows[0]:
        windows = [
            score_windows(family, parts) for parts in zip(*(row["windows"] for row in rows), strict=True)
        ]
        found |= {f"window_{index + 1}": value for index, value in enumerate(windows) if value is not None}
        found["worst_window"] = min(value for value in windows if value is not None)
    if "colour_drift" in rows[0]:
        found["colour_drift"] = float(np.mean([max(row["colour_drift"]) for row in rows]))
    if "voice_distances" in rows[0]:
        distances = [each for row in rows for each in row["voice_distances"] if each is not None]
        found["voice_distance"] = float(np.mean(distances)) if distances else 0.0
    return found


def score_windows(family: str, windows: Sequence[Figures]) -> float | None:
    """Synchrony of one window over all clips in which something happens; None if there are none."""
    if family == "face":
        values = [each["correlation"] for each in windows if each["correlation"] is not None]
        return float(np.mean(values)) if values else None
    active = [each for each in windows if each["seen_seconds"] or each["heard_seconds"]]
    if not active:
        return None
    if family == "piano":
        return agreement(active)
    return float((np.abs(event_offsets(active, 0)) <= NEAR).mean())


def speaker_distances(speech: Path) -> Scores:
    """Mean voice distance in decibels of true clips by one speaker with other words, and by two speakers.

    As with an extended clip, a whole clip is compared with parts as long as an added window.
    """
    scenes = [
        make_scene(FIRST_SEED + index, "face", "train", speech, pictures=False)
        for index in range(SPEAKER_SCENES)
    ]
    speakers = [tuple(scene.attributes[name] for name in ("person", "pitch", "pace")) for scene in scenes]
    whole = [seams.voice_spectrum(scene.waveform) for scene in scenes]
    parts = [_voices(scene.waveform, CUT_ALIKE) for scene in scenes]
    found: dict[str, list[float]] = {"one_speaker": [], "two_speakers": []}
    for index, other in permutations(range(len(scenes)), 2):
        if scenes[index].attributes["words"] != scenes[other].attributes["words"]:
            name = "one_speaker" if speakers[index] == speakers[other] else "two_speakers"
            distances = (seams.voice_distance(whole[index], part) for part in parts[other])
            found[name] += [distance for distance in distances if distance is not None]
    return {name: float(np.mean(values)) for name, values in found.items()}
