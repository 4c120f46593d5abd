"""Where a model's parts go on a machine: chosen from what the machine has, or by hand, and then carried out."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from diffusers.hooks import apply_layerwise_casting
from torch import nn

from mova.models.dual_tower import DualTower
from mova.offload import EXPERTS, ComponentResidency, LayerResidency
from mova.shapes import ClipShape
from mova.streaming import SLOTS
from mova.types import UserError

if TYPE_CHECKING:
    from mova.pipeline import MOVAPipeline

logger = logging.getLogger(__name__)

OFFLOADS = ("none", "component", "layers")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
GIB = 2**30
VRAM_SHARE = 0.94  # of the free device memory; the rest is lost to fragmentation and the driver
RAM_SHARE = 0.85
# Of a tower: what must not be rounded to 8 bits.
FP8_SKIP = (
    "patch_embedding",
    "text_embedding",
    "time_embedding",
    "time_projection",
    "head",
    "norm",
    "modulation",
)


@dataclass(frozen=True)
class Machine:
    """What decides a placement. Bytes are those free now."""

    device: str
    name: str
    vram: int
    ram: int
    cores: int
    has_bfloat16: bool

    @classmethod
    def probe(cls, device: str | None = None) -> "Machine":
        """This machine, seen from `device` ("cuda", "cuda:1", "mps", "cpu"), by default its best."""
        ram, cores = psutil.virtual_memory().available, psutil.cpu_count(logical=False) or 1
        device = device or default_device()
        try:
            kind = torch.device(device).type
            if kind == "cuda":
                vram, _ = torch.cuda.mem_get_info(device)
                bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
                return cls(device, torch.cuda.get_device_name(device), vram, ram, cores, bfloat16)
        except (RuntimeError, AssertionError) as error:
            raise UserError(
                f"device {device!r} cannot be used here ({error}); leave --device out to choose"
            ) from error
        if kind == "mps":  # shares the machine's memory
            return cls(device, "Apple GPU", ram, ram, cores, has_bfloat16=True)
        return cls("cpu", "CPU", ram, ram, cores, has_bfloat16=torch.cpu._is_avx512_bf16_supported())


@dataclass(frozen=True)
class Placement:
    """How a pipeline uses a machine.

    `offload`: "none" keeps everything on the device, "component" what is in use, "layers" three layers of it.
    `hold_both`: both video experts stay in memory (the device's without offload, else the host's); otherwise
    one does, and the other is read from its file when the schedule switches. `fp8` stores the towers' matrices
    in 8 bits: half the memory, and another result. `why` says how the choice came about.
    """

    device: str
    dtype: str = "bfloat16"
    offload: str = "none"
    hold_both: bool = True
    keep_text_encoder: bool = True
    text_on_host: bool = False
    fp8: bool = False
    compile: bool = False
    why: str = "chosen by hand"

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class Need:
    """Bytes that a placement takes at its peak, and those it pins in host memory."""

    device: int
    host: int


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose(machine: Machine, parameters: dict[str, int], workspace: int, **fixed: object) -> Placement:
    """The placement with the least moving of weights that fits the machine.

    `parameters` counts those of each component, `workspace` is what a run needs beside weights (bytes).
    `fixed` are fields of Placement decided by hand.

    Raises:
        UserError: nothing fits; the message says what is short and what to change.
    """
    dtype = fixed.get("dtype") or preferred_dtype(machine)
    base = Placement(
        machine.device, dtype, **{k: v for k, v in fixed.items() if v is not None and k != "dtype"}
    )
    tried = []
    for candidate in candidates(base, fixed):
        needed = need(candidate, parameters, workspace)
        tried.append(needed)
        if needed.device <= machine.vram * VRAM_SHARE and needed.host <= machine.ram * RAM_SHARE:
            return dataclasses.replace(candidate, why=explain(machine, candidate, needed))
    least = min(tried, key=lambda each: each.device)
    raise UserError(
        f"the model does not fit {machine.name}: at least {human_bytes(least.device)} are needed of "
        f"{human_bytes(machine.vram)} free device memory, and {human_bytes(least.host)} of {human_bytes(machine.ram)} free host memory; "
        "choose fewer frames, a smaller size, --fp8 or --offload layers, or close other programs"
    )


def preferred_dtype(machine: Machine) -> str:
    return "bfloat16" if machine.has_bfloat16 else "float32"


def candidates(base: Placement, fixed: dict[str, object]) -> list[Placement]:
    """Placements in order of preference that agree with what is fixed."""
    if torch.device(base.device).type != "cuda":
        return [base]
    order = [
        {"offload": "none", "hold_both": True, "keep_text_encoder": True},
        {"offload": "none", "hold_both": True, "keep_text_encoder": False},
        {"offload": "none", "hold_both": False, "keep_text_encoder": False},
        {"offload": "component", "hold_both": True, "keep_text_encoder": False},
        {"offload": "component", "hold_both": False, "keep_text_encoder": False},
        {"offload": "layers", "hold_both": True, "keep_text_encoder": False},
        {"offload": "layers", "hold_both": False, "keep_text_encoder": False},
        {"offload": "layers", "hold_both": True, "keep_text_encoder": False, "text_on_host": True},
        {"offload": "layers", "hold_both": False, "keep_text_encoder": False, "text_on_host": True},
    ]
    given = {key: value for key, value in fixed.items() if value is not None}
    agreeing = [each for each in order if all(given.get(k, v) == v for k, v in each.items())]
    return [dataclasses.replace(base, **each) for each in agreeing or [{}]]


def need(placement: Placement, parameters: dict[str, int], workspace: int) -> Need:
    """Peak bytes of a placement, from parameter counts."""
    width = placement.torch_dtype.itemsize
    size = {name: count * width for name, count in parameters.items()}
    towers = ("audio_dit", "dual_tower_bridge", *EXPERTS)
    if placement.fp8:
        size |= {name: size[name] // width for name in towers}
    size["audio_vae"] = parameters["audio_vae"] * 4  # always float32
    text = 0 if placement.text_on_host else size.get("text_encoder", 0)
    shared, expert = size["audio_dit"] + size["dual_tower_bridge"], max(size[name] for name in EXPERTS)
    vae = size["video_vae"] + size["audio_vae"]
    experts = sum(size[name] for name in EXPERTS)
    if placement.offload == "none":
        resident = vae + shared + (experts if placement.hold_both else expert)
        device = resident + (text + workspace if placement.keep_text_encoder else max(text, workspace))
        return Need(device, 0)
    if placement.offload == "component":
        device = max(text, shared + expert + workspace, vae + workspace)
        return Need(device, experts if placement.hold_both else 0)
    # Of 40 layers a few are there at once, and of each tower its embeddings and head, about 2 %.
    streamed = (shared + expert) * SLOTS // 36 + (shared + experts) // 50
    device = max(text, streamed + workspace, vae + workspace)
    return Need(device, shared + (experts if placement.hold_both else expert))


def workspace_bytes(shape: ClipShape, dim: int, dtype_bytes: int = 2) -> int:
    """Device memory of a forward beside the weights: about twelve states of the video tokens (measured)."""
    return 12 * shape.video_tokens * dim * dtype_bytes + GIB // 4


def count_parameters(pipeline: "MOVAPipeline") -> dict[str, int]:
    """Parameters of each network of a loaded pipeline."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return {name: sum(p.numel() for p in module.parameters()) for name, module in modules.items()}


def explain(machine: Machine, placement: Placement, needed: Need) -> str:
    where = f"{placement.dtype} on {machine.name}"
    if torch.device(placement.device).type != "cuda":
        return f"{where}: {human_bytes(needed.device)} of {human_bytes(machine.ram)} free memory"
    how = {
        "none": "all weights stay on it" if placement.hold_both else "one video expert at a time stays on it",
        "component": "weights come when their component runs",
        "layers": "weights are streamed layer by layer",
    }[placement.offload]
    host = (
        f"; {human_bytes(needed.host)} of {human_bytes(machine.ram)} host memory pinned"
        if needed.host
        else ""
    )
    return f"{where}, {how}: {human_bytes(needed.device)} of {human_bytes(machine.vram)} free device memory{host}"


def human_bytes(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size > GIB / 10 else f"{size / 2**20:.1f} MiB"


def place(pipeline: "MOVAPipeline", placement: Placement) -> None:
    """Carry a placement out on a freshly loaded pipeline (its weights on the CPU, best still memory-mapped)."""
    device = torch.device(placement.device)
    modules = {"audio_dit", "dual_tower_bridge", "video_vae", "audio_vae", *EXPERTS}
    if pipeline.text_encoder is not None:
        modules.add("text_encoder")
    if placement.fp8:
        for name in ("audio_dit", "dual_tower_bridge", *EXPERTS):
            apply_layerwise_casting(
                getattr(pipeline, name),
                torch.float8_e4m3fn,
                placement.torch_dtype,
                FP8_SKIP,
                non_blocking=True,
            )
    for parameter in pipeline.video_vae.parameters():
        if parameter.ndim == 5:  # the 3-D convolutions: 6 to 17 % faster so on a GPU, more on a CPU
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)
    resident = modules if placement.offload == "none" else set()
    resident = resident - (set() if placement.keep_text_encoder else {"text_encoder"})
    resident = resident - (set() if placement.hold_both else set(EXPERTS))
    on_host = {"text_encoder"} if placement.text_on_host else set()
    if placement.offload == "layers":
        pipeline.residency = LayerResidency(pipeline, device, on_host, placement.hold_both)
    else:
        pipeline.residency = ComponentResidency(pipeline, device, resident, on_host)
        if placement.offload == "component" and placement.hold_both and device.type == "cuda":
            for name in EXPERTS:
                for parameter in getattr(pipeline, name).parameters():
                    parameter.data = parameter.data.pin_memory()
    if placement.compile:
        compile_blocks(pipeline.dual_tower)
        compile_blocks(DualTower(pipeline.video_dit_2, pipeline.audio_dit, pipeline.dual_tower_bridge))
    logger.info("placement: %s", placement.why)


def compile_blocks(tower: DualTower) -> None:
    """Compile every block and bridge conditioner in place; one graph each serves all layers and both experts."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for index in range(tower.num_layers):
        for module in tower.layer(index):
            module.compile()
