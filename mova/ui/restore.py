"""From a clip's settings back to the form that asks for them."""

from pathlib import Path
from typing import Any

from mova import catalog
from mova.checks import digest
from mova.media import read_settings
from mova.strengths import is_repo
from mova.types import GenerationRequest
from mova.ui import forms, pictures
from mova.ui.forms import Form
from mova.ui.studio import Studio

PARTS = ("video", "audio", "bridge")


def restore_clip(studio: Studio, visitor: str, clip: Path) -> tuple[Form, str]:
    """The form of a clip that was dropped on the page, and a remark.

    Raises:
        UserError: it is no clip, or carries no settings of ours.
    """
    settings = read_settings(clip)
    GenerationRequest.from_settings(settings)
    image, remark = _first_frame_of(studio, visitor, clip, settings)
    form = form_of(studio, settings, image, str(settings.get("model", "")))
    if settings.get("adapters") and not form.adapter_repo:
        remark = f"{remark} Its adapter is a file that is not here: choose it again.".strip()
    return form, remark


def form_of(
    studio: Studio, settings: dict[str, Any], image: Path | None, model: str, folder: Path | None = None
) -> Form:
    """The form that asks for what `settings` say; what they are silent about is as in a fresh form.

    Adapter files are looked for in `folder`, the clip's own.
    """
    name = model if model in studio.model_names else studio.model_name
    described = forms.describe_model(name, studio.settings)
    fresh = GenerationRequest(
        "-",
        height=described.height,
        width=described.width,
        num_frames=catalog.find_preset(catalog.DEFAULT_PRESET).num_frames(described),
        negative_prompt=catalog.default_negative_prompt(),
        num_inference_steps=catalog.find_preset(catalog.DEFAULT_PRESET).num_inference_steps,
    )
    request = GenerationRequest.from_settings(fresh.to_settings() | settings)
    size = (request.height, request.width)
    shape = forms.TALL if size == (described.width, described.height) != size[::-1] else forms.WIDE
    is_own_size = size in ((described.height, described.width), (described.width, described.height))
    return Form(
        image=str(image) if image else None,
        prompt=request.prompt,
        model=name,
        preset=catalog.DEFAULT_PRESET,
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
        **_adapter_fields(request, folder),
        exact_size="" if is_own_size else f"{request.width}x{request.height}",
    )


def _adapter_fields(request: GenerationRequest, folder: Path | None) -> dict[str, Any]:
    """The form's fields for the request's first adapter, as far as it is here or on the Hub."""
    if not request.adapters:
        return {}
    source, strength = request.adapters[0]
    strengths = (
        strength if isinstance(strength, dict) else dict.fromkeys(("video", "audio", "bridge"), strength)
    )
    fields: dict[str, Any] = {f"adapter_{part}": value for part, value in strengths.items() if part in PARTS}
    if folder and (folder / Path(source).name).is_file():
        fields["adapter_file"] = str(folder / Path(source).name)
    elif is_repo(source):
        fields["adapter_repo"] = source
    return fields


def _first_frame_of(
    studio: Studio, visitor: str, clip: Path, settings: dict[str, Any]
) -> tuple[Path | None, str]:
    """The picture a clip began with: the very one if it is still here, else from the clip."""
    if not settings.get("image"):
        return None, ""
    for entry in studio.history.entries(studio.visitors.folder_name(visitor)):
        if entry.first_frame and digest(entry.first_frame) == settings.get("image_sha256"):
            return entry.first_frame, ""
    remark = "Its first frame was taken from the clip, so the new clip will differ a little."
    return pictures.save_frame(clip, 0), remark
