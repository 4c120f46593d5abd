"""Learning of a new concept by an adapter, measured from a folder of clips to figures.

    python -m recipes.pocket speech                     (once: the word banks)
    python -m benchmarks.learn_concept --json results.json

For each new concept of `recipes.pocket.new_concepts.clips` (a puppet in a striped shirt that says a new
word in a new voice; a cube that honks) this writes a folder of clips, lets the base model make clips of its
own families for regularization, trains an adapter on both with the commands of the trainer itself,
and makes clips of fresh prompts with and without it. New concepts are not in the first frame, so what is
seen of them comes from the adapter. Retained skills, those of the base model, are measured with and without
it as well, and at strength 0 every bit of the latents has to be the base model's. With --few-steps the new
concept's clips are made once more, with that few-step adapter beside the new one. Exit code 1: a claim is
missed.

`--quick` shows within minutes that everything runs; `--detectors-only` measures true clips and no model.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.roundtrip_audio import RoundTripListener
from demo.train.form import RATE_IF_SMALL, SMALL, STEPS_IF_SMALL, held_out_count
from lora_trainer.__main__ import main as lora_trainer
from lora_trainer.journal import ADAPTER as FILE
from mova.catalog import POCKET
from mova.errors import UserError
from mova.media.clips import write_mp4
from mova.pipeline import MOVAPipeline
from recipes.pocket.evaluation.aggregate import BARS, score
from recipes.pocket.evaluation.degrade import DEGRADATIONS, degrade_frames, degrade_sound
from recipes.pocket.evaluation.evaluate import CAPTIONS, FIRST_SEED, NOISE_SEED
from recipes.pocket.evaluation.generate import (
    Request,
    Settings,
    Stopwatch,
    denoised,
    generate,
    load_pipeline,
    use_adapters,
)
from recipes.pocket.evaluation.measure import Expectation, Figures, measure
from recipes.pocket.evaluation.report import aligned, number
from recipes.pocket.evaluation.roundtrip import round_trip_frames, round_trip_sound
from recipes.pocket.evaluation.sheet import captioned_sheet
from recipes.pocket.new_concepts.clips import render_new_concept, write_folder
from recipes.pocket.world.clip import (
    FAMILIES,
    FRAME_RATE,
    HEIGHT,
    NEW_CONCEPTS,
    NUM_FRAMES,
    SAMPLE_RATE,
    WIDTH,
    Clip,
    Events,
)
from recipes.pocket.world.render import render
from recipes.pocket.world.speech import DEFAULT_FOLDER

RETAINED = 0.9  # of a figure without the adapter
MOST, FEWEST = 0.75, 0.10  # of fresh prompts that show it with the adapter, and at most without
CLAIMS = {
    "character": {"striped": "striped shirt seen", "word": "new word heard", "voice": "in the new voice"},
    "cube": {"cube": "cube seen", "honks": "honks heard", "synced": "hits with a honk within 2 frames"},
}
RETAINED_SKILLS = tuple(bar for bar in BARS if bar.reached is not None and bar.unit != "frames")

SEED = FIRST_SEED + 500_000  # evaluation starts at FIRST_SEED, training uses far lower seeds
REGULARIZATION_NOISE_SEED = 1000  # evaluation's are in the millions

TRAINING = {
    "data.size": f"{WIDTH}x{HEIGHT}",
    "data.buckets": False,
    "data.num_frames": [NUM_FRAMES],
    "run.accumulation": 1,
    "run.validate_every": 0,
    "run.checkpoint_every": 60,
} | {f"{section}.{key}": value for section, values in SMALL.items() for key, value in values.items()}
ADAPTER = "new_concept"
ZERO_STEPS = 2  # the first runs one expert, the second the other


def save(report: dict[str, object], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")


def report_text(report: dict[str, object]) -> tuple[str, bool]:
    """The tables, and whether every claim holds."""
    claims, reached = claims_table(report)
    if "retained" not in report:
        return claims, reached
    retained, all_retained = retained_table(report["retained"])
    rows = [["seconds", *report["kinds"]]]
    for stage in next(iter(report["kinds"].values()))["seconds"]:
        rows.append([stage, *(f"{each['seconds'][stage]:.0f}" for each in report["kinds"].values())])
    rows += [
        [stage, f"{value:.0f} (once)", *[""] * (len(rows[0]) - 2)]
        for stage, value in report["seconds"].items()
    ]
    same = all(each["strength_0_is_base"] for each in report["kinds"].values())
    zero = f"Strength 0 is the base model bit for bit: {'yes' if same else 'NO'}."
    return "\n\n".join((claims, retained, zero, aligned(rows))), reached and all_retained and same


def claims_table(report: dict[str, object]) -> tuple[str, bool]:
    columns = ["true", "other clips"]
    if "kinds" in report:
        columns += ["true, round trip", "other, round trip", "without", "with"]
    in_few_steps = any("few steps" in each for each in report.get("kinds", {}).values())
    columns += ["with, few steps"] if in_few_steps else []
    rows, reached = [["new concept", *columns, ""]], True
    for kind, scores in report["detectors"].items():
        made = report.get("kinds", {}).get(kind)
        for key, claim in CLAIMS[kind].items():
            values = [scores["true"][key], scores["others"][key]]
            good = values[0] > 0.99 and values[1] < 0.01
            if made:
                best, mistaken = scores["round trip"][key], scores["others, round trip"][key]
                without, shown = made["without"][key], made["with"][key]
                values += [best, mistaken, without, shown]
                good = good and min(best, shown) >= MOST and max(mistaken, without) <= FEWEST
                if in_few_steps:
                    values.append(made["few steps"][key])
                    good = good and values[-1] >= RETAINED * shown
            cells = [number(value, "%") for value in values]
            rows.append([f"{kind}: {claim}", *cells, "" if good else "missed"])
            reached = reached and good
    bar = (
        f"(bars: with, and true clips after a round trip, >= {MOST:.0%}; without, and other clips after one, "
        f"<= {FEWEST:.0%}; true clips test the detectors, round trips show what an adapter could reach"
        + (f"; in few steps >= {RETAINED:.0%} of with)" if in_few_steps else ")")
    )
    return f"{aligned(rows)}\n{bar}", reached


def retained_table(scores: dict[str, dict[str, dict[str, float]]]) -> tuple[str, bool]:
    rows, reached = [["retained skill", *scores]], True
    for bar in RETAINED_SKILLS:
        if bar.family not in scores["without"]:
            continue
        base = scores["without"][bar.family][bar.key]
        row = [bar.claim]
        for families in scores.values():
            value = families[bar.family][bar.key]
            good = value >= base - (1 - RETAINED) * abs(base)
            row.append(number(value, bar.unit) + ("" if good else "  missed"))
            reached = reached and good
        rows.append(row)
    return f"{aligned(rows)}\n(with an adapter at least {RETAINED:.0%} of the figure without)", reached


def write_prompts(folder: Path, count: int, speech: Path) -> Path:
    """First frames of `count` scenes, families in turn, and the path of the list of prompts with them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(count):
        family = FAMILIES[index % len(FAMILIES)]
        clip = render(SEED + index, family, "train", speech, CAPTIONS["full"])
        name = f"{family}_{index:04d}.png"
        Image.fromarray(clip.frames[0]).save(folder / name)
        rows.append({"prompt": clip.caption, "image": name})
    path = folder / "prompts.json"
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Scale:
    """Training clips, regularization clips, steps; fresh prompts, retained ones a family; denoising steps."""

    clips: int = 12
    keep: int = 24  # 0: the new concept's clips alone
    steps: int = STEPS_IF_SMALL
    fresh: int = 12
    retained: int = 12
    sampling_steps: int = Settings().steps


QUICK = Scale(clips=4, keep=3, steps=10, fresh=1, retained=1, sampling_steps=4)


@dataclass(frozen=True)
class Case:
    """A true clip, and what is asked of a model to make one like it."""

    clip: Clip
    expected: Expectation
    seed: int

    @property
    def request(self) -> Request:
        return Request.of(NOISE_SEED + self.seed, self.clip)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    given = {name: value for name in asdict(Scale()) if (value := getattr(arguments, name)) is not None}
    scale = replace(QUICK if arguments.quick else Scale(), **given)
    try:
        if arguments.detectors_only:
            report = {"detectors": detectors(arguments.kind, scale.fresh, arguments.speech)}
        else:
            report = run(arguments, scale)
    except (UserError, FileNotFoundError) as error:
        sys.exit(str(error))
    save(report, arguments.json)
    lines, reached = report_text(report)
    sys.stdout.write(f"{lines}\n")
    return 0 if reached else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(POCKET), help="a pocket checkpoint's folder")
    parser.add_argument("--kind", nargs="+", choices=NEW_CONCEPTS, default=list(NEW_CONCEPTS))
    parser.add_argument(
        "--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="retained skills to measure"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/new_concepts"), help="a new folder")
    parser.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word banks")
    parser.add_argument("--preset", default="look_and_voice")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for the trainer")
    parser.add_argument("--learning-rate", type=float, default=RATE_IF_SMALL)
    parser.add_argument("--guidance-scale", type=float, default=Settings().guidance_scale)
    parser.add_argument(
        "--few-steps",
        type=Path,
        default=None,
        metavar="FILE",
        help="a few-step adapter to put beside the new one",
    )
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, default=None, help="file for all figures")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK}")
    parser.add_argument("--detectors-only", action="store_true", help="of --fresh true clips a family")
    for name, value in asdict(Scale()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=None, help=f"default {value}")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace, scale: Scale) -> dict[str, object]:
    """Everything, as JSON-ready figures."""
    report: dict[str, object] = {"model": str(arguments.model), "scale": asdict(scale), "kinds": {}}
    settings = Settings(steps=scale.sampling_steps, guidance_scale=arguments.guidance_scale)
    speech, out = arguments.speech, arguments.out
    fresh = {kind: concept_cases(kind, scale.fresh, speech) for kind in arguments.kind}
    retained = {family: retained_cases(family, scale.retained, speech) for family in arguments.family}
    pipeline = load_pipeline(arguments.model, arguments.device)
    watch = Stopwatch()
    with watch.stage("detectors"):
        listener = RoundTripListener(pipeline, speech)
        report["detectors"] = detectors(arguments.kind, scale.fresh, speech)
        for kind, cases in fresh.items():
            others = [case for each in retained.values() for case in each]
            for name, chosen, is_own in (("round trip", cases, True), ("others, round trip", others, False)):
                clips = round_trip_clips(pipeline, chosen, with_picture=is_own)
                report["detectors"][kind][name] = score(kind, measure_clips(clips, chosen, kind, listener))

    def scores_of(
        cases: dict[str, list[Case]], name: str, settings: Settings = settings
    ) -> dict[str, dict[str, float]]:
        """Scores by family. Each clip is also written to a file, for review."""
        found = {}
        for family, chosen in cases.items():
            made = generate(pipeline, [case.request for case in chosen], settings)
            figures = measure_clips(saved(made, chosen, out / "clips", name), chosen, family, listener)
            found[family] = score(family, figures)
        return found

    with watch.stage("clips without an adapter"):
        without = scores_of(fresh, "without")
        report["retained"] = {"without": scores_of(retained, "without")}
    with watch.stage("regularization clips"):
        make_regularization(arguments, scale)
    for kind in arguments.kind:
        times = Stopwatch()
        adapter = learn(kind, arguments, scale, times)
        with_it = replace(settings, adapters=(str(adapter),))
        with times.stage("clips with it"):
            found = {"with": scores_of({kind: fresh[kind]}, f"with_{kind}", with_it)[kind]}
            report["retained"][kind] = scores_of(retained, f"with_{kind}", with_it)
        if arguments.few_steps:
            few = Settings.of_adapter(arguments.few_steps)
            beside = replace(few, adapters=(*few.adapters, str(adapter)))
            with times.stage("clips in few steps"):
                found["few steps"] = scores_of({kind: fresh[kind]}, f"few_steps_{kind}", beside)[kind]
        report["kinds"][kind] = found | {
            "without": without[kind],
            "strength_0_is_base": is_base_at_0(pipeline, adapter, fresh[kind][0].request, settings),
            "adapter": str(adapter),
            "adapter_bytes": adapter.stat().st_size,
            "seconds": times.seconds,
        }
        save(report, arguments.json)
    report["seconds"] = watch.seconds
    return report


def make_regularization(arguments: argparse.Namespace, scale: Scale) -> None:
    """Regularization clips, made by the base model from prompts and first frames that are not evaluated."""
    if not scale.keep:
        return
    prompts = write_prompts(arguments.out / "prompts", scale.keep, arguments.speech)
    command = ["regularize", "--model", str(arguments.model), "--prompts", str(prompts)]
    command += ["--count", str(scale.keep), "--seed", str(REGULARIZATION_NOISE_SEED)]
    command += ["--out", str(arguments.out / "keep")]
    command += ["--device", arguments.device] if arguments.device else []
    if lora_trainer(command):
        raise UserError("`python -m lora_trainer regularize` failed; its message is above")


def learn(kind: str, arguments: argparse.Namespace, scale: Scale, watch: Stopwatch) -> Path:
    """Train an adapter with the commands a person would use, unless it exists; returns its path."""
    out = arguments.out / kind
    with watch.stage("write clips"):
        write_folder(out / "clips", kind, scale.clips, speech=arguments.speech)
    adapter = out / "run" / FILE
    if adapter.exists():
        return adapter
    changes = TRAINING | {"run.steps": scale.steps, "optimizer.learning_rate": arguments.learning_rate}
    # Regularization clips are encoded once for all kinds.
    changes |= {"data.held_out": held_out_count(scale.clips), "data.cache": str(arguments.out / "cache")}
    if scale.keep:
        changes["data.regularization"] = str(arguments.out / "keep")
    options = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    options += [f"--set={change}" for change in arguments.set]
    options += ["--model", str(arguments.model), "--data", str(out / "clips"), "--output", str(out / "run")]
    options += ["--preset", arguments.preset]
    if arguments.device:
        options += ["--device", arguments.device]
    for command in ("cache", "train"):
        with watch.stage(command):
            if lora_trainer([command, *options]):
                raise UserError(f"`python -m lora_trainer {command}` failed; its message is above")
    return adapter


def is_base_at_0(pipeline: MOVAPipeline, adapter: Path, request: Request, settings: Settings) -> bool:
    """True if at strength 0 every bit of the latents is the base model's."""
    use_adapters(pipeline, ())
    base = latents_of(pipeline, request, settings)
    pipeline.load_lora_weights(adapter, ADAPTER)
    pipeline.set_adapters(ADAPTER, 0.0)
    return all(map(torch.equal, base, latents_of(pipeline, request, settings)))


def latents_of(
    pipeline: MOVAPipeline, request: Request, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return denoised(pipeline, [request], replace(settings, steps=ZERO_STEPS), Stopwatch())


def concept_cases(kind: str, count: int, speech: Path) -> list[Case]:
    clips = [render_new_concept(FIRST_SEED + index, kind, speech) for index in range(count)]
    return [Case(clip, Expectation.of(clip, speech), FIRST_SEED + index) for index, clip in enumerate(clips)]


def retained_cases(family: str, count: int, speech: Path) -> list[Case]:
    """Cases of the families that pocket was trained on."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    clips = [render(seed, family, "train", speech, CAPTIONS["full"]) for seed in seeds]
    return [Case(clip, Expectation.of(clip, speech), seed) for clip, seed in zip(clips, seeds, strict=True)]


def measure_clips(
    made: Iterator[tuple[np.ndarray, np.ndarray]],
    cases: Sequence[Case],
    family: str,
    listener: RoundTripListener | None = None,
) -> list[Figures]:
    """Figures of each clip by the detectors of `family`, whatever the clip was asked to show."""
    detect = listener.measure if listener and family in NEW_CONCEPTS else measure
    return [
        detect(frames, waveform, replace(case.expected, family=family))
        for (frames, waveform), case in zip(made, cases, strict=True)
    ]


def round_trip_clips(
    pipeline: MOVAPipeline, cases: Sequence[Case], with_picture: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """True clips after a round trip through the autoencoders: the best that the model can show."""
    for case in cases:
        frames = case.clip.frames
        if with_picture:
            frames = round_trip_frames(pipeline, frames[None])[0]
        yield frames, round_trip_sound(pipeline, case.clip.waveform[None])[0]


def saved(
    made: Iterator[tuple[np.ndarray, np.ndarray]], cases: Sequence[Case], folder: Path, name: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same clips, each written as mp4 and as a contact sheet."""
    for (frames, waveform), case in zip(made, cases, strict=True):
        path = folder / f"{case.clip.family}_{case.seed}_{name}.mp4"
        settings = {"prompt": case.clip.caption, "seed": case.request.seed}
        write_mp4(path, frames, waveform, FRAME_RATE, SAMPLE_RATE, settings, overwrite=True)
        shown = Clip(frames, waveform, case.clip.caption, case.clip.family, Events(), {}, {})
        captioned_sheet(shown).save(path.with_suffix(".png"))
        yield frames, waveform


def detectors(kinds: Sequence[str], count: int, speech: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of true clips by kind: of the new concept and of the world, as they are and degraded."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind in kinds:
        own = concept_cases(kind, count, speech)
        others = [case for family in FAMILIES for case in retained_cases(family, count, speech)]
        found[kind] = {}
        for name, cases in (("true", own), ("others", others)):
            clips = [(case.clip.frames, case.clip.waveform) for case in cases]
            found[kind][name] = score(kind, measure_clips(iter(clips), cases, kind))
            for degradation in DEGRADATIONS:
                rng = np.random.default_rng(FIRST_SEED)
                softened = (
                    (degrade_frames(f, degradation, rng), degrade_sound(w, degradation, rng))
                    for f, w in clips
                )
                found[kind][f"{name}, {degradation.name}"] = score(kind, measure_clips(softened, cases, kind))
    return found


if __name__ == "__main__":
    sys.exit(main())
