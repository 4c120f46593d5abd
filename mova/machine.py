"""Machines: what one has, which model suits it, and how long a clip takes there. No torch at import."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from mova.catalog import DEFAULT_MODEL, SMALL_MODEL
from mova.errors import UserError
from mova.layout import Layout
from mova.request import GenerationRequest
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape

GIB = 2**30
DTYPES = {"bfloat16": 2, "float32": 4}  # of weights, with the bytes of a number


@dataclass(frozen=True)
class Gpu:
    """A card by the part of its name that identifies it: what programs get of its memory, and its speed.

    `tflops` are sustained by a whole bf16 forward, `link` is GB/s from pinned host memory.
    """

    name: str
    gib: float
    tflops: float
    link: float


# "H200" is measured with `python -m benchmarks.joint_forward`; down to "4090" the TFLOP/s follow from
# reported seconds a step and the count below; the others are half of their dense peak. Longer names first.
GPUS = (
    Gpu("H200", 139.8, 600, 55),
    Gpu("H100", 79.2, 590, 55),
    Gpu("A100-SXM4-40GB", 39.4, 176, 25),
    Gpu("A100", 79.2, 176, 25),
    Gpu("RTX PRO 6000", 94.9, 340, 50),
    Gpu("5090", 31.3, 195, 50),
    Gpu("4090", 23.5, 148, 25),
    Gpu("3090", 23.6, 36, 25),
    Gpu("L40S", 44.4, 180, 25),
    Gpu("A6000", 47.4, 77, 25),
    Gpu("A10G", 22.1, 35, 12),
    Gpu("L4", 22.0, 60, 12),
)
UNKNOWN_GPU_TFLOPS = 100
UNKNOWN_GPU_LINK = 12
CPU_TFLOPS_PER_CORE = 0.05
RELEASED_SHIFT = 5.0  # of the noise schedule, and pocket's
# Of one slow core, for a pixel of a frame: encoding and decoding with pocket's video VAE, base_dim 32 on
# patches of 2x2. An earlier one took 13e-6 there, and 2.8 times as long as this one where both were measured.
# Operations grow with the square of base_dim, and patches are fewer places.
CODING_SECONDS = 4.7e-6 / 16**2
# MOVA-360p streamed layer by layer, as measured (README): 7.9 GiB and room for the desktop's own use.
RELEASED_VRAM, RELEASED_RAM = 11 * GIB, 72 * GIB
NEEDS = "MOVA-360p needs an NVIDIA GPU with 12 GB and 80 GB of memory"


@dataclass(frozen=True)
class Machine:
    """A device with the computer around it. Memory in bytes: what is free to `probe`, all to `installed`.

    `capability` is the compute capability of an NVIDIA card.
    """

    device: str
    name: str
    vram: int
    ram: int
    cores: int
    has_bfloat16: bool
    capability: tuple[int, int] | None = None

    @classmethod
    def probe(cls, device: str | None = None) -> "Machine":
        """This machine, seen from `device` ("cuda", "cuda:1", "mps", "cpu"), by default its best.

        Raises:
            UserError: there is no such device, or it cannot be used.
        """
        import torch

        if device is None:
            on_mac = torch.backends.mps.is_available()
            device = "cuda" if torch.cuda.is_available() else "mps" if on_mac else "cpu"
        memory, cores = psutil.virtual_memory().available, physical_cores()
        try:
            kind = torch.device(device).type
            torch.empty(0, device=device)
            if kind == "cuda":
                vram, _ = torch.cuda.mem_get_info(device)
                capability = torch.cuda.get_device_capability(device)
                name, bfloat16 = torch.cuda.get_device_name(device), capability >= (8, 0)
                return cls(device, name, vram, memory, cores, bfloat16, capability)
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

    @classmethod
    def installed(cls) -> "Machine":
        """This machine with its first NVIDIA card, by the driver's tool, else its CPU; loads nothing."""
        ram, cores = psutil.virtual_memory().total, physical_cores()
        cpu = cls("cpu", "CPU", ram, ram, cores, has_bfloat16=False)
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return cpu
        query = [tool, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
            name, mebibytes, capability = answer.splitlines()[0].rsplit(",", 2)
            return cls(
                "cuda", name.strip(), int(mebibytes) * 2**20, ram, cores, has_bfloat16=float(capability) >= 8
            )
        except (OSError, subprocess.SubprocessError, IndexError, ValueError):
            return cpu

    @property
    def is_gpu(self) -> bool:
        """Has an NVIDIA card, with memory of its own."""
        return self.device.startswith("cuda")

    @property
    def dtype(self) -> str:
        """The dtype that weights run fastest in."""
        return "bfloat16" if self.has_bfloat16 else "float32"


def physical_cores() -> int:
    return psutil.cpu_count(logical=False) or 1


def known_gpu(name: str) -> Gpu | None:
    """The card of the table that `name` ("4090", "NVIDIA H200") means."""
    return next((gpu for gpu in GPUS if gpu.name.lower() in name.lower()), None)


def find_gpu(name: str) -> Gpu:
    """As `known_gpu`. Raises UserError: it is not in the table."""
    found = known_gpu(name)
    if found is None:
        names = ", ".join(gpu.name for gpu in GPUS)
        raise UserError(f"there is no GPU {name!r} in the table; choose one of {names}")
    return found


def sustained_tflops(device_name: str, cores: int) -> float:
    """TFLOP/s of a forward on a device, by its name; on a CPU ("CPU") of all its cores."""
    if device_name == "CPU":
        return CPU_TFLOPS_PER_CORE * cores
    gpu = known_gpu(device_name)
    return gpu.tflops if gpu else UNKNOWN_GPU_TFLOPS


def lacks_for_released(machine: Machine) -> str:
    """The lack of a machine (all of its memory) for MOVA-360p, as the end of a sentence; empty if none."""
    if not machine.is_gpu:
        return "there is no NVIDIA GPU"
    if machine.vram < RELEASED_VRAM:
        return f"the GPU has {machine.vram / GIB:.0f} GiB"
    return f"there are {machine.ram / GIB:.0f} GiB of memory" if machine.ram < RELEASED_RAM else ""


def suitable_model() -> str:
    """The catalogue's name of the model to use where none is named."""
    return SMALL_MODEL if lacks_for_released(Machine.installed()) else DEFAULT_MODEL


def forward_flops(
    video: Mapping[str, Any], audio: Mapping[str, Any], bridge: Mapping[str, Any], shape: ClipShape
) -> float:
    """Floating-point operations of one joint forward, from the configs of towers and bridge.

    Matrix products and attention only, which are 98 % of them at the released size.
    """
    n, a = shape.video_tokens, shape.audio_latents
    total = 0.0
    for config, tokens in ((video, n), (audio, a)):
        dim, ffn = config["dim"], config["ffn_dim"]
        projections = 2 * dim * dim * (4 * tokens + 2 * tokens + 2 * MAX_PROMPT_TOKENS)
        attention = 4 * dim * tokens * (tokens + MAX_PROMPT_TOKENS)
        total += config["num_layers"] * (projections + attention + 4 * dim * ffn * tokens)
    v, d = bridge["visual_hidden_dim"], bridge["audio_hidden_dim"]
    to_video = 4 * v * v * n + 4 * d * v * a + 4 * v * n * a
    to_audio = 4 * d * d * a + 4 * v * d * n + 4 * d * n * a
    return total + min(bridge["visual_layers"], bridge["audio_layers"]) * (to_video + to_audio)


@dataclass(frozen=True)
class ClipTime:
    """Seconds of a clip on a loaded model. `coding`, pixels to latents and back, counts on a CPU only.

    `layout` is that of the steps with most forwards.
    """

    forwards: int
    denoising: float
    coding: float
    layout: Layout

    @property
    def total(self) -> float:
        return self.denoising + self.coding


def estimate_time(
    request: GenerationRequest,
    configs: Mapping[str, Mapping[str, Any]],
    device_name: str,
    cores: int,
    gpus: int = 1,
    parallel: str = "auto",
) -> ClipTime:
    """Predict the time of a clip from the configs of a checkpoint's towers, bridge and VAEs, by component.

    A guess within a factor of two off the measured devices; loading comes on top. `gpus` and `parallel` are
    those of a Placement.

    Raises:
        KeyError: a config lacks a value that the count needs.
    """
    shape = ClipShape.from_config(
        configs["audio_vae"], request.height, request.width, request.num_frames, request.frame_rate
    )
    towers = (configs[name] for name in ("video_dit", "audio_dit", "dual_tower_bridge"))
    shift = configs.get("scheduler", {}).get("shift", RELEASED_SHIFT)
    by_step = request.forwards_by_step(shift)
    heads = configs["video_dit"]["num_heads"]
    layouts = [Layout.choose(forwards, gpus, heads, parallel) for forwards in by_step]
    alone = sum(forwards / layout.speedup for forwards, layout in zip(by_step, layouts, strict=True))
    denoising = alone * forward_flops(*towers, shape) / (sustained_tflops(device_name, cores) * 1e12)
    forwards, layout = sum(by_step), max(layouts, key=lambda layout: layout.forwards)
    if device_name != "CPU":
        return ClipTime(forwards, denoising, 0.0, layout)
    vae, pixels = configs["video_vae"], request.height * request.width * request.num_frames
    width = vae["base_dim"] / (vae.get("patch_size") or 1)
    return ClipTime(forwards, denoising, CODING_SECONDS * width**2 * pixels / cores, layout)


def human_seconds(seconds: float) -> str:
    """A rough duration for people: "8 s", "12 min", "3.5 h"; at least a second."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def human_bytes(size: int) -> str:
    """A size for people: "12.3 GiB", or MiB where it is small."""
    return f"{size / GIB:.1f} GiB" if size > GIB / 10 else f"{size / 2**20:.1f} MiB"
