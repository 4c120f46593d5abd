"""`python -m mova convert`: a checkpoint in fewer bits."""

import argparse
import sys
from pathlib import Path

from mova import catalog
from mova.cli.generate import models, say


def add_convert(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convert`."""
    parser.add_argument("model", metavar="MODEL", help=models())
    parser.add_argument("--to", choices=("fp8",), required=True, help="what its large layers become")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="a new folder; give it to --model"
    )
    parser.add_argument("--verbose", action="store_true", help="log each stage")


def convert(options: argparse.Namespace) -> int:
    """Write the folder and return the exit code."""
    from mova import conversion  # brings torch

    conversion.convert(catalog.find_model(options.model).source, options.out, say)
    sys.stdout.write(f"{options.out}\n")
    return 0
