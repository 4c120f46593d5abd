"""Models by name, and their quality presets. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mova.errors import UserError
from mova.request import GenerationRequest
from mova.shapes import frames_for_seconds

PROMPTS = Path(__file__).parents[1] / "prompts"
POCKET = Path(__file__).parents[1] / "assets" / "pocket"


@dataclass(frozen=True)
class Preset:
    """A trade of quality for time: denoising steps, and the share of the trained length.

    `changes` are further fields of the request. `adapter` is a file that these steps need.
    """

    name: str
    num_inference_steps: int
    length: float
    note: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    adapter: Path | None = None


PRESET_NAMES = ("turbo", "draft", "fast", "standard", "exact")  # from the fastest
FORMER_NAMES = {"quick": "draft", "full": "exact"}
TURBO, STANDARD = "turbo", "standard"
# Cost no figure of pocket over two points; a step cache on top of them cost its words 2.5 (docs/speed.md).
SAVINGS = {"solver": "unipc", "guidance_interval": (0.7, 1.0)}
RELEASED_PRESETS = (
    Preset("draft", 12, 0.5, "half the length, to try an idea", SAVINGS | {"cache_threshold": 0.1}),
    Preset("fast", 18, 1.0, "the trained length, a third of the time of exact", SAVINGS),
    Preset("standard", 25, 1.0, "the trained length, half the steps"),
    Preset("exact", 50, 1.0, "as the released scripts run"),
)
POCKET_PRESETS = (
    Preset(
        "turbo",
        4,
        1.0,
        "four steps by an adapter that learnt them",
        {"guidance_scale": 1.0, "bridge_guidance_scale": 1.0},
        POCKET / "turbo.safetensors",
    ),
    Preset("draft", 4, 1.0, "the fewest steps", {"solver": "unipc"}),
    Preset("fast", 8, 1.0, "half the time of standard", SAVINGS),
    Preset("standard", 12, 1.0, "more steps hardly improve it"),
    Preset("exact", 20, 1.0, "the most steps, hardly better"),
)


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint by a short name: the size it was trained for, and the settings that suit it.

    `negative_prompt_file` lies in prompts/; None for a model that learnt guidance from the empty prompt.
    `refine_retake` and `refine_extension` are a request's `refine` where a part of both tracks is made. A
    window that continues a clip holds its last `overlap_seconds`.
    """

    name: str
    source: str
    height: int
    width: int
    num_frames: int = 193
    frame_rate: float = 24.0
    known_presets: tuple[Preset, ...] = RELEASED_PRESETS
    guidance_scale: float = 5.0
    bridge_guidance_scale: float = 1.0
    negative_prompt_file: str | None = "negative.zh.txt"
    refine_retake: int = 0
    refine_extension: int = 0
    overlap_seconds: float = 1.0

    @property
    def negative_prompt(self) -> str:
        """The text the model steers away from by default."""
        if self.negative_prompt_file is None:
            return ""
        return (PROMPTS / self.negative_prompt_file).read_text(encoding="utf-8").strip()

    @property
    def presets(self) -> tuple[Preset, ...]:
        """Those it has, from the fastest: one that needs an adapter, where the file is here."""
        return tuple(each for each in self.known_presets if each.adapter is None or each.adapter.is_file())

    @property
    def default_preset(self) -> str:
        return TURBO if any(preset.name == TURBO for preset in self.presets) else STANDARD

    @property
    def on_a_server(self) -> "ModelSpec":
        """The model with presets that a server can follow: it knows steps and lengths, and no adapters."""
        plain = tuple(replace(each, changes={}) for each in self.known_presets if each.adapter is None)
        return replace(self, known_presets=plain)

    def preset(self, name: str | None = None) -> Preset:
        """The preset of that name, or of a former one; the default if None.

        Raises:
            UserError: the model has none of that name.
        """
        wanted = self.default_preset if name is None else FORMER_NAMES.get(name, name)
        found = next((preset for preset in self.presets if preset.name == wanted), None)
        if found is None:
            names = ", ".join(preset.name for preset in self.presets)
            raise UserError(f"there is no preset {name!r} of this model; choose one of {names}", "preset")
        return found

    def clip_length(self, preset: Preset) -> int:
        """Frames of a clip made with `preset`."""
        return frames_for_seconds(self.num_frames * preset.length / self.frame_rate, self.frame_rate)

    def defaults(self, preset: Preset) -> dict[str, Any]:
        """The fields of a GenerationRequest that follow from model and preset."""
        own = {
            "height": self.height,
            "width": self.width,
            "frame_rate": self.frame_rate,
            "guidance_scale": self.guidance_scale,
            "bridge_guidance_scale": self.bridge_guidance_scale,
            "negative_prompt": self.negative_prompt,
        }
        return own | self.decided_by(preset)

    def decided_by(self, preset: Preset) -> dict[str, Any]:
        """The fields that a preset decides; of what another preset of the model changes, the usual value."""
        usual = GenerationRequest(
            "", guidance_scale=self.guidance_scale, bridge_guidance_scale=self.bridge_guidance_scale
        )
        changed = {name for each in self.presets for name in each.changes}
        adapters = () if preset.adapter is None else ((str(preset.adapter), 1.0),)
        return {
            "num_frames": self.clip_length(preset),
            "num_inference_steps": preset.num_inference_steps,
            **{name: getattr(usual, name) for name in sorted(changed)},
            **preset.changes,
            "adapters": adapters,
        }


def is_preset_adapter(source: str) -> bool:
    """True for the file that a preset attaches, which belongs to the toolkit and not to the clip."""
    path = Path(source)
    return any(path == preset.adapter for model in MODELS.values() for preset in model.known_presets)


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
            known_presets=POCKET_PRESETS,
            guidance_scale=2.0,
            bridge_guidance_scale=2.0,
            negative_prompt_file=None,
            refine_retake=4,
            refine_extension=2,
            overlap_seconds=0.375,  # 9 frames
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
