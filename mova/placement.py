"""Place a model's components on a machine: choose how from the memory it has, then do it."""

import dataclasses
import logging
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import nn

from mova import parallel
from mova.adapters.strengths import EXPERTS, TOWERS
from mova.errors import UserError
from mova.kernels import FLASH_4, TORCH, AttentionKernels, choose_kernels
from mova.machine import DTYPES, GIB, Machine, human_bytes
from mova.models import fp8
from mova.models.attention import KERNELS, obstacle
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
NO_FP8 = "mps"  # the device that cannot hold it
FP8_CAPABILITY = (8, 9)  # from which on a card multiplies fp8


@dataclass(frozen=True)
class Placement:
    """A pipeline's use of a machine.

    `offload`: "none" keeps everything on the device, "component" what is in use, "layers" three layers of it.
    `hold_both`: both video experts stay in memory (the device's without offload, else the host's); otherwise
    one does, and the other is read from its file when the schedule switches. `fp8` stores the towers'
    matrices in 8 bits: half the memory, and another result. `gpus` processes, with one GPU each, share every
    step, in the way of `parallel` (`mova.layout`). `why` says how the choice came about.
    """

    device: str
    dtype: str = "bfloat16"
    offload: str = "none"
    hold_both: bool = True
    keep_text_encoder: bool = True
    text_on_host: bool = False
    fp8: bool = False
    compile: bool = False
    attention: AttentionKernels | None = None
    gpus: int = 1
    parallel: str = "auto"
    why: str = "chosen by hand"

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a placement takes of the device at its peak, and those it keeps in host memory."""

    device: int
    host: int  # of this process and all that share its steps


def choose(
    machine: Machine,
    parameters: dict[str, int],
    workspace: int,
    has_fp8_files: bool = False,
    **fixed: object,
) -> Placement:
    """The placement with the least moving of weights that fits the machine.

    `parameters` counts those of each component, `workspace` is what a run needs besides weights (bytes).
    `fixed` are fields of Placement, except the device, that are set by hand; None leaves one open. With
    `has_fp8_files` the checkpoint is in fp8.

    Raises:
        UserError: nothing fits, or there is no such attention kernel; the message says what to change.
    """
    given = {key: value for key, value in fixed.items() if value is not None}
    given |= {"fp8": True} if has_fp8_files else {}
    base = Placement(machine.device, **{"dtype": machine.dtype} | given)
    if base.attention is None:
        base = dataclasses.replace(base, attention=choose_kernels(machine, base.dtype))
    check_kernels(base.attention)
    needs = {each: need(each, parameters, workspace, has_fp8_files) for each in candidates(base, given)}
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


def need(
    placement: Placement, parameters: dict[str, int], workspace: int, has_fp8_files: bool = False
) -> MemoryNeed:
    """Peak bytes of a placement, from the parameters of each component and a run's `workspace` in bytes."""
    width = DTYPES[placement.dtype]
    size = {name: parameters.get(name, 0) * width for name in chain.from_iterable(STAGES)}
    size["audio_vae"] = parameters["audio_vae"] * DTYPES["float32"]  # always
    if placement.fp8 and placement.device != NO_FP8:
        size |= {name: parameters[name] for name in fp8.LAYERS}
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
    if placement.fp8 and not has_fp8_files and not placement.hold_both:
        host += both  # rounded when it was loaded: there is no file to read it from again
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
    return MemoryNeed(sum(size[name] for name in staying) + peak, host * placement.gpus)


def workspace_bytes(shape: ClipShape, dim: int, dtype_bytes: int = 2) -> int:
    """Device memory that a run takes besides the weights: the larger of a forward's and of decoding's.

    A forward takes about twelve states of the video tokens (measured: 4.9 GiB at 352x640, 193 frames).
    Decoding takes three float32 copies of the clip and a few pictures as wide as the decoder's last layer.
    """
    picture = shape.height * shape.width
    forward = 12 * shape.video_tokens * dim * dtype_bytes + GIB // 4
    return max(forward, 36 * shape.num_frames * picture + 3000 * picture)


def explain(machine: Machine, placement: Placement, needed: MemoryNeed) -> str:
    where = f"{placement.dtype}{fp8_words(placement, machine)} on {machine.name}"
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
    host = f"; {human_bytes(needed.host)} of {human_bytes(machine.ram)} host memory" if needed.host else ""
    sizes = f"{human_bytes(needed.device)} of {human_bytes(machine.vram)} free device memory"
    return f"{where}, {how}: {sizes}{host}"


def fp8_words(placement: Placement, machine: Machine) -> str:
    if not placement.fp8:
        return ""
    if placement.dtype == "bfloat16" and machine.capability and machine.capability >= FP8_CAPABILITY:
        return " with fp8 products"
    if placement.device == NO_FP8:
        return " with weights rounded to fp8, which saves nothing here"
    return " with fp8 weights, widened as they are used, which is slower"


def place(pipeline: "MOVAPipeline", placement: Placement) -> None:
    """Carry a placement out on a freshly loaded pipeline (weights on the CPU, best still memory-mapped).

    With several `gpus` every process of the team does so, on its own device.
    """
    device, home = torch.device(placement.device), homes(placement)
    components, tower = pipeline.components, pipeline.dual_tower
    if placement.gpus > 1:
        pipeline.team = parallel.join()
        pipeline.team.mode = placement.parallel
    for name in fp8.LAYERS:
        place_8_bits(name, components[name], placement, stays=home[name] == "device")
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
    towers = [
        tower,
        DualTower(pipeline.video_dit_2, pipeline.audio_dit, pipeline.dual_tower_bridge),
    ]
    kernels = placement.attention or choose_kernels(Machine.probe(placement.device), placement.dtype)
    check_kernels(kernels)
    for each in towers:
        kernels = use_kernels(each, kernels, device, placement.torch_dtype)
        if placement.compile:
            compile_blocks(each)
    logger.info("placement: %s", placement.why)
    logger.info("attention: %s", kernels)


def place_8_bits(name: str, module: nn.Module, placement: Placement, stays: bool) -> None:
    """Hold a component's large layers in 8 bits if the placement says so, on the device if it `stays`."""
    device = torch.device(placement.device)
    holds = fp8.holds_fp8(device.type)
    if placement.fp8:
        fp8.to_8_bits(name, module, device if holds else None, stays and holds)
    if not holds:
        fp8.widen(name, module, placement.torch_dtype)


def check_kernels(kernels: AttentionKernels) -> None:
    for role, kernel in kernels.by_role().items():
        if kernel not in KERNELS:
            raise UserError(
                f"there is no attention kernel {kernel!r} for {role}; choose {TORCH}, {FLASH_4}, or one of "
                f"diffusers': {', '.join(KERNELS[2:])}"
            )


def use_kernels(
    tower: DualTower, kernels: AttentionKernels, device: torch.device, dtype: torch.dtype
) -> AttentionKernels:
    """Give every attention layer the kernel of its role; return those used, torch's where one fails here."""
    roles = {
        "video": [block.self_attn for block in tower.video_dit.blocks],
        "text": [block.cross_attn for dit in (tower.video_dit, tower.audio_dit) for block in dit.blocks],
        "bridge": [each.inner for each in tower.dual_tower_bridge.conditioners()],
        "audio": [block.self_attn for block in tower.audio_dit.blocks],
    }
    head_dims = {
        "video": tower.video_dit.head_dim,
        "text": tower.video_dit.head_dim,
        "bridge": tower.dual_tower_bridge.config.head_dim,
        "audio": tower.audio_dit.head_dim,
    }
    for role, kernel in kernels.by_role().items():
        problem = "" if kernel == TORCH else obstacle(kernel, device, dtype, head_dims[role])
        if problem:
            logger.warning("%s attention falls back to torch's: %s %s", role, kernel, problem)
            kernels = dataclasses.replace(kernels, **{role: TORCH}, why=f"{kernel} {problem}")
        for layer in roles[role]:
            layer.kernel = TORCH if problem else kernel
    return kernels


def compile_blocks(tower: DualTower, dynamic: bool | None = None) -> None:
    """Compile every block and bridge conditioner in place; one graph each serves all layers and experts.

    `dynamic` is torch's: False compiles a graph for each shape.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for index in range(tower.num_layers):
        for module in tower.layer(index):
            module.compile(dynamic=dynamic)
