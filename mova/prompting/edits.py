"""Small edits of a prompt that leave its sentences whole."""

import re

from mova.prompting.plan import NO_SUBTITLES
from mova.prompting.quotes import FILLER, blank, find_quotes, locate
from mova.prompting.words import sentences


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
