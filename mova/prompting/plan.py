"""The parts of a MOVA prompt: as values, as text, and as the JSON that language models answer with.

Order of the text, one block after the other: the first frame, what happens, who says what, what is heard, and
the sentence that there are no subtitles. `PromptPlan.parse` reads any text and loses nothing but whitespace.
Language models answer in the fields of `PromptFields`, as JSON.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import from_json

from mova.errors import UserError
from mova.prompting.quotes import FILLER, MaskedText, blank, find_quotes, locate, restore_quotes
from mova.text import language_of, sentences

NO_SUBTITLES = "This video has no subtitles."
AUDIO_OPENING = re.compile(
    r"(?:the (?:audio|sound|soundtrack|soundscape)\b|audio:|sound:|in the background,)", re.IGNORECASE
)
SPEECH_VERB = re.compile(
    r"\b(?:says?|said|saying|asks?|asked|asking|shouts?|shouting|whispers?|whispering|repl(?:y|ies|"
    r"ied)|answers?|"
    r"calls?|speaks?|speaking|sings?|singing|cries|exclaims?|mutters?|yells?|tells?|announces?|adds?|"
    r"continues?|"
    r"responds?|declares?|murmurs?|sighs?|laughs?|greets?|screams?|reads? aloud)\b|[说道喊问叫答唱]",
    re.IGNORECASE,
)
SHOWN_TEXT = re.compile(
    r"\b(?:sign|signs|label|labelled|labeled|reads|reading|written|banner|poster|titled?|caption|"
    r"text|logo|letters|"
    r"words|printed|marked|named)\b|写着|标着|招牌",
    re.IGNORECASE,
)
IN_LANGUAGE = re.compile(
    r"\bin (English|Chinese|Mandarin|Cantonese|Japanese|Korean|French|German|Spanish|Italian|"
    r"Portuguese|Russian|"
    r"Arabic|Hebrew|Hindi)\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?]\s|[。！？]")


@dataclass(frozen=True)
class DialogueLine:
    """One spoken line: `lead` as it stands before the quote ("The man says, "), then the words.

    `marks` are the opening and the closing mark; `after` is a full stop or the like behind them.
    """

    lead: str
    text: str
    marks: str = '""'
    after: str = ""

    @property
    def speaker(self) -> str:
        """The person or thing that speaks: the lead up to its verb."""
        verbs = list(SPEECH_VERB.finditer(self.lead))
        return (self.lead[: verbs[-1].start()] if verbs else self.lead).rstrip(" ,:，：")

    @property
    def language(self) -> str:
        """The language as the lead names it, else as the script of the words shows it."""
        named = IN_LANGUAGE.search(self.lead)
        return named[1].capitalize() if named else language_of(self.text)

    def render(self) -> str:
        return f"{self.lead}{self.marks[:1]}{self.text}{self.marks[1:]}{self.after}"


@dataclass(frozen=True)
class PromptPlan:
    """A prompt in its parts. Every field is tidy: single spaces, no empty lines.

    `progression` may hold several blocks, one a line. `audio` opens with "The audio" or the like.
    """

    first_frame: str = ""
    progression: str = ""
    dialogue: tuple[DialogueLine, ...] = ()
    audio: str = ""
    no_subtitles: bool = True

    @classmethod
    def parse(cls, text: str) -> "PromptPlan":
        """The plan that `text` is: every character of it but whitespace is in some part."""
        return _parsed(text)

    def render(self) -> str:
        """The prompt as text, parts apart by an empty line."""
        lines = [line.render() for line in self.dialogue]
        return assemble(self.first_frame, self.progression, lines, self.audio, self.no_subtitles)

    def check(self) -> None:
        """Raise UserError if the text of this plan would be read as another plan."""
        read = PromptPlan.parse(self.render())
        if read != self:
            parts = zip(vars(self).items(), vars(read).values(), strict=True)
            name, value = next(part for part, other in parts if part[1] != other)
            raise UserError(
                f"the {name} of the plan, {value!r}, does not read back as it is; begin the sound with "
                '"The audio shows", give a first frame before what happens, and write a spoken line as '
                'The man says, "Hello."'
            )


@lru_cache(maxsize=128)  # a check reads the same text some ten times
def _parsed(text: str) -> PromptPlan:
    blocks = [" ".join(line.split()) for line in text.splitlines()]
    blocks = [block for block in blocks if block]
    no_subtitles = bool(blocks) and re.search(rf"(?:^|\s){re.escape(NO_SUBTITLES)}$", blocks[-1]) is not None
    if no_subtitles:
        blocks[-1] = blocks[-1].removesuffix(NO_SUBTITLES).rstrip()
        blocks = [block for block in blocks if block]
    audio = blocks.pop() if blocks and AUDIO_OPENING.match(blocks[-1]) else ""
    lines: list[DialogueLine] = []
    while blocks and (spoken := _spoken_lines(blocks[-1])):
        lines = spoken + lines
        blocks.pop()
    first_frame = blocks[0] if blocks else ""
    return PromptPlan(first_frame, "\n".join(blocks[1:]), tuple(lines), audio, no_subtitles)


def _spoken_lines(block: str) -> list[DialogueLine] | None:
    """The spoken lines that `block` consists of, or None if it holds anything else."""
    quotes = [quote for quote in find_quotes(block) if quote.closed]
    lines: list[DialogueLine] = []
    position = 0
    for index, quote in enumerate(quotes):
        following = quotes[index + 1].start if index + 1 < len(quotes) else len(block)
        after = re.match(r"[.,;!?。，！？]?(?=\s|$)", block[quote.end : following])
        lead = block[position : quote.start]
        if not _introduces_speech(lead):
            return None
        stop = after[0] if after else ""
        lines.append(DialogueLine(lead, quote.text, quote.opening + quote.closing, stop))
        position = quote.end + len(stop)
        position += len(block[position:following]) - len(block[position:following].lstrip())
    if not lines or block[position:].strip() or AUDIO_OPENING.match(block):
        return None
    return lines if all(map(_stands_alone, lines)) else None


def _stands_alone(line: DialogueLine) -> bool:
    """True if the line is found again when it stands by itself, as it will in a plan."""
    text = line.render()
    found = find_quotes(text)
    if len(found) != 1 or found[0].text != line.text or not found[0].closed:
        return False
    if AUDIO_OPENING.match(line.lead) or text.endswith(NO_SUBTITLES):
        return False
    return line.text == " ".join(line.text.split())


def _introduces_speech(lead: str) -> bool:
    if not lead:
        return True
    if SENTENCE_END.search(lead) or SHOWN_TEXT.search(lead):
        return False
    return lead.rstrip().endswith((":", "：")) or SPEECH_VERB.search(lead) is not None


def _one_line(value: object) -> object:
    """Text, or a list of texts, on one line, null as none. Other values are left to be refused."""
    lines = _lines(value)
    return " ".join(lines.split()) if isinstance(lines, str) else lines


def _lines(value: object) -> object:
    """As `_one_line`, with the line breaks kept."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "\n".join(value)
    if isinstance(value, str):
        return "\n".join(" ".join(line.split()) for line in value.splitlines() if line.strip())
    return "" if value is None else value


OneLine = Annotated[str, BeforeValidator(_one_line)]
Lines = Annotated[str, BeforeValidator(_lines)]


class SpokenWords(BaseModel):
    """A line of dialogue as a model writes it; `words` is the placeholder of a quote."""

    speaker: OneLine = ""
    verb: OneLine = ""
    words: OneLine = ""


class PromptFields(BaseModel):
    """A prompt as a model writes it. What is missing is left to the rules; other fields are ignored."""

    first_frame: OneLine = ""
    progression: Lines = ""
    dialogue: Annotated[list[SpokenWords], BeforeValidator(lambda value: [] if value is None else value)] = []
    audio: OneLine = ""

    def text(self, masked: MaskedText, no_subtitles: bool) -> str:
        """The prompt, with the quotes of `masked` in the places of their placeholders."""
        spoken = set(masked.indices(f"{self.first_frame}\n{self.progression}"))
        lines = []
        for line in self.dialogue:
            indices = [index for index in masked.indices(line.words) if index not in spoken]
            spoken.update(indices)
            words = " ".join(masked.placeholder(index) for index in indices)
            if not masked.indices(line.words):
                words = line.words if find_quotes(line.words) or not line.words else f'"{line.words}"'
            if words:
                lines.append(f"{_lead(line)}{words}")
        audio = self.audio
        if audio and not AUDIO_OPENING.match(audio):
            lower = audio[0].lower() if audio[1:2].islower() or audio[1:2].isspace() else audio[0]
            audio = f"The audio shows {lower}{audio[1:]}"
        text = assemble(self.first_frame, self.progression, lines, audio, no_subtitles)
        return tidy(restore_quotes(text, masked))


def _lead(line: SpokenWords) -> str:
    speaker, verb = line.speaker.strip(" ,:"), line.verb.strip(" ,:")
    lead = speaker if SPEECH_VERB.search(speaker) else f"{speaker or 'A voice'} {verb or 'says'}"
    return f"{lead}, " if SPEECH_VERB.search(lead) else f"{lead} says, "


_TEXT = {"type": "string"}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


# For servers that hold a model to a schema: strict ones take every field as required and no others.
SCHEMA = _object(
    {
        "first_frame": _TEXT,
        "progression": _TEXT,
        "dialogue": {"type": "array", "items": _object(dict.fromkeys(SpokenWords.model_fields, _TEXT))},
        "audio": _TEXT,
    }
)
MAX_OBJECTS = 200  # places where an object may begin that are looked at
REASONING_END = "</think>"


def read_fields(answer: str) -> PromptFields:
    """The fields in a model's answer: the last JSON object in it that has any of them.

    Raises:
        ValueError: there is none, or its values are of other types; the message is for the model.
    """
    text = answer.rpartition(REASONING_END)[2]
    found, problem, position = None, "", text.find("{")
    for _ in range(MAX_OBJECTS):
        if position < 0:
            break
        end = position + 1
        try:
            value, after = json.JSONDecoder(strict=False).raw_decode(text, position)
            if isinstance(value, dict) and value.keys() & PromptFields.model_fields.keys():
                found, end = value, after
        except json.JSONDecodeError as error:
            problem = problem or f": {error.msg} near {text[max(0, error.pos - 20) : error.pos + 20]!r}"
        except RecursionError:
            problem = problem or ": it is nested too deeply"
        position = text.find("{", end)
    if found is None:
        names = ", ".join(PromptFields.model_fields)
        problem = problem or f"; it begins: {' '.join(text.split())[:60]}"
        raise ValueError(f"it is not one JSON object with the fields {names}{problem}")
    try:
        return PromptFields.model_validate(found)
    except ValidationError as error:
        places = [".".join(map(str, each["loc"])) for each in error.errors()]
        raise ValueError(f"in its JSON {', '.join(dict.fromkeys(places))} must be text") from None


def read_draft(answer: str) -> PromptFields:
    """The fields in the beginning of an answer, as far as they are written."""
    text = answer.rpartition(REASONING_END)[2]
    try:
        return PromptFields.model_validate(
            from_json(text[text.index("{") :], allow_partial="trailing-strings")
        )
    except ValueError:  # no object yet, or more after it
        return PromptFields()


def hide_quotes(text: str, quotes: tuple) -> str:
    """`text` with the person's own `quotes` overwritten by fillers, character for character."""
    for quote, place in zip(quotes, locate(text, quotes), strict=True):
        if place is None:
            continue
        end = place + len(quote.raw)
        if text[place:end] != quote.raw:  # spelled otherwise, the same to the text encoder
            end = next((q.end for q in find_quotes(text) if q.start == place), end)
        text = text[:place] + FILLER * (end - place) + text[end:]
    return text


def prose_of(text: str) -> str:
    """`text` in lower case with everything quoted overwritten, of the same length."""
    blanked = blank(text)
    lowered = blanked.lower()
    return lowered if len(lowered) == len(blanked) else blanked


def sentence_at(masked: str, position: int) -> tuple[int, int]:
    """The span of the sentence around `position`, within its line. Quotes in `masked` are overwritten."""
    line_start = masked.rfind("\n", 0, position) + 1
    line_end = masked.find("\n", position)
    line = masked[line_start : line_end if line_end >= 0 else len(masked)]
    for start, end in sentences(line):
        if line_start + start <= position < line_start + end:
            return line_start + start, line_start + end
    return line_start, line_start + len(line)


def cut(text: str, start: int, end: int, by: str = "") -> str:
    """`text` with [start, end) replaced, its spaces, lines and articles put in order."""
    return tidy(f"{text[:start]}{by}{text[end:]}")


def cut_all(text: str, spans: list[tuple[int, int]]) -> str:
    """`text` without these spans, which are in order and apart."""
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return tidy("".join(text[end:start] for end, start in zip(ends, starts, strict=True)))


def tidy(text: str) -> str:
    """`text` without double spaces, spaces before full stops, and runs of empty lines."""
    text = re.sub(r"[ \t]+(?=[.,;!?](?:\s|$))", "", re.sub(r"[ \t]{2,}", " ", text))
    text = re.sub(r"^[ \t]+|[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def assemble(first_frame: str, progression: str, lines: list[str], audio: str, no_subtitles: bool) -> str:
    """The text of these parts, each as it is."""
    parts = [first_frame, progression.replace("\n", "\n\n"), "\n".join(lines), audio]
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    return f"{text}{' ' if audio else chr(10) * 2}{NO_SUBTITLES}".strip() if no_subtitles else text


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
