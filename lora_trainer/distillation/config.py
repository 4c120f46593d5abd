"""The settings of a distillation: defaults, file, flags, as those of a training."""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from lora_trainer.config import (
    LossWeights,
    NumFrames,
    PathName,
    Run,
    RunConfig,
    Section,
    Size,
    merge,
    nested,
    read_file,
    validated,
)
from lora_trainer.journal import CACHE
from mova.adapters.strengths import TOWERS
from mova.catalog import find_model
from mova.request import LIMITS
from mova.shapes import parse_size

# One LoRA in everything that a step passes through, learnt as fast as the trial on pocket learnt it.
DEFAULTS: dict[str, Any] = {
    "towers": {
        **{name: {"rank": 32, "targets": "everything"} for name in TOWERS if name != "dual_tower_bridge"},
        "dual_tower_bridge": {"rank": 32},
    },
    "optimizer": {"warmup_steps": 50, "weight_decay": 0.0},
}
RECORDED = "teacher", "objective", "matching", "optimizer", "run", "steps"  # in an adapter's header
GUIDANCE = LIMITS["guidance_scale"]


class Prompts(Section):
    """Texts and first frames, and the size of their clips. None is the model's own size or length."""

    path: PathName
    count: int | None = Field(None, ge=1)  # trajectories; None: one for each prompt
    held_out: int = Field(4, ge=0)  # of them, which are not learnt and measure the student
    size: Size | None = None  # WIDTHxHEIGHT
    num_frames: NumFrames | None = None
    frame_rate: float = Field(24.0, gt=0, le=120)
    hold_video: float = Field(0.0, ge=0, le=1)  # share of the trajectories with the picture held
    hold_audio: float = Field(0.0, ge=0, le=1)  # share of the trajectories with the sound held
    cache: PathName | None = None  # folder of the trajectories, which runs may share; None is OUTPUT/cache

    @model_validator(mode="after")
    def _held(self) -> "Prompts":
        if self.hold_video + self.hold_audio > 1:
            raise ValueError("hold_video and hold_audio are shares of the trajectories; together 1 at most")
        return self


class Teacher(Section):
    """How the model makes the trajectories that the student follows. None is the model's own default."""

    # None: those of the preset `standard`, rounded up to a multiple of the student's.
    steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=GUIDANCE[0], le=GUIDANCE[1])
    bridge_guidance_scale: float | None = Field(None, ge=GUIDANCE[0], le=GUIDANCE[1])
    negative_prompt: str | None = None
    batch_size: int = Field(1, ge=1)  # trajectories made at once, and kept in one file


class Objective(LossWeights):
    """The losses, and when the student learns from its own states.

    It then starts a step where its own path led and is to end it where the teacher's does. The learning rate
    falls to `own_rate` of what it was: in the trial on pocket the states' errors grew when it did not.
    """

    own_from: float = Field(1 / 3, ge=0, le=1)  # share of the run that is over by then
    own_share: float = Field(0.5, ge=0, le=1)  # of the states, from then on
    own_rate: float = Field(0.3, gt=0, le=1)


class Matching(Section):
    """Distribution matching in the steps of the second expert; see `lora_trainer.distillation.matching`.

    It is for a student that has learnt from trajectories (`start_from`), at a lower learning rate than then.
    """

    on: bool = False
    share: float = Field(0.75, gt=0, le=1)  # of the updates; the others learn from trajectories
    # Of the picture in the updates that match. On pocket it cost impacts, and 0 brought as many words back.
    video_weight: float = Field(0.0, ge=0, le=100)
    score_rate: float = Field(3.0, gt=0)  # learning rate of the fake score, over `optimizer.learning_rate`
    score_alone: int = Field(60, ge=0)  # updates in which it learns alone at first


class DistillRun(Run):
    """`minutes`, where it is set, ends the run earlier; the schedules then follow the clock."""

    steps: int = Field(2000, ge=1)
    accumulation: int = Field(1, ge=1)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    checkpoint_every: int = Field(200, ge=1)
    validate_every: int = Field(200, ge=0)
    minutes: float | None = Field(None, gt=0)
    compile: bool = False


class Samples(Section):
    """Clips of the held-out prompts by the student, at intervals; first the teacher's."""

    every: int = Field(0, ge=0)  # optimizer steps; 0: only at the end
    count: int = Field(2, ge=0)


class DistillConfig(RunConfig):
    """`steps` are the student's denoising steps, one forward each; `run.steps` those of the optimizer."""

    prompts: Prompts
    steps: int = Field(4, ge=1, le=100)
    video_shift: float | None = Field(None, ge=LIMITS["video_shift"][0], le=LIMITS["video_shift"][1])
    audio_shift: float | None = Field(None, ge=LIMITS["audio_shift"][0], le=LIMITS["audio_shift"][1])
    teacher: Teacher = Teacher()
    objective: Objective = Objective()
    matching: Matching = Matching()
    start_from: PathName | None = None  # adapter that the student starts from, of the same layers and ranks
    run: DistillRun = DistillRun()
    samples: Samples = Samples()

    @model_validator(mode="after")
    def _steps(self) -> "DistillConfig":
        if self.teacher.steps is not None and self.teacher.steps % self.steps:
            above = -(-self.teacher.steps // self.steps) * self.steps
            raise ValueError(
                f"teacher.steps={self.teacher.steps} is not a multiple of the student's {self.steps}, so its "
                f"states are not the student's; nearest above: {above}"
            )
        if self.run.offload == "shards":
            raise ValueError("run.offload shards is not for distillation; use experts or layers")
        return self

    @property
    def teacher_steps(self) -> int:
        if self.teacher.steps is not None:
            return self.teacher.steps
        standard = find_model(self.model).preset("standard").num_inference_steps
        return -(-standard // self.steps) * self.steps

    @property
    def scales(self) -> tuple[float, float]:
        """The teacher's guidance, by text and by bridge."""
        model, teacher = find_model(self.model), self.teacher
        text = model.guidance_scale if teacher.guidance_scale is None else teacher.guidance_scale
        bridge = teacher.bridge_guidance_scale
        return text, model.bridge_guidance_scale if bridge is None else bridge

    @property
    def negative_prompt(self) -> str:
        own = self.teacher.negative_prompt
        return find_model(self.model).negative_prompt if own is None else own

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and frames of the clips."""
        model = find_model(self.model)
        height, width = parse_size(self.prompts.size) if self.prompts.size else (model.height, model.width)
        return height, width, self.prompts.num_frames or model.num_frames

    @property
    def cache(self) -> Path:
        return self.prompts.cache or self.output / CACHE

    def recipe_record(self) -> dict[str, Any]:
        """The settings that decided the adapter, for its header: no paths of this machine."""
        record = self.model_dump(mode="json", include=set(RECORDED))
        record["towers"] = {name: tower.model_dump() for name, tower in self.towers.trained().items()}
        record["prompts"] = self.prompts.model_dump(mode="json", exclude={"path", "cache"})
        record["model"] = self.model_name
        return record


def read_distill_config(path: Path | None, changes: dict[str, Any]) -> DistillConfig:
    """The config of a file (or of flags alone) with `changes` ({"run.steps": 200, ...}) on top.

    Raises:
        UserError: no such file, an unknown key, a value out of range; the message names each.
    """
    written = merge(read_file(path) if path else {}, nested(changes))
    return validated(DistillConfig, merge(DEFAULTS, written), path)
