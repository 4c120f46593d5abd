"""A first frame from words: drawn from the bank of scenes for pocket, painted for the other models.

Painters are a server that speaks OpenAI's `/v1/images/generations`, or a text-to-image model here; none is
asked unless it is configured. Without a picture, clips start from the white frame.

Environment: MOVA_IMAGE_BASE_URL, MOVA_IMAGE_MODEL and MOVA_IMAGE_API_KEY for a server; MOVA_IMAGE_MODEL
alone is a folder or Hub repo id of a text-to-image model for this machine.
"""

import base64
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from pydantic import BaseModel

from mova.catalog import SMALL_MODEL, find_model
from mova.errors import BackendError
from mova.openai_client import (
    Endpoint,
    IsCancelled,
    OnText,
    body_of,
    call,
    endpoint_from_environment,
    ignore_text,
    never_cancelled,
)
from mova.prompting.plan import PromptPlan, tidy
from mova.prompting.pocket import read_idea
from mova.prompting.prompt_files import load_template
from mova.prompting.quotes import restore_quotes
from mova.prompting.rules import PromptRequirements
from mova.prompting.scenes import draw_scene
from mova.prompting.writers import AnswerCache, Writer, WriterRequest, prose_in
from mova.text import plain_text

if TYPE_CHECKING:
    from openai import OpenAI
    from PIL.Image import Image

MAX_WORDS = 130
MAX_CHARACTERS = 800  # more is cut by image servers
MAX_PIXELS = 40_000_000
LANDSCAPE, PORTRAIT, SQUARE = "1280x720", "720x1280", "1024x1024"


Painter = Callable[[str, int, int, IsCancelled], "Image"]  # of a prompt, height and width


@dataclass(frozen=True)
class FirstFrame:
    """A picture for a clip to start from, and what to tell about it.

    `image` is RGB, or None where none could be drawn. `said` is a sentence: what it shows, or why there is
    none. `differs` names what the words have and the picture has not, each with the reason.
    """

    image: "Image | None"
    said: str
    differs: tuple[str, ...] = ()


def first_frame_for(
    text: str,
    model: str,
    variant: int = 0,
    painter: Painter | None = None,
    height: int = 352,
    width: int = 640,
    cancelled: IsCancelled = never_cancelled,
) -> FirstFrame:
    """The first frame of `text`, an idea or a whole prompt, for clips of `model` (a name, folder or repo id).

    For pocket it is drawn from the bank of scenes, 224x128, in milliseconds; each `variant` is another
    picture of the same facts, and the same arguments give the same picture. For other models `painter`
    paints it in the shape nearest to height and width; without one there is none.

    Raises:
        UserError: there is no such model.
        BackendError, Cancelled: as the painter.
    """
    if find_model(model).name == SMALL_MODEL:
        return _drawn(text, variant)
    if painter is None:
        return FirstFrame(
            None, "No first frame: no painter is configured (MOVA_IMAGE_BASE_URL or MOVA_IMAGE_MODEL)."
        )
    prompt = first_frame_prompt(text)
    return FirstFrame(painter(prompt, height, width, cancelled), f"First frame painted: {prompt}")


def painter_from_environment(environment: Mapping[str, str]) -> Painter | None:
    """The configured painter, or None. Raises UserError for a malformed address."""
    if environment.get("MOVA_IMAGE_BASE_URL", "").strip():
        return ServerPainter(endpoint_from_environment(environment, "IMAGE"))
    source = environment.get("MOVA_IMAGE_MODEL", "").strip()
    return LocalPainter(source) if source else None


def first_frame_prompt(text: str) -> str:
    """The part of a prompt that a first frame shows, at most MAX_CHARACTERS; of an idea, all of it."""
    plan = PromptPlan.parse(plain_text(text))
    seen = plan.first_frame if plan.audio and plan.first_frame else " ".join(plain_text(text).split())
    return _shortened(seen)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rsplit(" ", 1)[0]


def _drawn(text: str, variant: int) -> FirstFrame:
    from PIL import Image

    reading = read_idea(first_frame_prompt(text))
    if not reading.scene:
        return FirstFrame(
            None, "No first frame: the idea lies outside pocket's world.", tuple(reading.not_kept)
        )
    scene = draw_scene(reading.family, reading.scene, variant)
    shows = PromptPlan.parse(reading.prompt).first_frame
    return FirstFrame(
        Image.fromarray(scene.frame), f"First frame drawn: {shows}", (*reading.not_kept, *scene.differs)
    )


class Picture(BaseModel):
    b64_json: str | None = None


class Pictures(BaseModel):
    data: list[Picture] | None = None


def write_first_frame_prompt(
    writer: Writer,
    idea: str,
    cache: AnswerCache | None = None,
    seed: int = 0,
    cancelled: IsCancelled = never_cancelled,
) -> str:
    """A prompt of at most MAX_CHARACTERS for an image model: the first frame of `idea`.

    Raises:
        BackendError: the writer failed or wrote nothing.
        Cancelled: `cancelled` became true.
    """
    brief = PromptRequirements(plain_text(idea).strip())
    system, user = load_template("first_frame").fill(idea=brief.masked.text, max_words=MAX_WORDS)
    ask = WriterRequest((("system", system), ("user", user)), max_tokens=400, seed=seed)
    answer = (cache or AnswerCache()).write(writer, ask, ignore_text, cancelled)
    text = tidy(restore_quotes(prose_in(answer), brief.masked))
    if not text:
        raise BackendError(f"{answer.model} wrote no picture; try again or describe the first frame yourself")
    return _shortened(text)


def paint_first_frame(
    endpoint: Endpoint, prompt: str, height: int, width: int, cancelled: IsCancelled = never_cancelled
) -> "Image":
    """A picture of `prompt` in RGB, in the server's shape nearest to height and width.

    Raises:
        BackendError: the server failed or sent no picture. The message says what to do.
        Cancelled: `cancelled` became true.
    """
    data, used = call(endpoint, partial(_paint, prompt, size_for(height, width)), cancelled=cancelled)
    return _opened(data, used)


def paint_locally(source: str, prompt: str, height: int, width: int, seed: int = 0) -> "Image":
    """A picture of `prompt` by a text-to-image model that diffusers reads: a folder or Hub repo id.

    It is loaded for this picture and let go: the memory is for the video model. On the GPU if there is one.

    Raises:
        BackendError: it cannot be loaded, is of another kind, or does not fit.
    """
    import torch
    from diffusers import AutoPipelineForText2Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    side = 16  # of the patches of every such model's latents
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(source, torch_dtype=dtype)
        pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            prompt,
            height=height // side * side,
            width=width // side * side,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"{source} does not fit on the GPU; choose a smaller model, or a server"
        ) from error
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{source} could not be loaded as a text-to-image model; check MOVA_IMAGE_MODEL"
        ) from error
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class ServerPainter:
    """A `Painter` that asks `endpoint`."""

    endpoint: Endpoint

    def __call__(self, prompt: str, height: int, width: int, cancelled: IsCancelled) -> "Image":
        return paint_first_frame(self.endpoint, prompt, height, width, cancelled)


@dataclass(frozen=True)
class LocalPainter:
    """A `Painter` that loads the model `source`; `paint` is another place for `paint_locally` to run in."""

    source: str
    seed: int = 0
    paint: Callable[..., "Image"] = paint_locally

    def __call__(self, prompt: str, height: int, width: int, cancelled: IsCancelled) -> "Image":
        del cancelled
        return self.paint(self.source, prompt, height, width, self.seed)


def size_for(height: int, width: int) -> str:
    """The size, as image servers know them, whose shape is nearest."""
    if width > 1.2 * height:
        return LANDSCAPE
    return PORTRAIT if height > 1.2 * width else SQUARE


def _paint(
    prompt: str, size: str, client: "OpenAI", endpoint: Endpoint, on_text: OnText
) -> tuple[str, Endpoint]:
    import openai

    del on_text
    fields = {"prompt": prompt, "n": 1, "size": size, "response_format": "b64_json"}
    if endpoint.model:
        fields["model"] = endpoint.model
    while True:
        try:
            reply = Pictures.model_validate(body_of(client.images.generate(**fields)))
            break
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            # Newer OpenAI models know no response_format, others know few sizes.
            if "response_format" in fields:
                del fields["response_format"]
            elif fields["size"] != SQUARE:
                fields["size"] = SQUARE
            else:
                raise
    pictures = [picture.b64_json for picture in reply.data or [] if picture.b64_json]
    if not pictures:
        raise BackendError(
            f"{endpoint.redacted} sent no picture in its answer (b64_json); use another image server"
        )
    return pictures[0], endpoint


def _opened(data: str, endpoint: Endpoint) -> "Image":
    from PIL import Image

    from mova.media.images import DAMAGE, IMAGE_FORMATS

    message = f"{endpoint.redacted} sent data that are not a picture; use another image server"
    try:
        with Image.open(BytesIO(base64.b64decode(data, validate=True)), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BackendError(message)
            return image.convert("RGB")
    except (Base64Error, Image.DecompressionBombError, *DAMAGE) as error:
        raise BackendError(message) from error
