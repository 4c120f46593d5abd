"""`python -m recipes.pocket`: render the world; train, export and evaluate pocket.

The order: speech, train-vae and train-audio-vae, codecs, sounds, train-audio, encode, train, export,
evaluate. Stages that train resume from their own checkpoint in --out; several GPUs:
`torchrun --nproc-per-node N -m recipes.pocket ...`.

Torch is imported by the stages that need it, where they run: loader workers import this module when they
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
from mova.errors import UserError
from mova.prompting.scenes import BANK
from recipes.pocket.world.clip import FAMILIES, NEW_CONCEPTS, SPLITS
from recipes.pocket.world.speech import DEFAULT_FOLDER

SOUNDS_SEED = 80_000_000
GPU_BATCH = 32  # clips made at once

logger = logging.getLogger("pocket")


def main(argv: list[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (UserError, FileNotFoundError) as error:
        sys.exit(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.pocket",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    _add_world(commands)
    _add_evaluate(commands)
    _add_stages(commands)
    return parser


def _add_world(commands: argparse._SubParsersAction) -> None:
    speech = commands.add_parser("speech", help="speak every word once with espeak-ng, into word banks")
    speech.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    speech.set_defaults(run=_speech)
    render = commands.add_parser("render", help="write clips as mp4, and contact sheets")
    render.add_argument("--sheet", action="store_true", help="also a contact sheet of each clip, as PNG")
    shards = commands.add_parser("shards", help="render clips into arrays on the disk")
    shards.add_argument("--per-shard", type=int, default=512)
    shards.add_argument("--workers", type=int, default=None)
    for command, run in ((render, _render), (shards, _shards)):
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--count", type=int, default=3)
        command.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "clips")
        command.add_argument("--family", choices=FAMILIES, default=None)
        command.add_argument("--split", choices=SPLITS, default="train")
        command.set_defaults(run=run)
    examples = commands.add_parser("examples", help="write the page's examples, made by a model on the CPU")
    examples.add_argument("--model", default=str(POCKET))
    examples.add_argument("--out", type=Path, default=Path("assets/examples"))
    examples.set_defaults(run=_examples)
    scenes = commands.add_parser("scenes", help="write the bank of parts that first frames are drawn from")
    scenes.add_argument("--out", type=Path, default=BANK)
    scenes.set_defaults(run=_scenes)
    concepts = commands.add_parser("new-concepts", help="write a folder of clips for an adapter to learn")
    concepts.add_argument("--kind", choices=NEW_CONCEPTS, required=True)
    concepts.add_argument("--count", type=int, default=12)
    concepts.add_argument("--seed", type=int, default=0)
    concepts.add_argument("--out", type=Path, required=True)
    concepts.add_argument("--sheet", type=Path, default=None, help="folder for contact sheets, as PNG")
    concepts.set_defaults(run=_new_concepts)
    prompts = commands.add_parser(
        "distill-prompts", help="write captions and first frames, for `python -m lora_trainer distill`"
    )
    prompts.add_argument("--count", type=int, default=6144)
    prompts.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "distill-prompts")
    prompts.add_argument("--workers", type=int, default=None)
    prompts.set_defaults(run=_distill_prompts)
    for command in (render, shards, examples, concepts, prompts):
        command.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word banks")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="score a model's clips, and the detectors on true ones")
    evaluate.add_argument("--model", default=str(POCKET), help="a checkpoint's folder")
    evaluate.add_argument("--detectors-only", action="store_true", help="true clips alone, no model")
    evaluate.add_argument("--clips", type=int, default=64, help="of each family")
    evaluate.add_argument(
        "--tracks",
        nargs="*",
        default=None,
        metavar="RUN",
        help="instead: runs with given tracks, by default all, such as 'sound held' retake extend",
    )
    evaluate.add_argument("--held-out", type=int, default=16, help="more of each, of unseen combinations")
    evaluate.add_argument(
        "--round-trips", type=int, default=8, help="of the held-out clips, through the autoencoders"
    )
    evaluate.add_argument("--json", action="store_true", help="all raw figures instead of the tables")
    evaluate.add_argument("--figures", type=Path, default=None, help="file for all raw figures, as JSON")
    evaluate.add_argument("--device", default=None)
    evaluate.add_argument(
        "--batch",
        type=int,
        default=None,
        help=f"clips made at once: by default 1 on a CPU, {GPU_BATCH} elsewhere",
    )
    evaluate.add_argument("--workers", type=int, default=None, help="processes of the detectors")
    evaluate.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word banks")
    evaluate.add_argument("--captions", choices=("full", "sentence", "label"), default="full")
    evaluate.add_argument(
        "--degraded", action="store_true", help="also true clips degraded as by an autoencoder"
    )
    evaluate.add_argument("--steps", type=_numbers, default=(), help="also with these, such as 4,8,12,20")
    evaluate.add_argument(
        "--adapter", type=Path, default=None, help="attached for the clips; --steps are then without it"
    )
    evaluate.add_argument("--ablations", action="store_true", help="also without bridge, and dual guidance")
    evaluate.add_argument("--guidance-scale", type=float, default=None)
    evaluate.add_argument("--bridge-guidance-scale", type=float, default=None)
    evaluate.add_argument("--sheets", type=Path, default=None, help="folder for contact sheets")
    evaluate.add_argument("--no-cost", action="store_true", help="on a CPU: skip the timing of a single clip")
    evaluate.set_defaults(run=_evaluate)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _add_stages(commands: argparse._SubParsersAction) -> None:
    stages = {}
    for name, run, text in (
        ("start-from", _start_from, "continue training from the weights of a finished checkpoint"),
        ("train-vae", _train_vae, "train the video VAE"),
        ("train-audio-vae", _train_audio_vae, "train the audio VAE"),
        ("codecs", _codecs, "measure the latents, export both VAEs and the tokenizer"),
        ("sounds", _sounds, "render clips and keep their sounds and captions"),
        ("train-audio", _train_audio, "train the audio tower and the text encoder alone, on the sounds"),
        ("encode", _encode, "encode clips into latents"),
        ("train", _train, "train towers, bridge and text encoder on the latents"),
        ("export", _export, "write the checkpoint in the released layout"),
    ):
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
        stages[name].add_argument("--decoder-only", action="store_true", help="leave the latents unchanged")
    for name in ("train-vae", "train-audio", "encode", "train"):
        stages[name].add_argument("--compile", action="store_true")
    stages["train-vae"].add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    stages["train-vae"].add_argument(
        "--like", type=Path, default=None, help="a checkpoint whose latents the new ones start close to"
    )
    stages["train-audio-vae"].add_argument("--clips", type=int, default=20_000)
    stages["sounds"].add_argument("--clips", type=int, default=65_536)
    stages["encode"].add_argument("--clips", type=int, default=65_536)
    stages["encode"].add_argument("--per-shard", type=int, default=1024)
    stages["encode"].add_argument("--batch", type=int, default=16)
    stages["start-from"].add_argument("--folder", type=Path, required=True, help="the checkpoint")
    stages["start-from"].add_argument(
        "--reset",
        nargs="+",
        choices=("text_encoder", "dual_tower_bridge", "video_vae"),
        default=(),
        help="parts to train from scratch; with the text encoder also the towers' layers that read it",
    )
    stages["export"].add_argument("--folder", type=Path, required=True, help="where the checkpoint goes")


def _speech(arguments: argparse.Namespace) -> None:
    from recipes.pocket.new_concepts.puppet import PUPPET_CAST
    from recipes.pocket.world.speech import WORLD, build_bank

    for cast in (WORLD, PUPPET_CAST):
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


def _shards(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.loader import write_shards

    start = time.monotonic()
    paths = write_shards(
        arguments.out,
        arguments.count,
        arguments.per_shard,
        first_seed=arguments.seed,
        workers=arguments.workers,
        families=FAMILIES if arguments.family is None else (arguments.family,),
        split=arguments.split,
        speech=arguments.speech,
    )
    logger.info("%d clips in %d shards in %.1f s", arguments.count, len(paths), time.monotonic() - start)


def _examples(arguments: argparse.Namespace) -> None:
    from recipes.pocket.evaluation.examples import make_examples

    make_examples(arguments.model, arguments.out, arguments.speech)


def _scenes(arguments: argparse.Namespace) -> None:
    from recipes.pocket.scenes import write_bank

    logger.info("%s: %.0f kB", arguments.out, write_bank(arguments.out) / 1e3)


def _new_concepts(arguments: argparse.Namespace) -> None:
    from recipes.pocket.evaluation.sheet import captioned_sheet
    from recipes.pocket.new_concepts.clips import render_new_concept, write_folder

    a = arguments
    paths = write_folder(a.out, a.kind, a.count, a.seed, a.speech)
    if a.sheet:
        a.sheet.mkdir(parents=True, exist_ok=True)
        for seed, path in enumerate(paths, a.seed):
            sheet = captioned_sheet(render_new_concept(seed, a.kind, a.speech))
            sheet.save(a.sheet / f"{path.stem}.png")
    logger.info("%d clips of the %s in %s", len(paths), a.kind, a.out)


def _distill_prompts(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.prompts import write_prompts

    a = arguments
    began = time.monotonic()
    path = write_prompts(a.out, a.count, a.workers or os.cpu_count() or 1, a.speech)
    logger.info("%d prompts in %s: %.1f s", a.count, path, time.monotonic() - began)


def _evaluate(arguments: argparse.Namespace) -> None:
    from recipes.pocket.evaluation import costs
    from recipes.pocket.evaluation.evaluate import DEFAULT_RUN, Plan, evaluate, planned_runs, runs_on_cpu
    from recipes.pocket.evaluation.report import report_text
    from recipes.pocket.evaluation.tracks import evaluate_tracks, tracks_table

    a = arguments
    on_cpu = runs_on_cpu(a.device)
    batch = a.batch or (1 if on_cpu else GPU_BATCH)
    runs = planned_runs(a.guidance_scale, a.bridge_guidance_scale, a.steps, a.ablations, a.adapter)
    if a.tracks is not None:
        report = evaluate_tracks(
            a.model,
            names=a.tracks,
            speech=a.speech,
            device=a.device,
            clips=a.clips,
            batch=batch,
            processes=a.workers,
            settings=runs[DEFAULT_RUN],
        )
        _print_report(report, tracks_table(report), a)
        return
    plan = Plan(
        model=None if a.detectors_only else a.model,
        speech=a.speech,
        device=a.device,
        clips=a.clips,
        held_out=a.held_out,
        round_trips=a.round_trips,
        batch=batch,
        workers=a.workers,
        captions=a.captions,
        degraded=a.degraded,
        runs=runs,
        sheets=a.sheets,
    )
    report = evaluate(plan)
    if plan.model and on_cpu and not a.no_cost:
        settings = runs[DEFAULT_RUN]
        report["cost"] = costs.measure(
            plan.model,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            bridge_guidance_scale=settings.bridge_guidance_scale,
            adapters=settings.adapters,
        )
    _print_report(report, report_text(report), a)


def _print_report(report: dict[str, object], text: str, arguments: argparse.Namespace) -> None:
    if arguments.figures:
        arguments.figures.write_text(json.dumps(report), encoding="utf-8")
    sys.stdout.write(f"{json.dumps(report) if arguments.json else text}\n")


def _start_from(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.export import start_from

    start_from(arguments.folder, arguments.out, arguments.reset)


def _train_vae(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.vaes import train_video_vae

    a = arguments
    train_video_vae(
        a.out,
        minutes=a.minutes,
        batch=a.batch,
        learning_rate=a.learning_rate,
        decay=a.decay,
        decoder_only=a.decoder_only,
        compiled=a.compile,
        crop=a.crop and tuple(a.crop),
        like=a.like,
        workers=a.workers,
    )


def _train_audio_vae(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.vaes import train_audio_vae

    a = arguments
    train_audio_vae(
        a.out,
        minutes=a.minutes,
        batch=a.batch,
        learning_rate=a.learning_rate,
        decay=a.decay,
        decoder_only=a.decoder_only,
        workers=a.workers,
        clips=a.clips,
    )


def _codecs(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.latents import export_codecs

    export_codecs(arguments.out, arguments.workers or 8)


def _sounds(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.sounds import Sounds

    workers = arguments.workers or os.cpu_count() or 1
    sounds = Sounds.render(arguments.clips, SOUNDS_SEED, workers, arguments.out)
    sounds.save(arguments.out / "sounds.safetensors")


def _train_audio(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.towers import train_audio_tower

    a = arguments
    train_audio_tower(
        a.out,
        minutes=a.minutes,
        batch=a.batch,
        learning_rate=a.learning_rate,
        decay=a.decay,
        compiled=a.compile,
    )


def _encode(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.latents import encode

    a = arguments
    encode(a.out, clips=a.clips, per_shard=a.per_shard, batch=a.batch, compiled=a.compile, workers=a.workers)


def _train(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.towers import train_towers

    a = arguments
    train_towers(
        a.out,
        minutes=a.minutes,
        batch=a.batch,
        learning_rate=a.learning_rate,
        decay=a.decay,
        compiled=a.compile,
    )


def _export(arguments: argparse.Namespace) -> None:
    from recipes.pocket.training.export import export

    export(arguments.out, arguments.folder)


if __name__ == "__main__":
    main()
