"""`python -m recipes.pocket`: make the word bank, look at the world, train pocket by stages, and export it.

The order: speech, train-vae and train-audio-vae, codecs, sounds, train-audio, encode, train, export,
evaluate. Stages that train resume from their own checkpoint in --out; several GPUs:
`torchrun --nproc-per-node N -m pocket ...`.

Torch is imported by the training stages only, where they run: loader workers import this module when they
start.
"""

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

from mova.catalog import POCKET
from recipes.pocket.world.clip import FAMILIES, NEWCOMERS, SPLITS
from recipes.pocket.world.speech import DEFAULT_FOLDER

SOUNDS_SEED = 80_000_000

logger = logging.getLogger("pocket")


def add_stages(commands: argparse._SubParsersAction) -> None:
    helps = {
        "start-from": "take the weights of a finished checkpoint, for the stages to train on",
        "train-vae": "train the video VAE",
        "train-audio-vae": "train the audio VAE",
        "codecs": "measure the latents, export both VAEs and the tokenizer",
        "sounds": "render clips and keep their sounds and captions",
        "train-audio": "train the audio tower and the text encoder alone, on the sounds",
        "encode": "encode clips into latents",
        "train": "train towers, bridge and text encoder on the latents",
        "export": "write the checkpoint in the released layout",
    }
    runs = (
        _start_from,
        _train_vae,
        _train_audio_vae,
        _codecs,
        _sounds,
        _train_audio,
        _encode,
        _train,
        _export,
    )
    stages = {}
    for (name, text), run in zip(helps.items(), runs, strict=True):
        stages[name] = stage = commands.add_parser(name, help=text)
        stage.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help="folder of all stages' results")
        stage.add_argument("--workers", type=int, default=None, help="rendering processes of each rank")
        stage.set_defaults(run=run)
    for name, batch, rate in (
        ("train-vae", 8, 3e-3),
        ("train-audio-vae", 48, 3e-4),
        ("train-audio", 512, 2e-3),
        ("train", 128, 2e-3),
    ):
        stage = stages[name]
        stage.add_argument("--minutes", type=float, default=9.0)
        stage.add_argument("--batch", type=int, default=batch, help="clips a step and rank")
        stage.add_argument("--learning-rate", type=float, default=rate)
        stage.add_argument("--decay", type=float, default=0.5, help="last share of the run with falling rate")
    for name in ("train-vae", "train-audio-vae"):
        stages[name].add_argument("--decoder-only", action="store_true", help="leave the latents as they are")
    for name in ("train-vae", "train-audio", "encode", "train"):
        stages[name].add_argument("--compile", action="store_true")
    stages["train-vae"].add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    stages["train-vae"].add_argument(
        "--like", type=Path, default=None, help="a checkpoint whose latents the new ones begin like"
    )
    stages["train-audio-vae"].add_argument("--clips", type=int, default=20_000)
    stages["sounds"].add_argument("--clips", type=int, default=65_536)
    stages["encode"].add_argument("--clips", type=int, default=65_536)
    stages["encode"].add_argument("--per-shard", type=int, default=1024)
    stages["encode"].add_argument("--batch", type=int, default=16)
    stages["start-from"].add_argument("--folder", type=Path, required=True, help="the checkpoint")
    stages["start-from"].add_argument(
        "--anew",
        nargs="+",
        choices=("text_encoder", "dual_tower_bridge", "video_vae"),
        default=(),
        help="parts that begin anew; the towers follow the text encoder",
    )
    stages["export"].add_argument("--folder", type=Path, required=True, help="where the checkpoint goes")


def _start_from(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.export import start_from

    start_from(arguments.folder, arguments.out, arguments.anew)


def _train_vae(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.vaes import train_video_vae

    a = arguments
    train_video_vae(
        a.out,
        a.minutes,
        a.batch,
        a.learning_rate,
        a.decay,
        a.decoder_only,
        a.compile,
        a.crop and tuple(a.crop),
        a.like,
        a.workers,
    )


def _train_audio_vae(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.vaes import train_audio_vae

    a = arguments
    train_audio_vae(a.out, a.minutes, a.batch, a.learning_rate, a.decay, a.decoder_only, a.workers, a.clips)


def _codecs(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.latents import export_codecs

    export_codecs(arguments.out, arguments.workers or 8)


def _sounds(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.sounds import Sounds

    workers = arguments.workers or os.cpu_count() or 1
    Sounds.render(arguments.clips, SOUNDS_SEED, workers, arguments.out).save(
        arguments.out / "sounds.safetensors"
    )


def _train_audio(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.towers import train_audio_tower

    a = arguments
    train_audio_tower(a.out, a.minutes, a.batch, a.learning_rate, a.decay, a.compile)


def _encode(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.latents import encode

    a = arguments
    encode(a.out, a.clips, a.per_shard, a.batch, a.compile, a.workers)


def _train(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.towers import train_towers

    a = arguments
    train_towers(a.out, a.minutes, a.batch, a.learning_rate, a.decay, a.compile)


def _export(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.export import export

    export(arguments.out, arguments.folder)


DEFAULT_MODEL = str(POCKET)
GPU_BATCH = 32  # clips made at once


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.pocket", description=__doc__)
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
    from recipes.pocket.new_concepts.puppet import NEWCOMER
    from recipes.pocket.world.speech import WORLD, build_bank

    for cast in (WORLD, NEWCOMER):
        path = build_bank(arguments.out, cast)
        logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


def _render(arguments: argparse.Namespace) -> None:
    from mova.media.clips import write_mp4
    from recipes.pocket.evaluation.sheet import captioned_sheet
    from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE
    from recipes.pocket.world.render import render

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
    from mova.errors import UserError
    from recipes.pocket.evaluation.sheet import captioned_sheet
    from recipes.pocket.new_concepts.clips import render_newcomer, write_folder

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
    from recipes.pocket.training.loader import write_shards

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
    from recipes.pocket.evaluation.examples import make_examples

    make_examples(arguments.model, arguments.out, arguments.speech)


def _evaluate(arguments: argparse.Namespace) -> None:
    from mova.errors import UserError
    from recipes.pocket.evaluation import costs
    from recipes.pocket.evaluation.evaluate import DEFAULT_RUN, Plan, evaluate, planned_runs, runs_on_cpu
    from recipes.pocket.evaluation.report import report_text

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
