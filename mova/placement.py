"""Place a model's components on a machine: choose how from the memory it has, then do it."""

import dataclasses
import logging
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from diffusers.hooks import apply_layerwise_casting

from mova.adapters.strengths import EXPERTS, TOWERS
from mova.errors import UserError
from mova.machine import DTYPES, GIB, Machine, human_bytes
from mova.models.dual_tower import DualTower
from mova.models.video_vae import to_channels_last
from mova.offload import SLOTS, ComponentOffloader, LayerOffloader
from mova.shapes import ClipShape

if TYPE_CHECKING:
    from mova.pipeline import MOVAPipeline

logger = logging.getLogger(__name__)

OFFLOADS = ("none", "component", "layers")
# Components that are in use together, in the order of a run: text, denoising, pixels and sound.
STAGES = (("text_encoder",), TOWERS, ("video_vae", "audio_vae"))
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
class Placement:
    """A pipeline's use of a machine.

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
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a placement takes at its peak, and those it pins in host memory."""

    device: int
    host: int


def choose(machine: Machine, parameters: dict[str, int], workspace: int, **fixed: object) -> Placement:
    """The placement with the least moving of weights that fits the machine.

    `parameters` counts those of each component, `workspace` is what a run needs besides weights (bytes).
    `fixed` are fields of Placement, except the device, that are set by hand; None leaves one open.

    Raises:
        UserError: nothing fits; the message says what is short and what to change.
    """
    given = {key: value for key, value in fixed.items() if value is not None}
    base = Placement(machine.device, **{"dtype": machine.dtype} | given)
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


def homes(placement: Placement) -> dict[str, str]:
    """The place of each component's weights while clips are made.

    "device" throughout, "stage": there while its stage runs, "layers": a few layers at a time, or "host": it
    runs on the CPU.
    """
    stays = "device" if placement.offload == "none" else "stage"
    home = dict.fromkeys(chain.from_iterable(STAGES), stays)
    if placement.offload == "layers":
        home |= dict.fromkeys(TOWERS, "layers")
    elif not placement.hold_both:
        home |= dict.fromkeys(EXPERTS, "stage")
    if not placement.keep_text_encoder:
        home["text_encoder"] = "stage"
    if placement.text_on_host:
        home["text_encoder"] = "host"
    return home


def need(placement: Placement, parameters: dict[str, int], workspace: int) -> MemoryNeed:
    """Peak bytes of a placement, from the parameters of each component and a run's `workspace` in bytes."""
    width = DTYPES[placement.dtype]
    size = {name: parameters.get(name, 0) * width for name in chain.from_iterable(STAGES)}
    size["audio_vae"] = parameters["audio_vae"] * DTYPES["float32"]  # always
    if placement.fp8:
        size |= {name: parameters[name] for name in TOWERS}
    home = homes(placement)
    both, one = sum(size[name] for name in EXPERTS), max(size[name] for name in EXPERTS)
    shared = sum(size[name] for name in TOWERS if name not in EXPERTS)
    streamed = host = 0
    if placement.offload == "layers":
        # Of 40 layers a few are there at once, and of each tower its embeddings and head, about 2 %.
        streamed = (shared + one) * SLOTS // 36 + (shared + both) // 50
        host = shared + (both if placement.hold_both else one)
    elif placement.offload == "component" and placement.hold_both:
        host = both
    if home[EXPERTS[0]] != "device":  # one takes the other's place
        size |= zip(EXPERTS, (one, 0), strict=True)
    staying = {name for name, where in home.items() if where == "device"}
    if placement.offload == "none":
        # The place of an expert counts even while text is encoded: where the two only fit in turn, components
        # that come from pinned memory are faster than an expert that comes from its file.
        staying |= set(EXPERTS)
    stages = [
        sum(size[name] for name in stage if home[name] == "stage" and name not in staying) for stage in STAGES
    ]
    encoding, denoising, coding = stages
    peak = max(encoding, denoising + streamed + workspace, coding + workspace)
    return MemoryNeed(sum(size[name] for name in staying) + peak, host)


def workspace_bytes(shape: ClipShape, dim: int, dtype_bytes: int = 2) -> int:
    """Device memory that a run takes besides the weights: the larger of a forward's and of decoding's.

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


def place(pipeline: "MOVAPipeline", placement: Placement) -> None:
    """Carry a placement out on a freshly loaded pipeline (weights on the CPU, best still memory-mapped)."""
    device, home = torch.device(placement.device), homes(placement)
    components, tower = pipeline.components, pipeline.dual_tower
    if placement.fp8:
        for name in TOWERS:
            apply_layerwise_casting(
                components[name],
                torch.float8_e4m3fn,
                placement.torch_dtype,
                FP8_SKIP,
                non_blocking=True,
            )
    to_channels_last(pipeline.video_vae)
    resident, on_host = ({name for name, each in home.items() if each == at} for at in ("device", "host"))
    if placement.offload == "layers":
        pipeline.residency = LayerOffloader(components, tower, device, placement.hold_both, on_host)
    else:
        pipeline.residency = ComponentOffloader(components, tower, device, resident, on_host)
        if placement.offload == "component" and placement.hold_both and device.type == "cuda":
            for name in EXPERTS:
                for parameter in components[name].parameters():
                    parameter.data = parameter.data.pin_memory()
    if placement.compile:
        compile_blocks(tower)
        compile_blocks(DualTower(pipeline.video_dit_2, pipeline.audio_dit, pipeline.dual_tower_bridge))
    logger.info("placement: %s", placement.why)


def compile_blocks(tower: DualTower) -> None:
    """Compile every block and bridge conditioner in place; one graph each serves all layers and experts."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for index in range(tower.num_layers):
        for module in tower.layer(index):
            module.compile()
