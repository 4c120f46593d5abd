"""The training stages as commands of `python -m pocket`. Torch is imported where a stage runs."""

import argparse
import logging
import os
from pathlib import Path

from pocket.speech import DEFAULT_FOLDER

ENHANCER = Path("assets/pocket/enhancer")
ENHANCER_WORK = Path("outputs/pocket/enhancer")
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


def add_enhancer(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train-enhancer", help="train the model that turns ideas into prompts")
    train.add_argument("--out", type=Path, default=ENHANCER_WORK, help="checkpoint, log and model go here")
    train.add_argument("--minutes", type=float, default=8, help="training time in all, resumed or not")
    train.add_argument("--device", default="cuda")
    train.add_argument("--workers", type=int, default=14, help="processes that draw ideas")
    train.add_argument("--ideas", type=int, default=512, help="ideas in a batch")
    train.set_defaults(run=_train_enhancer)
    evaluate = commands.add_parser("evaluate-enhancer", help="measure it on ideas that training never saw")
    evaluate.add_argument("--folder", type=Path, default=ENHANCER)
    evaluate.add_argument("--count", type=int, default=500, help="held-out ideas, a fifth outside the world")
    evaluate.add_argument("--faults", type=int, default=20, help="how many failures to show")
    evaluate.add_argument("--no-typed", action="store_true", help="leave out the ideas written by hand")
    evaluate.set_defaults(run=_evaluate_enhancer)


def _start_from(arguments: argparse.Namespace) -> None:
    from pocket.export import start_from

    start_from(arguments.folder, arguments.out, arguments.anew)


def _train_vae(arguments: argparse.Namespace) -> None:
    from pocket.train_video_vae import train_video_vae

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
    from pocket.train_audio_vae import train_audio_vae

    a = arguments
    train_audio_vae(a.out, a.minutes, a.batch, a.learning_rate, a.decay, a.decoder_only, a.workers, a.clips)


def _codecs(arguments: argparse.Namespace) -> None:
    from pocket.latents import export_codecs

    export_codecs(arguments.out, arguments.workers or 8)


def _sounds(arguments: argparse.Namespace) -> None:
    from pocket.sounds import Sounds

    workers = arguments.workers or os.cpu_count() or 1
    Sounds.render(arguments.clips, SOUNDS_SEED, workers, arguments.out).save(
        arguments.out / "sounds.safetensors"
    )


def _train_audio(arguments: argparse.Namespace) -> None:
    from pocket.train_audio_tower import train_audio_tower

    a = arguments
    train_audio_tower(a.out, a.minutes, a.batch, a.learning_rate, a.decay, a.compile)


def _encode(arguments: argparse.Namespace) -> None:
    from pocket.latents import encode

    a = arguments
    encode(a.out, a.clips, a.per_shard, a.batch, a.compile, a.workers)


def _train(arguments: argparse.Namespace) -> None:
    from pocket.train_towers import train_towers

    a = arguments
    train_towers(a.out, a.minutes, a.batch, a.learning_rate, a.decay, a.compile)


def _export(arguments: argparse.Namespace) -> None:
    from pocket.export import export

    export(arguments.out, arguments.folder)


def _train_enhancer(arguments: argparse.Namespace) -> None:
    from pocket.enhancer.train import EnhancerRecipe, train_enhancer

    recipe = EnhancerRecipe(ideas=arguments.ideas)
    train_enhancer(arguments.out, arguments.minutes, recipe, arguments.device, arguments.workers)


def _evaluate_enhancer(arguments: argparse.Namespace) -> None:
    from pocket.enhancer.check import evaluate_enhancer

    logging.getLogger("mova").setLevel(logging.WARNING)
    share = evaluate_enhancer(arguments.folder, arguments.count, arguments.faults, not arguments.no_typed)
    logger.info("%.1f%% of held-out ideas of the world pass", 100 * share)
