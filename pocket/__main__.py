"""`python -m pocket`: make the word bank, look at the world, store clips, train and measure the enhancer.

Torch is imported by the training stages only, where they run: loader workers import this module when they
start.
"""

import argparse
import logging
import time
from pathlib import Path

from pocket.clip import FAMILIES, SPLITS
from pocket.speech import DEFAULT_FOLDER

logger = logging.getLogger("pocket")

ENHANCER = Path("assets/pocket/enhancer")
ENHANCER_WORK = Path("outputs/pocket/enhancer")


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
    _add_enhancer(commands)
    return parser


def _add_enhancer(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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


def _speech(arguments: argparse.Namespace) -> None:
    from pocket.speech import build_bank

    path = build_bank(arguments.out)
    logger.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


def _render(arguments: argparse.Namespace) -> None:
    from pocket.sheet import contact_sheet, write_mp4
    from pocket.world import render

    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        start = time.process_time()
        clip = render(seed, arguments.family, arguments.split, arguments.speech)
        seconds = time.process_time() - start
        stem = arguments.out / f"{seed:05d}_{clip.family}"
        write_mp4(stem.with_suffix(".mp4"), clip)
        if arguments.sheet:
            contact_sheet(clip).save(stem.with_suffix(".png"))
        logger.info("%s.mp4 rendered in %.0f ms: %s", stem, seconds * 1000, clip.caption.replace("\n\n", " "))


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


def _train_enhancer(arguments: argparse.Namespace) -> None:
    from pocket.enhancer.train import EnhancerRecipe, train_enhancer

    recipe = EnhancerRecipe(ideas=arguments.ideas)
    train_enhancer(arguments.out, arguments.minutes, recipe, arguments.device, arguments.workers)


def _evaluate_enhancer(arguments: argparse.Namespace) -> None:
    from pocket.enhancer.check import evaluate_enhancer

    logging.getLogger("mova").setLevel(logging.WARNING)
    share = evaluate_enhancer(arguments.folder, arguments.count, arguments.faults, not arguments.no_typed)
    logger.info("%.1f%% of held-out ideas of the world pass", 100 * share)


if __name__ == "__main__":
    main()
