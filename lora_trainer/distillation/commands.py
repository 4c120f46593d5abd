"""`python -m lora_trainer distill`: its flags, output and exit codes."""

import argparse
import sys
from pathlib import Path
from typing import Any

from lora_trainer.commands import run_loop
from lora_trainer.config import parse_change
from lora_trainer.distillation.config import DistillConfig, read_distill_config
from mova.adapters.strengths import TOWERS
from mova.errors import UserError

FLAGS: dict[str, tuple[str, type, str]] = {
    "model": ("model", str, "360p, 720p, pocket, a folder or a Hub repo id: the teacher"),
    "prompts": (
        "prompts.path",
        str,
        "folder of images with .txt files; a .jsonl; a .txt, a prompt a line",
    ),
    "output": ("output", str, "folder of the run: trajectories, journal, checkpoints, samples, adapter"),
    "steps": ("steps", int, "denoising steps that the student learns; one forward each"),
    "start-from": ("start_from", str, "adapter of the same ranks that the student starts from"),
    "count": ("prompts.count", int, "trajectories; default: one for each prompt"),
    "size": ("prompts.size", str, "WIDTHxHEIGHT of the clips"),
    "frames": ("prompts.num_frames", int, "frames of the clips"),
    "updates": ("run.steps", int, "optimizer steps"),
    "minutes": ("run.minutes", float, "end the training after so many, with the schedules in step"),
    "batch-size": ("run.batch_size", int, "trajectories in a micro-batch"),
    "teacher-batch-size": ("teacher.batch_size", int, "trajectories that the teacher makes at once"),
    "base": ("run.base", str, "how frozen layers are held: plain, fp8, int8, or nf4"),
    "device": ("run.device", str, "cuda, cuda:1, mps, cpu; default: the best there is"),
}

# A student that has learnt from its own states before goes on with them, at the rate that is given.
MATCH = {"matching.on": True, "objective.own_from": 0.0, "objective.own_rate": 1.0}


def add_command(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "distil a model to a few forwards without guidance, as an adapter"
    parser = subparsers.add_parser("distill", help=text, description=f"{text.capitalize()}.")
    parser.add_argument("config", type=Path, nargs="?", help="settings, .toml or .yaml; flags override it")
    for flag, (_, kind, meaning) in FLAGS.items():
        parser.add_argument(f"--{flag}", type=kind, help=meaning)
    parser.add_argument(
        "--match", action="store_true", help="match distributions in the last steps; for --start-from"
    )
    parser.add_argument("--rank", type=int, help="of the LoRA in every tower")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting: objective.own_share=0"
    )
    parser.add_argument(
        "--plan", action="store_true", help="only estimate memory, disk, time and money, without a download"
    )
    parser.add_argument("--gpu", help="plan for this card (H200, 4090, ...), not for this machine")
    parser.add_argument("--gpus", type=int, default=1, help="plan for so many cards, a process on each")
    parser.add_argument("--price", type=float, help="price of an hour of all cards, for the plan")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    parser.set_defaults(run=run_distill)


def config_of(options: argparse.Namespace) -> DistillConfig:
    given = {key: getattr(options, flag.replace("-", "_")) for flag, (key, _, _) in FLAGS.items()}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if options.rank is not None:
        changes |= {f"towers.{name}.rank": options.rank for name in TOWERS}
    if options.match:
        changes |= MATCH
    changes |= dict(parse_change(text) for text in options.set)
    return read_distill_config(options.config, changes)


def run_plan(options: argparse.Namespace, config: DistillConfig) -> int:
    from lora_trainer.distillation.plan import distill_inputs, estimate_distillation, text_report
    from lora_trainer.distillation.prompts import read_items
    from lora_trainer.plan.inputs import find_card

    if options.gpus < 1 or (options.price is not None and not 0 <= options.price < 1e6):
        raise UserError(f"--gpus {options.gpus} and --price {options.price} must be at least 1, and 0")
    count = config.prompts.count
    count = len(read_items(config.prompts)) if count is None else count
    card, inputs = find_card(config, options.gpu, options.gpus), distill_inputs(config)
    plan = estimate_distillation(config, card, inputs, count)
    sys.stdout.write(text_report(config, inputs, plan, options.price))
    return 0 if plan.fits else 1


def run_distill(options: argparse.Namespace) -> int:
    from lora_trainer.distillation.run import open_distillation

    config = config_of(options)
    if options.plan:
        return run_plan(options, config)
    return run_loop(open_distillation, config, options.resume, "prompts")
