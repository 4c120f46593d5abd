"""From a clip's settings back to the form that asks for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo import history
from demo.form import MAX_ADAPTERS, TALL, WIDE, AdapterChoice, Form, describe_model, preset_of
from demo.service import DemoService
from mova.adapters.strengths import is_repo
from mova.files import sha256_of
from mova.media.clips import read_settings
from mova.request import GenerationRequest

PARTS = ("video", "audio", "bridge")


def restore_clip(studio: DemoService, visitor: str, clip: Path) -> tuple[Form, str]:
    """The form of a clip that was dropped on the page, and a remark.

    Raises:
        UserError: it is no clip, or carries no settings of ours.
    """
    settings = read_settings(clip)
    GenerationRequest.from_settings(settings)
    image, remark = _first_frame_of(studio, visitor, clip, settings)
    form = form_of(studio, settings, image, str(settings.get("model", "")))
    if missing := len(settings.get("adapters", ())) - len(form.adapters):
        what = (
            "An adapter of it is a file that is" if missing == 1 else f"{missing} of its adapters are files"
        )
        remark = f"{remark} {what} not here: choose it again.".strip()
    return form, remark


def form_of(
    studio: DemoService, settings: dict[str, Any], image: Path | None, model: str, folder: Path | None = None
) -> Form:
    """The form that asks for what `settings` say; what they are silent about is as in a fresh form.

    Adapter files are looked for in `folder`, the clip's own.
    """
    name = model if model in studio.model_names else studio.model_name
    described = describe_model(name, studio.settings)
    fresh = GenerationRequest("-", **described.defaults(described.preset()))
    request = GenerationRequest.from_settings(fresh.to_settings() | settings)
    size = (request.height, request.width)
    shape = TALL if size == (described.width, described.height) != size[::-1] else WIDE
    is_own_size = size in ((described.height, described.width), (described.width, described.height))
    return Form(
        image=str(image) if image else None,
        prompt=request.prompt,
        model=name,
        preset=preset_of(described, request.num_frames, request.num_inference_steps),
        shape=shape,
        seconds=round(request.num_frames / request.frame_rate, 2),
        seed=request.seed,
        random_seed=request.seed is None,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
        sync_guidance=request.bridge_guidance_scale,
        video_shift=request.video_shift,
        audio_shift=request.audio_shift,
        negative=request.negative_prompt,
        fit=request.fit,
        crop_position=request.crop_position,
        adapters=tuple(_adapter_choices(request, folder)),
        exact_size="" if is_own_size else f"{request.width}x{request.height}",
    )


def _adapter_choices(request: GenerationRequest, folder: Path | None) -> Iterator[AdapterChoice]:
    """The form's choices for the request's adapters, as far as they are here or on the Hub."""
    for source, strength in request.adapters[:MAX_ADAPTERS]:
        given = strength if isinstance(strength, dict) else dict.fromkeys(PARTS, strength)
        strengths = {part: value for part, value in given.items() if part in PARTS}
        if folder and (folder / Path(source).name).is_file():
            yield AdapterChoice(file=str(folder / Path(source).name), **strengths)
        elif is_repo(source):
            yield AdapterChoice(name=source, **strengths)


def _first_frame_of(
    studio: DemoService, visitor: str, clip: Path, settings: dict[str, Any]
) -> tuple[Path | None, str]:
    """The picture a clip began with: the very one if it is still here, else from the clip."""
    if not settings.get("image"):
        return None, ""
    for entry in studio.history.entries(studio.visitors.folder_name(visitor)):
        if entry.first_frame and sha256_of(entry.first_frame) == settings.get("image_sha256"):
            return entry.first_frame, ""
    remark = "Its first frame was taken from the clip, so the new clip will differ a little."
    return history.save_frame(clip, 0), remark
