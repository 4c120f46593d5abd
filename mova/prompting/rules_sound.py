"""Rules on what is heard: sound comes last, nothing unasked is heard, and speech fits the clip."""

import re
from collections.abc import Iterator

from mova.prompting.brief import Brief, Violation
from mova.prompting.edits import cut, prose_of, sentence_at
from mova.prompting.plan import AUDIO_OPENING, NO_SUBTITLES, PromptPlan
from mova.prompting.quotes import find_quotes
from mova.prompting.templates import load_words
from mova.prompting.words import speech_seconds

SPEECH_AUDIO = (
    "The audio shows the spoken words, close and clear and in step with the lips, over the quiet "
    "natural sound of "
    "the place."
)
PLAIN_AUDIO = "The audio shows the natural sounds of what is seen, each in step with its movement."


def default_audio(has_speech: bool) -> str:
    """A sound block that invents nothing."""
    return SPEECH_AUDIO if has_speech else PLAIN_AUDIO


def audio_last(text: str, brief: Brief) -> Iterator[Violation]:
    body = text.replace(NO_SUBTITLES, "")
    blocks = [block.strip() for block in body.splitlines() if block.strip()]
    early = [block for block in blocks[:-1] if AUDIO_OPENING.match(block)]
    if not early and blocks and AUDIO_OPENING.match(blocks[-1]):
        return
    ending = f" {NO_SUBTITLES}" if PromptPlan.parse(text).no_subtitles else ""
    if early:
        rest = [block for block in blocks if block not in early]
        last = rest.pop() if rest and AUDIO_OPENING.match(rest[-1]) else ""
        sound = " ".join([*early, last]).strip()
        start = text.find(early[0])
        message = (
            "the sound stands before other blocks; the encoder cuts the end, so the sound goes last, in "
            "one block"
        )
        fix = "\n\n".join([*rest, sound]) + ending
        yield Violation("audio_last", "error", message, (start, start + len(early[0])), fix)
        return
    message = 'no sound at the end; add a block that begins with "The audio shows"'
    fix = "\n\n".join([*blocks, default_audio(bool(brief.quotes))]) + ending
    yield Violation("audio_last", "error", message, None, fix if blocks else None)


def sounds(text: str, brief: Brief) -> Iterator[Violation]:
    prose = prose_of(text)
    for group in load_words("sounds"):
        words = [word.strip() for word in group.split(",")]
        if any(_has(word, brief.prose) for word in words):
            continue
        match = next((found for word in words if (found := _search(word, prose))), None)
        if match is None or re.search(
            r"\b(?:no|without|free of|any)\s+(?:\w+\s+){0,3}$", prose[: match.start()]
        ):
            continue
        start, end = sentence_at(prose, match.start())
        fix = cut(text, start, end)
        keeps_sound = AUDIO_OPENING.match(PromptPlan.parse(fix).audio) is not None
        message = f'"{match[0]}" was not asked for'
        yield Violation("sounds", "warning", message, match.span(), fix if keeps_sound else None)


def speech(text: str, brief: Brief) -> Iterator[Violation]:
    quotes = find_quotes(text)
    words = " ".join(quote.text for quote in quotes)
    if speech_seconds(words) <= brief.seconds:
        return
    needed = speech_seconds(words)
    how = "cannot be said" if speech_seconds(words, fastest=True) > brief.seconds else "will sound hurried"
    message = f"the spoken words take about {needed:.0f} s and {how} in {brief.seconds:.1f} s; shorten them"
    yield Violation("speech", "warning", message, (quotes[0].start, quotes[-1].end))


def _has(word: str, prose: str) -> bool:
    return _search(word, prose) is not None


def _search(word: str, prose: str) -> re.Match | None:
    edge = r"\b" if word.isascii() else ""
    return re.search(f"{edge}{re.escape(word)}{edge}", prose)
