"""Models by name, quality presets, and what a run costs before it starts. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mova.shapes import MAX_PROMPT_TOKENS, ClipShape, frames_for_seconds
from mova.types import UserError

PROMPTS = Path(__file__).parents[1] / "prompts"
POCKET = Path(__file__).parents[1] / "assets" / "pocket"


@dataclass(frozen=True)
class Preset:
    """How much work a clip is worth: denoising steps, and the share of the trained length."""

    name: str
    num_inference_steps: int
    length: float
    note: str


PRESET_NAMES = ("quick", "standard", "full")
DEFAULT_PRESET = "standard"
RELEASED_PRESETS = (
    Preset("quick", 15, 0.5, "half the length, to try an idea"),
    Preset("standard", 25, 1.0, "the trained length, half the steps"),
    Preset("full", 50, 1.0, "as the released scripts run"),
)
POCKET_PRESETS = (
    Preset("quick", 4, 1.0, "the fewest steps"),
    Preset("standard", 12, 1.0, "more steps hardly improve it"),
    Preset("full", 20, 1.0, "the most steps, hardly better"),
)


@dataclass(frozen=True)
class Model:
    """A checkpoint by a short name: the size it was trained for, and how it is best asked.

    `negative_prompt_file` lies in prompts/; None for a model that learnt guidance from the empty prompt.
    """

    name: str
    source: str
    height: int
    width: int
    num_frames: int = 193
    frame_rate: float = 24.0
    presets: tuple[Preset, ...] = RELEASED_PRESETS
    guidance_scale: float = 5.0
    bridge_guidance_scale: float = 1.0
    negative_prompt_file: str | None = "negative.zh.txt"

    @property
    def negative_prompt(self) -> str:
        """What the model steers away from where nothing else is said."""
        if self.negative_prompt_file is None:
            return ""
        return (PROMPTS / self.negative_prompt_file).read_text(encoding="utf-8").strip()

    def preset(self, name: str = DEFAULT_PRESET) -> Preset:
        """Raises UserError: there is none of that name."""
        found = next((preset for preset in self.presets if preset.name == name), None)
        if found is None:
            raise UserError(f"there is no preset {name!r}; choose one of {', '.join(PRESET_NAMES)}")
        return found

    def clip_length(self, preset: Preset) -> int:
        """Frames of a clip that is made with `preset`."""
        return frames_for_seconds(self.num_frames * preset.length / self.frame_rate, self.frame_rate)

    def defaults(self, preset: Preset) -> dict[str, Any]:
        """The fields of a GenerationRequest that model and preset decide."""
        return {
            "height": self.height,
            "width": self.width,
            "frame_rate": self.frame_rate,
            "num_frames": self.clip_length(preset),
            "num_inference_steps": preset.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "bridge_guidance_scale": self.bridge_guidance_scale,
            "negative_prompt": self.negative_prompt,
        }


MODELS = {
    model.name: model
    for model in (
        Model("360p", "OpenMOSS-Team/MOVA-360p", 352, 640),
        Model("720p", "OpenMOSS-Team/MOVA-720p", 720, 1280),
        Model("pocket", str(POCKET), 128, 224, 49, 24.0, POCKET_PRESETS, 2.0, 2.0, None),
    )
}
DEFAULT_MODEL = "360p"
SMALL_MODEL = "pocket"  # where that does not fit
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Gpu:
    """A card by the part of its name that tells it: what programs get of its memory, and how fast it is.

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
SUSTAINED_TFLOPS = {gpu.name: gpu.tflops for gpu in GPUS}
UNKNOWN_GPU_TFLOPS = 100
UNKNOWN_GPU_LINK = 12
CPU_TFLOPS_PER_CORE = 0.05


def find_model(name: str) -> Model:
    """The catalogue's model of that name or source, else the folder or repo id, taken to be of 360p size.

    Raises:
        UserError: it is none of these. Whether the Hub has the repo is not looked up.
    """
    if name in MODELS:
        return MODELS[name]
    folder = str(Path(name).expanduser().absolute())
    known = next((model for model in MODELS.values() if model.source in (name, folder)), None)
    if known is not None:
        return known
    if not name or not (Path(name).expanduser().is_dir() or REPO_ID.fullmatch(name)):
        raise UserError(
            f"there is no model {name!r}; give {', '.join(MODELS)}, the folder of a checkpoint, "
            f"or a Hub repo id such as {MODELS[DEFAULT_MODEL].source}"
        )
    base = MODELS["720p" if "720p" in name else "360p"]
    return Model(name, name, base.height, base.width)


def find_gpu(name: str) -> Gpu:
    """The card that `name` ("4090", "NVIDIA H200") means. Raises UserError: it is not in the table."""
    found = next((gpu for gpu in GPUS if gpu.name.lower() in name.lower()), None)
    if found is None:
        names = ", ".join(gpu.name for gpu in GPUS)
        raise UserError(f"there is no GPU {name!r} in the table; choose one of {names}")
    return found


def forward_flops(
    video: dict[str, Any], audio: dict[str, Any], bridge: dict[str, Any], shape: ClipShape
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


def estimate_seconds(flops: float, steps: int, forwards: int, device_name: str, cores: int) -> float:
    """Seconds of denoising: `steps` steps of `forwards` forwards of `flops` operations each.

    Encoding, decoding and loading come on top. A guess within a factor of two off the devices above.
    """
    rate = CPU_TFLOPS_PER_CORE * cores
    if device_name != "CPU":
        rates = [tflops for part, tflops in SUSTAINED_TFLOPS.items() if part in device_name]
        rate = rates[0] if rates else UNKNOWN_GPU_TFLOPS
    return flops * steps * forwards / (rate * 1e12)


def human_seconds(seconds: float) -> str:
    """A rough duration for people: "8 s", "12 min", "3.5 h"; at least a second."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
