"""The commands that examine clips, plan, encode and train: their flags, output and exit codes."""

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from lora_trainer.config import PRESETS, RECIPES, Config, RunConfig, parse_change, read_config
from lora_trainer.output_lock import own_output
from mova.errors import Cancelled, UserError
from mova.machine import human_seconds

if TYPE_CHECKING:
    import torch

    from lora_trainer.latent_cache import Cache
    from lora_trainer.loop import Loop
    from lora_trainer.plan.estimate import Measured
    from lora_trainer.plan.inputs import Card, PlanInputs

# The flags that most runs need; every other setting goes by --set KEY=VALUE.
FLAGS = {
    "model": "360p, 720p, a folder or a Hub repo id",
    "data": "folder of clips with .txt captions, a manifest, or hf://datasets/OWNER/NAME",
    "output": "folder of the run: journal, checkpoints, samples, adapter",
    "preset": f"which towers learn: {', '.join(PRESETS)}",
    "recipe": f"how they learn: {', '.join(RECIPES)}",
    "size": "WIDTHxHEIGHT of the training clips",
    "steps": "optimizer steps",
    "base": "how frozen layers are held: plain, fp8, int8, or nf4 (4 bits, needs bitsandbytes)",
    "device": "cuda, cuda:1, mps, cpu; default: the best there is",
}
KEYS = {"data": "data.path", "size": "data.size"} | {key: f"run.{key}" for key in ("steps", "base", "device")}


def add_command(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    commands = {
        "doctor": (run_doctor, "examine the clips before any download or GPU hour"),
        "plan": (run_plan, "estimate memory, disk, time and money before anything is downloaded"),
        "cache": (run_cache, "encode clips and captions once"),
        "train": (run_train, "train an adapter (encodes first what is not cached)"),
        "overfit": (run_overfit, "check on one clip that every tower learns; exit code 1 if one does not"),
    }
    for name, (run, text) in commands.items():
        parser = subparsers.add_parser(name, help=text, description=f"{text.capitalize()}.")
        parser.add_argument(
            "config", type=Path, nargs="?", help="settings, .toml or .yaml; flags override it"
        )
        for flag, meaning in FLAGS.items():
            parser.add_argument(f"--{flag}", help=meaning, type=int if flag == "steps" else str)
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting: run.accumulation=8"
        )
        parser.set_defaults(run=run)
        if name == "train":
            parser.add_argument("--resume", action="store_true", help="continue the run in --output")
        if name == "overfit":
            parser.add_argument(
                "--clip", help="name of the clip in the data set; default: the first with sound"
            )
        if name == "plan":
            parser.add_argument("--gpu", help="plan for this card (H200, 4090, ...), not for this machine")
            parser.add_argument("--gpus", type=int, default=1, help="number of cards, a process on each")
            parser.add_argument("--price", type=float, help="price of an hour, in any currency")
            parser.add_argument("--probe", action="store_true", help="also run three steps here and compare")
            parser.add_argument("--json", action="store_true", help="for programs; memory in bytes")
        if name == "doctor":
            parser.add_argument("--fix", action="store_true", help="write fixed copies where that is safe")
            parser.add_argument("--report", type=Path, help="also write the report as an HTML page")


def config_of(options: argparse.Namespace) -> Config:
    given = {flag: getattr(options, flag) for flag in FLAGS if getattr(options, flag) is not None}
    changes: dict[str, Any] = {KEYS.get(flag, flag): value for flag, value in given.items()}
    changes |= dict(parse_change(text) for text in options.set)
    return read_config(options.config, changes)


def run_doctor(options: argparse.Namespace) -> int:
    from lora_trainer.doctor import examine
    from lora_trainer.doctor_report import html_report, text_report

    config = config_of(options)
    with progress_bar("clips") as progress:
        examination = examine(config, progress.report)
    if options.fix:
        from lora_trainer.doctor import fix

        with own_output(config.output, "doctor --fix"):
            for line in fix(examination, config):
                sys.stdout.write(f"{line}\n")
    sys.stdout.write(text_report(examination))
    if options.report:
        html_report(examination, options.report)
        sys.stdout.write(f"{options.report}\n")
    return 1 if examination.errors else 0


def run_plan(options: argparse.Namespace) -> int:
    from lora_trainer.plan.estimate import advise, estimate_run, json_report, text_report
    from lora_trainer.plan.inputs import find_card, plan_inputs

    if options.probe and options.gpu:
        raise UserError("--probe measures this machine; leave --gpu out, or run it on that card")
    if options.price is not None and not 0 <= options.price < 1e6:
        raise UserError(f"--price {options.price:g} must be a price of an hour, from 0")
    if options.gpus < 1 or (options.probe and options.gpus > 1):
        raise UserError(f"--gpus {options.gpus} must be 1 or more, and with --probe 1")
    config = config_of(options)
    card, inputs = find_card(config, options.gpu, options.gpus), plan_inputs(config)
    plan = estimate_run(config, card, inputs)
    measured = measure_steps(config, card, inputs) if options.probe else None
    report = json_report if options.json else text_report
    sys.stdout.write(report(plan, advise(config, card, inputs, plan), options.price, measured))
    return 0 if plan.fits else 1


def measure_steps(config: Config, card: "Card", inputs: "PlanInputs") -> "Measured":
    from lora_trainer.base_model import choose_device, load_model
    from lora_trainer.latent_cache import checkpoint_folder
    from lora_trainer.plan.probe import probe

    device, dtype = choose_device(config)
    with own_output(config.output, "plan --probe"):
        cache = encode(config, device, dtype)
    pipeline = load_model(checkpoint_folder(config), device, dtype, config.run.offload)
    return probe(config, card, inputs, cache, pipeline)


def run_cache(options: argparse.Namespace) -> int:
    from lora_trainer.base_model import choose_device

    config = config_of(options)
    place = choose_device(config)
    with own_output(config.output, "cache"):
        cache = encode(config, *place)
    sys.stdout.write(f"{config.cache}\t{len(cache.windows)} windows, {len(cache.texts)} texts\n")
    return 0


def encode(config: Config, device: "torch.device", dtype: "torch.dtype") -> "Cache":
    from lora_trainer.latent_cache import build_cache

    with progress_bar("cache") as progress:
        return build_cache(config, device, dtype, progress.report)


def run_train(options: argparse.Namespace) -> int:
    from lora_trainer.train import open_trainer

    return run_loop(open_trainer, config_of(options), options.resume, "cache")


def run_loop(
    opened: Callable[..., AbstractContextManager["Loop"]], config: RunConfig, resume: bool, preparing: str
) -> int:
    """Run what `opened(config, resume, report)` yields to its end; the exit code."""
    with ExitStack() as stack:
        with progress_bar(preparing) as progress:
            loop = stack.enter_context(opened(config, resume, progress.report))
        is_first = loop.workers.is_first
        try:
            with steps_bar(config, is_first) as progress:
                path = loop.run(progress.step)
        except Cancelled as stop:
            sys.stderr.write(f"{stop}\n")
            return 130
    if is_first:
        sys.stdout.write(f"{path}\n")
    return 0


def run_overfit(options: argparse.Namespace) -> int:
    from lora_trainer.base_model import choose_device, load_model
    from lora_trainer.distributed import Workers
    from lora_trainer.latent_cache import checkpoint_folder, encode_windows
    from lora_trainer.overfit import STEPS, find_window, overfit, overfit_config
    from lora_trainer.train import check_settings

    config = overfit_config(config_of(options), options.steps or STEPS)
    device, dtype = choose_device(config)
    check_settings(config, Workers(device))
    with own_output(config.output, "overfit"):
        if any(config.output.glob("checkpoints/*")):
            raise UserError(f"{config.output} holds a run; choose another --output for the test")
        window = find_window(config, options.clip)
        with progress_bar("cache") as progress:
            cache = encode_windows(config, [window], device, dtype, progress.report)
        pipeline = load_model(checkpoint_folder(config), device, dtype, config.run.offload)
        with steps_bar(config, shown=True) as progress:
            verdicts = overfit(config, cache, pipeline, progress.step)
    sys.stdout.write("".join(f"{verdict}\n" for verdict in verdicts))
    return 0 if all(verdict.learnt for verdict in verdicts) else 1


class progress_bar:  # noqa: N801 - used as a context
    """A progress bar for work that reports (what, done, of how many)."""

    def __init__(self, what: str) -> None:
        self.bar = tqdm(desc=what, dynamic_ncols=True, mininterval=0.1 if sys.stderr.isatty() else 30)

    def __enter__(self) -> "progress_bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def report(self, what: str, done: int, count: int) -> None:
        self.bar.set_description_str(what, refresh=False)
        self.bar.total, self.bar.n = count, done
        self.bar.refresh() if sys.stderr.isatty() else self.bar.update(0)


class steps_bar(progress_bar):  # noqa: N801
    """A progress bar of optimizer steps with the losses."""

    def __init__(self, config: RunConfig, shown: bool) -> None:
        self.bar = tqdm(
            total=config.run.steps,
            desc="train",
            dynamic_ncols=True,
            disable=not shown,
            mininterval=0.1 if sys.stderr.isatty() else 30,
        )
        self.steps = config.run.steps

    def step(self, record: dict[str, Any]) -> None:
        self.bar.n = record["step"]
        left = human_seconds((self.steps - record["step"]) * record["seconds"])
        losses = f"video {record['video_loss']:.4f} audio {record['audio_loss']:.4f}, {left} left"
        self.bar.set_postfix_str(losses, refresh=False)
        self.bar.update(0)
