"""Runs in which a track is given: held, made again in part, continued and extended.

The true clip is what is given, and the pipeline is used only through its public call.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mova.pipeline import MOVAPipeline
from mova.tracks import overlap_frames
from recipes.pocket.evaluation.generate import POCKET, Settings
from recipes.pocket.evaluation.measure import Expectation
from recipes.pocket.evaluation.roundtrip import round_trip_frames, round_trip_sound
from recipes.pocket.evaluation.seams import Span, made_frames
from recipes.pocket.world.clip import FRAME_RATE, NUM_FRAMES, NUM_SAMPLES, SAMPLE_RATE, SECONDS, Clip

RETAKE: tuple[Span, ...] = ((0.7, 1.4),)  # seconds
HALF_FRAMES = 25  # given where the second half is made: 4k+1
WINDOW_SEED = 1_000_000  # added to the seed of the noise for each further window
Media = tuple[np.ndarray, np.ndarray]  # uint8 [F, H, W, 3], float32 [S]; with a batch in front in this module


@dataclass(frozen=True)
class TrackRun:
    """Parts of the true clip that are given, and spans of them to regenerate; by default nothing is given."""

    video: bool = False
    audio: bool = False
    regenerate_video: tuple[Span, ...] = ()
    regenerate_audio: tuple[Span, ...] = ()
    caption: bool = True
    given_frames: int = NUM_FRAMES  # of the true clip, with the sound of the same time
    windows: int = 0  # made after what is given, each after an overlap with the clip before
    overlap: int = overlap_frames(POCKET.overlap_seconds, FRAME_RATE)
    refine: int = 0  # further passes
    is_ideal: bool = False  # what is made is the true clip's, through the autoencoders

    @property
    def given_samples(self) -> int:
        return round(self.given_frames / FRAME_RATE * SAMPLE_RATE)

    def made_spans(self, media: Media) -> tuple[Sequence[Span], Sequence[Span]]:
        """The seconds of a clip's picture and sound that are made."""
        if not self.windows:
            return self.regenerate_video, self.regenerate_audio
        frames, waveform = media
        given_samples = min(self.given_samples, NUM_SAMPLES)
        return (
            ((self.given_frames / FRAME_RATE, len(frames) / FRAME_RATE),),
            ((given_samples / SAMPLE_RATE, len(waveform) / SAMPLE_RATE),),
        )


PARTS = TrackRun(
    video=True, audio=True, regenerate_video=RETAKE, regenerate_audio=RETAKE, refine=POCKET.refine_retake
)
EXTENDED = TrackRun(video=True, audio=True, windows=3, refine=POCKET.refine_extension)
SECOND_HALF = replace(EXTENDED, given_frames=HALF_FRAMES, overlap=HALF_FRAMES, windows=1)
RUNS = {
    "joint": TrackRun(),
    "sound held": TrackRun(audio=True),
    "picture held": TrackRun(video=True),
    "sound held, no caption": TrackRun(audio=True, caption=False),
    "picture held, no caption": TrackRun(video=True, caption=False),
    "retake": PARTS,
    "retake in one pass": replace(PARTS, refine=0),
    "retake sound": TrackRun(video=True, audio=True, regenerate_audio=RETAKE),
    "retake picture": TrackRun(video=True, audio=True, regenerate_video=RETAKE),
    "retake, ideal": replace(PARTS, is_ideal=True),
    "continue": SECOND_HALF,
    "continue in one pass": replace(SECOND_HALF, refine=0),
    "continue, ideal": replace(SECOND_HALF, is_ideal=True),
    "extend": EXTENDED,
}


@dataclass(frozen=True)
class TrackCase:
    """A true clip, what is asked of the model, and the seed of its noise."""

    clip: Clip
    expected: Expectation
    seed: int


def make(
    pipeline: MOVAPipeline, cases: Sequence[TrackCase], run: TrackRun, settings: Settings, batch: int
) -> Iterator[Media]:
    """The clip of each case, from what the run gives of the true one."""
    for first in range(0, len(cases), batch):
        part = cases[first : first + batch]
        if run.is_ideal:
            yield from _ideal(pipeline, [case.clip for case in part], run)
            continue
        frames = np.stack([case.clip.frames[: run.given_frames] for case in part])
        sounds = np.stack([case.clip.waveform[: run.given_samples] for case in part])
        prompts = [case.clip.caption if run.caption else "" for case in part]
        if not run.windows:
            frames, sounds = _call(
                pipeline,
                prompts,
                [case.seed for case in part],
                settings,
                image=None if run.video else [case.clip.frames[0] for case in part],
                video=frames if run.video else None,
                audio=sounds if run.audio else None,
                regenerate_video=run.regenerate_video or False,
                regenerate_audio=run.regenerate_audio or False,
                refine=run.refine,
            )
        for window in range(run.windows):
            seeds = [case.seed + window * WINDOW_SEED for case in part]
            frames, sounds = _continue(pipeline, prompts, seeds, settings, frames, sounds, run)
        yield from zip(frames, sounds, strict=True)


def _ideal(pipeline: MOVAPipeline, clips: Sequence[Clip], run: TrackRun) -> Iterator[Media]:
    frames, sounds = np.stack([clip.frames for clip in clips]), np.stack([clip.waveform for clip in clips])
    video_spans, audio_spans = run.made_spans((frames[0], sounds[0]))
    made = made_frames(video_spans, NUM_FRAMES)
    frames[:, made] = round_trip_frames(pipeline, frames)[:, made]
    decoded = round_trip_sound(pipeline, sounds)
    for start, end in audio_spans:
        part = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
        sounds[:, part] = decoded[:, part]
    yield from zip(frames, sounds, strict=True)


def _continue(
    pipeline: MOVAPipeline,
    prompts: list[str],
    seeds: Sequence[int],
    settings: Settings,
    frames: np.ndarray,
    sounds: np.ndarray,
    run: TrackRun,
) -> Media:
    """The clips with one more window, made after an overlap; what is handed over is decoded media."""
    first = frames.shape[1] - run.overlap
    first_sample = round(first / FRAME_RATE * SAMPLE_RATE)
    kept = sounds[:, first_sample:]
    end = kept.shape[1] / SAMPLE_RATE
    made_frames, made_sounds = _call(
        pipeline,
        prompts,
        seeds,
        settings,
        image=None,
        video=frames[:, first:],
        audio=kept,
        regenerate_video=False,  # a clip longer than the video continues it
        regenerate_audio=[(end, SECONDS)],
        refine=run.refine,
    )
    return (
        np.concatenate((frames[:, :first], made_frames), axis=1),
        np.concatenate((sounds[:, :first_sample], made_sounds), axis=1),
    )


def _call(
    pipeline: MOVAPipeline,
    prompts: list[str],
    seeds: Sequence[int],
    settings: Settings,
    *,
    image: list[np.ndarray] | None,
    video: np.ndarray | None,
    audio: np.ndarray | None,
    regenerate_video: Sequence[Span] | bool,
    regenerate_audio: Sequence[Span] | bool,
    refine: int,
) -> Media:
    """Frames uint8 [B, F, H, W, 3] and sounds float32 [B, S] by the pipeline's public call."""
    height, width = (video[0, 0] if image is None else image[0]).shape[:2]
    # Given as embeddings, a prompt may be empty.
    made = pipeline(
        prompt_embeds=pipeline.encode_prompt(prompts),
        negative_prompt=settings.negative_prompt,
        image=image,
        video=video,
        audio=None if audio is None else audio[:, None],
        regenerate_video=regenerate_video,
        regenerate_audio=regenerate_audio,
        refine=refine,
        height=height,
        width=width,
        num_frames=settings.num_frames,
        frame_rate=float(FRAME_RATE),
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        bridge_guidance_scale=settings.bridge_guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    )
    frames = (np.asarray(made.frames) * 255).round().astype(np.uint8)
    return frames, np.asarray(made.audio, np.float32)[:, 0]
