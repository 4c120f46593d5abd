"""What the encoders made of clips and captions, as files that training reads.

One safetensors file for each window and each caption, named after a fingerprint of everything that decided
its content. A digest in its header tells damage. Files are written whole or not at all.
"""

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mova.outputs import new_output
from mova.shapes import MAX_PROMPT_TOKENS
from mova.types import UserError

logger = logging.getLogger(__name__)

FORMAT = 1
INDEX = "index.json"


@dataclass(frozen=True)
class Entry:
    """One window as it lies in the cache; `text` and `file` are names of files there.

    One that is `kept` shows what the model can already.
    """

    name: str
    clip: str
    file: str
    text: str
    caption: str
    num_frames: int
    height: int
    width: int
    frame_rate: float
    has_sound: bool
    kept: bool = False

    @property
    def bucket(self) -> tuple[int, int, int]:
        return self.height, self.width, self.num_frames


@dataclass(frozen=True)
class Cache:
    """What training reads: windows, and the texts by prompt (samples' and the empty one included)."""

    folder: Path
    entries: tuple[Entry, ...]
    texts: dict[str, str]

    def window(self, entry: Entry) -> dict[str, Tensor]:
        """`video_latents` [16, T, h, w], `condition` [20, T, h, w] and `audio_latents` [C, L], float32."""
        return read_tensors(self.folder / entry.file)

    def text(self, prompt: str) -> Tensor:
        """The embedding [512, D] of a prompt, zero behind its end."""
        if prompt not in self.texts:
            raise UserError(
                f"the cache lacks the text {prompt[:60]!r}; run `python -m lora_trainer cache` again"
            )
        return self.embedding(self.texts[prompt])

    def embedding(self, file: str) -> Tensor:
        tokens = read_tensors(self.folder / file)["text"]
        padded = tokens.new_zeros(MAX_PROMPT_TOKENS, tokens.shape[1])
        padded[: len(tokens)] = tokens
        return padded


def write_tensors(path: Path, tensors: dict[str, Tensor], identity: dict[str, Any]) -> None:
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    metadata = {"identity": json.dumps(identity, sort_keys=True), "digest": tensors_digest(tensors)}
    with new_output(path, overwrite=True) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a cached file. Raises UserError where it is missing or damaged."""
    again = "run `python -m lora_trainer cache` again, it makes what is missing"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} of the cache cannot be read ({error}); {again}") from error
    if digest != tensors_digest(tensors):
        raise UserError(f"{path} of the cache is damaged; {again}")
    return tensors


def is_whole(path: Path) -> bool:
    """Whether a cached file is there and undamaged."""
    if not path.is_file():
        return False
    try:
        read_tensors(path)
    except UserError:
        logger.warning("%s is damaged and is made again", path.name)
        return False
    return True


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def write_index(cache: Cache) -> None:
    content = {
        "format": FORMAT,
        "texts": cache.texts,
        "entries": [dataclasses.asdict(e) for e in cache.entries],
    }
    with new_output(cache.folder / INDEX, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_index(folder: Path) -> Cache:
    """The cache in a folder. Raises UserError where there is none."""
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        entries = tuple(Entry(**entry) for entry in content["entries"])
        return Cache(folder, entries, dict(content["texts"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no cache ({error}); run `python -m lora_trainer cache`") from error
