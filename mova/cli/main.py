"""The command line: `python -m mova generate`, `extend`, `enhance`, `inspect`, `convert`, `evaluate`, ..."""

import argparse
import logging
import sys
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from mova import catalog, shapes
from mova.cli.convert import add_convert, convert
from mova.cli.enhance import add_enhance, enhance
from mova.cli.exits import EXIT_CODES, run_command
from mova.cli.extend import add_extend, extend
from mova.cli.first_frame import add_first_frame, first_frame
from mova.cli.generate import (
    add_generate,
    add_machine,
    generate,
    models,
    placement_options,
)
from mova.layout import launched_processes
from mova.machine import Machine
from mova.request import GenerationRequest

DESCRIPTION = "Video with synchronised sound from a first frame and a text."


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mova", description=DESCRIPTION, epilog=EXIT_CODES)
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="generate | extend | enhance | first-frame | inspect | convert | evaluate | doctor",
    )
    texts = {
        "generate": "make a clip",
        "extend": "make a clip longer, window by window, with the same voice; the picture is encoded again",
        "enhance": "turn an idea into a prompt that MOVA understands, keeping every quoted word",
        "first-frame": "draw the picture that a clip of these words would start from",
        "inspect": "show what a checkpoint holds and where it would go on this machine; loads no weights",
        "convert": "write a checkpoint with its large layers in 8 bits, which takes less disk and memory",
        "evaluate": "measure clips: do sound and picture go together, and is each in order; needs no weights",
        "doctor": "examine this installation, trying each part; exit code 1 if one is broken",
    }
    adders = {
        "generate": add_generate,
        "extend": add_extend,
        "enhance": add_enhance,
        "first-frame": add_first_frame,
        "inspect": add_inspect,
        "convert": add_convert,
        "evaluate": add_evaluate,
        "doctor": add_doctor,
    }
    for name, add in adders.items():
        description = f"{texts[name].capitalize()}."
        add(
            commands.add_parser(
                name, help=texts[name], description=description, epilog=EXIT_CODES, allow_abbrev=False
            )
        )
    return parser


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=models())
    parser.add_argument(
        "--size", metavar="WIDTHxHEIGHT", help="of the clip to plan for; default: the model's own"
    )
    parser.add_argument("--frames", type=int, help="of the clip to plan for; default: the model's own")
    add_machine(parser)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="+", type=Path, metavar="FILE.mp4")
    parser.add_argument(
        "--image",
        type=Path,
        help="picture that the clips were to start from; default: that of a clip's settings, if it is there",
    )
    parser.add_argument("--json", action="store_true", help="a list with all figures, for programs")
    parser.add_argument("--verbose", action="store_true", help="log each stage")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="MODEL", help=f"{models()}; default: the machine's")
    parser.add_argument("--device", help="cuda, cuda:1, mps, cpu; default: the best there is")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--verbose", action="store_true", help="log each stage")


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; in all but the first process of torchrun, follow the first."""
    if launched_processes()[0]:
        from mova.parallel import join

        join().follow()
    options = build_parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("mova").setLevel(logging.INFO if options.verbose else logging.WARNING)
    with logging_redirect_tqdm():
        return run_command(lambda: COMMANDS[options.command](options))


def inspect(options: argparse.Namespace) -> int:
    model = catalog.find_model(options.model)
    request = GenerationRequest("any", **model.defaults(model.preset("exact")))
    if options.size:
        height, width = shapes.parse_size(options.size)
        request = request.replace(height=height, width=width)
    if options.frames is not None:
        request = request.replace(num_frames=options.frames)
    request.check()
    fixed = placement_options(options, settings={})

    from mova.inspection import inspect_checkpoint, report

    machine = Machine.probe(options.device)
    checkpoint = inspect_checkpoint(model.source)
    sys.stdout.write(report(checkpoint, machine, request, **fixed) + "\n")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    from mova.cli.evaluate import evaluate_clips  # brings PyAV

    return evaluate_clips(options.clips, options.image, options.json)


def doctor(options: argparse.Namespace) -> int:
    from mova.cli.doctor import examine_installation  # brings torch and PyAV

    return examine_installation(options.model, options.device, options.json)


COMMANDS = {
    "generate": generate,
    "extend": extend,
    "enhance": enhance,
    "first-frame": first_frame,
    "inspect": inspect,
    "convert": convert,
    "evaluate": evaluate,
    "doctor": doctor,
}
