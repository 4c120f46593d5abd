"""Describe a checkpoint and where it would go on a machine, from configs and file headers alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.utils import SafetensorsFileMetadata

from mova import hub
from mova.adapters.strengths import EXPERTS
from mova.checkpoint import (
    COMPONENTS,
    MODULES,
    check_folder,
    is_8_bits,
    read_boundary_ratio,
    read_config,
    read_header,
    resolve,
    weight_files,
    weight_names,
)
from mova.errors import UserError
from mova.files import is_sidecar
from mova.machine import DTYPES, Machine, estimate_time, forward_flops, human_bytes, human_seconds
from mova.placement import Placement, choose, homes, workspace_bytes
from mova.request import GenerationRequest
from mova.shapes import ClipShape

CONFIGS = ["*.json", "*/*.json"]


@dataclass(frozen=True)
class ComponentSummary:
    """One network of a checkpoint: parameters, bytes of its tensors, and their types."""

    parameters: int
    size: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint from outside: the checked configs of its components, and a summary of their weights."""

    configs: dict[str, dict[str, Any]]
    contents: dict[str, ComponentSummary]

    @property
    def parameters(self) -> dict[str, int]:
        return {name: part.parameters for name, part in self.contents.items()}

    def place(self, machine: Machine, workspace: int, **fixed: object) -> Placement:
        """The placement that `mova.placement.choose` finds; with fp8 if that is what the files hold."""
        return choose(machine, self.parameters, workspace, is_8_bits(self.configs["video_dit"]), **fixed)

    def clip_shape(self, height: int, width: int, num_frames: int, frame_rate: float) -> ClipShape:
        """The sizes of a clip in this checkpoint's latents and samples."""
        return ClipShape.from_config(self.configs["audio_vae"], height, width, num_frames, frame_rate)

    def workspace(self, request: GenerationRequest, machine: Machine, dtype: str | None) -> int:
        """Bytes that a run takes besides the weights. A `dtype` of None is the machine's."""
        shape = self.clip_shape(request.height, request.width, request.num_frames, request.frame_rate)
        return workspace_bytes(shape, self.configs["video_dit"]["dim"], DTYPES[dtype or machine.dtype])

    def forward_flops(self, shape: ClipShape) -> float:
        return forward_flops(
            *(self.configs[name] for name in ("video_dit", "audio_dit", "dual_tower_bridge")), shape
        )


def inspect_checkpoint(model: str | Path) -> Checkpoint:
    """Read a folder, or a repo's configs and weight headers (a few MB of its 78 GB).

    Raises:
        UserError: there is no such checkpoint, or a part of it is missing or broken.
    """
    folder = resolve(model, CONFIGS)
    repo = None if folder == Path(model).expanduser() else str(model)
    read_boundary_ratio(folder)
    configured = [name for name in COMPONENTS if name != "tokenizer"]
    for name in configured:
        check_folder(folder, name)
    configs = {name: read_config(name, folder / name) for name in configured}
    return Checkpoint(configs, {name: summarise(headers(folder, name, repo)) for name in MODULES})


def headers(folder: Path, name: str, repo: str | None) -> Iterator[SafetensorsFileMetadata]:
    """Headers of a component's weight files; those of `repo` that the cache lacks come from the Hub."""
    if repo is None:
        yield from map(read_header, weight_files(folder / name))
        return
    revision = folder.name  # a snapshot's folder is named after its commit
    weights = (folder / name).glob("*.safetensors")
    held = [path.name for path in weights if not is_sidecar(path.name)]
    if not held:
        files = [Path(file) for file in hub.list_files(repo, revision)]
        held = [file.name for file in files if file.match(f"{name}/*.safetensors")]
    for file in weight_names(folder / name, held):
        path = folder / name / file
        if path.is_file():
            yield read_header(path)
        else:
            yield hub.read_header(repo, f"{name}/{file}", revision)


def summarise(parts: Iterable[SafetensorsFileMetadata]) -> ComponentSummary:
    named = [each for part in parts for each in part.tensors.items()]
    tensors = [tensor for _, tensor in named]
    return ComponentSummary(
        parameters=sum(t.parameter_count for name, t in named if not name.endswith(".weight_scale")),
        size=sum(end - start for start, end in (tensor.data_offsets for tensor in tensors)),
        dtypes=tuple(sorted({tensor.dtype for tensor in tensors})),
    )


def report(checkpoint: Checkpoint, machine: Machine, request: GenerationRequest, **fixed: object) -> str:
    """A table of the components, where each would go, and the memory and time of the clip of `request`.

    `fixed` are fields of Placement that were decided by hand, as for `choose`.
    """
    workspace = checkpoint.workspace(request, machine, fixed.get("dtype"))
    try:
        placement = checkpoint.place(machine, workspace, **fixed)
        verdict = placement.why
    except UserError as error:
        placement, verdict = None, str(error)
    shape = checkpoint.clip_shape(request.height, request.width, request.num_frames, request.frame_rate)
    flops, steps = checkpoint.forward_flops(shape), request.num_inference_steps
    sharing = fixed.get("gpus") or 1, fixed.get("parallel") or "auto"
    time = estimate_time(request, checkpoint.configs, machine.name, machine.cores, *sharing)
    return "\n".join(
        [
            *component_table(checkpoint, placement),
            "",
            f"machine: {machine.name}, {free_memory(machine)} free",
            f"placement: {verdict}",
            *([f"attention: {placement.attention}"] if placement else []),
            f"clip: {shape.width}x{shape.height}, {shape.num_frames} frames, {shape.seconds:.1f} s; "
            f"{human_bytes(workspace)} of working memory",
            f"time: {flops / 1e12:,.{0 if flops > 1e13 else 2}f} TFLOP a forward, "
            f"{time.forwards} forwards in {steps} steps take about {human_seconds(time.denoising)}"
            + (f"; {time.layout}" if sharing[0] > 1 else ""),
        ]
    )


def component_table(checkpoint: Checkpoint, placement: Placement | None) -> list[str]:
    rows = [("component", "parameters", "in files", "type", "goes to")]
    for name, part in checkpoint.contents.items():
        where = location(name, placement) if placement else "does not fit"
        rows.append((name, f"{part.parameters:,}", human_bytes(part.size), "/".join(part.dtypes), where))
    total = sum(part.size for part in checkpoint.contents.values())
    rows.append(("all", f"{sum(checkpoint.parameters.values()):,}", human_bytes(total), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def free_memory(machine: Machine) -> str:
    if machine.is_gpu:
        return f"{human_bytes(machine.vram)} device memory and {human_bytes(machine.ram)} host memory"
    return f"{human_bytes(machine.ram)} memory"


def location(name: str, placement: Placement) -> str:
    """Location of a component's weights while clips are made."""
    device, home = placement.device, homes(placement)[name]
    if home == "stage":
        stage = "encodes" if name == "text_encoder" else "denoises" if name in EXPERTS else "runs"
        return f"{device} while it {stage if placement.offload == 'none' else 'runs'}"
    return {"device": device, "layers": f"{device}, layer by layer", "host": "cpu"}[home]
