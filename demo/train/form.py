"""The few settings that the page asks for, and the config that follows from them. No torch."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lora_trainer.config import merge
from lora_trainer.doctor import EVEN_LUFS
from lora_trainer.regularization import example_prompts
from lora_trainer.windows import LENGTHS
from mova.adapters.strengths import PARTS, TOWERS
from mova.catalog import MODELS, STANDARD, ModelSpec
from mova.errors import UserError
from mova.shapes import frames_for_seconds

SMALL_BYTES = 2**30  # of weights: such a model is trained on a processor, in many quick steps
HELD_OUT = ((12, 2), (4, 1))  # (clips, of which so many validate), the most first
MAX_STEPS = 20_000
LEAST_KEPT, MOST_KEPT = 6, 24  # clips to keep; between, twice as many as there are to learn
# Validations in a run; with a small model one takes as long as ten steps.
VALIDATIONS, VALIDATIONS_IF_SMALL = 12, 3
SAMPLES, SAMPLES_IF_SMALL = 4, 2  # validations that make a clip
STEPS, STEPS_IF_SMALL = 1000, 720
RATE, RATE_IF_SMALL = 1e-4, 3e-3  # the latter, with all layers, as measured (benchmarks/README.md)
# Its layers are few and narrow: all of them learn, at a rank that draws crisply, sound at half the rate so
# that old voices stay; and what they compute is kept rather than computed twice.
SMALL = {
    "towers": {name: {"targets": "attention_ffn", "rank": 64} for name in PARTS["video"]}
    | {"audio_dit": {"learning_rate_scale": 0.5}},
    "run": {"gradient_checkpointing": False},
}
LABELS = {
    "look_and_voice": "Look and voice",
    "look": "Look only",
    "voice": "Voice and sound",
    "motion": "Motion",
    "sound_only": "Sound only",
}


@dataclass(frozen=True)
class TrainForm:
    """The values of the form; empty numbers are left to the preset and to the model."""

    name: str = ""
    preset: str = "look_and_voice"
    prompt: str = ""  # of the clip that shows the progress
    steps: float | None = None
    trigger: str = ""
    rank: float | None = None
    learning_rate: float | None = None
    accumulation: float | None = None
    recipe: str = "balanced"
    seconds: float | None = None  # longest training clip
    price: float | None = None  # of an hour
    keep: bool = False  # mix in clips that the model makes of what it can already
    keep_prompts: str = ""  # of these clips, one a line; empty: the model's own examples
    even_volume: bool = False

    def __post_init__(self) -> None:
        # An untouched text field of the page is sent as null.
        for field in fields(self):
            if field.type is str and getattr(self, field.name) is None:
                object.__setattr__(self, field.name, "")


def is_small(model: ModelSpec) -> bool:
    folder = Path(model.source).expanduser()
    files = folder.rglob("*.safetensors") if folder.is_dir() else ()
    return folder.is_dir() and sum(path.stat().st_size for path in files) < SMALL_BYTES


def has_examples(model: ModelSpec) -> bool:
    """True if the model comes with examples, which it can make again to preserve its skills."""
    try:
        return bool(example_prompts(model))
    except UserError:
        return False


def default_steps(model: ModelSpec) -> int:
    return STEPS_IF_SMALL if is_small(model) else STEPS


def settings_of(form: TrainForm, model: ModelSpec, clips: int, device: str) -> dict[str, Any]:
    """The settings of a config file, without output and data.path.

    Raises:
        UserError: a number is out of range.
    """
    small = is_small(model)
    steps = whole("steps", form.steps, default_steps(model), MAX_STEPS)
    rank = whole("rank", form.rank, 0, 256)
    rate = form.learning_rate or (RATE_IF_SMALL if small else RATE)
    if not 0 < rate <= 1:
        raise UserError(f"learning rate={rate:g} must be over 0 and at most 1; 0.0001 is usual")
    folder = Path(model.source).expanduser()
    settings: dict[str, Any] = {
        # A run may be resumed from another folder.
        "model": str(folder.absolute()) if model.name not in MODELS and folder.is_dir() else model.name,
        "preset": form.preset,
        "recipe": form.recipe,
        "data": {
            "size": f"{model.width}x{model.height}",
            "num_frames": lengths_of(form, model),
            "held_out": held_out_count(clips),
            "without_sound": "mute" if form.preset in ("look", "motion") else "refuse",
            "caption_prefix": f"{form.trigger.strip()} " if form.trigger.strip() else "",
        },
        "optimizer": {"learning_rate": rate, "warmup_steps": min(20, max(1, steps // 10))},
        "run": {
            "steps": steps,
            "accumulation": whole("gradient accumulation", form.accumulation, 1 if small else 4, 64),
            "checkpoint_every": min(100, max(5, steps // 20)),
            "validate_every": max(1, steps // (VALIDATIONS_IF_SMALL if small else VALIDATIONS)),
        },
        "samples": {
            "every": max(1, steps // (SAMPLES_IF_SMALL if small else SAMPLES)),
            "num_inference_steps": model.preset(STANDARD).num_inference_steps,
            "guidance_scale": model.guidance_scale,
            "clips": [{"prompt": form.prompt.strip(), "seed": 42}] if form.prompt.strip() else [],
        },
    }
    if device:
        settings["run"]["device"] = device
    if rank:
        settings["towers"] = {name: {"rank": rank} for name in TOWERS}
    if form.keep:
        settings["data"] |= keeping(form, clips)
    if form.even_volume:
        settings["data"] |= {"loudness": EVEN_LUFS}
    return merge(SMALL, settings) if small else settings


def keeping(form: TrainForm, clips: int) -> dict[str, Any]:
    """The settings with which a run makes clips of its present skills, every prompt at least once."""
    prompts = [line.strip() for line in form.keep_prompts.splitlines() if line.strip()]
    count = max(len(prompts), min(max(2 * clips, LEAST_KEPT), MOST_KEPT))
    return {"keep_count": count, "keep_prompts": prompts}


def held_out_count(clips: int) -> int:
    """Number of clips, out of `clips`, that are never trained on."""
    return next((count for least, count in HELD_OUT if clips >= least), 0)


def lengths_of(form: TrainForm, model: ModelSpec) -> list[int] | None:
    """Lengths in frames; None leaves them to a model that the catalogue knows."""
    if not form.seconds and model.name in MODELS:
        return None
    whole_seconds = form.seconds or model.num_frames / model.frame_rate
    if not 0.1 <= whole_seconds <= 20:
        raise UserError(f"max clip length={whole_seconds:g} s must be from 0.1 to 20")
    counts = {frames_for_seconds(whole_seconds * share, model.frame_rate) for share in LENGTHS}
    return sorted(count for count in counts if count > 1)


def whole(what: str, value: float | None, default: int, most: int) -> int:
    """A whole number from 1, or the default where none is given."""
    if value in (None, 0):
        return default
    if value != value or value != int(value) or not 1 <= value <= most:
        raise UserError(f"{what}={value:g} must be a whole number from 1 to {most}")
    return int(value)
