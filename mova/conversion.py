"""Write a checkpoint with its large layers in 8 bits: a shard in memory at a time, whole or not at all."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from mova.checkpoint import COMPONENTS, build, is_8_bits, opened, read_object, resolve, weight_files
from mova.errors import BackendError, UserError
from mova.files import is_sidecar, sha256_of, temporary_beside, writable_parent, write_json
from mova.inspection import inspect_checkpoint
from mova.machine import human_bytes
from mova.models.fp8 import LAYERS, fp8_layers, to_fp8

INDEX, CARD, SUMS = "model_index.json", "README.md", "SHA256SUMS"
LICENSE = re.compile(r"^license: *(\S+)$", re.MULTILINE)


def convert(model: str, out: Path, report: Callable[[str], None]) -> None:
    """Write the checkpoint `model`, a folder or a Hub repo id, to the new folder `out` in fp8.

    It loads to the same bits that `Placement(fp8=True)` makes of the original. `report` gets a line for each
    component.

    Raises:
        UserError: the original is broken or in fp8 already, or `out` exists or cannot be written.
        BackendError: the disk is too small.
    """
    if out.exists():
        raise UserError(f"{out} exists; choose the name of a new folder")
    source = resolve(model, [INDEX, CARD, *(f"{name}/*" for name in COMPONENTS)])
    original = inspect_checkpoint(source)
    if is_8_bits(original.configs["video_dit"]):
        raise UserError(f"{model} is in fp8 already; convert the checkpoint that it was made from")
    needed = sum(part.size // (2 if name in LAYERS else 1) for name, part in original.contents.items())
    free = shutil.disk_usage(writable_parent(out)).free
    if free < needed:
        raise BackendError(
            f"{out} takes {human_bytes(needed)} and its disk has {human_bytes(free)} free; "
            "free some space there or choose a folder on another disk"
        )
    with temporary_beside(out) as temporary:
        for name in COMPONENTS:
            convert_component(name, source / name, temporary / name)
            sizes = " -> ".join(human_bytes(size_of(folder / name)) for folder in (source, temporary))
            report(f"{name}: {sizes if name in LAYERS else 'as it was'}")
        before = sum(size_of(source / name) for name in COMPONENTS)
        text = card(model, source, human_bytes(before), human_bytes(size_of(temporary)))
        (temporary / CARD).write_text(text, encoding="utf-8")
        write_json(temporary / INDEX, read_object(source / INDEX))  # last: without it it is no checkpoint
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        sums = [f"{sha256_of(file)}  {file.relative_to(temporary).as_posix()}\n" for file in files]
        (temporary / SUMS).write_text("".join(sums), encoding="utf-8")
        temporary.rename(out)


def convert_component(name: str, source: Path, target: Path) -> None:
    """Copy a component's folder, its large layers, if it has any, as codes and scales."""
    target.mkdir(parents=True)
    weights = weight_files(source) if name in LAYERS else []
    for file in source.iterdir():
        if file.is_file() and not is_sidecar(file.name) and file not in weights:
            shutil.copyfile(file, target / file.name)
    if not weights:
        return
    config = target / COMPONENTS[name].config_name
    write_json(config, read_object(config) | {"quantization": "fp8"})
    with torch.device("meta"):
        large = {f"{path}.weight" for path in fp8_layers(name, build(name, source))}
    weight_map, total = {}, 0
    for file in weights:
        tensors = {}
        with opened(file) as shard:
            for key in shard.keys():  # noqa: SIM118 - no mapping
                tensors[key] = shard.get_tensor(key)
                if key in large:
                    tensors[key], tensors[f"{key}_scale"] = to_fp8(tensors[key].bfloat16())
        save_file(tensors, target / file.name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    for index in target.glob("*.safetensors.index.json"):
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def card(model: str, source: Path, before: str, after: str) -> str:
    """The model card of a converted checkpoint, from the model's name and the original's folder."""
    is_repo = source != Path(model).expanduser()
    original = source / CARD
    licence = LICENSE.search(original.read_text(encoding="utf-8")) if original.is_file() else None
    head = ["pipeline_tag: image-to-video", "tags: [video-with-audio, fp8]"]
    head += [f"license: {licence[1]}"] if licence else []
    head += [f"base_model: {model}", "base_model_relation: quantized"] if is_repo else []
    named = f"[{model}](https://huggingface.co/{model})" if is_repo else f"`{source.name}`"
    return "\n".join(
        [
            "---",
            *head,
            "---",
            "",
            f"# {model.rpartition('/')[2] if is_repo else source.name} in fp8",
            "",
            f"{named} with the large layers of both video experts and of the bridge's picture side as e4m3",
            "floats and a float32 scale for each output channel (`weight`, `weight_scale`). The audio tower,",
            "the sound's side of the bridge, embeddings, norms, heads, text encoder and autoencoders are as",
            f"they were. {after} instead of {before}. Clips differ from the original's: see `docs/speed.md`.",
            "",
            "Made and read by the MOVA toolkit:",
            "",
            "```bash",
            "python -m mova convert MODEL --to fp8 --out FOLDER",
            "python -m mova generate --model FOLDER --image first.png --prompt '...'",
            f"sha256sum -c {SUMS}   # is every file whole?",
            "```",
            "",
        ]
    )
