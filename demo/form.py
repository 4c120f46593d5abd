"""The generate form: what is in its fields, what that means for the model, and which field is wrong."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path

from demo.settings import Settings, describe_model
from mova import catalog
from mova.adapters.strengths import Strength, is_repo
from mova.errors import UserError, check_finite
from mova.guidance import branches
from mova.media.images import open_image
from mova.request import LIMITS, GenerationRequest, check_text
from mova.shapes import frames_for_seconds, parse_size, size_for_aspect
from mova.text import clean_prompt

WIDE, TALL, SQUARE, AS_IMAGE = "wide", "tall", "square", "image"
SHAPES = (WIDE, TALL, SQUARE, AS_IMAGE)
RANDOM_SEEDS = 2**31
MAX_SEED = 2**53 - 1  # what a browser's number can hold
MAX_UPLOAD_SIDE = 2048  # as the largest clip
MAX_ADAPTERS = 4
OWN = "trained:"


class FieldError(UserError):
    """A field of the form cannot be as it is."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def __reduce__(self) -> tuple:
        return FieldError, (self.field, str(self))


@dataclass(frozen=True)
class AdapterChoice:
    """One adapter of the form and its strength for each part: a file, or else a name.

    A name is a Hub repo, or OWN and the name of an adapter trained in this visitor's browser.
    """

    file: str | None = None
    name: str = ""
    video: float = 1.0
    audio: float = 1.0
    bridge: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.name or "").strip())  # an untouched field is sent as null

    @property
    def is_chosen(self) -> bool:
        return bool(self.file or self.name)


@dataclass(frozen=True)
class Form:
    """What the page asks for; its components are those of `FIELDS`.

    `image` is a file or None, `preset` None where steps and length are no preset's. A `seed` of None is a
    random one, a shift of None or 0 the model's own.
    """

    image: str | None = None
    prompt: str = ""
    model: str = ""
    preset: str | None = catalog.DEFAULT_PRESET
    shape: str = WIDE
    seconds: float = 2.0
    seed: float | None = None
    random_seed: bool = True
    steps: float = 25
    guidance: float = 5.0
    sync_guidance: float = 1.0
    video_shift: float | None = None
    audio_shift: float | None = None
    negative: str = ""
    fit: str = "crop"
    crop_position: float = 0.5
    exact_size: str = ""
    adapters: tuple[AdapterChoice, ...] = ()

    @classmethod
    def read(cls, values: Sequence[object]) -> "Form":
        """The form of its components' values, in the order of `FIELDS`."""
        own, rest = values[: len(OWN_FIELDS)], values[len(OWN_FIELDS) :]
        choices = (AdapterChoice(*rest[at : at + len(PARTS)]) for at in range(0, len(rest), len(PARTS)))
        return cls(*own, tuple(choices))

    def values(self) -> list[object]:
        """The components' values, in the order of `FIELDS`."""
        slots = [*self.adapters, *[AdapterChoice()] * MAX_ADAPTERS][:MAX_ADAPTERS]
        own = [getattr(self, name) for name in OWN_FIELDS]
        return own + [getattr(slot, part) for slot in slots for part in PARTS]

    def __post_init__(self) -> None:
        # An untouched text field of the page is sent as null.
        for field in fields(self):
            if field.type is str and getattr(self, field.name) is None:
                object.__setattr__(self, field.name, "")

    def request(self, settings: Settings) -> GenerationRequest:
        """What the form asks for, with a seed.

        Raises:
            FieldError: a field is wrong.
        """
        self._check(settings)
        model = describe_model(self.model, settings)
        height, width = self.size(model)
        with field_errors("seconds"):
            num_frames = frames_for_seconds(self.seconds, model.frame_rate)
        seed = secrets.randbelow(RANDOM_SEEDS) if self.random_seed or self.seed is None else int(self.seed)
        return GenerationRequest(
            self.prompt,
            Path(self.image) if self.image else None,
            self.negative,
            height,
            width,
            num_frames,
            model.frame_rate,
            int(self.steps),
            float(self.guidance),
            float(self.sync_guidance),
            _shift(self.video_shift),
            _shift(self.audio_shift),
            seed,
            self.fit,
            float(self.crop_position),
            tuple(self._adapter(slot, each) for slot, each in enumerate(self.adapters) if each.is_chosen),
        )

    def size(self, model: catalog.ModelSpec) -> tuple[int, int]:
        """(height, width) in pixels, valid for the towers. Raises FieldError."""
        if self.exact_size.strip():
            with field_errors("exact_size"):
                height, width = parse_size(self.exact_size.strip())
                if height * width > 4 * model.height * model.width:
                    raise UserError(
                        f"{width}x{height} is over four times the size this model was trained for; "
                        f"it knows {model.width}x{model.height}"
                    )
                return height, width
        if self.shape == WIDE:
            return model.height, model.width
        if self.shape == TALL:
            return model.width, model.height
        aspect = 1.0
        if self.shape == AS_IMAGE and self.image:
            with field_errors("image"):
                image = open_image(Path(self.image))
            aspect = min(max(image.width / image.height, 0.4), 2.5)
        return size_for_aspect(aspect, model.height * model.width)

    def _adapter(self, slot: int, choice: AdapterChoice) -> tuple[str, Strength]:
        """The source and strength of a choice whose own adapters have become files."""
        source = choice.file or choice.name
        # What a visitor types must not name a file or folder of this machine.
        if not choice.file and (not is_repo(source) or Path(source).exists()):
            raise FieldError(
                adapter_field(slot, "name"), f"{source!r} is no repo of the Hub; give one as owner/name"
            )
        if choice.video == choice.audio == choice.bridge:
            return source, float(choice.video)
        return source, {"video": choice.video, "audio": choice.audio, "bridge": choice.bridge}

    def _check(self, settings: Settings) -> None:
        with field_errors("prompt"):
            check_prompt(self.prompt)
        with field_errors("negative"):
            check_text("the negative prompt", self.negative)
        with field_errors("model"):
            self._check_model(settings)
        for name, value, choices in (("shape", self.shape, SHAPES), ("fit", self.fit, ("crop", "pad"))):
            if value not in choices:
                raise FieldError(name, f"{name}={value!r} is not known; choose one of {', '.join(choices)}")
        if not self.random_seed and self.seed is not None:
            self._check_number("seed", self.seed, 0, MAX_SEED, whole=True)
        self._check_number("seconds", self.seconds, 0.2, settings.max_seconds)
        self._check_number("steps", self.steps, 1, settings.max_steps, whole=True)
        with field_errors("guidance"):
            branches(self.guidance)
        with field_errors("sync_guidance"):
            branches(self.guidance, self.sync_guidance)
        for name in ("video_shift", "audio_shift"):
            if getattr(self, name):
                self._check_number(name, getattr(self, name), *LIMITS[name])
        self._check_number("crop_position", self.crop_position, 0, 1)
        for slot, choice in enumerate(self.adapters):
            for part in ("video", "audio", "bridge"):
                self._check_number(adapter_field(slot, part), getattr(choice, part), -2, 2)

    def _check_model(self, settings: Settings) -> None:
        """A page runs the models it offers; a name from outside must not make it read some folder."""
        describe_model(self.model, settings)
        if self.model not in catalog.MODELS and self.model != settings.model:
            raise UserError(f"{self.model!r} is not one of this page's models")

    @staticmethod
    def _check_number(name: str, value: object, low: float, high: float, whole: bool = False) -> None:
        with field_errors(name):
            check_finite(name.replace("_", " "), value, low, high)
            if whole and value != int(value):
                raise UserError(f"{name}={value} must be a whole number")


def adapter_field(slot: int, part: str) -> str:
    """What the component for a part of an adapter's choice is called."""
    return f"adapter_{slot}_{part}"


OWN_FIELDS = tuple(field.name for field in fields(Form) if field.name != "adapters")
PARTS = tuple(field.name for field in fields(AdapterChoice))
FIELDS = (*OWN_FIELDS, *(adapter_field(slot, part) for slot in range(MAX_ADAPTERS) for part in PARTS))


class field_errors:  # noqa: N801 - reads as a statement
    """Lays any UserError of the block on a field."""

    def __init__(self, field: str) -> None:
        self.field = field

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError) and not isinstance(error, FieldError):
            raise FieldError(self.field, str(error)) from error


def check_prompt(prompt: object) -> None:
    """Raise UserError unless `prompt` says something and is no book."""
    if not isinstance(prompt, str):
        raise UserError("the prompt must be text")
    check_text("the prompt", prompt)
    if not clean_prompt(prompt):
        raise UserError("the prompt is empty; say what is seen and what is heard")


def prepare_image(source: Path, target: Path) -> str:
    """Write the uploaded image as a PNG of at most MAX_UPLOAD_SIDE, without its metadata; a note if scaled.

    Raises:
        UserError: as `open_image`.
    """
    from PIL import Image

    image = open_image(source)
    before = image.size
    image.thumbnail((MAX_UPLOAD_SIDE, MAX_UPLOAD_SIDE), Image.Resampling.LANCZOS)
    image.save(target, "PNG")
    if image.size == before:
        return ""
    return f"the image was {before[0]}x{before[1]} and is used at {image.width}x{image.height}"


def _shift(value: float | None) -> float | None:
    return float(value) if value else None


def preset_choices(model: catalog.ModelSpec) -> list[tuple[str, str]]:
    """Labels and names of the model's presets."""
    return [
        (f"{preset.name.capitalize()} ({preset.num_inference_steps} steps)", preset.name)
        for preset in model.presets
    ]


def preset_of(model: catalog.ModelSpec, num_frames: int, steps: int) -> str | None:
    """The preset that has this length and these steps."""
    for preset in model.presets:
        if (model.clip_length(preset), preset.num_inference_steps) == (num_frames, steps):
            return preset.name
    return None


def describe_doubts(request: GenerationRequest, model: catalog.ModelSpec) -> str:
    """What to expect of a size or length that a small model never saw; empty if it did."""
    known = (model.height, model.width)
    if model.name != catalog.SMALL_MODEL or (
        (request.height, request.width) == known and request.num_frames <= model.num_frames
    ):
        return ""
    return (
        f"The model saw only {model.width}×{model.height} and {model.num_frames / model.frame_rate:.1f} s "
        "when it learnt: expect less of this."
    )


def describe_size(request: GenerationRequest) -> str:
    """The valid values that the form's wishes became."""
    seconds = request.num_frames / request.frame_rate
    common = Fraction(request.width, request.height).limit_denominator(16)
    return (
        f"{request.width}×{request.height} pixels ({common.numerator}:{common.denominator}), "
        f"{seconds:.1f} s ({request.num_frames} frames)"
    )
