"""The prompts of a distillation: texts and first frames from a folder or a file, in the order of the run."""

import json
from dataclasses import dataclass
from pathlib import Path

from lora_trainer.distillation.config import Prompts
from mova.errors import UserError

FILE = "prompts.jsonl"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Item:
    """One trajectory: its prompt and first frame (None is white), and its number, which decides the noise."""

    prompt: str
    image: Path | None
    number: int


def read_items(prompts: Prompts) -> list[Item]:
    """The trajectories to make: the prompts in turn, as many times as `count` needs, each with other noise.

    Raises:
        UserError: there are no prompts, or one cannot be read; the message names it.
    """
    path = prompts.path
    if path.is_dir():
        pairs = read_lines(path / FILE) if (path / FILE).is_file() else read_folder(path)
    elif path.suffix == ".jsonl":
        pairs = read_lines(path)
    elif path.is_file():
        pairs = [(line.strip(), None) for line in read_text(path).splitlines() if line.strip()]
    else:
        raise UserError(f"prompts: there is no {path}; give a folder, a .jsonl or a .txt file")
    if not pairs:
        raise UserError(f"{path} holds no prompts; give images with .txt files beside them, or {FILE}")
    count = len(pairs) if prompts.count is None else prompts.count
    if count <= prompts.held_out:
        raise UserError(
            f"prompts.held_out={prompts.held_out} leaves none of {count} trajectories to learn from; lower "
            "it, or raise prompts.count"
        )
    return [Item(*pairs[number % len(pairs)], number) for number in range(count)]


def read_folder(folder: Path) -> list[tuple[str, Path | None]]:
    """Images with a text of the same name; a text without an image begins with a white frame."""
    images = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGES}
    texts = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    if lonely := sorted(images.keys() - texts.keys()):
        raise UserError(f"{images[lonely[0]]} has no text; write its prompt into {lonely[0]}.txt beside it")
    return [(read_text(path).strip(), images.get(stem)) for stem, path in texts.items()]


def read_lines(path: Path) -> list[tuple[str, Path | None]]:
    """A line each: {"prompt": "...", "image": "name.png"}; the image is beside the file, or left out."""
    pairs = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            prompt, image = entry["prompt"], entry.get("image")
        except (ValueError, KeyError, TypeError, AttributeError):
            entry, prompt, image = None, None, None
        if not isinstance(prompt, str) or not isinstance(image, str | None):
            raise UserError(f'{path}, line {number}: write {{"prompt": "...", "image": "name.png"}}')
        if image is not None and not (path.parent / image).is_file():
            raise UserError(f"{path}, line {number}: there is no {path.parent / image}")
        pairs.append((prompt, None if image is None else path.parent / image))
    return pairs


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); save it as UTF-8") from error
