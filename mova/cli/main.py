"""The command line: `python -m mova generate`, `extend`, `enhance`, `inspect` and `evaluate`."""

import argparse
import logging
import sys
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from mova import catalog, shapes
from mova.cli.enhance import add_enhance, enhance
from mova.cli.extend import add_extend, extend
from mova.cli.generate import (
    add_generate,
    add_machine,
    generate,
    models,
    placement_options,
    say,
)
from mova.errors import BackendError, UserError
from mova.machine import Machine
from mova.request import GenerationRequest

DESCRIPTION = "Video with synchronised sound from a first frame and a text."
EXIT_CODES = (
    "Exit codes: 0 done; 1 the machine or a server failed; 2 the request cannot be met as it is; 130 stopped."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mova", description=DESCRIPTION, epilog=EXIT_CODES)
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="generate | extend | enhance | inspect | evaluate"
    )
    texts = {
        "generate": "make a clip",
        "extend": "make a clip longer, window by window, with the same voice; the picture is encoded again",
        "enhance": "turn an idea into a prompt that MOVA understands, keeping every quoted word",
        "inspect": "show what a checkpoint holds and where it would go on this machine; loads no weights",
        "evaluate": "measure clips: do sound and picture go together, and is each in order; needs no weights",
    }
    adders = {
        "generate": add_generate,
        "extend": add_extend,
        "enhance": add_enhance,
        "inspect": add_inspect,
        "evaluate": add_evaluate,
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


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = build_parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    logging.getLogger("mova").setLevel(logging.INFO if options.verbose else logging.WARNING)
    try:
        with logging_redirect_tqdm():
            return COMMANDS[options.command](options)
    except UserError as error:
        say(f"error: {error}")
        return 2
    except BackendError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; no unfinished file is left")
        return 130


def inspect(options: argparse.Namespace) -> int:
    model = catalog.find_model(options.model)
    request = GenerationRequest("any", **model.defaults(model.preset("full")))
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


COMMANDS = {
    "generate": generate,
    "extend": extend,
    "enhance": enhance,
    "inspect": inspect,
    "evaluate": evaluate,
}
