"""The structured prompt: what MOVA's prompts consist of, and the text it is read as.

Order of the text, one block after the other: the first frame, what happens, who says what, what is heard, and
the sentence that there are no subtitles. `PromptPlan.parse` reads any text and loses nothing but whitespace;
`render` writes a plan so that it reads back as the same plan.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mova.errors import UserError
from mova.prompting.quotes import FILLER, Quote, blank, find_quotes, locate
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

    def __post_init__(self) -> None:
        if _split_lines(self.render()) != [(self.lead, self.text, self.marks, self.after)]:
            raise UserError(
                f"{self.render()!r} does not read as one spoken line; write who speaks and a verb of "
                "speaking, "
                'then the words in quotes: The man says, "Hello."'
            )

    @classmethod
    def said(cls, speaker: str, text: str, language: str = "") -> "DialogueLine":
        """The line of `speaker`, naming the language if one is given.

        Raises:
            UserError: it would not read back as one line, for instance as the words hold a straight quote
            mark.
        """
        manner = f"says in {language}, " if language else "says, "
        marks = "“”" if '"' in text else '""'
        return cls(f"{speaker} {manner}" if speaker else "", " ".join(text.split()), marks)

    @property
    def speaker(self) -> str:
        """Who speaks: the lead up to its verb."""
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

    Raises:
        UserError: a field would be read back as another part.
    """

    first_frame: str = ""
    progression: str = ""
    dialogue: tuple[DialogueLine, ...] = ()
    audio: str = ""
    no_subtitles: bool = True

    def __post_init__(self) -> None:
        parts = (
            self.first_frame,
            self.progression,
            tuple(line.render() for line in self.dialogue),
            self.audio,
        )
        first_frame, progression, lines, audio, no_subtitles = _split(self.render())
        read = (first_frame, progression, tuple("".join(_spelled(line)) for line in lines), audio)
        if (*read, no_subtitles) != (*parts, self.no_subtitles):
            odd = next((a for a, b in zip(parts, read, strict=True) if a != b), NO_SUBTITLES)
            raise UserError(
                f"the plan does not read back as itself at {odd!r}; begin the sound with "
                '"The audio shows", give a first frame before what happens, and keep spoken lines in dialogue'
            )

    @classmethod
    def parse(cls, text: str) -> "PromptPlan":
        """The plan that `text` is: every character of it but whitespace is in some part."""
        first_frame, progression, lines, audio, no_subtitles = _split(text)
        return cls(
            first_frame, progression, tuple(DialogueLine(*line) for line in lines), audio, no_subtitles
        )

    def render(self) -> str:
        """The prompt as text, parts apart by an empty line."""
        dialogue = "\n".join(line.render() for line in self.dialogue)
        parts = [self.first_frame, self.progression.replace("\n", "\n\n"), dialogue, self.audio]
        text = "\n\n".join(part for part in parts if part)
        if not self.no_subtitles:
            return text
        return f"{text}{' ' if self.audio else chr(10) * 2}{NO_SUBTITLES}" if text else NO_SUBTITLES


RawLine = tuple[str, str, str, str]


def _split(text: str) -> tuple[str, str, list[RawLine], str, bool]:
    blocks = [" ".join(line.split()) for line in text.splitlines()]
    blocks = [block for block in blocks if block]
    no_subtitles = bool(blocks) and re.search(rf"(?:^|\s){re.escape(NO_SUBTITLES)}$", blocks[-1]) is not None
    if no_subtitles:
        blocks[-1] = blocks[-1].removesuffix(NO_SUBTITLES).rstrip()
        blocks = [block for block in blocks if block]
    audio = blocks.pop() if blocks and AUDIO_OPENING.match(blocks[-1]) else ""
    lines: list[RawLine] = []
    while blocks and (spoken := _split_lines(blocks[-1])):
        lines = spoken + lines
        blocks.pop()
    return blocks[0] if blocks else "", "\n".join(blocks[1:]), lines, audio, no_subtitles


def _split_lines(block: str) -> list[RawLine] | None:
    """The spoken lines that `block` consists of, or None if it holds anything else."""
    quotes = [quote for quote in find_quotes(block) if quote.closed]
    lines: list[RawLine] = []
    position = 0
    for index, quote in enumerate(quotes):
        following = quotes[index + 1].start if index + 1 < len(quotes) else len(block)
        after = re.match(r"[.,;!?。，！？]?(?=\s|$)", block[quote.end : following])
        lead = block[position : quote.start]
        if not _introduces_speech(lead):
            return None
        stop = after[0] if after else ""
        lines.append((lead, quote.text, quote.opening + quote.closing, stop))
        position = quote.end + len(stop)
        position += len(block[position:following]) - len(block[position:following].lstrip())
    if not lines or block[position:].strip() or AUDIO_OPENING.match(block):
        return None
    return lines if _stands_alone(lines, quotes) else None


def _stands_alone(lines: list[RawLine], quotes: Sequence[Quote]) -> bool:
    """Whether each line is found again when it stands by itself, as it will in a plan."""
    for line, quote in zip(lines, quotes, strict=True):
        found = find_quotes("".join(_spelled(line)))
        if len(found) != 1 or found[0].text != quote.text or not found[0].closed:
            return False
        if AUDIO_OPENING.match(line[0]) or re.search(re.escape(NO_SUBTITLES) + "$", "".join(line)):
            return False
        if line[1] != " ".join(line[1].split()):
            return False
    return True


def _spelled(line: RawLine) -> tuple[str, str, str, str, str]:
    lead, text, marks, after = line
    return lead, marks[:1], text, marks[1:], after


def _introduces_speech(lead: str) -> bool:
    if not lead:
        return True
    if SENTENCE_END.search(lead) or SHOWN_TEXT.search(lead):
        return False
    return lead.rstrip().endswith((":", "：")) or SPEECH_VERB.search(lead) is not None


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
    """The text of these parts. Unlike PromptPlan it takes parts as they are, for other rules to judge."""
    parts = [first_frame, progression.replace("\n", "\n\n"), "\n".join(lines), audio]
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    return f"{text}{' ' if audio else chr(10) * 2}{NO_SUBTITLES}".strip() if no_subtitles else text


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
