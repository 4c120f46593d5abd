"""Where a model's parts go on a machine: chosen from what it has, or by hand, and then carried out."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from diffusers.hooks import apply_layerwise_casting

from mova.errors import UserError
from mova.models.dual_tower import DualTower
from mova.models.video_vae import to_channels_last
from mova.offload import EXPERTS, SLOTS, ComponentOffloader, LayerOffloader
from mova.shapes import ClipShape

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
        device = device or default_device()
        memory, cores = psutil.virtual_memory().available, psutil.cpu_count(logical=False) or 1
        try:
            kind = torch.device(device).type
            torch.empty(0, device=device)
            if kind == "cuda":
                vram, _ = torch.cuda.mem_get_info(device)
                bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
                return cls(device, torch.cuda.get_device_name(device), vram, memory, cores, bfloat16)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"device {device!r} cannot be used here ({reason}); leave --device out to choose"
            ) from error
        if kind == "mps":  # shares the machine's memory
            return cls(device, "Apple GPU", memory, memory, cores, has_bfloat16=True)
        if kind == "cpu":
            return cls(device, "CPU", memory, memory, cores, torch.cpu._is_avx512_bf16_supported())
        raise UserError(f"device {device!r} is not supported; choose cuda, mps or cpu")


@dataclass(frozen=True)
class Placement:
    """How a pipeline uses a machine.

    `offload`: "none" keeps everything on the device, "component" what is in use, "layers" three layers of it.
    `hold_both`: both video experts stay in memory (the device's without offload, else the host's); otherwise
    one does, and the other is read from its file when the schedule switches. `fp8` stores the towers'
    matrices in 8 bits: half the memory, and another result. `why` says how the choice came about.
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
class MemoryNeed:
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
    `fixed` are fields of Placement other than the device, decided by hand; None leaves one open.

    Raises:
        UserError: nothing fits; the message says what is short and what to change.
    """
    given = {key: value for key, value in fixed.items() if value is not None}
    base = Placement(machine.device, **{"dtype": preferred_dtype(machine)} | given)
    needs = {each: need(each, parameters, workspace) for each in candidates(base, given)}
    on_device = {each: size for each, size in needs.items() if size.device <= machine.vram * VRAM_SHARE}
    for each, size in on_device.items():
        if size.host <= machine.ram * RAM_SHARE:
            return dataclasses.replace(each, why=explain(machine, each, size))
    advice = "choose fewer frames or a smaller size, --fp8, --offload layers, or close other programs"
    if on_device:
        least = min(size.host for size in on_device.values())
        raise UserError(
            f"the model does not fit this machine: {human_bytes(least)} of host memory are needed and "
            f"{human_bytes(machine.ram)} are free; {advice}"
        )
    least = min(size.device for size in needs.values())
    raise UserError(
        f"the model does not fit {machine.name}: {human_bytes(least)} of its memory are needed and "
        f"{human_bytes(machine.vram)} are free; {advice}"
    )


def preferred_dtype(machine: Machine) -> str:
    return "bfloat16" if machine.has_bfloat16 else "float32"


def candidates(base: Placement, given: dict[str, object]) -> list[Placement]:
    """Placements in order of preference that agree with what is given."""
    if torch.device(base.device).type != "cuda":
        return [base]
    order = [
        {"offload": "none", "hold_both": True, "keep_text_encoder": True},
        *({"offload": "none", "hold_both": both, "keep_text_encoder": False} for both in (True, False)),
        *({"offload": "component", "hold_both": both, "keep_text_encoder": False} for both in (True, False)),
        *(
            {"offload": "layers", "hold_both": both, "keep_text_encoder": False, "text_on_host": on_host}
            for on_host in (False, True)
            for both in (True, False)
        ),
    ]
    agreeing = [each for each in order if all(given.get(key, value) == value for key, value in each.items())]
    return [dataclasses.replace(base, **each) for each in agreeing or [{}]]


def need(placement: Placement, parameters: dict[str, int], workspace: int) -> MemoryNeed:
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
        return MemoryNeed(device, 0)
    if placement.offload == "component":
        device = max(text, shared + expert + workspace, vae + workspace)
        return MemoryNeed(device, experts if placement.hold_both else 0)
    # Of 40 layers a few are there at once, and of each tower its embeddings and head, about 2 %.
    streamed = (shared + expert) * SLOTS // 36 + (shared + experts) // 50
    device = max(text, streamed + workspace, vae + workspace)
    return MemoryNeed(device, shared + (experts if placement.hold_both else expert))


def workspace_bytes(shape: ClipShape, dim: int, dtype_bytes: int = 2) -> int:
    """Device memory that a run takes beside the weights: the larger of a forward's and of decoding's.

    A forward takes about twelve states of the video tokens (measured: 4.9 GiB at 352x640, 193 frames).
    Decoding takes three float32 copies of the clip and a few pictures as wide as the decoder's last layer.
    """
    picture = shape.height * shape.width
    forward = 12 * shape.video_tokens * dim * dtype_bytes + GIB // 4
    return max(forward, 36 * shape.num_frames * picture + 3000 * picture)


def explain(machine: Machine, placement: Placement, needed: MemoryNeed) -> str:
    where = f"{placement.dtype} on {machine.name}"
    if torch.device(placement.device).type != "cuda":
        return f"{where}: {human_bytes(needed.device)} of {human_bytes(machine.ram)} free memory"
    how = {
        "none": "all weights stay there" if placement.hold_both else "one video expert at a time stays there",
        "component": "weights come when their component runs",
        "layers": "weights are streamed layer by layer",
    }[placement.offload]
    if placement.offload == "none" and not placement.keep_text_encoder:
        how += ", the text encoder only while it encodes"
    if placement.text_on_host:
        how += ", text is encoded on the CPU"
    host = (
        f"; {human_bytes(needed.host)} of {human_bytes(machine.ram)} host memory pinned"
        if needed.host
        else ""
    )
    sizes = f"{human_bytes(needed.device)} of {human_bytes(machine.vram)} free device memory"
    return f"{where}, {how}: {sizes}{host}"


def human_bytes(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size > GIB / 10 else f"{size / 2**20:.1f} MiB"


def place(pipeline: "MOVAPipeline", placement: Placement) -> None:
    """Carry a placement out on a freshly loaded pipeline (weights on the CPU, best still memory-mapped)."""
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
    to_channels_last(pipeline.video_vae)
    resident = modules if placement.offload == "none" else set()
    resident = resident - (set() if placement.keep_text_encoder else {"text_encoder"})
    resident = resident - (set() if placement.hold_both else set(EXPERTS))
    on_host = {"text_encoder"} if placement.text_on_host else set()
    if placement.offload == "layers":
        pipeline.residency = LayerOffloader(pipeline, device, on_host, placement.hold_both)
    else:
        pipeline.residency = ComponentOffloader(pipeline, device, resident, on_host)
        if placement.offload == "component" and placement.hold_both and device.type == "cuda":
            for name in EXPERTS:
                for parameter in getattr(pipeline, name).parameters():
                    parameter.data = parameter.data.pin_memory()
    if placement.compile:
        compile_blocks(pipeline.dual_tower)
        compile_blocks(DualTower(pipeline.video_dit_2, pipeline.audio_dit, pipeline.dual_tower_bridge))
    logger.info("placement: %s", placement.why)


def compile_blocks(tower: DualTower) -> None:
    """Compile every block and bridge conditioner in place; one graph each serves all layers and experts."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for index in range(tower.num_layers):
        for module in tower.layer(index):
            module.compile()
