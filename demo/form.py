"""The values of the generate form, the request they make, and the field that is wrong."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from demo.added import (
    ACTS,
    CLIP,
    EXTEND,
    REDO_PICTURE,
    REDO_SOUND,
    RETAKE,
    SILENT,
    Added,
    next_window,
    probe,
)
from demo.reading import completed
from demo.settings import Settings, describe_model
from mova import catalog
from mova.adapters.strengths import Strength, is_repo
from mova.errors import UserError, check_finite, field_errors
from mova.machine import human_seconds
from mova.media.faces import position_with_face
from mova.media.given import VideoFacts
from mova.media.images import open_image
from mova.request import GenerationRequest, check_fields
from mova.shapes import frames_for_seconds, nearest_side, parse_size, size_for_aspect
from mova.tracks import Regenerate, check_strength, spans_to_make

WIDE, TALL, SQUARE, AS_IMAGE = "wide", "tall", "square", "image"
SHAPES = (WIDE, TALL, SQUARE, AS_IMAGE)
MAX_SEED = 2**53 - 1  # what a browser's number can hold
MAX_UPLOAD_SIDE = 2048  # as the largest clip
MAX_ADAPTERS = 4
CLIPS = (1, 3)  # that a click makes
OWN = "trained:"
FURTHER = (
    "solver",
    "guidance_interval",
    "audio_guidance_scale",
    "audio_bridge_guidance_scale",
    "cache_threshold",
)
SLIDER_STEP = 0.02  # seconds by which the slider's end may miss the clip's


@dataclass(frozen=True)
class AdapterChoice:
    """One adapter of the form, a file or else a name, and its strength for each part.

    A name is a Hub repo, or OWN and the name of an adapter trained from this visitor's browser.
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
    """The values of the form; fields that a request has too have its names.

    `image` is a file or None, `preset` None where steps and length match no preset. A `seed` of None is a
    random one, a shift of None or 0 the model's own. A prompt that equals `as_written`, as it came with a
    clip's settings, goes to the model word for word; any other is completed where the model is pocket, and
    the seed that came with those settings is not for it. `drawn` counts the pictures of an idea that pocket's
    clip may start from; -1 is none.
    The `clips` of a click have one seed after another.
    `added` is a sound or a video, which the clip follows; `act` says what is done with it, in the seconds
    from `span_start` to `span_end`; 0 is its end. `further` are fields of the request that a preset decides
    and the form does not show.
    """

    image: str | None = None
    prompt: str = ""
    model: str = ""
    preset: str | None = catalog.STANDARD
    shape: str = WIDE
    seconds: float = 2.0
    seed: float | None = None
    random_seed: bool = True
    clips: int = 1
    num_inference_steps: float = 25
    guidance_scale: float = 5.0
    bridge_guidance_scale: float = 1.0
    video_shift: float | None = None
    audio_shift: float | None = None
    negative_prompt: str = ""
    fit: str = "crop"
    crop_position: float = 0.5
    exact_size: str = ""
    adapters: tuple[AdapterChoice, ...] = ()
    as_written: str = ""
    drawn: int = 0
    added: str = ""
    act: str = EXTEND
    span_start: float = 0.0
    span_end: float = 0.0
    strength: float = 1.0
    further: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # An untouched text field of the page is sent as null.
        for each in fields(self):
            if each.type is str and getattr(self, each.name) is None:
                object.__setattr__(self, each.name, "")

    def request(self, settings: Settings) -> GenerationRequest:
        """The request the form makes, with a seed. Raises UserError with the form's field."""
        self._check(settings)
        model = describe_model(self.model, settings)
        height, width = self.size(model)
        added = self.read_added()
        tracks = self._tracks(added, model, settings) if added else {}
        if added is None:
            with field_errors("seconds"):
                tracks["num_frames"] = frames_for_seconds(self.seconds, model.frame_rate)
        chosen = [(slot, choice) for slot, choice in enumerate(self.adapters) if choice.is_chosen]
        is_own = self.prompt != self.as_written
        is_random = self.random_seed or self.seed is None or (is_own and bool(self.as_written))
        adapters = tuple(_adapter(slot, choice) for slot, choice in chosen)
        request = GenerationRequest(
            prompt=completed(self.prompt, self.model) if is_own else self.prompt,
            image=Path(self.image) if self.image and self.starts_from_image(added) else None,
            negative_prompt=self.negative_prompt,
            height=height,
            width=width,
            frame_rate=model.frame_rate,
            num_inference_steps=int(self.num_inference_steps),
            guidance_scale=float(self.guidance_scale),
            bridge_guidance_scale=float(self.bridge_guidance_scale),
            video_shift=_shift(self.video_shift),
            audio_shift=_shift(self.audio_shift),
            seed=None if is_random else int(self.seed),
            fit=self.fit,
            crop_position=float(self.crop_position),
            **tracks,
        )
        further = self.further | {"adapters": (*self.further.get("adapters", ()), *adapters)}
        return request.replace(**further).seeded()

    def read_added(self) -> Added | None:
        """The added file's facts. Raises UserError with the form's field."""
        if not self.added:
            return None
        with field_errors("added"):
            return probe(Path(self.added))

    def starts_from_image(self, added: Added | None) -> bool:
        """False where the first frame is one of the added video's."""
        return added is None or (added.act(self.act) == REDO_PICTURE and not self.span_start)

    @property
    def draws_frame(self) -> bool:
        """True where a first frame is drawn from the words, if they are of pocket's world."""
        is_pocket, is_own = self.model == catalog.SMALL_MODEL, self.prompt != self.as_written
        return is_pocket and is_own and self.drawn >= 0 and not (self.image or self.added)

    def can_be_painted(self, settings: Settings) -> bool:
        """True where a first frame may be painted from the words, if one asks for it."""
        return settings.painter is not None and self.model != catalog.SMALL_MODEL and not self.added

    def _tracks(self, added: Added, model: catalog.ModelSpec, settings: Settings) -> dict[str, Any]:
        """The request's fields that follow from what was added. Raises UserError with the form's field."""
        if settings.remote:
            raise UserError("the engine that makes the clips takes no sound or video; remove it", "added")
        path, act, rate = Path(self.added), added.act(self.act), model.frame_rate
        with field_errors("added"):
            check_finite(f"seconds of {path.name}", round(added.seconds, 2), 1 / rate, settings.max_seconds)
            num_frames = added.num_frames(rate)
        video = path if added.video else None
        audio = path if added.kind != SILENT else None
        fields = {"num_frames": num_frames, "video": video, "audio": audio}
        if act == EXTEND:
            return fields | self._extension(num_frames, model, settings)
        made = self._part(num_frames / rate, added)
        is_new = made is True and self.strength == 1
        if added.kind != CLIP:
            if not is_new:
                raise UserError(
                    f"nothing but the {added.kind} is there: no part of it can be made again", "span_end"
                )
            return fields
        if act == REDO_SOUND and is_new:
            return fields | {"audio": None}
        changed = {REDO_SOUND: ("audio",), REDO_PICTURE: ("video",), RETAKE: ("video", "audio")}[act]
        fields |= {f"regenerate_{name}": made for name in changed} | {"strength": float(self.strength)}
        return fields | {"refine": model.refine_retake if act == RETAKE and made is not True else 0}

    def _part(self, seconds: float, added: Added) -> Regenerate:
        """What is made again of a clip of `seconds`: the marked span, or True for all of it."""
        last = min(seconds, added.seconds) - SLIDER_STEP
        with field_errors("strength"):
            check_strength(self.strength, has_start=True)
        with field_errors("span_end"):
            check_finite("the end", self.span_end, 0, math.inf)
            end = self.span_end if 0 < self.span_end < last else seconds
            (span,) = spans_to_make("the part", ((self.span_start, end),), seconds)
        return True if span == (0.0, seconds) else (span,)

    def _extension(self, num_frames: int, model: catalog.ModelSpec, settings: Settings) -> dict[str, Any]:
        """One window more."""
        window, rate = next_window(num_frames, model), model.frame_rate
        total = window.start + window.num_frames
        with field_errors("added"):
            check_finite("seconds of the longer clip", round(total / rate, 2), 0, settings.max_seconds)
        made = ((num_frames / rate, total / rate),)
        return {"num_frames": total, "regenerate_audio": made, "refine": model.refine_extension}

    def size(self, model: catalog.ModelSpec) -> tuple[int, int]:
        """(height, width) in pixels, valid for the towers. Raises UserError with the form's field."""
        if self.exact_size.strip():
            try:
                return self._parse_exact_size(model)
            except UserError as error:  # of width or height, which are no fields of the form
                raise UserError(str(error), "exact_size") from error
        added = self.read_added()
        if added and added.video:
            return _size_of(added.video, model)
        if self.shape == WIDE:
            return model.height, model.width
        if self.shape == TALL:
            return model.width, model.height
        aspect = 1.0
        if self.shape == AS_IMAGE and self.image:
            with field_errors("image"):
                image = open_image(Path(self.image))
            aspect = _in_reason(image.width / image.height)
        return size_for_aspect(aspect, model.height * model.width)

    def best_crop(self, settings: Settings) -> float:
        """The `crop_position` that keeps a face of the picture. Raises UserError for the image."""
        with field_errors("image"):
            picture = open_image(Path(self.image))
        try:
            height, width = self.size(describe_model(self.model, settings))
        except UserError:  # `request` says so
            return 0.5
        return position_with_face(picture, height, width)

    def _parse_exact_size(self, model: catalog.ModelSpec) -> tuple[int, int]:
        height, width = parse_size(self.exact_size.strip())
        if height * width > 4 * model.height * model.width:
            raise UserError(
                f"{width}x{height} is over four times the size this model was trained for, "
                f"{model.width}x{model.height}"
            )
        return height, width

    def _check(self, settings: Settings) -> None:
        """Check what only the form has here, and the request's fields by the request's own rules."""
        if self.prompt or not self.added:
            check_fields(prompt=self.prompt)
        check_fields(negative_prompt=self.negative_prompt)
        with field_errors("model"):
            self._check_model(settings)
        if self.shape not in SHAPES:
            raise UserError(f"shape={self.shape!r} is not known; choose one of {', '.join(SHAPES)}", "shape")
        if self.act not in ACTS:
            raise UserError(f"act={self.act!r} is not known; choose one of {', '.join(ACTS)}", "act")
        if self.clips not in (offered := CLIPS[:1] if settings.is_zero_gpu else CLIPS):
            raise UserError(f"clips={self.clips} must be {' or '.join(map(str, offered))}", "clips")
        seed = None if self.random_seed else self.seed
        with field_errors("seed"):
            if seed is not None:
                check_finite("seed", seed, 0, MAX_SEED)
        if not self.added:
            with field_errors("seconds"):
                check_finite("seconds", self.seconds, 0.2, settings.max_seconds)
        with field_errors("num_inference_steps"):
            check_finite("steps", self.num_inference_steps, 1, settings.max_steps)
        check_fields(
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            bridge_guidance_scale=self.bridge_guidance_scale,
            video_shift=self.video_shift or None,
            audio_shift=self.audio_shift or None,
            seed=seed,
            fit=self.fit,
            crop_position=self.crop_position,
            **{name: self.further[name] for name in FURTHER if name in self.further},
        )
        for slot, choice in enumerate(self.adapters):
            for part in ("video", "audio", "bridge"):
                with field_errors(adapter_field(slot, part)):
                    check_finite(part, getattr(choice, part), -2, 2)

    def _check_model(self, settings: Settings) -> None:
        """Refuse models this page does not offer: a name from outside must not make it read a folder."""
        describe_model(self.model, settings)
        if self.model not in catalog.MODELS and self.model != settings.model:
            raise UserError(f"{self.model!r} is not one of this page's models")


def _in_reason(aspect: float) -> float:
    return min(max(aspect, 0.4), 2.5)


def _size_of(video: VideoFacts, model: catalog.ModelSpec) -> tuple[int, int]:
    """(height, width) for an added video: its own, so that it stays as it is, where the model can have it."""
    own, trained = (video.height, video.width), model.height * model.width
    if 0.5 <= own[0] * own[1] / trained <= 2 and own == tuple(map(nearest_side, own)):
        return own
    return size_for_aspect(_in_reason(video.width / video.height), trained)


def adapter_field(slot: int, part: str) -> str:
    """The name of the field for one part of the adapter in `slot`."""
    return f"adapter_{slot}_{part}"


def _adapter(slot: int, choice: AdapterChoice) -> tuple[str, Strength]:
    """Source and strength of a choice in which own adapters are already files."""
    source = choice.file or choice.name
    # What a visitor types must not name a file or folder of this machine.
    if not choice.file and (not is_repo(source) or Path(source).exists()):
        message = f"{source!r} is not a repo of the Hub; write it as owner/name"
        raise UserError(message, adapter_field(slot, "name"))
    if choice.video == choice.audio == choice.bridge:
        return source, float(choice.video)
    return source, {"video": choice.video, "audio": choice.audio, "bridge": choice.bridge}


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


def preset_choices(
    model: catalog.ModelSpec, seconds: Mapping[str, float | None] = MappingProxyType({})
) -> list[tuple[str, str]]:
    """Labels and names of the model's presets, with the `seconds` that each takes where they are known."""
    labels = []
    for preset in model.presets:
        took = seconds.get(preset.name)
        time = f", {human_seconds(took)}" if took else ""
        labels.append((f"{preset.name.capitalize()}{time}", preset.name))
    return labels


def preset_of(model: catalog.ModelSpec, request: GenerationRequest) -> str | None:
    """The preset that decides as the request does, or None. Adapters of the visitor's do not count."""
    for preset in model.presets:
        decided = model.decided_by(preset)
        own = {name: getattr(request, name) for name in decided} | further_of(request)
        if decided == {name: own[name] for name in decided}:
            return preset.name
    return None


def preset_fields(model: catalog.ModelSpec, preset: catalog.Preset) -> dict[str, Any]:
    """The form's fields that model and preset decide, but for the length and the texts."""
    request = GenerationRequest("", **model.defaults(preset))
    names = ("num_inference_steps", "guidance_scale", "bridge_guidance_scale")
    return {name: getattr(request, name) for name in names} | {"further": further_of(request)}


def further_of(request: GenerationRequest) -> dict[str, Any]:
    """The form's `further` for a request."""
    adapters = tuple(each for each in request.adapters if catalog.is_preset_adapter(each[0]))
    return {name: getattr(request, name) for name in FURTHER} | {"adapters": adapters}


def caution(request: GenerationRequest, model: catalog.ModelSpec) -> str:
    """A caution about a size or length that the small model was not trained on, or empty."""
    known = (model.height, model.width)
    if model.name != catalog.SMALL_MODEL or (
        (request.height, request.width) == known and request.num_frames <= model.num_frames
    ):
        return ""
    return f"Works best at {model.width}×{model.height}, {model.num_frames / model.frame_rate:.0f} s."


def describe_size(request: GenerationRequest) -> str:
    """Size and length of the clip, for people."""
    seconds = request.num_frames / request.frame_rate
    common = Fraction(request.width, request.height).limit_denominator(16)
    return (
        f"{request.width}×{request.height} pixels ({common.numerator}:{common.denominator}), "
        f"{seconds:.1f} s ({request.num_frames} frames)"
    )
