"""Evaluation of a model by the detectors, with the same figures of true clips for comparison.

The detectors are checked first: on true clips of the same seeds, on request also on degraded ones, then on
true clips after a round trip through the model's own autoencoders. Generated clips come last.
"""

import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mova.errors import UserError
from mova.machine import Machine
from mova.pipeline import MOVAPipeline
from recipes.pocket.captions import CaptionMix
from recipes.pocket.evaluation.aggregate import score
from recipes.pocket.evaluation.generate import Request, Settings, Stopwatch, generate, load_pipeline
from recipes.pocket.evaluation.measure import ClipSpec, Expectation, Figures, measure, measure_true_clip
from recipes.pocket.evaluation.motion import Media, comparison, write_pair
from recipes.pocket.evaluation.roundtrip import round_trips
from recipes.pocket.evaluation.sheet import captioned_sheet
from recipes.pocket.world.clip import FAMILIES, SPLITS, Clip, Events
from recipes.pocket.world.speech import load_bank

logger = logging.getLogger(__name__)

FIRST_SEED = 2_000_000  # training draws far lower ones
NOISE_SEED = 7_000_000  # added to a clip's seed for the seed of its noise
CAPTIONS = {
    "full": CaptionMix(1, 0, 0, 0),
    "sentence": CaptionMix(0, 1, 0, 0),
    "label": CaptionMix(0, 0, 1, 0),
}
DEFAULT_RUN = "default"
STANDARD_RUN = "standard"  # beside a few-step adapter: the model as it is, which it is to come up to
THREADS = "OMP_NUM_THREADS"
BRIDGE_SCALES = (1.0, 2.0, 3.0, 4.0)  # none, and the paper's range
SHEETS_EACH = 6  # contact sheets a family
Report = dict[str, object]  # ready for JSON
Kept = dict[ClipSpec, Media]


@dataclass(frozen=True)
class Plan:
    model: str | None
    speech: Path
    device: str | None = None
    clips: int = 64  # a family, of combinations that training draws
    held_out: int = 16  # a family, of those it never draws
    round_trips: int = 8  # a family, through the autoencoders
    batch: int = 1
    workers: int | None = None
    captions: str = "full"
    degraded: bool = False
    runs: dict[str, Settings] = field(default_factory=lambda: {DEFAULT_RUN: Settings()})
    sheets: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """A true clip without its frames and sound, which are dropped once measured."""

    spec: ClipSpec
    caption: str
    expected: Expectation

    def request(self) -> Request:
        return Request(NOISE_SEED + self.spec.seed, self.caption, self.expected.first_frame)


def evaluate(plan: Plan) -> Report:
    """Scores by kind of clip and family, seconds by stage, and every clip's raw figures.

    Raises:
        UserError: the model cannot be loaded, or there are too few clips.
        FileNotFoundError: the word bank is missing.
    """
    if plan.clips < 2 or plan.held_out == 1:
        raise UserError(f"clips={plan.clips}, held_out={plan.held_out}: shuffling needs at least 2 of each")
    load_bank(plan.speech)
    watch = Stopwatch()
    with watch.stage("load"):
        pipeline = load_pipeline(plan.model, plan.device) if plan.model else None
    logger.info("load: %.1f s", watch.seconds["load"])
    specs = [
        ClipSpec(FIRST_SEED + index, family, split, plan.speech, CAPTIONS[plan.captions])
        for split, count in zip(SPLITS, (plan.clips, plan.held_out), strict=True)
        for family in FAMILIES
        for index in range(count)
    ]
    report: Report = {"model": plan.model, "scores": {}, "runs": {}, "autoencoders": {}, "figures": {}}
    with workers(plan.workers) as pool:
        began = time.perf_counter()
        prepared = _measure_true_clips(pool, specs, plan.degraded, report)
        logger.info("%d true clips: %.1f s", len(specs), time.perf_counter() - began)
        if pipeline is None:
            return report
        if min(plan.round_trips, plan.held_out):
            began = time.perf_counter()
            chosen = [
                each for family in FAMILIES for each in _pick(prepared, family, "heldout")[: plan.round_trips]
            ]
            _measure_round_trips(pool, pipeline, chosen, plan.batch, report)
            logger.info("%d round trips: %.1f s", len(chosen), time.perf_counter() - began)
        kept: dict[str, Kept] = {DEFAULT_RUN: {}, STANDARD_RUN: {}}
        for name, settings in plan.runs.items():
            chosen = [each for each in prepared if name == DEFAULT_RUN or each.spec.split == "train"]
            watch = Stopwatch()
            made = generate(pipeline, [each.request() for each in chosen], settings, plan.batch, watch)
            if plan.sheets and name == DEFAULT_RUN:
                made = _drawn(made, chosen, plan.sheets)
            if STANDARD_RUN in plan.runs and name in (DEFAULT_RUN, STANDARD_RUN):
                made = _kept(made, chosen, kept[name])
            _measure_all(pool, name, made, chosen, report)
            seconds = {stage: value / len(chosen) for stage, value in watch.seconds.items()}
            report["runs"][name] = {"settings": asdict(settings), "seconds_per_clip": seconds}
            logger.info("%s: %d clips, %.2f s each", name, len(chosen), sum(seconds.values()))
    if STANDARD_RUN in plan.runs:
        _compare_motion(prepared, kept, plan.sheets, report)
    return report


def planned_runs(
    guidance_scale: float | None,
    bridge_guidance_scale: float | None,
    steps: Sequence[int],
    ablations: bool,
    adapter: Path | None = None,
) -> dict[str, Settings]:
    """The default run (with scales in place of its own where given), and those that are compared with it.

    With an adapter the default run is as the adapter says, and the others are the model without it.
    """
    scales = {"guidance_scale": guidance_scale, "bridge_guidance_scale": bridge_guidance_scale}
    default = replace(Settings(), **{name: value for name, value in scales.items() if value is not None})
    runs = {DEFAULT_RUN: default} | {f"{count} steps": replace(default, steps=count) for count in steps}
    if adapter is not None:
        runs |= {DEFAULT_RUN: Settings.of_adapter(adapter), STANDARD_RUN: default}
        for count in steps:
            runs[f"{count} steps, no guidance"] = Settings(count, 1.0, 1.0)
    if ablations:
        runs["bridge off"] = replace(default, use_bridge=False, bridge_guidance_scale=1.0)
        runs["no guidance"] = replace(default, guidance_scale=1.0, bridge_guidance_scale=1.0)
        for scale in (scale for scale in BRIDGE_SCALES if scale != default.bridge_guidance_scale):
            runs[f"bridge guidance {scale:g}"] = replace(default, bridge_guidance_scale=scale)
    return runs


def runs_on_cpu(device: str | None) -> bool:
    """True if clips are made on the CPU; without a `device` the machine's best is taken."""
    return torch.device(Machine.probe(device).device).type == "cpu"


@contextmanager
def workers(count: int | None) -> Iterator[ProcessPoolExecutor]:
    """Processes for the detectors. They are spawned, for this one may hold a GPU."""
    context = multiprocessing.get_context("spawn")
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"  # read by the processes: each of them is one thread
    try:
        with ProcessPoolExecutor(count or os.cpu_count(), mp_context=context) as pool:
            yield pool
    finally:  # later timings use all cores again
        del os.environ[THREADS]
        if before is not None:
            os.environ[THREADS] = before


def _measure_true_clips(
    pool: ProcessPoolExecutor, specs: Sequence[ClipSpec], degraded: bool, report: Report
) -> list[Prepared]:
    prepared, rows = [], []
    for spec, (caption, expected, figures) in zip(
        specs, pool.map(measure_true_clip, specs, [degraded] * len(specs), chunksize=2), strict=True
    ):
        prepared.append(Prepared(spec, caption, expected))
        rows.append(figures)
    for kind in rows[0]:
        _gather(report, kind, prepared, [row[kind] for row in rows])
    return prepared


def _measure_round_trips(
    pool: ProcessPoolExecutor, pipeline: MOVAPipeline, chosen: Sequence[Prepared], batch: int, report: Report
) -> None:
    clips = list(pool.map(ClipSpec.render, [each.spec for each in chosen]))
    round_tripped = list(round_trips(pipeline, clips, batch))
    for family in FAMILIES:
        rows = [row for row, each in zip(round_tripped, chosen, strict=True) if each.spec.family == family]
        names = ("psnr", "last_frame_psnr", "log_spectral_distance")
        report["autoencoders"][family] = {
            name: float(np.mean([getattr(row, name) for row in rows])) for name in names
        }
    _measure_all(pool, "round trip", ((row.frames, row.waveform) for row in round_tripped), chosen, report)


def _measure_all(
    pool: ProcessPoolExecutor,
    kind: str,
    made: Iterator[tuple[np.ndarray, np.ndarray]],
    prepared: Sequence[Prepared],
    report: Report,
) -> None:
    """Hand clips to the detectors as they are made, and add their scores to the report."""
    waiting: list[Future[Figures]] = [
        pool.submit(measure, frames, waveform, each.expected)
        for (frames, waveform), each in zip(made, prepared, strict=True)
    ]
    _gather(report, kind, prepared, [future.result() for future in waiting])


def _gather(report: Report, kind: str, prepared: Sequence[Prepared], rows: Sequence[Figures]) -> None:
    for family in FAMILIES:
        for split in SPLITS:
            mine = [
                row | {"seed": each.spec.seed, "caption": each.caption}
                for row, each in zip(rows, prepared, strict=True)
                if (each.spec.family, each.spec.split) == (family, split)
            ]
            if mine:
                name = kind if split == "train" or kind == "round trip" else f"{kind}, held out"
                report["scores"].setdefault(name, {})[family] = score(family, mine)
                report["figures"].setdefault(name, {})[family] = mine


def _pick(prepared: Sequence[Prepared], family: str, split: str) -> list[Prepared]:
    return [each for each in prepared if (each.spec.family, each.spec.split) == (family, split)]


def _drawn(
    made: Iterator[tuple[np.ndarray, np.ndarray]], prepared: Sequence[Prepared], folder: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The clips as they come; the first ones of each family are also drawn as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for (frames, waveform), each in zip(made, prepared, strict=True):
        spec, expected = each.spec, each.expected
        if spec.seed < FIRST_SEED + SHEETS_EACH:
            clip = Clip(
                frames, waveform, each.caption, spec.family, Events(), expected.attributes, expected.layout
            )
            name = f"{spec.family}_{spec.split}_{spec.seed}.png"
            captioned_sheet(clip).save(folder / name)
        yield frames, waveform


def _kept(made: Iterator[Media], prepared: Sequence[Prepared], kept: Kept) -> Iterator[Media]:
    """The clips as they come; those of combinations that training draws are kept."""
    for media, each in zip(made, prepared, strict=True):
        if each.spec.split == "train":
            kept[each.spec] = media
        yield media


def _compare_motion(
    prepared: Sequence[Prepared], kept: dict[str, Kept], sheets: Path | None, report: Report
) -> None:
    """Add what the adapter blurs where the standard run's clips move, and draw the first ones together."""
    report["motion"] = {}
    for family in FAMILIES:
        specs = [spec for spec in kept[STANDARD_RUN] if spec.family == family]
        made, standard = ([kept[name][spec] for spec in specs] for name in (DEFAULT_RUN, STANDARD_RUN))
        report["motion"][family] = comparison(made, standard)
    if sheets is None:
        return
    for each in prepared:
        spec, expected = each.spec, each.expected
        if spec.seed < FIRST_SEED + SHEETS_EACH and spec.split == "train":
            facts = each.caption, spec.family, Events(), expected.attributes, expected.layout
            standard, made = (Clip(*kept[name][spec], *facts) for name in (STANDARD_RUN, DEFAULT_RUN))
            write_pair(sheets / f"{spec.family}_{spec.seed}_standard_and_adapter.png", standard, made)
