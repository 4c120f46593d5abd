"""Adapter files: what one holds, reading with every check that an untrusted file needs, writing.

Our format is one safetensors file that diffusers' loaders read too. Keys are
`<tower>.<module>.lora_A.weight` [rank, in] and `<tower>.<module>.lora_B.weight` [out, rank]: `tower` is a
component of the checkpoint, `module` the released name of a linear layer in it. The header holds

- `lora_adapter_metadata`: JSON, for each tower `<tower>.r`, `<tower>.lora_alpha`, `<tower>.use_rslora`,
  `<tower>.target_modules`, and `<tower>.rank_pattern`, `<tower>.alpha_pattern` for modules that differ;
- `mova_adapter`: JSON, `version` 1, `base_model`, `trigger_words`, `recipe`, what the training recorded, and
  `turbo` for a few-step adapter (`mova.adapters.turbo`).

A weight gains scale * lora_B @ lora_A, where scale = alpha / rank, or alpha / sqrt(rank) with rsLoRA.
"""

import json
import math
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mova.adapters.strengths import TOWERS
from mova.adapters.turbo import MAX_HEADER, Turbo
from mova.errors import UserError, printable
from mova.files import new_output

VERSION = 1
MAX_RANK = 256
MAX_BYTES = 4 * 2**30
MAX_TENSORS = 10_000
MAX_ALPHA = 1e6
MAX_METADATA = 2**20  # characters of `mova_adapter`
MAX_WORDS = 100
# What torch's unpickler raises on damaged files, whose instructions it follows.
UNREADABLE = (
    OSError,
    UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True)
class LoraUpdate:
    """The update of one linear layer."""

    down: Tensor  # lora_A, [rank, in]
    up: Tensor  # lora_B, [out, rank]
    alpha: float
    rslora: bool = False

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def norm(self) -> float:
        """The Frobenius norm of what the weight gains, without forming it."""
        down, up = self.down.double(), self.up.double()
        return abs(self.scale) * ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt().item()


@dataclass(frozen=True)
class AdapterMetadata:
    """An adapter's own account of itself. `recipe` is JSON, as the training recorded it."""

    base_model: str = ""
    trigger_words: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    turbo: Turbo | None = None


@dataclass(frozen=True)
class Adapter:
    """LoRA updates by "tower.path.to.module". `notes` are facts a reader had to infer, for people."""

    layers: dict[str, LoraUpdate]
    metadata: AdapterMetadata = AdapterMetadata()
    notes: tuple[str, ...] = ()

    def tower(self, name: str) -> dict[str, LoraUpdate]:
        """The updates of one tower by the module's path inside it."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): lora for key, lora in self.layers.items() if key.startswith(prefix)}


def check_adapter(adapter: Adapter, source: object) -> None:
    """Raise UserError unless the adapter is not empty, its matrices pair, and its numbers are sane."""
    if not adapter.layers:
        raise UserError(f"{source} holds no LoRA matrices; the training that wrote it saved nothing")
    # A pickle may show a few bytes as a matrix of any size.
    if (
        sum(tensor.numel() * 4 for lora in adapter.layers.values() for tensor in (lora.down, lora.up))
        > MAX_BYTES
    ):
        raise UserError(f"{source} would take over {MAX_BYTES // 2**30} GiB, too large for an adapter")
    for module, lora in adapter.layers.items():
        for tensor in (lora.down, lora.up):
            if tensor.ndim != 2 or tensor.layout != torch.strided or not tensor.is_floating_point():
                raise UserError(
                    f"{source}: {module} has {tensor.dtype} {list(tensor.shape)}, not a matrix of floats"
                )
            if not torch.isfinite(tensor.float()).all():
                raise UserError(f"{source}: {module} holds NaN or infinite values; the training broke down")
        if lora.up.shape[1] != lora.rank:
            raise UserError(
                f"{source}: {module} has matrices of ranks {lora.rank} and {lora.up.shape[1]}, no pair"
            )
        if not 1 <= lora.rank <= MAX_RANK:
            raise UserError(f"{source}: {module} has rank {lora.rank}; 1 to {MAX_RANK} are accepted")
        if not 0 < abs(lora.alpha) <= MAX_ALPHA:
            raise UserError(
                f"{source}: {module} has alpha {lora.alpha}; up to {MAX_ALPHA:g} is accepted, not 0"
            )


def write_adapter(path: Path, adapter: Adapter, overwrite: bool = False) -> None:
    """Write our format, whole or not at all.

    Raises:
        UserError, BackendError: the adapter is empty or broken, or the file cannot be written.
    """
    check_adapter(adapter, path)
    tensors = {}
    for module, lora in adapter.layers.items():
        tensors[f"{module}.lora_A.weight"] = lora.down
        tensors[f"{module}.lora_B.weight"] = lora.up
    described = {
        "version": VERSION,
        "base_model": adapter.metadata.base_model,
        "trigger_words": list(adapter.metadata.trigger_words),
        "recipe": adapter.metadata.recipe,
    }
    if adapter.metadata.turbo is not None:
        described["turbo"] = adapter.metadata.turbo.record()
    header = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(peft_metadata(adapter), sort_keys=True),
        "mova_adapter": json.dumps(described, sort_keys=True),
    }
    write_tensors(path, tensors, header, overwrite)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], header: dict[str, str], overwrite: bool = False
) -> None:
    if path.suffix != ".safetensors":
        raise UserError(f"{path} must end in .safetensors")
    # Cloned: layers of both experts may be the same tensor, which the format has no word for.
    tensors = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    with new_output(path, overwrite) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))  # save_file hides which fault a disk had


def peft_metadata(adapter: Adapter) -> dict[str, Any]:
    """peft's LoraConfig of each tower, its keys behind the tower's name, as diffusers stores them."""
    metadata = {}
    for tower in TOWERS:
        layers = adapter.tower(tower)
        if not layers:
            continue
        (rank, alpha, rslora), _ = Counter(
            (lora.rank, lora.alpha, lora.rslora) for lora in layers.values()
        ).most_common(1)[0]
        if any(lora.rslora != rslora for lora in layers.values()):
            raise UserError(f"{tower} mixes LoRA and rsLoRA; one file holds one of them for each tower")
        config = {
            "r": rank,
            "lora_alpha": alpha,
            "use_rslora": rslora,
            "target_modules": sorted(layers),
            "rank_pattern": {path: lora.rank for path, lora in layers.items() if lora.rank != rank},
            "alpha_pattern": {path: lora.alpha for path, lora in layers.items() if lora.alpha != alpha},
        }
        metadata |= {f"{tower}.{key}": value for key, value in config.items()}
    return metadata


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of an untrusted file.

    Raises:
        UserError: it is too large, not such a file, or not all of it; the message says what it is.
    """
    size = check_size(path)
    check_safetensors(path, size)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged ({printable(str(error))}); take it from its author again"
        ) from error


def check_safetensors(path: Path, size: int) -> None:
    """Raise UserError unless a file of `size` bytes is a whole safetensors file, before it is parsed."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        start += file.read(64)
        is_header = len(start) > 8 and start[8:9] == b"{" and length <= 2**40
        if not is_header:
            raise UserError(f"{path} {kind_of(start)}")
        if length > MAX_HEADER:
            raise UserError(
                f"{path} has a header of {length / 2**20:.0f} MiB, too large for an adapter; "
                f"up to {MAX_HEADER // 2**20} MiB are accepted"
            )
        file.seek(8)
        content = file.read(length)
    try:
        header = json.loads(content) if len(content) == length else {}
        ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} has a header that cannot be read; take the file from its author again"
        ) from error
    if len(ends) > MAX_TENSORS:
        raise UserError(f"{path} holds {len(ends)} tensors, too many for an adapter")
    if needed > size:
        raise UserError(
            f"{path} is cut short: {size:,} of {needed:,} bytes are there, so its download did not end; "
            "download it again"
        )


def kind_of(start: bytes) -> str:
    """The kind of a file that begins with these bytes, and what to do, as the end of a sentence."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty (0 bytes); download it again"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return (
            "is a web page (HTML), as a site sends that wants a log-in; sign in there and download it again"
        )
    if text.startswith(b"version https://git-lfs"):
        return (
            "is a Git LFS pointer, not the file that it points to; run `git lfs pull`, or download that file"
        )
    if text.startswith((b"{", b"[")):
        return "is JSON text, such as a server's error; open it to see what it says, and download it again"
    if not any(start):
        return "begins with zeros: its download did not end; download it again"
    if len(start) < 9:
        return f"is cut short: {len(start)} bytes are there, so its download did not end; download it again"
    if start.startswith((b"PK\3\4", b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf")):
        return "is an archive; unpack it and give the file inside (upstream's own files end in .pt)"
    if start[0] == 0x80 and start[1] <= 5:
        return "is a pickle under another name; upstream's end in .pt, ask others for safetensors"
    if start.startswith(b"GGUF"):
        return "is a GGUF file: model weights, not an adapter"
    return "is not a safetensors file; download it again, or ask its author"


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary in a local `.pt` file; a pickle that would run code is refused."""
    size = check_size(path)
    check_archive(path, size)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = printable(str(error).split("\n")[0])
        raise UserError(f"{path} cannot be read as an upstream adapter ({reason})") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path} holds no dictionary; it is not an upstream adapter")
    return content


def check_archive(path: Path, size: int) -> None:
    """Raise UserError unless a `.pt` file of `size` bytes takes no more when it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"PK\3\4"):
            raise UserError(f"{path} is cut short or damaged; copy or download it again") from error
        if start[:1] == b"\x80":
            raise UserError(
                f"{path} is a bare pickle; save it again with torch.save of torch 1.6 or later"
            ) from error
        raise UserError(f"{path} {kind_of(start)}") from error
    unpacked = sum(member.file_size for member in members)
    if len(members) > MAX_TENSORS or unpacked > size:  # torch.save does not compress
        raise UserError(
            f"{path} has {size / 2**20:.1f} MiB and would unpack to {unpacked / 2**20:.0f} MiB in "
            f"{len(members)} parts, too large for its size; save it with torch.save, which does not compress"
        )


def check_size(path: Path) -> int:
    """The bytes of a file. Raises UserError if there is none, or it has over MAX_BYTES."""
    try:
        with path.open("rb"):
            size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read as an adapter ({error.strerror})") from error
    if size > MAX_BYTES:
        raise UserError(f"{path} has over {MAX_BYTES // 2**30} GiB, too large for an adapter")
    return size


def read_metadata(header: dict[str, str], source: object) -> AdapterMetadata:
    """The metadata in the header of our format. Raises UserError if it is malformed or of a later version."""
    text = header.get("mova_adapter")
    if text is None:
        return AdapterMetadata()
    content = parse_object(text, f"{source}: mova_adapter")
    words, base, recipe = (
        content.get("trigger_words", []),
        content.get("base_model", ""),
        content.get("recipe", {}),
    )
    if content.get("version") != VERSION:
        raise UserError(
            f"{source} is of version {content.get('version')!r}, this toolkit reads {VERSION}; update it"
        )
    fine = (
        isinstance(words, list) and len(words) <= MAX_WORDS and all(isinstance(word, str) for word in words)
    )
    if not (fine and isinstance(base, str) and isinstance(recipe, dict)):
        raise UserError(f"{source}: its header is malformed; take the file from its author again")
    return AdapterMetadata(base, tuple(words), recipe, Turbo.of_record(content.get("turbo"), source))


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Parse a JSON object of a header. Raises UserError if it is too long or something else."""
    if len(text) > MAX_METADATA:
        raise UserError(f"{what} has {len(text)} characters, up to {MAX_METADATA} are accepted")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{what} is not a JSON object")
    return content
