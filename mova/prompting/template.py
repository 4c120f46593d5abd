"""A prompt in MOVA's structure without any model: the person's own words in the right places."""

import re

from mova.prompting.plan import AUDIO_OPENING, PromptPlan, assemble, capitalised
from mova.prompting.quotes import FILLER, STOPS
from mova.prompting.rules import PromptRequirements, default_audio
from mova.prompting.speakers import noun_phrase, voice_in, voice_of
from mova.text import CJK, sentences

MOVEMENT = (
    "The movement goes on naturally from this moment in one continuous shot, with real weight, light and "
    "materials."
)
SPEAKING = "The lips shape every word, with small natural movements of the face, and close again at the end."
HEARD = "The words are heard clearly while everything moves naturally, in one continuous shot."
OPENING = "The shot opens on {speaker}, lips closed, about to speak."
OPENING_OF_VOICE = "The shot opens on {speaker}, a moment before the words are heard."
OPENING_OF_NOBODY = "The shot opens a moment before the words are heard."
# What makes one version of a prompt differ from another: how close things are seen, and nothing that is new.
FRAMINGS = (
    "",
    "The view is close, and every small movement can be seen.",
    "The view is wide, with room all around.",
)
FRAMED = re.compile(r"\b(?:close|closely|wide|view|shot|camera|frame|background)\b|镜头|特写", re.IGNORECASE)
LEADING_ARTICLE = re.compile(r"(?:a|an|the|his|her|my|one|two|some|this)\b", re.IGNORECASE)


def write_template(brief: PromptRequirements, version: int = 0) -> str:
    """The text of a plan made of the idea of `brief`; each `version` is seen from another distance.

    Words of the idea are never changed, but for the capital of a sentence, and moved only where a sentence
    about the sound goes last; what a plan needs and the idea lacks is added in words that bring no new
    people, things, events or sounds. An idea that is a full prompt stays as it is.
    """
    if _is_full(brief.idea):
        return brief.idea
    plan = PromptPlan.parse(_in_sentences(brief))
    first_frame, progression = plan.first_frame, plan.progression
    voice = voice_in(brief.idea, brief.quotes)
    if not first_frame and plan.dialogue:
        first_frame = _opening(plan.dialogue[0].speaker, brief.idea)
    if not progression:
        progression = (SPEAKING if voice == "person" else HEARD) if plan.dialogue else MOVEMENT
    if not FRAMED.search(brief.prose):
        progression = f"{FRAMINGS[version % len(FRAMINGS)]} {progression}".strip()
    lines = [line.render() for line in plan.dialogue]
    audio = plan.audio or default_audio(brief)
    return assemble(first_frame, progression, lines, audio, brief.no_subtitles)


def _opening(name: str, idea: str) -> str:
    """The first frame of a line that somebody of that name speaks."""
    voice, phrase = voice_of(name), noun_phrase(name)
    if voice == "person":
        return OPENING.format(speaker=_in_sentence(phrase, idea) if phrase else "the speaker")
    return OPENING_OF_VOICE.format(speaker=_in_sentence(phrase, idea)) if phrase else OPENING_OF_NOBODY


def _in_sentence(phrase: str, idea: str) -> str:
    """The noun phrase as it is written in the middle of a sentence."""
    if LEADING_ARTICLE.match(phrase) or idea[0].islower():
        phrase = phrase[0].lower() + phrase[1:]
    return phrase if LEADING_ARTICLE.match(phrase) or not phrase[0].islower() else f"the {phrase}"


def _in_sentences(brief: PromptRequirements) -> str:
    """The idea with its first sentence, the rest, and spoken lines at the end as blocks of their own."""
    text, masked, position = "", "", 0
    for quote in brief.quotes:
        before = brief.idea[position : quote.start]
        # The mark that ends the quoted words stays readable, as it may end the sentence around them too.
        stop = quote.text[-1] if quote.text[-1] in STOPS else FILLER
        text += before + quote.raw
        masked += before + quote.opening + FILLER * (len(quote.raw) - 3) + stop + quote.closing
        position = quote.end
    text, masked = text + brief.idea[position:], masked + brief.idea[position:]
    found = [_sentence(" ".join(text[start:end].split())) for start, end in sentences(masked)]
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


def _sentence(text: str) -> str:
    """`text` with a capital, unless its first word is a name with capitals of its own, or a single note."""
    return capitalised(text) if text.split()[0].islower() else text


def _is_full(idea: str) -> bool:
    plan = PromptPlan.parse(idea)
    return bool(plan.first_frame and plan.progression and plan.audio)
