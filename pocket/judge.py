"""One clip, true or generated, turned into raw figures: what is seen and heard beside what was asked."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mova.metrics.health import psnr
from pocket.captions import CaptionMix
from pocket.clip import FRAME_RATE, Attributes, Clip
from pocket.degrade import WEAR, wear_frames, wear_sound
from pocket.detect_ball import hear_hits, hear_material, see_ball
from pocket.detect_face import lag_correlations, loudness, mouth_opening
from pocket.detect_newcomers import cube_hits, cube_path, cube_share, hear_honks, hear_word, striped_share
from pocket.detect_piano import hear_notes, see_keys
from pocket.melody import KEYS
from pocket.recognise import recogniser
from pocket.world import render

Figures = dict[str, object]  # of one clip, ready for JSON


@dataclass(frozen=True)
class Task:
    """A clip of the world by its seed: what is asked of a model, and the truth to compare with."""

    seed: int
    family: str
    split: str
    speech: Path
    mix: CaptionMix

    def render(self) -> Clip:
        return render(self.seed, self.family, self.split, self.speech, self.mix)


@dataclass(frozen=True)
class Asked:
    """What a detector may know of a clip: where things are in the first frame, and what was asked."""

    family: str
    attributes: Attributes
    layout: dict[str, float]
    first_frame: np.ndarray  # uint8 [H, W, 3]
    speech: Path

    @classmethod
    def of(cls, clip: Clip, speech: Path) -> "Asked":
        return cls(clip.family, clip.attributes, clip.layout, clip.frames[0], speech)


def judge(frames: np.ndarray, waveform: np.ndarray, asked: Asked) -> Figures:
    """Figures of frames uint8 [F, H, W, 3] and their sound float32 [S]."""
    look = {
        "ball": _judge_ball,
        "piano": _judge_piano,
        "face": _judge_face,
        "character": _judge_character,
        "cube": _judge_cube,
    }[asked.family]
    return {"first_frame_psnr": psnr(frames[0], asked.first_frame)} | look(frames, waveform, asked)


def judge_true(task: Task, worn: bool) -> tuple[str, Asked, dict[str, Figures]]:
    """The true clip's caption, what it asks, and its figures: as it is and, if wanted, worn."""
    clip = task.render()
    asked = Asked.of(clip, task.speech)
    figures = {"true": judge(clip.frames, clip.waveform, asked)}
    for wear in WEAR if worn else ():
        rng = np.random.default_rng(task.seed)
        frames, sound = wear_frames(clip.frames, wear, rng), wear_sound(clip.waveform, wear, rng)
        figures[wear.name] = judge(frames, sound, asked)
    return clip.caption, asked, figures


def _judge_ball(frames: np.ndarray, waveform: np.ndarray, asked: Asked) -> Figures:
    seen = see_ball(frames, asked.layout)
    return {
        "asked": [asked.attributes["colour"], asked.attributes["material"]],
        "got": [seen.colour, hear_material(waveform)],
        "asked_impacts": asked.attributes["bounces"],
        "seen_seconds": ((seen.impact_frames + 0.5) / FRAME_RATE).tolist(),
        "heard_seconds": hear_hits(waveform).tolist(),
    }


def _judge_piano(frames: np.ndarray, waveform: np.ndarray, asked: Asked) -> Figures:
    lit, heard = see_keys(frames, asked.layout), hear_notes(waveform)
    return {
        "asked": list(asked.attributes["notes"]),
        "seen": [KEYS[key] for key in lit.keys],
        "heard": [KEYS[key] for key in heard.keys],
        "seen_seconds": lit.seconds.tolist(),
        "heard_seconds": heard.seconds.tolist(),
        "cents": heard.cents.tolist(),
    }


def _judge_face(frames: np.ndarray, waveform: np.ndarray, asked: Asked) -> Figures:
    heard = recogniser(asked.speech).recognise(waveform)
    opening, loud = mouth_opening(frames, asked.layout), loudness(waveform, len(frames))
    return {
        "asked": list(asked.attributes["words"]),
        "heard": [word.text for word in heard],
        "opening": opening.round(2).tolist(),
        "loudness": loud.round(5).tolist(),
        "correlations": lag_correlations(opening, loud).tolist(),
    }


def _judge_character(frames: np.ndarray, waveform: np.ndarray, asked: Asked) -> Figures:
    word, voice = hear_word(waveform, asked.speech)
    return {"striped": striped_share(frames), "word": word, "voice": voice}


def _judge_cube(frames: np.ndarray, waveform: np.ndarray, _: Asked) -> Figures:
    path = cube_path(frames)
    return {
        "cube": cube_share(path),
        "seen_seconds": ((cube_hits(path) + 0.5) / FRAME_RATE).tolist(),
        "heard_seconds": hear_honks(waveform).tolist(),
    }
