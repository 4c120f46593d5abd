"""Models by name, and their quality presets. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mova.errors import UserError
from mova.shapes import frames_for_seconds

PROMPTS = Path(__file__).parents[1] / "prompts"
POCKET = Path(__file__).parents[1] / "assets" / "pocket"


@dataclass(frozen=True)
class Preset:
    """A trade of quality for time: denoising steps, and the share of the trained length."""

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
class ModelSpec:
    """A checkpoint by a short name: the size it was trained for, and the settings that suit it.

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
        """The text the model steers away from by default."""
        if self.negative_prompt_file is None:
            return ""
        return (PROMPTS / self.negative_prompt_file).read_text(encoding="utf-8").strip()

    def preset(self, name: str = DEFAULT_PRESET) -> Preset:
        """The preset of that name. Raises UserError if there is none."""
        found = next((preset for preset in self.presets if preset.name == name), None)
        if found is None:
            raise UserError(f"there is no preset {name!r}; choose one of {', '.join(PRESET_NAMES)}")
        return found

    def clip_length(self, preset: Preset) -> int:
        """Frames of a clip made with `preset`."""
        return frames_for_seconds(self.num_frames * preset.length / self.frame_rate, self.frame_rate)

    def defaults(self, preset: Preset) -> dict[str, Any]:
        """The fields of a GenerationRequest that follow from model and preset."""
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
        ModelSpec("360p", "OpenMOSS-Team/MOVA-360p", 352, 640),
        ModelSpec("720p", "OpenMOSS-Team/MOVA-720p", 720, 1280),
        ModelSpec(
            "pocket",
            str(POCKET),
            height=128,
            width=224,
            num_frames=49,
            presets=POCKET_PRESETS,
            guidance_scale=2.0,
            bridge_guidance_scale=2.0,
            negative_prompt_file=None,
        ),
    )
}
DEFAULT_MODEL = "360p"
SMALL_MODEL = "pocket"  # where the default does not fit
REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def find_model(name: str) -> ModelSpec:
    """The catalogue's model of that name or source, else a folder or repo id with the defaults of 360p.

    A name with "720p" in it has those of 720p. The Hub is not asked whether it has the repo.

    Raises:
        UserError: it is none of these.
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
    return ModelSpec(name, name, base.height, base.width)
