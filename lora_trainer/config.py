"""The settings of a run: one TOML or YAML file, flags on top; unknown keys are refused.

Later wins: defaults, recipe, preset, file, flags. A recipe sets how to learn (losses, timesteps, dropout), a
preset what to learn (which towers, at which rank).
"""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from lora_trainer.journal import CACHE, INDEX, KEPT
from mova.adapters.strengths import PARTS, TOWERS
from mova.catalog import find_model
from mova.errors import UserError
from mova.shapes import check_num_frames, parse_size

EXPERTS = PARTS["video"]
OFF, FFN = {"train": False}, "attention_ffn"
PRESETS: dict[str, dict[str, Any]] = {
    "look": {
        "towers": {
            **{name: {"rank": 32, "targets": FFN} for name in EXPERTS},
            "audio_dit": OFF,
            "dual_tower_bridge": OFF,
        },
        "objective": {"audio_weight": 0.0},
    },
    "voice": {
        "towers": {
            "video_dit": OFF,
            "video_dit_2": {"rank": 16},
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16},
        }
    },
    "look_and_voice": {
        "towers": {
            **{name: {"rank": 32} for name in EXPERTS},
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16},
        }
    },
    "motion": {
        "towers": {"video_dit_2": OFF, "audio_dit": OFF, "dual_tower_bridge": {"rank": 16}},
        "objective": {"high_share": 1.0},
    },
    "sound_only": {
        "towers": {
            **dict.fromkeys(EXPERTS, OFF),
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16, "targets": "video_to_audio"},
        },
        "objective": {"video_weight": 0.0},
    },
    "dubbing": {
        "towers": {
            **dict.fromkeys(EXPERTS, OFF),
            "audio_dit": {"rank": 32, "targets": FFN},
            "dual_tower_bridge": {"rank": 16, "targets": "video_to_audio"},
        },
        "objective": {"hold_video": 1.0, "high_share": "natural"},
    },
    "lip_sync": {
        "towers": {
            **{name: {"rank": 32} for name in EXPERTS},
            "audio_dit": OFF,
            "dual_tower_bridge": {"rank": 16, "targets": "audio_to_video"},
        },
        "objective": {"hold_audio": 1.0},
    },
}
# "released": the public trainer. "paper": arXiv 2602.08794, phases 2 and 3, at LoRA's learning rate.
# "balanced": the released one with the schedule's own share of experts, and some empty captions, without
# which text guidance pushes away from what was learnt.
RECIPES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "released": {"objective": {"text_dropout": 0.0, "high_share": 0.5}, "optimizer": {"warmup_steps": 500}},
    "paper": {
        "objective": {"audio_timestep": "independent", "audio_weight": 0.2, "text_dropout": 0.2},
        "optimizer": {"weight_decay": 0.001},
        "towers": {"dual_tower_bridge": {"learning_rate_scale": 2.0}},
        "data": {"loudness": -23.0},
    },
}


REGULARIZATION_SHARE = 0.5  # of the samples, where there are clips for regularization
MAX_REGULARIZATION = 1000  # clips that are generated for regularization
# Settings of earlier versions, which are still read.
OLD_NAMES = {
    "data": {
        "keep": "regularization",
        "keep_count": "regularization_count",
        "keep_prompts": "regularization_prompts",
        "keep_share": "regularization_share",
    }
}
PASSING = ("layers", "shards")  # offloads whose layers come to the device whole only while they run
WITH_FFN = ("attention_ffn", "everything")  # targets with the feed-forward layers
Targets = Literal["attention", "attention_ffn", "everything", "audio_to_video", "video_to_audio"]


def written_name(value: object) -> object:
    """`value`, a name of a file, folder or model, if it can be one. Raises ValueError."""
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("is empty or holds a NUL; give a name")
    return value


def written_size(value: str) -> str:
    """`value`, if it is a size of clips. Raises UserError."""
    parse_size(value)
    return value


def written_num_frames(value: int) -> int:
    """`value`, if clips can have as many frames. Raises UserError."""
    check_num_frames(value)
    return value


Size = Annotated[str, AfterValidator(written_size)]
NumFrames = Annotated[int, AfterValidator(written_num_frames)]
Name = Annotated[str, BeforeValidator(written_name)]
PathName = Annotated[Path, BeforeValidator(written_name)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LossWeights(Section):
    video_weight: float = Field(1.0, ge=0, le=100)
    audio_weight: float = Field(1.0, ge=0, le=100)
    hold_steps: int = Field(1, ge=1)  # optimizer steps in a row with the same expert

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if self.video_weight == self.audio_weight == 0:
            raise ValueError("video_weight and audio_weight are both 0; nothing would be learnt")
        return self

    @property
    def weights(self) -> tuple[float, float]:
        return self.video_weight, self.audio_weight


class Data(Section):
    """The clips, and the size they are trained at. None is the model's own size or length."""

    path: Name
    size: Size | None = None  # WIDTHxHEIGHT; with buckets, the number of pixels that every aspect gets
    num_frames: tuple[int, ...] | None = None  # 4k+1 each; a clip gets the longest that it fills
    frame_rate: float = Field(24.0, gt=0, le=120)
    buckets: bool = True
    loudness: float | None = Field(None, ge=-40, le=-5)  # LUFS that every window's sound is brought to
    without_sound: Literal["refuse", "mute"] = "refuse"  # mute: such clips teach the picture only
    caption_prefix: str = ""
    held_out: int = Field(1, ge=0)  # clips that are never trained on and measure the loss
    regularization: Name | None = None  # clips of existing skills, mixed in so that they stay
    regularization_count: int = Field(0, ge=0, le=MAX_REGULARIZATION)  # instead: the run generates so many
    regularization_prompts: tuple[str, ...] = ()  # of those, in turn; none: the model's own examples
    regularization_share: float | None = Field(None, gt=0, lt=1)  # of the samples; None: REGULARIZATION_SHARE
    cache: PathName | None = None  # folder of encoded clips; None is OUTPUT/cache

    @field_validator("num_frames")
    @classmethod
    def _num_frames(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        for count in value or ():
            check_num_frames(count)
        return tuple(sorted(set(value), reverse=True)) if value else None

    @model_validator(mode="after")
    def _regularization(self) -> "Data":
        if self.regularization is not None and self.regularization_count:
            raise ValueError(
                "regularization names clips, regularization_count lets the run generate them; "
                "give one of the two"
            )
        if self.regularization_share is not None and not self.is_regularized:
            raise ValueError("regularization_share needs regularization or regularization_count")
        return self

    @property
    def is_regularized(self) -> bool:
        """True if clips for regularization are given, or will be generated."""
        return self.regularization is not None or self.regularization_count > 0

    @property
    def share_of_regularization(self) -> float:
        return REGULARIZATION_SHARE if self.regularization_share is None else self.regularization_share


class Tower(Section):
    """One tower's LoRA. `alpha` of None is the rank; its learning rate is the optimizer's times the scale."""

    train: bool = True
    rank: int = Field(16, ge=1, le=256)
    alpha: float | None = Field(None, gt=0)
    targets: Targets = "attention"
    learning_rate_scale: float = Field(1.0, gt=0, le=100)


class Towers(Section):
    video_dit: Tower = Tower()
    video_dit_2: Tower = Tower()
    audio_dit: Tower = Tower()
    dual_tower_bridge: Tower = Tower()

    def trained(self) -> dict[str, Tower]:
        return {name: tower for name in TOWERS if (tower := getattr(self, name)).train}

    @model_validator(mode="after")
    def _targets(self) -> "Towers":
        allowed = {"dual_tower_bridge": ("attention", "audio_to_video", "video_to_audio")}
        for name, tower in self.trained().items():
            if tower.targets not in allowed.get(name, ("attention", "attention_ffn", "everything")):
                raise ValueError(f"{name} has no targets {tower.targets!r}")
        if not self.trained():
            raise ValueError("no tower is trained; switch one on")
        return self


class Objective(LossWeights):
    """The loss, and how samples are drawn.

    `high_share` is `video_dit`'s share of the steps; "natural" is the schedule's share of the samples whose
    picture is made. A held track is clean and has no loss: the other is learnt for it. A held picture has
    timestep 0, which is `video_dit_2`'s.
    """

    audio_timestep: Literal["shared", "independent"] = "shared"
    text_dropout: float = Field(0.1, ge=0, le=1)
    bridge_dropout: float = Field(0.0, ge=0, le=1)
    high_share: float | Literal["natural"] = "natural"
    hold_video: float = Field(0.0, ge=0, le=1)  # share of the samples with the picture held
    hold_audio: float = Field(0.0, ge=0, le=1)  # share of the samples with the sound held

    @model_validator(mode="after")
    def _high_share(self) -> "Objective":
        if not isinstance(self.high_share, str) and not 0 <= self.high_share <= 1:
            raise ValueError(f'high_share={self.high_share} must be from 0 to 1, or "natural"')
        return self

    @model_validator(mode="after")
    def _held(self) -> "Objective":
        if self.hold_video + self.hold_audio > 1:
            raise ValueError("hold_video and hold_audio are shares of the samples; together 1 at most")
        for held, made in (("video", "audio"), ("audio", "video")):
            if getattr(self, f"hold_{held}") and not getattr(self, f"{made}_weight"):
                raise ValueError(f"hold_{held} needs a loss of the other track; set {made}_weight above 0")
        if self.hold_video and self.high_share != "natural" and self.high_share + self.hold_video > 1:
            raise ValueError(
                f"high_share={self.high_share:g} leaves too few samples for hold_video={self.hold_video:g}, "
                f"which run on {EXPERTS[1]}; lower one of them, or set high_share to natural"
            )
        return self

    @property
    def weights(self) -> tuple[float, float]:
        """Weights of the losses of picture and sound: 0 for a track that is held in every sample."""
        video = 0.0 if self.hold_video == 1 else self.video_weight
        return video, 0.0 if self.hold_audio == 1 else self.audio_weight

    def high_noise_share(self, natural: float) -> float:
        """`video_dit`'s share of the steps, where that of the schedule is `natural`."""
        if self.high_share == "natural":
            return natural * (1 - self.hold_video)
        return float(self.high_share)


class Optimizer(Section):
    name: Literal["adamw", "adamw8bit", "schedule_free", "prodigy"] = "adamw"
    learning_rate: float | None = Field(None, gt=0, le=10)  # None: 1e-4, and 1 for prodigy, which finds it
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.01, ge=0, le=1)
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    final_scale: float = Field(0.01, ge=0, le=1)  # of the learning rate at the last step
    max_gradient_norm: float = Field(1.0, gt=0)

    @property
    def rate(self) -> float:
        return self.learning_rate or (1.0 if self.name == "prodigy" else 1e-4)


class Sample(Section):
    """A clip made at intervals, with the same seed each time and from the base model first.

    A `video` or an `audio` is held, and the other track is made for it; the prompt may then be empty.
    """

    prompt: str = ""
    image: PathName | None = None
    video: PathName | None = None
    audio: PathName | None = None
    seed: int = Field(42, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _tracks(self) -> "Sample":
        if self.video and self.audio:
            raise ValueError("video and audio are both held: nothing is left to make; give one of them")
        if not (self.prompt or self.video or self.audio):
            raise ValueError("prompt is empty; give one, or a video or an audio")
        return self


class Samples(Section):
    every: int = Field(0, ge=0)  # optimizer steps; 0 makes none
    num_inference_steps: int = Field(25, ge=1, le=1000)
    guidance_scale: float = Field(5.0, ge=0, le=50)
    negative_prompt: str | None = None  # None is the model's own
    num_frames: NumFrames | None = None  # None is the longest trained
    clips: tuple[Sample, ...] = ()


class Run(Section):
    """The loop, the machine, and the intervals of checkpoints and validation."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(1, ge=1)
    accumulation: int = Field(4, ge=1)
    seed: int = Field(0, ge=0, le=2**31)
    rslora: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    ema_decay: float = Field(0.0, ge=0, lt=1)  # 0 keeps no average
    gradient_checkpointing: bool = True
    device: str | None = None
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    # Frozen weights as they are; or smaller: fp8 the layers under the LoRA, int8 and nf4 (4 bits) all layers.
    base: Literal["plain", "fp8", "int8", "nf4"] = "plain"
    # Frozen weights on the device: all; one video expert at a time; three layers at a time, streamed; or, of
    # several processes, each its part of all layers, gathered as they run (FSDP).
    offload: Literal["none", "experts", "layers", "shards"] = "none"
    checkpoint_every: int = Field(100, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    validate_every: int = Field(50, ge=0)  # 0: only before the first and after the last step
    alarm_steps: int = Field(10, ge=1)  # active steps without any learning before the alarm
    tracker: Literal["none", "tensorboard", "trackio"] = "none"

    @model_validator(mode="after")
    def _streamed(self) -> "Run":
        if self.offload in PASSING and not self.gradient_checkpointing:
            raise ValueError(f"offload {self.offload} needs gradient_checkpointing: its weights do not stay")
        if self.offload in PASSING and self.base == "fp8":
            raise ValueError(f"offload {self.offload} does not take fp8; use base int8, nf4 or plain")
        return self


class RunConfig(Section):
    """What every training has; each kind adds its `objective`, which has the `weights` of both losses."""

    model: Name
    output: PathName
    towers: Towers = Towers()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()

    @model_validator(mode="after")
    def _one_rate(self) -> "RunConfig":
        scales = {tower.learning_rate_scale for tower in self.towers.trained().values()}
        if self.optimizer.name == "prodigy" and len(scales) > 1:
            raise ValueError("prodigy finds one rate for all towers; give them the same learning_rate_scale")
        return self

    @property
    def model_name(self) -> str:
        """The model, without a path of this machine."""
        return self.model if not Path(self.model).exists() else Path(self.model).name


AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


class Config(RunConfig):
    data: Data
    preset: Literal["look", "voice", "look_and_voice", "motion", "sound_only", "dubbing", "lip_sync"] = (
        "look_and_voice"
    )
    recipe: Literal["balanced", "released", "paper"] = "balanced"
    objective: Objective = Objective()
    samples: Samples = Samples()

    @model_validator(mode="after")
    def _experts(self) -> "Config":
        objective, trained = self.objective, self.towers.trained()
        share = objective.high_noise_share(natural=0.5)
        cause = "hold_video 1" if objective.hold_video == 1 else f"high_share {share:g}"
        for name, never in zip(EXPERTS, (0, 1), strict=True):
            if share == never and name in trained:
                raise ValueError(
                    f"{name} would never run with objective.{cause}; set towers.{name}.train to false"
                )
        return self

    @model_validator(mode="after")
    def _sound(self) -> "Config":
        if self.data.without_sound == "mute" and 1 in (self.objective.hold_video, self.objective.hold_audio):
            raise ValueError(
                "a clip without sound teaches nothing where a track is held in every sample; "
                "set data.without_sound to refuse"
            )
        return self

    @property
    def texts(self) -> list[str]:
        """Prompts that are encoded besides the captions: those of the samples, and the empty one."""
        if not self.samples.clips:
            return [""]
        negative = self.samples.negative_prompt
        return [
            "",
            find_model(self.model).negative_prompt if negative is None else negative,
            *(clip.prompt for clip in self.samples.clips),
        ]

    @property
    def cache(self) -> Path:
        return self.data.cache or self.output / CACHE

    @property
    def index(self) -> Path:
        """The list of the run's windows. It belongs to the run, also where the cache is shared."""
        return self.output / CACHE / INDEX

    @property
    def regularization_folder(self) -> Path:
        """The folder of the clips of data.regularization_count."""
        return self.output / KEPT

    def recipe_record(self) -> dict[str, Any]:
        """The settings that decided the adapter, for its header: no paths of this machine."""
        record = self.model_dump(mode="json", include={"preset", "recipe", "objective", "optimizer", "run"})
        record["towers"] = {name: tower.model_dump() for name, tower in self.towers.trained().items()}
        record["model"] = self.model_name
        return record


def read_config(path: Path | None, changes: dict[str, Any]) -> Config:
    """The config of a file (or of flags alone) with `changes` ({"run.steps": 200, ...}) on top.

    Raises:
        UserError: no such file, an unknown key, a value out of range; the message names each.
    """
    written = merge(with_new_names(read_file(path)) if path else {}, with_new_names(nested(changes)))
    base: dict[str, Any] = {}
    for key, choices in (("recipe", RECIPES), ("preset", PRESETS)):
        name = written.get(key, Config.model_fields[key].default)
        base = merge(base, choices.get(name, {}) if isinstance(name, str) else {})
    return validated(Config, merge(base, written), path)


def validated(kind: type[AnyConfig], settings: dict[str, Any], path: Path | None) -> AnyConfig:
    """The config of these settings. Raises UserError, which names each that is wrong."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        where = path or "the command line"
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'config'}: {sentence(item)}" for item in error.errors()
        ]
        raise UserError(f"{where}: {'; '.join(lines)}") from None


def with_new_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings, as a person or an earlier version wrote them, with the names of today."""
    renamed = dict(settings)
    for section, names in OLD_NAMES.items():
        if isinstance(values := settings.get(section), dict):
            renamed[section] = {names.get(key, key): value for key, value in values.items()}
    return renamed


def sentence(item: Any) -> str:  # noqa: ANN401 - pydantic's error record
    if item["type"] == "extra_forbidden":
        return "there is no such setting; check its name"
    if item["type"] == "missing":
        return "must be given"
    given = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
    return f"{item['msg'].removeprefix('Value error, ')}{given}"


def read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a .toml or .yaml file") from error
    except (tomllib.TOMLDecodeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid {path.suffix or 'YAML'} ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings; it should look like `model: 360p`, `data: ...`")
    return content


def parse_change(text: str) -> tuple[str, Any]:
    """("run.steps", 200) of "run.steps=200". Raises UserError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text} is not KEY=VALUE; for example --set towers.audio_dit.rank=32")
    try:
        return key.strip(), json.loads(value)
    except ValueError:  # a bare word is a string
        return key.strip(), value


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
