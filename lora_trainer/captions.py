"""Captions suggested by a vision-language model, which sees some frames of a clip and hears nothing.

Words that the person has quoted are kept. A model that takes no pictures is refused: it would make things up.
"""

from io import BytesIO
from pathlib import Path

from mova.prompting.cache import AnswerCache
from mova.prompting.endpoint import WITHOUT_IMAGE
from mova.prompting.quotes import find_quotes
from mova.prompting.rules_form import MARKS, REASONING
from mova.prompting.templates import load_template
from mova.prompting.words import plain_text
from mova.prompting.writing import Ask, Writer, ignore_text, never_cancelled
from mova.types import BackendError

FRAMES, FRAME_SIDE = 4, 320
MAX_CHARACTERS = 1200


def suggest_caption(writer: Writer, clip: Path, written: str = "") -> str:
    """A caption for `clip`, an mp4 such as `looking.write_preview` makes; quotes of `written` are in it.

    Raises:
        BackendError: the writer failed, sees no pictures, or wrote nothing.
    """
    picture, seconds = frames_of(clip)
    quotes = [quote.text for quote in find_quotes(written)]
    spoken = ", ".join(f'"{text}"' for text in quotes) or "none"
    template = load_template("caption_clip")
    system, user = template.fill(frames=FRAMES, seconds=f"{seconds:.1f}", spoken=spoken)
    messages = (("system", system), ("user", user))
    ask = Ask(messages, written, picture, template.digest, max_tokens=400, temperature=0.3)
    answer = AnswerCache().write(writer, ask, ignore_text, never_cancelled)
    if not writer.sees or WITHOUT_IMAGE in answer.notes:
        raise BackendError(f"{answer.model or 'this model'} takes no pictures; choose one that sees")
    text = " ".join(MARKS.sub("", REASONING.sub("", plain_text(answer.text))).split())[:MAX_CHARACTERS]
    if not text:
        raise BackendError(f"{answer.model} wrote nothing; try again, or write the text yourself")
    said = [f'Somebody says, "{quote}"' for quote in quotes if quote not in text]
    return " ".join([text, *said])


def frames_of(clip: Path) -> tuple[bytes, float]:
    """FRAMES frames of a clip side by side as JPEG, and its length in seconds."""
    from PIL import Image

    from mova.media import read_clip
    from mova.pictures import frame_strip

    content = read_clip(clip)
    strip = Image.fromarray(frame_strip(content.frames, FRAMES))
    scale = min(1.0, FRAMES * FRAME_SIDE / strip.width)
    strip = strip.resize((round(strip.width * scale), round(strip.height * scale)))
    buffer = BytesIO()
    strip.save(buffer, "JPEG", quality=88)
    return buffer.getvalue(), len(content.frames) / content.frame_rate
