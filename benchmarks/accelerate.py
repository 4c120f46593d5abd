"""Measure what each way to save time costs pocket in words, notes, lips and hits.

    python -m benchmarks.accelerate --clips 64 --batch 64 --workers 14 --json results.jsonl
    python -m benchmarks.accelerate --set cache_threshold=0.1 --set solver=unipc num_inference_steps=6
    python -m benchmarks.accelerate --only none --set preset=turbo num_inference_steps=8

Every row makes the same clips of the world, unseen seeds and the same noise, and the detectors of
`recipes.pocket.evaluation` score them while the next row is generated. --set adds a row to those that are run
(with --only none: in place of them): the standard preset, or that of `preset`, with these fields of a
request; `adapter_strength` is that of the preset's adapter, a number or one by part as JSON. `exact` is made
in any case: `error` is the distance of the final latents to its own, over the way from the noise, which is
the relative error of the mean velocity. With --json rows are written as they finish; rows that the file has
are not run again. Pocket under-reports what few steps cost a large model.
"""

import argparse
import inspect
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mova.adapters.sources import read_adapter
from mova.backends.local import with_adapters
from mova.catalog import STANDARD
from mova.encoders import draw_noise
from mova.errors import UserError
from mova.machine import RELEASED_SHIFT, Machine
from mova.pipeline import MOVAPipeline
from mova.request import GenerationRequest
from recipes.pocket.evaluation.aggregate import Scores, score
from recipes.pocket.evaluation.evaluate import CAPTIONS, FIRST_SEED, Prepared, workers
from recipes.pocket.evaluation.generate import POCKET, load_pipeline, to_frames
from recipes.pocket.evaluation.measure import ClipSpec, Figures, measure, measure_true_clip
from recipes.pocket.world.clip import FAMILIES, FRAME_RATE
from recipes.pocket.world.speech import DEFAULT_FOLDER

logger = logging.getLogger("accelerate")

FIGURES = {
    "words": ("face", "words"),
    "lips": ("face", "correlation"),
    "ball synced": ("ball", "synced"),
    "impacts seen": ("ball", "impacts_for_asked"),
    "notes": ("piano", "notes_heard"),
    "lit = heard": ("piano", "lit_is_heard"),
    "colour": ("ball", "colour"),
    "material": ("ball", "material"),
}
FIRST_FRAMES = {f"{family}: first frame, dB": (family, "first_frame_psnr") for family in FAMILIES}
MOST_LOST = 0.02  # of a figure of `exact`, else the row says which
MOST_WAITING = 2  # rows whose clips the detectors still have
EXACT, TRUE = "exact", "true clips"
NO_GUIDANCE = {"guidance_scale": 1.0, "bridge_guidance_scale": 1.0}
KNOBS: dict[str, dict[str, Any]] = {
    "euler 8": {"num_inference_steps": 8},
    "euler 6": {"num_inference_steps": 6},
    "euler 4": {"num_inference_steps": 4},
    "unipc 8": {"num_inference_steps": 8, "solver": "unipc"},
    "unipc 6": {"num_inference_steps": 6, "solver": "unipc"},
    "unipc 4": {"num_inference_steps": 4, "solver": "unipc"},
    "guided from 0.6": {"guidance_interval": (0.6, 1.0)},
    "guided from 0.8": {"guidance_interval": (0.8, 1.0)},
    "guided from 0.9": {"guidance_interval": (0.9, 1.0)},
    "guided up to 0.95": {"guidance_interval": (0.0, 0.95)},
    "sound unguided": {"audio_guidance_scale": 1.0, "audio_bridge_guidance_scale": 1.0},
    "sound guided by 3": {"audio_guidance_scale": 3.0, "audio_bridge_guidance_scale": 3.0},
    "euler 4, unguided": {"num_inference_steps": 4} | NO_GUIDANCE,
}
CACHES = (0.05, 0.1, 0.2)  # thresholds, where the pipeline has a step cache
PASSED = {each.name for each in fields(GenerationRequest)} & set(
    inspect.signature(MOVAPipeline.__call__).parameters
) - {"prompt", "image", "video", "audio"}

SETTABLE = PASSED | {"preset", "adapter_strength"}


@dataclass(frozen=True)
class Row:
    name: str
    request: GenerationRequest  # of any clip: the prompt and the first frame are the clip's own


def rows(settings: Sequence[Sequence[str]], only: Sequence[str] | None) -> list[Row]:
    """The presets and knobs, or those named, and a row for each of `settings`; `exact` is the first."""
    standard = GenerationRequest("", **POCKET.defaults(POCKET.preset(STANDARD)))
    presets = [Row(each.name, GenerationRequest("", **POCKET.defaults(each))) for each in POCKET.presets]
    presets.sort(key=lambda row: row.name != EXACT)
    knobs = dict(KNOBS)
    if "cache_threshold" in PASSED:
        knobs |= {f"cache {threshold:g}": {"cache_threshold": threshold} for threshold in CACHES}
    every = presets + [Row(name, standard.replace(**changes)) for name, changes in knobs.items()]
    if only is not None:
        names = [row.name for row in every]
        for name in set(only) - {*names, "none"}:
            raise UserError(f"there is no row {name!r}; choose from {', '.join(names)}")
        every = [row for row in every if row.name in {EXACT, *only}]
    given = [Row(" ".join(texts), changed(dict(map(parse, texts)))) for texts in settings]
    for row in every + given:
        row.request.replace(prompt="any").check()
    return every + given


def changed(fields: dict[str, Any]) -> GenerationRequest:
    """The standard preset, or that of `preset`, with these fields; `adapter_strength` is for its adapter."""
    preset = POCKET.preset(fields.pop("preset", STANDARD))
    request = GenerationRequest("", **POCKET.defaults(preset))
    if "adapter_strength" in fields:
        strength = fields.pop("adapter_strength")
        if not request.adapters:
            raise UserError(f"adapter_strength={strength}: the preset {preset.name} has no adapter")
        fields["adapters"] = tuple((source, strength) for source, _ in request.adapters)
    return request.replace(**fields)


def parse(text: str) -> tuple[str, Any]:
    """("solver", "unipc") of solver=unipc; a value is JSON or else a string, a list becomes a tuple."""
    name, _, value = text.partition("=")
    if name not in SETTABLE:
        raise UserError(f"{text!r}: give FIELD=VALUE with one of {', '.join(sorted(SETTABLE))}")
    try:
        value = json.loads(value)
    except ValueError:
        return name, value
    return name, tuple(value) if isinstance(value, list) else value


class Maker:
    """Makes the clips of a row, all from the same noise."""

    def __init__(self, model: str, device: str | None, prepared: Sequence[Prepared], batch: int) -> None:
        self.pipeline = load_pipeline(model, device)
        self.clips = [each.request() for each in prepared]
        self.batch = batch
        height, width = self.clips[0].image.shape[:2]
        self.shape = self.pipeline.clip_shape(height, width, POCKET.num_frames, float(FRAME_RATE))
        generators = [torch.Generator().manual_seed(clip.seed) for clip in self.clips]
        sizes = self.pipeline.latent_sizes(self.shape)
        self.noise = draw_noise(len(self.clips), sizes, generators, (None, None))

    def warm_up(self, row: Row) -> None:
        """One step of one batch: kernels are chosen and memory is reserved."""
        short = Row(row.name, row.request.replace(num_inference_steps=1))
        for _ in self.decode(*next(self.latents(short))):
            pass

    def latents(self, row: Row) -> Iterator[tuple[Tensor, Tensor]]:
        """Final latents, batch by batch."""
        given = {name: value for name, value in vars(row.request).items() if name in PASSED}
        adapters = [(read_adapter(source), strength) for source, strength in row.request.adapters]
        with with_adapters(self.pipeline, adapters):
            for first in range(0, len(self.clips), self.batch):
                part = slice(first, first + self.batch)
                yield self.pipeline(
                    prompt=[clip.prompt for clip in self.clips[part]],
                    image=[clip.image for clip in self.clips[part]],
                    latents=self.noise[0][part],
                    audio_latents=self.noise[1][part],
                    output_type="latent",
                    return_dict=False,
                    **given,
                )

    def decode(self, latents: Tensor, audio_latents: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Frames uint8 [F, H, W, 3] and sound float32 [S] of each clip."""
        frames = to_frames(self.pipeline.decode_video(latents))
        sound = self.pipeline.decode_audio(audio_latents)[:, 0, : self.shape.num_samples].numpy()
        yield from zip(frames, sound, strict=True)

    def error(self, made: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
        """Relative error of the mean velocity, for video and audio."""
        parts = zip(made, exact, self.noise, strict=True)
        return [float((ours - theirs).norm() / (noise - theirs).norm()) for ours, theirs, noise in parts]


def run(
    maker: Maker, row: Row, exact: list[Tensor], pool: ProcessPoolExecutor, prepared: Sequence[Prepared]
) -> tuple[dict[str, Any], list[Future[Figures]]]:
    """Make the clips of a row and hand them to the detectors. The first row's latents go into `exact`."""
    futures: list[Future[Figures]] = []
    seconds = {"denoise": 0.0, "decode": 0.0}
    made: list[tuple[Tensor, Tensor]] = []
    began = time.perf_counter()
    for pair in maker.latents(row):
        made.append(tuple(each.float().cpu() for each in pair))  # waits for the device
        seconds["denoise"] += time.perf_counter() - began
        began = time.perf_counter()
        clips = list(maker.decode(*pair))
        seconds["decode"] += time.perf_counter() - began
        for (frames, sound), each in zip(clips, prepared[len(futures) :], strict=False):
            futures.append(pool.submit(measure, frames, sound, each.expected))
        began = time.perf_counter()
    final = [torch.cat(each) for each in zip(*made, strict=True)]
    exact[:] = exact or final
    report = {
        "name": row.name,
        "forwards": row.request.total_forwards(RELEASED_SHIFT),
        "seconds": {stage: value / len(prepared) for stage, value in seconds.items()},
        "error": maker.error(final, exact),
    }
    return report, futures


def scores_of(prepared: Sequence[Prepared], figures: Sequence[Figures]) -> dict[str, float]:
    """Figures and first frames, of the families that there are clips of."""
    by_family: dict[str, Scores] = {}
    for family in FAMILIES:
        mine = [row for row, each in zip(figures, prepared, strict=True) if each.spec.family == family]
        if mine:
            by_family[family] = score(family, mine)
    wanted = FIGURES | FIRST_FRAMES
    return {name: by_family[family][key] for name, (family, key) in wanted.items() if family in by_family}


def table(reports: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; the last column names what is over MOST_LOST below `exact`."""
    exact = next((report["scores"] for report in reports if report["name"] == EXACT), {})
    heads = ["", "forwards", "s a clip", *FIGURES, "error video / audio", "below exact"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for report in reports:
        scores = report["scores"]
        cells = [report["name"], "", ""]
        if "forwards" in report:
            cells[1:] = [str(report["forwards"]), f"{report['seconds']['denoise']:.3f}"]
        kinds = {name: ".2f" if name == "lips" else ".1%" for name in FIGURES}
        cells += [f"{scores[name]:{kind}}" if name in scores else "" for name, kind in kinds.items()]
        cells.append(" / ".join(f"{error:.1%}" for error in report.get("error", ())))
        lost = [name for name in FIGURES if name in exact and exact[name] - scores[name] > MOST_LOST]
        cells.append(", ".join(lost) if report["name"] not in (EXACT, TRUE) else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def done_before(path: Path | None) -> list[dict[str, Any]]:
    """The rows that the file has; a line that was cut off counts as none."""
    if path is None or not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--set", nargs="+", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="of the presets and knobs, or none")
    parser.add_argument("--clips", type=int, default=64, help="of each family")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument(
        "--first-seed", type=int, default=FIRST_SEED, help="of the clips; default %(default)s"
    )
    parser.add_argument("--batch", type=int, default=None, help="default: 1 on a CPU, else 64")
    parser.add_argument("--workers", type=int, default=None, help="processes of the detectors")
    parser.add_argument("--model", default=POCKET.source)
    parser.add_argument("--device", default=None)
    parser.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word banks")
    parser.add_argument("--json", type=Path, default=None, help="file for the rows, one a line")
    options = parser.parse_args()
    try:
        sys.stdout.write(table(measure_rows(rows(options.set, options.only), options)) + "\n")
    except (UserError, FileNotFoundError) as error:
        sys.exit(str(error))


def measure_rows(wanted: Sequence[Row], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Reports of the rows in their order, after one of the true clips."""
    done = {report["key"]: report for report in done_before(options.json)}
    on_cpu = Machine.probe(options.device).device == "cpu"

    clips = [options.clips, options.first_seed, *options.family]
    true_key = json.dumps([TRUE, clips])

    def key_of(row: Row) -> str:
        return json.dumps([options.model, clips, row.request.to_settings()])

    def finish(report: dict[str, Any], scores: dict[str, float]) -> None:
        done[report["key"]] = report | {"scores": scores}
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[report["key"]]) + "\n")
        logger.info("%s: %s", report["name"], {name: round(value, 3) for name, value in scores.items()})

    specs = [
        ClipSpec(options.first_seed + index, family, "train", options.speech, CAPTIONS["full"])
        for family in options.family
        for index in range(options.clips)
    ]
    if all(key in done for key in (true_key, *map(key_of, wanted))):
        return [done[true_key], *(done[key_of(row)] for row in wanted)]
    with workers(options.workers) as pool:
        true = list(pool.map(measure_true_clip, specs, [False] * len(specs), chunksize=2))
        prepared = [Prepared(spec, *parts[:2]) for spec, parts in zip(specs, true, strict=True)]
        if true_key not in done:
            figures = [parts[2]["true"] for parts in true]
            finish({"name": TRUE, "key": true_key}, scores_of(prepared, figures))
        maker = Maker(options.model, options.device, prepared, options.batch or (1 if on_cpu else 64))
        maker.warm_up(wanted[0])
        exact: list[Tensor] = []
        waiting: list[tuple[dict[str, Any], list[Future[Figures]]]] = []
        for row in wanted:
            if key_of(row) in done and exact:
                continue
            began = time.perf_counter()
            report, futures = run(maker, row, exact, pool, prepared)
            logger.info("%s: made in %.1f s", row.name, time.perf_counter() - began)
            if key_of(row) in done:  # made for its latents alone
                for future in futures:
                    future.cancel()
                continue
            waiting.append((report | {"key": key_of(row)}, futures))
            while len(waiting) > MOST_WAITING or (waiting and all(each.done() for each in waiting[0][1])):
                report, futures = waiting.pop(0)
                finish(report, scores_of(prepared, [future.result() for future in futures]))
        for report, futures in waiting:
            finish(report, scores_of(prepared, [future.result() for future in futures]))
    return [done[true_key], *(done[key_of(row)] for row in wanted)]


if __name__ == "__main__":
    main()
