"""Settings of a clip, turned back into the form that makes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import history
from demo.added import EXTEND, REDO_PICTURE, REDO_SOUND, RETAKE, added_frames
from demo.form import MAX_ADAPTERS, TALL, WIDE, AdapterChoice, Form, describe_model, further_of, preset_of
from demo.service import DemoService
from mova import catalog
from mova.adapters.strengths import is_repo
from mova.files import sha256_of
from mova.media.clips import read_settings
from mova.request import GenerationRequest

PARTS = ("video", "audio", "bridge")


def restore_clip(service: DemoService, visitor: str, clip: Path) -> tuple[Form, str]:
    """The form of a clip that was dropped on the page, and a remark.

    Raises:
        UserError: it is not a clip, or has no settings of this toolkit.
    """
    settings = read_settings(clip)
    GenerationRequest.from_settings(settings)
    image, remark = _first_frame_of(service, visitor, clip, settings)
    form = form_of(service, settings, image, str(settings.get("model", "")))
    if missing := len(settings.get("adapters", ())) - len(form.adapters) - len(form.further["adapters"]):
        which = "One of its adapters is a file" if missing == 1 else f"{missing} of its adapters are files"
        remark = f"{remark} {which} not on this page: choose it again.".strip()
    if settings.get("video") or settings.get("audio"):
        remark = f"{remark} It was made with a sound or video that is not on this page: add it again.".strip()
    return form, remark


def form_of(
    service: DemoService, settings: dict[str, Any], image: Path | None, model: str, folder: Path | None = None
) -> Form:
    """The form for `settings`; fields that they leave out are as in a fresh form.

    Adapter files are looked for in `folder`, the clip's own.
    """
    name = model if model in service.model_names else service.model_name
    described = describe_model(name, service.settings)
    fresh = GenerationRequest("-", **described.defaults(described.preset()))
    request = GenerationRequest.from_settings(fresh.to_settings() | settings)
    size = (request.height, request.width)
    shape = TALL if size == (described.width, described.height) != size[::-1] else WIDE
    is_own_size = size in ((described.height, described.width), (described.width, described.height))
    return Form(
        image=str(image) if image else None,
        prompt=request.prompt,
        as_written=request.prompt,
        model=name,
        preset=preset_of(described, request),
        shape=shape,
        seconds=round(request.num_frames / request.frame_rate, 2),
        seed=request.seed,
        random_seed=request.seed is None,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        bridge_guidance_scale=request.bridge_guidance_scale,
        video_shift=request.video_shift,
        audio_shift=request.audio_shift,
        negative_prompt=request.negative_prompt,
        fit=request.fit,
        crop_position=request.crop_position,
        adapters=tuple(_adapter_choices(request, folder)),
        further=further_of(request),
        exact_size="" if is_own_size else f"{request.width}x{request.height}",
        **_added_of(request, folder),
    )


def _added_of(request: GenerationRequest, folder: Path | None) -> dict[str, Any]:
    """The form's fields for the sound or video that the clip was made with, if the clip's `folder` has it."""
    source = request.video or request.audio
    if source is None or folder is None or not (folder / source.name).is_file():
        return {}
    added = folder / source.name
    act = REDO_SOUND
    if added_frames(request.with_files_in(folder)):
        act = EXTEND
    elif request.regenerate_video:
        act = RETAKE if request.regenerate_audio else REDO_PICTURE
    spans = [each for each in (request.regenerate_video, request.regenerate_audio) if isinstance(each, tuple)]
    start, end = spans[0][0] if spans and act != EXTEND else (0.0, 0.0)
    return {
        "added": str(added),
        "act": act,
        "span_start": start,
        "span_end": end,
        "strength": request.strength,
    }


def _adapter_choices(request: GenerationRequest, folder: Path | None) -> Iterator[AdapterChoice]:
    """The form's choices for those of the request's adapters that are here or on the Hub."""
    chosen = [each for each in request.adapters if not catalog.is_preset_adapter(each[0])]
    for source, strength in chosen[:MAX_ADAPTERS]:
        given = strength if isinstance(strength, dict) else dict.fromkeys(PARTS, strength)
        strengths = {part: value for part, value in given.items() if part in PARTS}
        if folder and (folder / Path(source).name).is_file():
            yield AdapterChoice(file=str(folder / Path(source).name), **strengths)
        elif is_repo(source):
            yield AdapterChoice(name=source, **strengths)


def _first_frame_of(
    service: DemoService, visitor: str, clip: Path, settings: dict[str, Any]
) -> tuple[Path | None, str]:
    """The clip's first frame, the original picture if it is still here, and a remark."""
    if not settings.get("image"):
        return None, ""
    for record in service.history.records(service.visitors.folder_name(visitor)):
        if record.first_frame and sha256_of(record.first_frame) == settings.get("image_sha256"):
            return record.first_frame, ""
    remark = "Its first frame was taken from the clip, so the new clip will differ a little."
    return history.save_frame(clip, 0), remark
