"""`python -m pocket`: make the word bank, look at the world, train pocket stage by stage, and export it.

The order: speech, train-vae and train-audio-vae, codecs, sounds, train-audio, encode, train, export,
evaluate; the language model apart from these: train-enhancer, evaluate-enhancer. Stages that train resume
from their own checkpoint in --out; several GPUs: `torchrun --nproc-per-node N -m pocket ...`.

Torch is imported by the training stages only, where they run: loader workers import this module when they
start.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from mova.catalog import POCKET
from pocket.clip import FAMILIES, NEWCOMERS, SPLITS
from pocket.speech import DEFAULT_FOLDER
from pocket.stages import add_enhancer, add_stages

DEFAULT_MODEL = str(POCKET)
GPU_BATCH = 32  # clips made at once

logger = logging.getLogger("pocket")


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pocket", description=__doc__)
    commands = parser.add_subparsers(required=True)

    speech = commands.add_parser(
        "speech", help="speak every word once with espeak-ng and keep the recordings"
    )
    speech.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    speech.set_defaults(run=_speech)

    render = commands.add_parser("render", help="write clips as mp4, and contact sheets to look at")
    render.add_argument("--sheet", action="store_true", help="also a contact sheet of each clip, as PNG")
    shards = commands.add_parser("shards", help="render clips into arrays on the disk")
    shards.add_argument("--per-shard", type=int, default=512)
    shards.add_argument("--workers", type=int, default=None)
    for command, run in ((render, _render), (shards, _shards)):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--count", type=int, default=3)
        command.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "clips")
        command.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word bank")
        command.add_argument("--family", choices=FAMILIES, default=None)
        command.add_argument("--split", choices=SPLITS, default="train")
        command.set_defaults(run=run)
    examples = commands.add_parser("examples", help="write the page's examples, made by a model on the CPU")
    examples.add_argument("--model", default=DEFAULT_MODEL)
    examples.add_argument("--out", type=Path, default=Path("assets/examples"))
    examples.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word bank")
    examples.set_defaults(run=_examples)
    newcomers = commands.add_parser("newcomers", help="write a folder of clips for an adapter to learn")
    newcomers.add_argument("--kind", choices=NEWCOMERS, required=True)
    newcomers.add_argument("--count", type=int, default=12)
    newcomers.add_argument("--seed", type=int, default=0)
    newcomers.add_argument("--out", type=Path, required=True)
    newcomers.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word bank")
    newcomers.add_argument("--sheet", type=Path, default=None, help="folder for contact sheets, as PNG")
    newcomers.set_defaults(run=_newcomers)
    _add_evaluate(commands)
    add_stages(commands)
    add_enhancer(commands)
    return parser


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="score a model's clips, and the detectors on true ones")
    evaluate.add_argument("--model", default=DEFAULT_MODEL, help="a checkpoint's folder")
    evaluate.add_argument("--detectors-only", action="store_true", help="true clips alone, no model")
    evaluate.add_argument("--clips", type=int, default=64, help="of each family")
    evaluate.add_argument("--held-out", type=int, default=16, help="more of each, of unseen combinations")
    evaluate.add_argument("--coded", type=int, default=8, help="of the latter, through the autoencoders")
    evaluate.add_argument("--json", action="store_true", help="all raw figures in place of the table")
    evaluate.add_argument("--device", default=None)
    evaluate.add_argument(
        "--batch",
        type=int,
        default=None,
        help=f"clips made at once: by default 1 on a CPU, {GPU_BATCH} elsewhere",
    )
    evaluate.add_argument("--workers", type=int, default=None, help="processes that judge")
    evaluate.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word bank")
    evaluate.add_argument("--captions", choices=("full", "sentence", "label"), default="full")
    evaluate.add_argument("--worn", action="store_true", help="also true clips softened as by an autoencoder")
    evaluate.add_argument("--steps", type=_numbers, default=(), help="also with these, such as 4,8,12,20")
    evaluate.add_argument("--ablations", action="store_true", help="also without bridge, and dual guidance")
    evaluate.add_argument("--guidance-scale", type=float, default=None)
    evaluate.add_argument("--bridge-guidance-scale", type=float, default=None)
    evaluate.add_argument("--sheets", type=Path, default=None, help="folder for contact sheets")
    evaluate.add_argument("--no-cost", action="store_true", help="on a CPU: do not time a single clip")
    evaluate.set_defaults(run=_evaluate)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _speech(arguments: argparse.Namespace) -> None:
    from pocket.puppet import NEWCOMER
    from pocket.speech import WORLD, build_bank

    for cast in (WORLD, NEWCOMER):
        path = build_bank(arguments.out, cast)
        logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


def _render(arguments: argparse.Namespace) -> None:
    from mova.media import write_mp4
    from pocket.clip import FRAME_RATE, SAMPLE_RATE
    from pocket.sheet import captioned_sheet
    from pocket.world import render

    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        start = time.process_time()
        clip = render(seed, arguments.family, arguments.split, arguments.speech)
        seconds = time.process_time() - start
        stem = arguments.out / f"{seed:05d}_{clip.family}"
        path = stem.with_suffix(".mp4")
        write_mp4(path, clip.frames, clip.waveform, FRAME_RATE, SAMPLE_RATE, {}, overwrite=True)
        if arguments.sheet:
            captioned_sheet(clip).save(stem.with_suffix(".png"))
        logger.info("%s.mp4 rendered in %.0f ms: %s", stem, seconds * 1000, clip.caption.replace("\n\n", " "))


def _newcomers(arguments: argparse.Namespace) -> None:
    from mova.types import UserError
    from pocket.newcomers import render_newcomer, write_folder
    from pocket.sheet import captioned_sheet

    a = arguments
    try:
        paths = write_folder(a.out, a.kind, a.count, a.seed, a.speech)
    except (UserError, FileNotFoundError) as error:
        sys.exit(str(error))
    if a.sheet:
        a.sheet.mkdir(parents=True, exist_ok=True)
        for seed, path in enumerate(paths, a.seed):
            sheet = captioned_sheet(render_newcomer(seed, a.kind, a.speech))
            sheet.save(a.sheet / f"{path.stem}.png")
    logger.info("%d clips of the %s in %s", len(paths), a.kind, a.out)


def _shards(arguments: argparse.Namespace) -> None:
    from pocket.loader import write_shards

    families = FAMILIES if arguments.family is None else (arguments.family,)
    start = time.monotonic()
    paths = write_shards(
        arguments.out,
        arguments.count,
        arguments.per_shard,
        first_seed=arguments.seed,
        workers=arguments.workers,
        families=families,
        split=arguments.split,
        speech=arguments.speech,
    )
    logger.info("%d clips in %d shards in %.1f s", arguments.count, len(paths), time.monotonic() - start)


def _examples(arguments: argparse.Namespace) -> None:
    from pocket.examples import make_examples

    make_examples(arguments.model, arguments.out, arguments.speech)


def _evaluate(arguments: argparse.Namespace) -> None:
    from mova.types import UserError
    from pocket import costs
    from pocket.evaluate import DEFAULT_RUN, Plan, evaluate, planned_runs, runs_on_cpu
    from pocket.table import report_text

    runs = planned_runs(
        arguments.guidance_scale, arguments.bridge_guidance_scale, arguments.steps, arguments.ablations
    )
    on_cpu = runs_on_cpu(arguments.device)
    plan = Plan(
        None if arguments.detectors_only else arguments.model,
        arguments.speech,
        arguments.device,
        arguments.clips,
        arguments.held_out,
        arguments.coded,
        arguments.batch or (1 if on_cpu else GPU_BATCH),
        arguments.workers,
        arguments.captions,
        arguments.worn,
        runs,
        arguments.sheets,
    )
    try:
        report = evaluate(plan)
    except (UserError, FileNotFoundError) as error:
        sys.exit(str(error))
    if plan.model and on_cpu and not arguments.no_cost:
        settings = runs[DEFAULT_RUN]
        report["cost"] = costs.measure(
            plan.model, settings.steps, settings.guidance_scale, settings.bridge_guidance_scale
        )
    text = json.dumps(report) if arguments.json else report_text(report)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
