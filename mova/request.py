"""Requests: the fields that decide a clip, their rules, their form inside a clip; and results. No torch."""

import dataclasses
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mova.adapters.strengths import Strength, by_tower, is_repo
from mova.adapters.turbo import turbo_of
from mova.errors import UserError, check_finite, field_errors
from mova.files import check_output, sha256_of
from mova.guidance import ALWAYS, MAX_SCALE, Guidance, Interval, check_interval
from mova.shapes import FRAME_RATES, MAX_PROMPT_TOKENS, TEMPORAL_STRIDE, check_num_frames, check_size
from mova.sigmas import shifted
from mova.text import clean_prompt
from mova.tracks import Span, Starts, check_given, check_refine, check_strength, passes, spans_to_make

# The least and the most that a run can do something with, by field.
LIMITS = {
    "frame_rate": FRAME_RATES,
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, MAX_SCALE),
    "bridge_guidance_scale": (0, MAX_SCALE),
    "audio_guidance_scale": (0, MAX_SCALE),
    "audio_bridge_guidance_scale": (0, MAX_SCALE),
    "video_shift": (0.01, 100),
    "audio_shift": (0.01, 100),
    "seed": (0, 2**63 - 1),
    "crop_position": (0, 1),
    "cache_threshold": (0, 1),
    "refine": (0, 8),
}
WHOLE = ("num_inference_steps", "seed", "refine")
OPTIONAL = ("video_shift", "audio_shift", "seed", "audio_guidance_scale", "audio_bridge_guidance_scale")
TOOLKIT = Path(__file__).parents[1]
FITS = ("crop", "pad")
SOLVERS = ("euler", "unipc")
SOURCES = {"image": "first frame", "video": "video", "audio": "sound"}  # fields that name a file
BYTES_PER_PIXEL = 0.15  # of an mp4, generously: moving noise at this quality takes 0.1
MAX_PROMPT_CHARACTERS = 20_000  # many times what the model reads, and the settings still fit into a clip


@dataclass(frozen=True)
class Progress:
    """One report of a running generation.

    `step` counts finished denoising steps of `steps`. `preview` is None or the clip so far
    as uint8 [T, h, w, 3]: one frame for each latent frame, at 1/8 of the size.
    """

    stage: str
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    preview: np.ndarray | None = None


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class GenerationRequest:
    """Everything that decides a clip. Two equal requests make the same clip on the same model.

    `image` is a path, or None for text alone (the model then starts from a white frame). Sizes are in
    pixels. `crop_position` says which part of an image is kept when it is cropped: 0 the left or top, 1 the
    right or bottom; 0.5, the middle, is what the models were released with. A `seed` of None is replaced by
    a random one when the run starts, which the result reports.

    `video` and `audio` are files to keep: the picture of the one, the sound of the other, which may be the
    same. What `regenerate_video` and `regenerate_audio` name, all (True) or spans (start, end) in seconds, is
    made again; with a `strength` below 1 it starts from what was given, noised to this sigma. Without an
    image the first frame is the video's. The prompt may be empty with a video or an audio.

    `guidance_interval` are the sigmas of the video between which guidance is used; outside of it a step is
    one forward with the prompt. The audio's guidance scales are the video's if None. `cache_threshold` is the
    expected change of the video's velocity, as a share, below which a step makes the sound alone; 0 is off.

    `refine` is the number of further passes over what was made: of the sound with the new picture held, then
    of the picture with the new sound held, and so on.
    """

    prompt: str
    image: Path | None = None
    negative_prompt: str = ""
    height: int = 352
    width: int = 640
    num_frames: int = 193
    frame_rate: float = 24.0
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    bridge_guidance_scale: float = 1.0
    video_shift: float | None = None
    audio_shift: float | None = None
    seed: int | None = None
    fit: str = "crop"
    crop_position: float = 0.5
    adapters: tuple[tuple[str, Strength], ...] = ()
    video: Path | None = None
    audio: Path | None = None
    regenerate_video: bool | tuple[Span, ...] = False
    regenerate_audio: bool | tuple[Span, ...] = False
    strength: float = 1.0
    solver: str = "euler"
    guidance_interval: Interval = ALWAYS
    audio_guidance_scale: float | None = None
    audio_bridge_guidance_scale: float | None = None
    cache_threshold: float = 0.0
    refine: int = 0

    @property
    def sources(self) -> dict[str, Path]:
        """The files it is made from, by field: "image", "video", "audio"."""
        return {name: path for name in SOURCES if (path := getattr(self, name)) is not None}

    @property
    def starts(self) -> Starts:
        """The sigmas that video and audio start from: 0 for one that is held, 1 for one that is all made.

        Where there are further passes neither is held: a video without spans is then made longer.
        """
        tracks = ((self.video, self.regenerate_video), (self.audio, self.regenerate_audio))
        video, audio = (
            1.0 if given is None else self.strength if regenerate or self.refine else 0.0
            for given, regenerate in tracks
        )
        return video, audio

    @property
    def is_retake(self) -> bool:
        """True where parts of a given picture and of a given sound are made again."""
        return all(part and part is not True for part in (self.regenerate_video, self.regenerate_audio))

    @property
    def total_steps(self) -> int:
        """Steps of all passes; a strength below 1 takes fewer."""
        return self.num_inference_steps * (1 + self.refine)

    @property
    def guidance(self) -> Guidance:
        return Guidance(
            self.guidance_scale,
            self.bridge_guidance_scale,
            self.audio_guidance_scale,
            self.audio_bridge_guidance_scale,
            self.guidance_interval,
        )

    def guided_sigmas(self, shift: float, starts: Starts) -> np.ndarray:
        """Float32 [N]: the sigma that decides on guidance, for each step of the pass with these `starts`.

        `shift` is the checkpoint's. They agree with `mova.scheduler.PairScheduler`: with a strength below 1
        the steps before the start are left out; where the video is held the audio's sigmas decide.
        """
        uniform = np.linspace(1, 0, self.num_inference_steps + 1)
        tracks = []
        for own, start in zip((self.video_shift, self.audio_shift), starts, strict=True):
            factor = shift if own is None else own
            sigmas = np.float32(shifted(uniform, factor))
            tracks.append(np.minimum(sigmas, np.float32(start)))
        is_moving = np.logical_or(*(sigmas[1:] < sigmas[:-1] for sigmas in tracks))
        return tracks[0 if starts[0] else 1][:-1][is_moving]

    def total_forwards(self, shift: float) -> int:
        """Forwards of the whole run, which decide its time; `shift` is the checkpoint's.

        A step cache, and a held picture that a forward without the bridge does not need, take less.
        """
        return sum(self.forwards_by_step(shift))

    def forwards_by_step(self, shift: float) -> list[int]:
        """Those of each step of all passes; of a further one in which the picture is held, of its first."""
        forwards: list[int] = []
        for index, starts in enumerate(passes(self.starts, self.refine)):
            own = [len(self.guidance.branches(float(sigma))) for sigma in self.guided_sigmas(shift, starts)]
            forwards += own[:1] if index and not starts[0] else own
        return forwards

    def check(self, out: Path | None = None, overwrite: bool = False) -> np.ndarray | None:
        """Check every field; every surface asks this before a run.

        With `out`, where the clip is to go, check also that it can be written there and read the first frame.
        Return the first frame, fitted (uint8 [H, W, 3]), or None without `out` or `image`.

        Raises:
            UserError: something cannot be done as asked; its `field` names the field of the request, as in
                "num_frames", or is "" for `out`. BackendError: the disk has no room for the clip.
        """
        check_fields(**vars(self))
        self._check_turbo()
        self._check_tracks()
        if out is None:
            return None
        pixels = self.height * self.width * self.num_frames
        check_output(out, overwrite, needed_bytes=int(pixels * BYTES_PER_PIXEL))
        if self.image is None:
            return None
        from mova.media.images import load_first_frame  # brings Pillow, which only a picture needs

        with field_errors("image"):
            return load_first_frame(self.image, self.height, self.width, self.fit, self.crop_position)

    def _check_turbo(self) -> None:
        """Refuse guidance with a few-step adapter; one from the Hub is checked when it is attached."""
        scales = {name: value for name, value in vars(self).items() if name.endswith("guidance_scale")}
        for source, strength in self.adapters:
            turbo = turbo_of(Path(source)) if any(by_tower(strength).values()) else None
            if turbo is not None:
                turbo.check_guidance(scales, source)

    def _check_tracks(self) -> None:
        seconds = self.num_frames / self.frame_rate
        made: dict[str, tuple[Span, ...]] = {}
        for name in ("video", "audio"):
            regenerate = getattr(self, f"regenerate_{name}")
            with field_errors(f"regenerate_{name}"):
                if name not in self.sources:
                    check_given(name, regenerate)
                made[name] = spans_to_make(f"regenerate_{name}", regenerate, seconds)
        with field_errors("strength"):
            check_strength(self.strength, any(made.values()))
        if self.video is None and self.audio is None:
            return
        from mova.media.given import probe_audio, probe_video  # brings PyAV

        video_frames = 0
        if self.video is not None:
            with field_errors("video"):
                video_frames = probe_video(self.video).num_frames(self.frame_rate)
        if self.audio is not None:
            with field_errors("audio"):
                probe_audio(self.audio)
        is_whole = video_frames > self.num_frames - TEMPORAL_STRIDE and not made["video"]
        if self.audio is not None and is_whole and not made["audio"]:
            raise UserError(
                "video and audio are both kept: nothing is left to make; regenerate a part of one",
                "regenerate_audio",
            )
        with field_errors("refine"):
            check_refine(self.refine, is_whole or (self.audio is not None and not made["audio"]))

    def to_settings(self, folder: Path | None = None) -> dict[str, Any]:
        """The request as JSON-ready values, the form that is written into a clip.

        Files in `folder`, the clip's own, are written by their name alone: the folder can be moved, and a
        clip that is given away does not reveal where it was made. An adapter that comes with the toolkit is
        written from its folder on.
        """
        settings = dataclasses.asdict(self)
        settings |= {name: None for name in SOURCES}
        settings |= {name: _name_of(path, folder) for name, path in self.sources.items()}
        settings["adapters"] = [
            [_shipped_name(source) or _name_of(source, folder), strength]
            for source, strength in self.adapters
        ]
        return json.loads(json.dumps(settings))  # tuples as they are read back, lists

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "GenerationRequest":
        """The request that `to_settings` wrote, possibly long ago: fields it does not name have defaults.

        Keys that are not fields of a request (those of the run, such as the model) are left out.

        Raises:
            UserError: the prompt is missing, or a value has the wrong type.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        values = {name: settings[name] for name in names if name in settings}
        try:
            request = _settings_reader().validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise _settings_error(error, values) from error
        shipped = [(str(TOOLKIT / source), strength) for source, strength in request.adapters]
        adapters = [
            ours if _shipped_name(ours[0]) == given[0] else given
            for ours, given in zip(shipped, request.adapters, strict=True)
        ]
        return request.replace(adapters=tuple(adapters))

    def with_files_in(self, folder: Path) -> "GenerationRequest":
        """The request with the paths of files that `to_settings` wrote by name alone and `folder` has."""
        here = {
            name: folder / path.name
            for name, path in self.sources.items()
            if not path.is_absolute() and (folder / path.name).is_file()
        }
        adapters = tuple(
            (
                str(folder / source)
                if Path(source).name == source and (folder / source).exists()
                else source,
                strength,
            )
            for source, strength in self.adapters
        )
        return self.replace(**here, adapters=adapters)

    def seeded(self) -> "GenerationRequest":
        """The request with a seed: its own, or a random one."""
        return self if self.seed is not None else self.replace(seed=secrets.randbelow(2**31))

    def replace(self, **changes: object) -> "GenerationRequest":
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class GenerationResult:
    """A finished clip: where it is, the request with its seed filled in, and seconds by stage."""

    path: Path
    request: GenerationRequest
    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def _shipped_name(source: str) -> str:
    """The name, from the toolkit's folder, of an adapter that comes with it, or ""."""
    path = Path(source)
    is_shipped = path.is_relative_to(TOOLKIT / "assets") and path.is_file()
    return path.relative_to(TOOLKIT).as_posix() if is_shipped else ""


def _name_of(source: str | Path, folder: Path | None) -> str:
    path = Path(source)
    return path.name if folder is not None and path.parent == folder and path.exists() else str(source)


@lru_cache(maxsize=1)
def _settings_reader() -> TypeAdapter[GenerationRequest]:
    return TypeAdapter(GenerationRequest)


def _settings_error(error: ValidationError, values: Mapping[str, Any]) -> UserError:
    where = error.errors()[0]["loc"]
    name = str(where[0]) if where else ""
    if name == "prompt":
        return UserError("the settings hold no prompt; they were not written by this toolkit")
    if name not in values:
        return UserError("the settings hold text that is not Unicode; they were not written by this toolkit")
    return UserError(f"the settings hold {name}={values[name]!r}, which has the wrong type", name)


def check_fields(**values: Any) -> None:  # noqa: ANN401 - what comes in may be of any type
    """Check some fields of a request, given by name (height and width together), in the order of the form.

    Raises:
        UserError: for the first that no run can have; `field` is its name.
    """
    for name, text in (("prompt", "the prompt"), ("negative_prompt", "the negative prompt")):
        if name in values:
            with field_errors(name):
                check_text(text, values[name] or "")
    has_track = values.get("video") is not None or values.get("audio") is not None
    if "prompt" in values and not has_track and not clean_prompt(values["prompt"] or ""):
        raise UserError("the prompt is empty; say what is seen and what is heard", "prompt")
    if "height" in values:
        check_size(values["height"], values["width"])
    if "num_frames" in values:
        with field_errors("num_frames"):
            check_num_frames(values["num_frames"])
    for name, (low, high) in LIMITS.items():
        if name in values and (values[name] is not None or name not in OPTIONAL):
            with field_errors(name):
                check_finite(name, values[name], low, high, whole=name in WHOLE)
    for name, known in (("fit", FITS), ("solver", SOLVERS)):
        if name in values and values[name] not in known:
            raise UserError(f"{name}={values[name]!r} is not known; choose one of {', '.join(known)}", name)
    if "guidance_interval" in values:
        with field_errors("guidance_interval"):
            check_interval(values["guidance_interval"])
    with field_errors("adapters"):
        for source, strength in values.get("adapters", ()):
            check_adapter(source, strength)


def check_adapter(source: str, strength: Strength) -> None:
    """Raise UserError unless the strength is in range and the source a path that exists or a Hub repo."""
    by_tower(strength, source)
    if not Path(source).exists() and not is_repo(source):
        raise UserError(
            f"there is no adapter {source}; give a .safetensors file, its folder or a Hub repo id"
        )


def check_text(name: str, text: str) -> None:
    """Raise UserError unless `text` is Unicode text of at most MAX_PROMPT_CHARACTERS."""
    if not isinstance(text, str):
        raise UserError(f"{name} must be text, not {text!r}")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UserError(
            f"{name} has {len(text)} characters; the model reads {MAX_PROMPT_TOKENS} tokens, and up to "
            f"{MAX_PROMPT_CHARACTERS} characters are accepted: shorten it"
        )
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{name} holds bytes that are not text; save or type it as UTF-8")


def check_source(field: str, path: Path, sha256: str | None) -> None:
    """Raise UserError unless `path`, from a clip's settings, is there and is what the clip was made from.

    `field` is one of SOURCES.
    """
    what = SOURCES[field]
    if not path.is_file():
        raise UserError(
            f"the clip was made from {path}, which is not here; give its {what} with --{field}", field
        )
    if sha256 is not None and sha256_of(path) != sha256:
        raise UserError(
            f"{path} has changed since the clip was made from it; give the {what} with --{field}", field
        )


def run_settings(request: GenerationRequest, model: str, out: Path) -> dict[str, Any]:
    """Settings for the clip at `out`: the request, the model, and the SHA-256 of each source."""
    digests = {f"{name}_sha256": sha256_of(path) for name, path in request.sources.items()}
    without = {f"{name}_sha256": None for name in SOURCES}
    return request.to_settings(out.parent) | {"model": model} | without | digests
