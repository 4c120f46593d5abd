"""A first frame from words: a model writes what the picture shows, an image server paints it.

The server speaks OpenAI's `/v1/images/generations`. Without one, clips start from the white frame.
"""

import base64
from binascii import Error as Base64Error
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from pydantic import BaseModel

from mova.errors import BackendError
from mova.openai_client import Endpoint, IsCancelled, OnText, body_of, call, ignore_text, never_cancelled
from mova.prompting.plan import tidy
from mova.prompting.prompt_files import load_template
from mova.prompting.quotes import restore_quotes
from mova.prompting.rules import PromptRequirements
from mova.prompting.writers import AnswerCache, Writer, WriterRequest, prose_in
from mova.text import plain_text

if TYPE_CHECKING:
    from openai import OpenAI
    from PIL.Image import Image

MAX_WORDS = 130
MAX_CHARACTERS = 800  # more is cut by image servers
MAX_PIXELS = 40_000_000
LANDSCAPE, PORTRAIT, SQUARE = "1280x720", "720x1280", "1024x1024"


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
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rsplit(" ", 1)[0]


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
