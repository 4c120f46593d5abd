"""What a checkpoint holds and where it would go on a machine, from configs and file headers alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, parse_local_safetensors_file_metadata
from huggingface_hub.errors import HfHubHTTPError, SafetensorsParsingError
from huggingface_hub.utils import SafetensorsFileMetadata

from mova import catalog, loading
from mova.placement import Machine, Placement, choose, human_bytes, workspace_bytes
from mova.shapes import ClipShape
from mova.types import UserError


@dataclass(frozen=True)
class Contents:
    """One network of a checkpoint: parameters, bytes of its tensors, and their types."""

    parameters: int
    size: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint seen from outside: the folder of its configs, and what its weight files hold."""

    folder: Path
    contents: dict[str, Contents]

    def config(self, name: str) -> dict:
        return loading.read_json(self.folder / name / loading.COMPONENTS[name].config_name)


def look(model: str | Path) -> Checkpoint:
    """Read a folder, or a repo's configs and weight headers (a few MB of its 78 GB).

    Raises:
        UserError: there is no such checkpoint, or a part of it is missing or broken.
    """
    if (folder := Path(model).expanduser()).is_dir():
        for name in loading.MODULES:
            loading.check_folder(folder, name)
        files = {name: loading.weight_files(folder / name) for name in loading.MODULES}
        headers = {name: [read_local_header(path) for path in paths] for name, paths in files.items()}
    else:
        folder = loading.resolve(model, patterns=["*.json", "*/*.json"])
        headers = {name: list(read_hub_headers(str(model), name)) for name in loading.MODULES}
    return Checkpoint(folder, {name: summarise(parts) for name, parts in headers.items()})


def read_local_header(path: Path) -> SafetensorsFileMetadata:
    try:
        return parse_local_safetensors_file_metadata(path)
    except (OSError, SafetensorsParsingError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and download it again") from error


def read_hub_headers(repo: str, name: str) -> Iterator[SafetensorsFileMetadata]:
    api = HfApi()
    try:
        files = [file for file in api.list_repo_files(repo) if file.startswith(f"{name}/")]
        weights = [file for file in files if file.endswith(".safetensors")]
        if not weights:
            raise UserError(f"{repo} has no weights in {name}/; it is no complete MOVA checkpoint")
        for file in weights:
            yield api.parse_safetensors_file_metadata(repo, file)
    except (HfHubHTTPError, SafetensorsParsingError) as error:
        raise UserError(f"{repo}/{name} cannot be read from the Hub: {error}") from error


def summarise(headers: list[SafetensorsFileMetadata]) -> Contents:
    tensors = [tensor for header in headers for tensor in header.tensors.values()]
    return Contents(
        parameters=sum(tensor.parameter_count for tensor in tensors),
        size=sum(end - start for start, end in (tensor.data_offsets for tensor in tensors)),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors})),
    )


def report(checkpoint: Checkpoint, machine: Machine, shape: ClipShape, steps: int, **fixed: object) -> str:
    """A table of the components, where each would go, and what a clip of `shape` would take."""
    parameters = {name: part.parameters for name, part in checkpoint.contents.items()}
    workspace = workspace_bytes(shape, checkpoint.config("video_dit")["dim"])
    try:
        placement, verdict = choose(machine, parameters, workspace, **fixed), ""
        verdict = placement.why
    except UserError as error:
        placement, verdict = None, str(error)
    rows = [("component", "parameters", "in files", "type", "goes to")]
    for name, part in checkpoint.contents.items():
        where = location(name, placement) if placement else "does not fit"
        rows.append((name, f"{part.parameters:,}", human_bytes(part.size), "/".join(part.dtypes), where))
    total = sum(part.size for part in checkpoint.contents.values())
    rows.append(("all", f"{sum(parameters.values()):,}", human_bytes(total), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    flops = catalog.forward_flops(
        *(checkpoint.config(n) for n in ("video_dit", "audio_dit", "dual_tower_bridge")), shape
    )
    seconds = catalog.estimate_seconds(flops, steps, 2, machine.name, machine.cores)
    lines += [
        "",
        f"machine: {machine.name}, {human_bytes(machine.vram)} device memory and {human_bytes(machine.ram)} host memory free",
        f"placement: {verdict}",
        f"clip: {shape.width}x{shape.height}, {shape.num_frames} frames, {steps} steps; {flops / 1e12:,.3g} TFLOP "
        f"a forward, about {seconds:,.0f} s of denoising, {human_bytes(workspace)} of working memory",
    ]
    return "\n".join(lines)


def location(name: str, placement: Placement) -> str:
    """Where the weights of a component are while clips are made."""
    device = placement.device
    if name == "text_encoder" and placement.text_on_host:
        return "cpu"
    if placement.offload == "none":
        if name == "text_encoder" and not placement.keep_text_encoder:
            return f"{device} while it encodes"
        if name.startswith("video_dit") and not placement.hold_both:
            return f"{device} while it denoises"
        return device
    if placement.offload == "layers" and name in loading.TOWERS:
        return f"{device}, layer by layer"
    return f"{device} while it runs"
