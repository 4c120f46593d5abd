"""Scores of many clips' figures, and the bars that they have to reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recipes.pocket.evaluation.detect import LARGEST_LAG, lag_correlations
from recipes.pocket.evaluation.measure import Figures
from recipes.pocket.evaluation.recognise import errors
from recipes.pocket.world.clip import FRAME_RATE

NEAR = 2.0  # frames: a sound so near belongs to what is seen
NOT_HEARD = 1e3  # frames
SHUFFLES = 5  # other clips whose sound each picture is tried with, for the baseline
MOST = 0.5  # of the frames in which a new concept could be seen
Scores = dict[str, float]


def score(family: str, clips: Sequence[Figures]) -> Scores:
    """Scores of a family's clips. Offsets are in frames, shares in 0..1, PSNR in decibels."""
    gather = {
        "ball": _score_ball,
        "piano": _score_piano,
        "face": _score_face,
        "character": _score_character,
        "cube": _score_cube,
    }[family]
    decibels = [clip["first_frame_psnr"] for clip in clips]
    return gather(clips) | {
        "first_frame_psnr": float(np.mean(decibels)),
        "least_first_frame_psnr": float(np.min(decibels)),
    }


def _score_ball(clips: Sequence[Figures]) -> Scores:
    colours = [clip["expected"][0] == clip["detected"][0] for clip in clips]
    materials = [clip["expected"][1] == clip["detected"][1] for clip in clips]
    seen = sum(len(clip["seen_seconds"]) for clip in clips)
    return _sync(clips) | {
        "colour": float(np.mean(colours)),
        "material": float(np.mean(materials)),
        "impacts_for_asked": seen / sum(clip["expected_impacts"] for clip in clips),
    }


def _score_piano(clips: Sequence[Figures]) -> Scores:
    cents = [abs(value) for clip in clips for value in clip["cents"]]
    return _sync(clips) | {
        "notes_heard": _share_right(clips, "heard"),
        "notes_lit": _share_right(clips, "seen"),
        "lit_is_heard": agreement(clips, 0),
        "lit_is_heard_shuffled": float(np.mean([agreement(clips, shift) for shift in _shifts(clips)])),
        "cents_off": float(np.median(cents)) if cents else NOT_HEARD,
    }


def _score_face(clips: Sequence[Figures]) -> Scores:
    curves = np.array([clip["correlations"] for clip in clips])
    return {
        "words": _share_right(clips, "heard"),
        "sentences": float(np.mean([clip["expected"] == clip["heard"] for clip in clips])),
        "correlation": float(curves[:, LARGEST_LAG].mean()),
        "correlation_shuffled": float(
            np.mean([_other_correlation(clips, shift) for shift in _shifts(clips)])
        ),
        "lag": float(np.argmax(curves.mean(0)) - LARGEST_LAG),
        "clip_lag": float(np.median(np.abs(curves.argmax(1) - LARGEST_LAG))),
    }


def _score_character(clips: Sequence[Figures]) -> Scores:
    return {
        "striped": float(np.mean([clip["striped"] >= MOST for clip in clips])),
        "word": float(np.mean([clip["word"] for clip in clips])),
        "voice": float(np.mean([clip["voice"] for clip in clips])),
    }


def _score_cube(clips: Sequence[Figures]) -> Scores:
    return {
        "cube": float(np.mean([clip["cube"] >= MOST for clip in clips])),
        "honks": float(np.mean([bool(clip["heard_seconds"]) for clip in clips])),
        "synced": _sync(clips)["synced"],
    }


def _share_right(clips: Sequence[Figures], found: str) -> float:
    """Share of the expected words or notes that are found in order; extra ones count as errors."""
    total = sum(len(clip["expected"]) for clip in clips)
    wrong = sum(min(errors(clip["expected"], clip[found]), len(clip["expected"])) for clip in clips)
    return 1 - wrong / total


def _sync(clips: Sequence[Figures]) -> Scores:
    offsets = event_offsets(clips, 0)
    shuffled = np.concatenate([event_offsets(clips, shift) for shift in _shifts(clips)])
    near = np.abs(offsets) <= NEAR
    return {
        "offset": float(np.median(np.abs(offsets))),
        "offset_shuffled": float(np.median(np.abs(shuffled))),
        "bias": float(np.median(offsets[near])) if near.any() else NOT_HEARD,
        "synced": float(near.mean()),
        "synced_shuffled": float((np.abs(shuffled) <= NEAR).mean()),
        "heard_is_seen": _heard_is_seen(clips),
    }


def event_offsets(clips: Sequence[Figures], shift: int) -> np.ndarray:
    """Frames from each event that is seen to the nearest sound of the clip `shift` further on.

    A clip in which nothing is seen counts as one event without a sound: stillness is not synchrony.
    """
    offsets: list[float] = []
    for index, clip in enumerate(clips):
        heard = np.array(clips[(index + shift) % len(clips)]["heard_seconds"])
        if not clip["seen_seconds"] or not len(heard):
            offsets += [NOT_HEARD] * max(len(clip["seen_seconds"]), 1)
            continue
        away = (heard - np.array(clip["seen_seconds"])[:, None]) * FRAME_RATE
        offsets += away[np.arange(len(away)), np.abs(away).argmin(1)].tolist()
    return np.array(offsets)


def _heard_is_seen(clips: Sequence[Figures]) -> float:
    """Share of sounds with something seen within two frames."""
    found = total = 0
    for clip in clips:
        seen = np.array([*clip["seen_seconds"], NOT_HEARD])
        for heard in clip["heard_seconds"]:
            found += np.abs(seen - heard).min() * FRAME_RATE <= NEAR
            total += 1
    return found / max(total, 1)


def agreement(clips: Sequence[Figures], shift: int = 0) -> float:
    """Share of keys that light with a note of their pitch beginning within two frames."""
    agreeing = total = 0
    for index, clip in enumerate(clips):
        other = clips[(index + shift) % len(clips)]
        for seconds, key in zip(clip["seen_seconds"], clip["seen"], strict=True):
            sounds = zip(other["heard_seconds"], other["heard"], strict=True)
            agreeing += any(key == note and abs(at - seconds) * FRAME_RATE <= NEAR for at, note in sounds)
        total += max(len(clip["seen"]), 1)
    return agreeing / total


def _other_correlation(clips: Sequence[Figures], shift: int) -> float:
    """Mean correlation of each mouth with the voice of the clip `shift` further on."""
    values = [
        lag_correlations(
            np.array(clip["opening"]), np.array(clips[(index + shift) % len(clips)]["loudness"])
        )[LARGEST_LAG]
        for index, clip in enumerate(clips)
    ]
    return float(np.mean(values))


def _shifts(clips: Sequence[Figures]) -> range:
    return range(1, max(min(SHUFFLES + 1, len(clips)), 2))


@dataclass(frozen=True)
class Bar:
    """One claim about a family: the score that shows it, and what is enough (given the true clips' score)."""

    claim: str
    bar: str
    family: str
    key: str
    unit: str
    reached: Callable[[float, float], bool] | None = None  # None: reported only


BARS = (
    Bar("ball: impact seen to sound, median", "<= 1 frame", "ball", "offset", "frames", lambda x, _: x <= 1),
    Bar("  shuffled pairs", "baseline", "ball", "offset_shuffled", "frames"),
    Bar(
        "ball: impacts with a sound within 2 frames", ">= 90 %", "ball", "synced", "%", lambda x, _: x >= 0.9
    ),
    Bar("  shuffled pairs", "baseline", "ball", "synced_shuffled", "%"),
    Bar("  sounds with an impact within 2 frames", "reported", "ball", "heard_is_seen", "%"),
    Bar("  impacts seen, of those asked", "reported", "ball", "impacts_for_asked", "%"),
    Bar("ball: colour as asked", ">= 95 %", "ball", "colour", "%", lambda x, _: x >= 0.95),
    Bar("ball: material as asked, by ear", ">= 90 %", "ball", "material", "%", lambda x, _: x >= 0.9),
    Bar("piano: notes heard as asked", ">= 90 %", "piano", "notes_heard", "%", lambda x, _: x >= 0.9),
    Bar("piano: keys lit as asked", ">= 90 %", "piano", "notes_lit", "%", lambda x, _: x >= 0.9),
    Bar("piano: lit key = heard pitch", ">= 90 %", "piano", "lit_is_heard", "%", lambda x, _: x >= 0.9),
    Bar("  shuffled pairs", "baseline", "piano", "lit_is_heard_shuffled", "%"),
    Bar("piano: key seen to onset, median", "<= 1 frame", "piano", "offset", "frames", lambda x, _: x <= 1),
    Bar("  pitch off the key's, median", "reported", "piano", "cents_off", "cents"),
    Bar("face: words asked are heard", ">= 85 %", "face", "words", "%", lambda x, _: x >= 0.85),
    Bar("  whole sentences", "reported", "face", "sentences", "%"),
    Bar(
        "face: mouth opening with loudness",
        ">= 0.7 of true",
        "face",
        "correlation",
        "",
        lambda x, true: x >= 0.7 * true,
    ),
    Bar("  shuffled pairs", "baseline", "face", "correlation_shuffled", ""),
    Bar("face: lag of the voice", "within 1 frame", "face", "lag", "frames", lambda x, _: abs(x) <= 1),
    *(
        Bar(
            f"{family}: first frame kept, mean",
            ">= 28 dB",
            family,
            "first_frame_psnr",
            "dB",
            lambda x, _: x >= 28,
        )
        for family in ("ball", "piano", "face")
    ),
)
