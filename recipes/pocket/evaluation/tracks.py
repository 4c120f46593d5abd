"""Evaluation of held and partly held tracks: all runs on the same true clips, and the claims with bars."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from mova.errors import UserError
from recipes.pocket.evaluation.aggregate import Scores
from recipes.pocket.evaluation.evaluate import CAPTIONS, FIRST_SEED, NOISE_SEED, Report, workers
from recipes.pocket.evaluation.generate import Settings, load_pipeline, use_adapters
from recipes.pocket.evaluation.measure import ClipSpec, Expectation
from recipes.pocket.evaluation.report import number
from recipes.pocket.evaluation.track_runs import RUNS, TrackCase, make
from recipes.pocket.evaluation.track_scores import measure_run, score_run, speaker_distances
from recipes.pocket.world.clip import FAMILIES
from recipes.pocket.world.speech import load_bank

logger = logging.getLogger(__name__)
RunScores = dict[str, dict[str, Scores]]  # by run and family


@dataclass(frozen=True)
class TrackClaim:
    """A score of a run with its bar: a least or greatest value, or the score that it is compared with.

    Without a bar the score is only reported.
    """

    claim: str
    run: str
    family: str
    key: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    as_good_as: tuple[str, str, str] | None = None  # run, family, key: at least this score
    below: tuple[str, str, str] | None = None  # run, family, key: under this score

    @property
    def bar(self) -> str:
        if self.least is not None:
            return f">= {number(self.least, self.unit)}"
        if self.most is not None:
            return f"<= {number(self.most, self.unit)}" if self.most else "none"
        if self.as_good_as:
            return f"as {self.as_good_as[0]}"
        return f"< {self.below[2].replace('_', ' ')}" if self.below else "reported"

    def is_missed(self, value: float, scores: RunScores) -> bool:
        if self.least is not None:
            return value < self.least
        if self.most is not None:
            return value > self.most
        if self.as_good_as:
            run, family, key = self.as_good_as
            return run in scores and value < scores[run][family][key]
        if self.below:
            run, family, key = self.below
            return value >= scores[run][family][key]
        return False


def _seam_claims(run: str, family: str) -> tuple[TrackClaim, ...]:
    return (
        TrackClaim("picture outside the span: change", run, family, "picture_change", "levels", most=0),
        TrackClaim("sound outside the span: change", run, family, "sound_change", most=0),
        TrackClaim("seams that click", run, family, "clicks", "%", most=0),
        TrackClaim("step of the sound at a seam, 95th percentile", run, family, "level_step", "dB"),
        TrackClaim("the true clip's step there", run, family, "true_level_step", "dB"),
        TrackClaim("extra onsets at a seam", run, family, "extra_onsets", "a clip", most=0),
        TrackClaim("step of the picture over the true clip's", run, family, "picture_step_ratio", most=2),
    )


def _extended(claim: str, family: str, unit: str) -> TrackClaim:
    joint = ("joint", family, "worst_window")
    return TrackClaim(f"{claim}, worst window", "extend", family, "worst_window", unit, as_good_as=joint)


def _ideal(run: str) -> tuple[TrackClaim, ...]:
    """What the true clip scores with its made part through the autoencoders."""
    run = f"{run}, ideal"
    return (
        TrackClaim("words asked", run, "face", "words", "%"),
        TrackClaim(LIPS, run, "face", "correlation"),
        TrackClaim(SYNCED, run, "ball", "synced", "%"),
        TrackClaim(LIT, run, "piano", "lit_is_heard", "%"),
    )


LIPS, LIT, SYNCED = "mouth with loudness", "lit = heard", "impacts synced"
CLAIMS = (
    TrackClaim(LIPS, "sound held", "face", "correlation", least=0.77),
    TrackClaim(SYNCED, "sound held", "ball", "synced", "%", least=0.95),
    TrackClaim(LIT, "sound held", "piano", "lit_is_heard", "%", least=0.99),
    TrackClaim("words asked", "picture held", "face", "words", "%", least=0.93),
    TrackClaim(LIPS, "picture held", "face", "correlation", least=0.75),
    TrackClaim("true impacts with a sound", "picture held", "ball", "synced", "%", least=0.85),
    TrackClaim(LIT, "picture held", "piano", "lit_is_heard", "%", least=0.99),
    TrackClaim(LIT, "sound held, no caption", "piano", "lit_is_heard", "%", least=0.99),
    TrackClaim(LIT, "picture held, no caption", "piano", "lit_is_heard", "%", least=0.99),
    *(TrackClaim("change of the sound", "sound held", each, "sound_change", most=0) for each in FAMILIES),
    *(
        TrackClaim("change of the picture", "picture held", each, "picture_change", "levels", most=0)
        for each in FAMILIES
    ),
    TrackClaim(SYNCED, "retake", "ball", "synced", "%", least=0.97),
    TrackClaim(LIT, "retake", "piano", "lit_is_heard", "%", least=0.99),
    TrackClaim("words asked", "retake", "face", "words", "%", least=0.93),
    *_ideal("retake"),
    *(claim for family in FAMILIES for claim in _seam_claims("retake", family)),
    TrackClaim(LIPS, "continue", "face", "correlation", least=0.70),
    TrackClaim(SYNCED, "continue", "ball", "synced", "%", least=0.92),
    TrackClaim(LIT, "continue", "piano", "lit_is_heard", "%", least=0.99),
    *_ideal("continue"),
    *(claim for family in FAMILIES for claim in _seam_claims("continue", family)),
    _extended(LIPS, "face", ""),
    _extended(SYNCED, "ball", "%"),
    _extended(LIT, "piano", "%"),
    *(
        TrackClaim("colour drift a window", "extend", each, "colour_drift", "levels", most=2)
        for each in FAMILIES
    ),
    TrackClaim(
        "voice to window 1", "extend", "face", "voice_distance", "dB", below=("extend", "face", "one_speaker")
    ),
    TrackClaim("two clips of one speaker", "extend", "face", "one_speaker", "dB"),
    TrackClaim("clips of two speakers", "extend", "face", "two_speakers", "dB"),
    *(TrackClaim("seams that click", "extend", each, "clicks", "%", most=0) for each in FAMILIES),
)


def evaluate_tracks(
    model: str,
    *,
    speech: Path,
    device: str | None = None,
    clips: int = 64,
    batch: int = 1,
    processes: int | None = None,
    settings: Settings | None = None,
    names: Sequence[str] = (),
) -> Report:
    """Scores of every run by family, its seconds a clip, and every clip's raw figures.

    Without `names` all of `RUNS` are made.

    Raises:
        UserError: the model cannot be loaded, or a name is unknown.
        FileNotFoundError: the word bank is missing.
    """
    if unknown := set(names) - set(RUNS):
        raise UserError(f"no such runs: {sorted(unknown)}; choose from {list(RUNS)}")
    load_bank(speech)
    settings = settings or Settings()
    pipeline = load_pipeline(model, device)
    use_adapters(pipeline, settings.adapters)
    report: Report = {"model": model, "settings": asdict(settings), "clips": clips}
    report |= {"scores": {}, "seconds_per_clip": {}, "figures": {}}
    specs = [
        ClipSpec(FIRST_SEED + index, family, "train", speech, CAPTIONS["full"])
        for family in FAMILIES
        for index in range(clips)
    ]
    with workers(processes) as pool:
        cases = [
            TrackCase(clip, Expectation.of(clip, speech), NOISE_SEED + spec.seed)
            for spec, clip in zip(specs, pool.map(ClipSpec.render, specs), strict=True)
        ]
        speakers = pool.submit(speaker_distances, speech)
        for name in names or RUNS:
            run = RUNS[name]
            began = time.perf_counter()
            waiting = [
                pool.submit(measure_run, run, case, media)
                for case, media in zip(
                    cases, tqdm(make(pipeline, cases, run, settings, batch), name, len(cases)), strict=True
                )
            ]
            seconds = (time.perf_counter() - began) / len(cases)
            rows = [future.result() for future in waiting]
            report["seconds_per_clip"][name] = seconds
            figures = {
                family: [row for row, case in zip(rows, cases, strict=True) if case.clip.family == family]
                for family in FAMILIES
            }
            report["figures"][name] = figures
            report["scores"][name] = {family: score_run(family, figures[family]) for family in FAMILIES}
            logger.info("%s: %d clips, %.2f s each", name, len(cases), seconds)
        if "extend" in report["scores"]:
            report["scores"]["extend"]["face"] |= speakers.result()
    return report


def tracks_table(report: Report) -> str:
    """The claims as a markdown table; a score that misses its bar is marked."""
    scores: RunScores = report["scores"]
    lines = ["| run | family | claim | bar | measured |", "| --- | --- | --- | --- | --- |"]
    for claim in CLAIMS:
        if claim.run not in scores:
            continue
        value = scores[claim.run][claim.family].get(claim.key)
        cell = "-" if value is None else number(value, claim.unit)
        if value is not None and claim.is_missed(value, scores):
            cell += " (missed)"
        lines.append(f"| {claim.run} | {claim.family} | {claim.claim} | {claim.bar} | {cell} |")
    return "\n".join(lines)
