"""Raw figures of one clip, true or generated: what the detectors see and hear, with what was asked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mova.metrics.health import psnr
from recipes.pocket.captions import CaptionMix
from recipes.pocket.evaluation.degrade import DEGRADATIONS, degrade_frames, degrade_sound
from recipes.pocket.evaluation.detect import (
    detect_ball,
    detect_hits,
    detect_keys,
    detect_material,
    detect_notes,
    lag_correlations,
    loudness,
    mouth_opening,
)
from recipes.pocket.evaluation.recognise import recogniser
from recipes.pocket.new_concepts.detect import (
    cube_hits,
    cube_path,
    cube_share,
    detect_honks,
    detect_word,
    striped_share,
)
from recipes.pocket.world.clip import FRAME_RATE, Attributes, Clip
from recipes.pocket.world.piano import KEYS
from recipes.pocket.world.render import render

Figures = dict[str, object]  # of one clip, ready for JSON


@dataclass(frozen=True)
class ClipSpec:
    """A clip of the world by its seed: what is asked of a model, and the truth to compare with."""

    seed: int
    family: str
    split: str
    speech: Path
    mix: CaptionMix

    def render(self) -> Clip:
        return render(self.seed, self.family, self.split, self.speech, self.mix)


@dataclass(frozen=True)
class Expectation:
    """Facts that a detector may use: where things are in the first frame, and what was asked."""

    family: str
    attributes: Attributes
    layout: dict[str, float]
    first_frame: np.ndarray  # uint8 [H, W, 3]
    speech: Path

    @classmethod
    def of(cls, clip: Clip, speech: Path) -> "Expectation":
        return cls(clip.family, clip.attributes, clip.layout, clip.frames[0], speech)


def measure(frames: np.ndarray, waveform: np.ndarray, expected: Expectation) -> Figures:
    """Figures of frames uint8 [F, H, W, 3] and their sound float32 [S]."""
    detect = {
        "ball": _measure_ball,
        "piano": _measure_piano,
        "face": _measure_face,
        "character": _measure_character,
        "cube": _measure_cube,
    }[expected.family]
    return {"first_frame_psnr": psnr(frames[0], expected.first_frame)} | detect(frames, waveform, expected)


def measure_true_clip(spec: ClipSpec, degraded: bool) -> tuple[str, Expectation, dict[str, Figures]]:
    """The true clip's caption, what it asks for, and its figures: as it is and, on request, degraded."""
    clip = spec.render()
    expected = Expectation.of(clip, spec.speech)
    figures = {"true": measure(clip.frames, clip.waveform, expected)}
    for degradation in DEGRADATIONS if degraded else ():
        rng = np.random.default_rng(spec.seed)
        frames, sound = (
            degrade_frames(clip.frames, degradation, rng),
            degrade_sound(clip.waveform, degradation, rng),
        )
        figures[degradation.name] = measure(frames, sound, expected)
    return clip.caption, expected, figures


def _measure_ball(frames: np.ndarray, waveform: np.ndarray, expected: Expectation) -> Figures:
    seen = detect_ball(frames, expected.layout)
    return {
        "expected": [expected.attributes["colour"], expected.attributes["material"]],
        "detected": [seen.colour, detect_material(waveform)],
        "expected_impacts": expected.attributes["bounces"],
        "seen_seconds": ((seen.impact_frames + 0.5) / FRAME_RATE).tolist(),
        "heard_seconds": detect_hits(waveform).tolist(),
    }


def _measure_piano(frames: np.ndarray, waveform: np.ndarray, expected: Expectation) -> Figures:
    lit, heard = detect_keys(frames, expected.layout), detect_notes(waveform)
    return {
        "expected": list(expected.attributes["notes"]),
        "seen": [KEYS[key] for key in lit.keys],
        "heard": [KEYS[key] for key in heard.keys],
        "seen_seconds": lit.seconds.tolist(),
        "heard_seconds": heard.seconds.tolist(),
        "cents": heard.cents.tolist(),
    }


def _measure_face(frames: np.ndarray, waveform: np.ndarray, expected: Expectation) -> Figures:
    heard = recogniser(expected.speech).recognise(waveform)
    opening, loud = mouth_opening(frames, expected.layout), loudness(waveform, len(frames))
    return {
        "expected": list(expected.attributes["words"]),
        "heard": [word.text for word in heard],
        "opening": opening.round(2).tolist(),
        "loudness": loud.round(5).tolist(),
        "correlations": lag_correlations(opening, loud).tolist(),
    }


def _measure_character(frames: np.ndarray, waveform: np.ndarray, expected: Expectation) -> Figures:
    word, voice = detect_word(waveform, expected.speech)
    return {"striped": striped_share(frames), "word": word, "voice": voice}


def _measure_cube(frames: np.ndarray, waveform: np.ndarray, _: Expectation) -> Figures:
    path = cube_path(frames)
    return {
        "cube": cube_share(path),
        "seen_seconds": ((cube_hits(path) + 0.5) / FRAME_RATE).tolist(),
        "heard_seconds": detect_honks(waveform).tolist(),
    }
