"""A prompt in MOVA's structure without any model: the person's own words in the right places."""

import re

from mova.prompting.plan import AUDIO_OPENING, PromptPlan, assemble
from mova.prompting.quotes import FILLER, STOPS
from mova.prompting.rules import PromptRequirements, default_audio
from mova.text import CJK, count_words, sentences

MOVEMENT = (
    "The movement goes on naturally from this moment in one continuous shot, with real weight, light and "
    "materials."
)
SPEAKING = "The lips shape every word, with small natural movements of the face, and close again at the end."
OPENING = "The shot opens on {speaker}, lips closed, about to speak."
LEADING_ARTICLE = re.compile(r"(?:a|an|the|his|her|my|one|two|some|this)\b", re.IGNORECASE)
PRONOUN = re.compile(
    r"(?:i|he|she|it|we|they|you|他|她|它|我|你|他们|她们|我们|你们|and\b.*|then\b.*)$", re.IGNORECASE
)
MAX_SPEAKER_WORDS = 8


def write_template(brief: PromptRequirements) -> str:
    """The text of a plan made of the idea of `brief`.

    Words of the idea are never changed, and moved only where a sentence about the sound goes last; what a
    plan needs and the idea lacks is added in words that bring no new people, things, events or sounds. An
    idea that is a full prompt stays as it is.
    """
    plan = PromptPlan.parse(_in_sentences(brief))
    first_frame, progression = plan.first_frame, plan.progression
    if not first_frame and plan.dialogue:
        first_frame = OPENING.format(speaker=_speaker(plan.dialogue[0].speaker, brief.idea))
    if not progression:
        progression = SPEAKING if plan.dialogue else MOVEMENT
    lines = [line.render() for line in plan.dialogue]
    audio = plan.audio or default_audio(bool(brief.quotes))
    return assemble(first_frame, progression, lines, audio, brief.no_subtitles)


def _speaker(name: str, idea: str) -> str:
    """The speaker, as written in the middle of a sentence."""
    if not name or PRONOUN.match(name) or count_words(name) > MAX_SPEAKER_WORDS:
        return "the speaker"
    if LEADING_ARTICLE.match(name) or idea[0].islower():
        name = name[0].lower() + name[1:]
    return name if LEADING_ARTICLE.match(name) or not name[0].islower() else f"the {name}"


def _in_sentences(brief: PromptRequirements) -> str:
    """The idea with its first sentence, the rest, and spoken lines at the end as blocks of their own."""
    if _is_full(brief.idea):
        return brief.idea
    text, masked, position = "", "", 0
    for quote in brief.quotes:
        before = brief.idea[position : quote.start]
        # The mark that ends the quoted words stays readable, as it may end the sentence around them too.
        stop = quote.text[-1] if quote.text[-1] in STOPS else FILLER
        text += before + quote.raw
        masked += before + quote.opening + FILLER * (len(quote.raw) - 3) + stop + quote.closing
        position = quote.end
    text, masked = text + brief.idea[position:], masked + brief.idea[position:]
    found = [" ".join(text[start:end].split()) for start, end in sentences(masked)]
    if not found:
        return text
    if found[-1][-1].isalnum():
        found[-1] += "。" if CJK.match(found[-1][-1]) else "."
    spoken = {quote.raw for quote in brief.quotes}
    heard = [text for text in found if AUDIO_OPENING.match(text) and not any(raw in text for raw in spoken)]
    if len(heard) == len(found):
        heard = []
    seen = [text for text in found if text not in heard]
    tail = len(seen)
    while tail and PromptPlan.parse(seen[tail - 1]).dialogue:
        tail -= 1
    return "\n\n".join([*seen[:1][:tail], " ".join(seen[1:tail]), *seen[tail:], " ".join(heard)])


def _is_full(idea: str) -> bool:
    plan = PromptPlan.parse(idea)
    return bool(plan.first_frame and plan.progression and plan.audio)
