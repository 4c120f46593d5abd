"""The first frame that words get where no picture is given: `python -m mova first-frame`, and `generate`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mova.catalog import SMALL_MODEL, find_model
from mova.cli.exits import say
from mova.errors import UserError
from mova.files import new_output
from mova.machine import suitable_model
from mova.prompting.first_frame import FirstFrame, first_frame_for, painter_from_environment
from mova.request import GenerationRequest

SPEAKER = "a woman speaks"  # where there is a sound, and no words for it


def add_first_frame(parser: argparse.ArgumentParser) -> None:
    """The arguments of `first-frame`."""
    parser.add_argument("prompt", help="an idea or a whole prompt")
    parser.add_argument("--model", help="that will make the clip; default: the one that suits this machine")
    parser.add_argument(
        "--variant", type=int, default=0, help="another picture of the same words, for pocket; default 0"
    )
    parser.add_argument("--out", type=Path, default=Path("first.png"), help="a .png, default first.png")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--verbose", action="store_true", help="log each stage")


def first_frame(options: argparse.Namespace) -> int:
    """Draw or paint a first frame and write it, to look at and to give to `generate --image`."""
    if options.out.suffix.lower() != ".png":
        raise UserError(f"--out {options.out} must end in .png")
    if options.variant < 0:
        raise UserError(f"--variant {options.variant} is out of range; give 0 or more")
    model = find_model(options.model or suitable_model())
    painter = painter_from_environment(os.environ)
    found = first_frame_for(options.prompt, model.name, options.variant, painter, model.height, model.width)
    tell(found)
    if found.image is None:
        return 2
    save(found, options.out, options.overwrite)
    sys.stdout.write(f"{options.out}\n")
    return 0


@contextmanager
def with_first_frame(
    request: GenerationRequest, model: str, out: Path, overwrite: bool
) -> Iterator[GenerationRequest]:
    """`request` with a first frame for its words, kept next to `out` unless the run fails.

    It stays as it is where it has a picture or a video, where the words are outside pocket's world, and, for
    another model, where no painter is configured.
    """
    painter = painter_from_environment(os.environ)
    is_pocket = find_model(model).name == SMALL_MODEL
    if request.image or request.video or not (is_pocket or painter):
        yield request
        return
    found = first_frame_for(request.prompt or SPEAKER, model, 0, painter, request.height, request.width)
    tell(found)
    if found.image is None:
        yield request
        return
    path = out.with_name(f"{out.stem}-first.png")
    save(found, path, overwrite)
    try:
        yield request.replace(image=path)
    except BaseException:  # what stops a command leaves nothing behind
        path.unlink(missing_ok=True)
        raise


def tell(found: FirstFrame) -> None:
    say("\n".join([found.said, *(f"  not as asked: {each}" for each in found.differs)]))


def save(found: FirstFrame, path: Path, overwrite: bool) -> None:
    with new_output(path, overwrite) as temporary:
        found.image.save(temporary, "PNG", optimize=True)
