"""`python -m lora_trainer keep`: clips of what a model can already, made by itself, for a run to keep.

Training on a few clips alone changes everything that resembles them. Clips in `data.keep`, mixed in, pull the
rest back to what it was; made by the base model they teach it nothing but itself.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lora_trainer.manifest import read_caption
from mova.catalog import POCKET, Model, find_model
from mova.checks import check_request
from mova.outputs import new_output
from mova.shapes import parse_size
from mova.types import GenerationRequest, UserError

EXAMPLES = POCKET.parent / "examples" / "examples.json"
MAX_CLIPS = 1000
MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Wish:
    """A prompt, and the first frame that its clip starts from, if any."""

    prompt: str
    image: Path | None = None


def add_command(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "let the base model make clips of what it can, for data.keep"
    parser = subparsers.add_parser("keep", help=text, description=f"{text.capitalize()}.")
    parser.add_argument("--model", required=True, help="360p, 720p, pocket, a folder or a Hub repo id")
    parser.add_argument(
        "--prompts",
        type=Path,
        help="a prompt a line (.txt), or a .json list of prompts or of {prompt, image}; "
        "default: the examples that come with the model",
    )
    parser.add_argument("--count", type=int, default=12, help="of clips; prompts are taken in turn")
    parser.add_argument("--out", type=Path, required=True, help="folder; a clip that is there is left")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; each has its own")
    parser.add_argument("--size", help="WIDTHxHEIGHT, the model's by default")
    parser.add_argument("--frames", type=int, help="4k+1, the model's length by default")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--device", help="cuda, cuda:1, mps, cpu; default: the best there is")
    parser.set_defaults(run=run_keep)


def run_keep(options: argparse.Namespace) -> int:
    if not 1 <= options.count <= MAX_CLIPS:
        raise UserError(f"--count {options.count} must be from 1 to {MAX_CLIPS}")
    model = find_model(options.model)
    wishes = read_wishes(options.prompts) if options.prompts else example_wishes(model)
    requests = {
        options.out / f"keep-{index:04d}.mp4": request_of(options, model, wishes[index % len(wishes)], index)
        for index in range(options.count)
    }
    missing = {path: request for path, request in requests.items() if not is_made(path, request)}
    for path, request in missing.items():  # all that can be wrong is told before the first is made
        check_request(request, path)
    make(options, missing)
    for path, request in requests.items():
        write_caption(path, request.prompt)
    made = f"{len(missing)} made, {len(requests) - len(missing)} there already"
    sys.stdout.write(f"{options.out}\t{len(requests)} clips to keep, {made}\n")
    return 0


def read_wishes(path: Path) -> list[Wish]:
    """The prompts of a file. Raises UserError: it cannot be read, is empty, or has a row that is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has over {MAX_BYTES} bytes; give a file of prompts")
        text = path.read_text(encoding="utf-8-sig")
        rows: Any = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as prompts ({error})") from error
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of prompts")
    wishes = [wish_of(row, path) for row in rows if row != "" and (not isinstance(row, str) or row.strip())]
    if not wishes:
        raise UserError(f"{path} holds no prompts; write one a line")
    return wishes


def example_wishes(model: Model) -> list[Wish]:
    """The examples that were made with `model`."""
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8")) if EXAMPLES.is_file() else []
    own = [row for row in rows if find_model(row["model"]).source == model.source]
    if not own:
        raise UserError(f"{model.name} comes with no examples; give --prompts with what it can do")
    return [wish_of(row, EXAMPLES) for row in own]


def wish_of(row: Any, path: Path) -> Wish:  # noqa: ANN401 - of a file that a person wrote
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f"{path}: {str(row)[:60]!r} is no prompt; write a string or {{prompt, image}}")
    image = row.get("image")
    return Wish(row["prompt"].strip(), path.parent / str(image) if image else None)


def request_of(options: argparse.Namespace, model: Model, wish: Wish, index: int) -> GenerationRequest:
    settings = model.defaults(model.preset())
    if options.size:
        settings["height"], settings["width"] = parse_size(options.size)
    given = {"num_frames": options.frames, "num_inference_steps": options.steps}
    settings |= {key: value for key, value in given.items() if value is not None}
    return GenerationRequest(prompt=wish.prompt, image=wish.image, seed=options.seed + index, **settings)


def is_made(path: Path, request: GenerationRequest) -> bool:
    """Whether this clip is there. Raises UserError: another is there under its name."""
    if not path.exists():
        return False
    from mova.media import read_settings  # brings PyAV

    settings = read_settings(path)
    differing = [key for key in ("prompt", "seed") if settings.get(key) != getattr(request, key)]
    if differing:
        raise UserError(f"{path} was made with another {' and '.join(differing)}; give an empty --out")
    return True


def make(options: argparse.Namespace, requests: dict[Path, GenerationRequest]) -> None:
    if not requests:
        return
    from mova.backends.local import LocalBackend  # brings torch: only when all requests are in order

    backend = LocalBackend(str(options.model), options.device)
    for path, request in shown(requests.items()):
        backend.generate(request, path)
        write_caption(path, request.prompt)


def shown(requests: Iterable[tuple[Path, GenerationRequest]]) -> Iterable[tuple[Path, GenerationRequest]]:
    return tqdm(list(requests), desc="clips to keep", dynamic_ncols=True)


def write_caption(path: Path, prompt: str) -> None:
    """The prompt beside its clip; what a person wrote there is left."""
    text = path.with_suffix(".txt")
    if not text.is_file() or not read_caption(text):
        with new_output(text, overwrite=True) as temporary:
            temporary.write_text(f"{prompt}\n", encoding="utf-8")
