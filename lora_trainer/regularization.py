"""Clips of what a model can already, made by itself for a run to keep: by the command, or by the run first.

Training on a few clips alone changes everything that resembles them. Clips in `data.keep`, mixed in, pull the
rest back to what it was; made by the base model they teach it nothing but itself.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lora_trainer.config import MAX_KEPT, Config
from lora_trainer.journal import Report
from lora_trainer.manifest import read_caption
from mova.catalog import POCKET, ModelSpec, find_model
from mova.errors import UserError
from mova.files import new_output
from mova.request import GenerationRequest
from mova.shapes import parse_size

EXAMPLES = POCKET.parent / "examples" / "examples.json"
MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class PromptSpec:
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
    if not 1 <= options.count <= MAX_KEPT:
        raise UserError(f"--count {options.count} must be from 1 to {MAX_KEPT}")
    model = find_model(options.model)
    wishes = read_wishes(options.prompts) if options.prompts else example_wishes(model)
    settings = settings_of(options, model)
    requests = requests_of(options.out, wishes, options.count, settings, options.seed)
    with tqdm(total=options.count, desc="clips to keep", dynamic_ncols=True) as bar:
        made = generate_missing(
            options.model, options.device, requests, lambda _, done, __: bar.update(done - bar.n)
        )
    there = f"{made} made, {options.count - made} there already"
    sys.stdout.write(f"{options.out}\t{options.count} clips to keep, {there}\n")
    return 0


def make_kept(config: Config, report: Report = lambda *_: None) -> int:
    """Make the clips of `data.keep_count` that are not there yet; how many were made.

    Raises:
        UserError: there are no prompts, or one cannot be made. BackendError: the device is out of memory, or
            the disk is full; what is made stays.
    """
    model = find_model(config.model)
    settings = model.defaults(model.preset()) | shape_of(config)
    requests = requests_of(config.kept, wishes_of(config), config.data.keep_count, settings)
    return generate_missing(config.model, config.run.device, requests, report)


def shape_of(config: Config) -> dict[str, Any]:
    """Height, width, num_frames and frame_rate of the clips that the run makes: its longest window."""
    from lora_trainer.windows import lengths, size_of

    model = find_model(config.model)
    height, width = size_of(config.data, model)
    longest = lengths(config.data, model)[0]
    return {"height": height, "width": width, "num_frames": longest, "frame_rate": config.data.frame_rate}


def wishes_of(config: Config) -> list[PromptSpec]:
    """What the run's own clips to keep show. Raises UserError: it is not said, and there are no examples."""
    return [PromptSpec(prompt) for prompt in config.data.keep_prompts] or example_wishes(
        find_model(config.model)
    )


def read_wishes(path: Path) -> list[PromptSpec]:
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


def example_wishes(model: ModelSpec) -> list[PromptSpec]:
    """The examples that were made with `model`."""
    rows = json.loads(EXAMPLES.read_text(encoding="utf-8")) if EXAMPLES.is_file() else []
    own = [row for row in rows if find_model(row["model"]).source == model.source]
    if not own:
        raise UserError("the model comes with no examples; give prompts of what it can do")
    return [wish_of(row, EXAMPLES) for row in own]


def wish_of(row: Any, path: Path) -> PromptSpec:  # noqa: ANN401 - of a file that a person wrote
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f"{path}: {str(row)[:60]!r} is no prompt; write a string or {{prompt, image}}")
    image = row.get("image")
    return PromptSpec(row["prompt"].strip(), path.parent / str(image) if image else None)


def settings_of(options: argparse.Namespace, model: ModelSpec) -> dict[str, Any]:
    """The fields of a request that model and flags decide."""
    settings = model.defaults(model.preset())
    if options.size:
        settings["height"], settings["width"] = parse_size(options.size)
    given = {"num_frames": options.frames, "num_inference_steps": options.steps}
    return settings | {key: value for key, value in given.items() if value is not None}


def requests_of(
    folder: Path, wishes: list[PromptSpec], count: int, settings: Mapping[str, Any], seed: int = 0
) -> dict[Path, GenerationRequest]:
    """The clips of `folder`: the wishes in turn, each clip with a seed of its own from `seed` on."""
    turns = [wishes[index % len(wishes)] for index in range(count)]
    return {
        folder / f"keep-{index:04d}.mp4": GenerationRequest(
            prompt=wish.prompt, image=wish.image, seed=seed + index, **settings
        )
        for index, wish in enumerate(turns)
    }


def is_present(path: Path, request: GenerationRequest) -> bool:
    """Whether this clip is there. Raises UserError: another is there under its name."""
    if not path.exists():
        return False
    from mova.media.clips import read_settings  # brings PyAV

    settings = read_settings(path)
    differing = [key for key in ("prompt", "seed") if settings.get(key) != getattr(request, key)]
    if differing:
        raise UserError(f"{path} was made with another {' and '.join(differing)}; give an empty --out")
    return True


def generate_missing(
    model: str, device: str | None, requests: Mapping[Path, GenerationRequest], report: Report
) -> int:
    """Make the clips that are not there yet, each with its caption beside it; how many were made.

    Raises:
        UserError: one cannot be made, told before any is; another clip has its name. BackendError: the device
            is out of memory, or the disk is full; what is made stays.
    """
    missing = {path: request for path, request in requests.items() if not is_present(path, request)}
    for path, request in missing.items():
        request.check(path)
    for path, request in requests.items():  # before the clips: one without a caption cannot be read
        write_caption(path, request.prompt)
    if not missing:
        return 0
    from mova.backends.local import LocalBackend  # brings torch: only when all requests are in order

    backend, count = LocalBackend(model, device), len(requests)
    for done, (path, request) in enumerate(missing.items(), start=count - len(missing)):
        report("keep", done, count)
        backend.generate(request, path)
    report("keep", count, count)
    return len(missing)


def write_caption(path: Path, prompt: str) -> None:
    """The prompt beside its clip; what a person wrote there is left."""
    text = path.with_suffix(".txt")
    if not text.is_file() or not read_caption(text):
        with new_output(text, overwrite=True) as temporary:
            temporary.write_text(f"{prompt}\n", encoding="utf-8")
