"""The speaker of a line, as an idea names it: a noun phrase, and whether it has lips."""

import re
from typing import Literal

from mova.prompting.plan import SHOWN_TEXT, SPEECH_VERB
from mova.prompting.prompt_files import load_words
from mova.prompting.quotes import Quote
from mova.text import CJK

Voice = Literal["person", "voice", ""]
HUMAN = re.compile(
    r"(?:i|he|she|we|they|you|somebody|someone|他|她|我|你|他们|她们|我们|你们)$", re.IGNORECASE
)
OTHER_PRONOUN = re.compile(r"(?:it|this|that|它|and\b.*|then\b.*)$", re.IGNORECASE)
ONE = ("a", "an", "the", "his", "her", "my", "your", "our", "their", "one", "this", "that", "another")
SEVERAL = ("two", "three", "four", "five", "some", "several", "many", "these", "those")
PLURALS = ("men", "women", "children", "people")
END = re.compile(  # a word that ends a noun phrase
    r"(?:and|or|but|then|who|that|which|while|as|when|with|without|in|on|at|of|from|to|by|for|"
    r"near|under|over|behind|before|after|beside|between|inside|into|is|are|was|were|has|have|can|will|sits|stands)$"
)
UNCLEAR_ENDS = (
    "ing",
    "ed",
)  # "a smiling man" has one of these in front of its noun, "a man smiling" after it
MAX_WORDS = 5


def noun_phrase(name: str) -> str:
    """The noun phrase that `name`, the words before a verb of speaking, begins with; empty if there is none.

    "a baker lifts the bread and" begins with "a baker". Of what follows the noun nothing is taken: whether
    "a man with red glasses" ends there cannot be told without a grammar.
    """
    if CJK.search(name):
        return name if len(name) <= 2 * MAX_WORDS and not re.search(r"[，,。\s]", name) else ""
    words = re.split(r"[,;:(]", name)[0].split()
    if words and END.match(words[0].lower()):  # "In a kitchen a baker"
        articles = [index for index, word in enumerate(words) if word.lower() in ONE]
        words = words[articles[-1] :] if len(articles) > 1 else []
    if not words or HUMAN.match(name) or OTHER_PRONOUN.match(name):
        return ""
    opening = words[0].lower()
    if opening in SEVERAL:
        end = next((i for i, word in enumerate(words) if i and _is_plural(word.lower())), None)
        return " ".join(words[: end + 1]) if end is not None and end < MAX_WORDS else ""
    first = 1 + (opening in ONE)  # the noun is there from this word on
    end = next(
        (i for i, word in enumerate(words) if i and _ends_phrase(word.lower(), i >= first)), len(words)
    )
    return " ".join(words[:end]) if first <= end <= MAX_WORDS else ""


def _is_plural(word: str) -> bool:
    return word in PLURALS or (word.endswith("s") and not word.endswith("ss"))


def _ends_phrase(word: str, has_noun: bool) -> bool:
    """True for a word that no longer belongs to the phrase; after the noun, verbs do not."""
    is_verb = word.endswith("s") and not word.endswith(("ss", "us", "'s", "’s"))
    return bool(END.match(word)) or (has_noun and (is_verb or word.endswith((*UNCLEAR_ENDS, "ly"))))


def voice_of(name: str) -> Voice:
    """Whether the speaker of that name is a person, or something that has no lips to show."""
    if HUMAN.match(name):
        return "person"
    phrase = noun_phrase(name)
    if not phrase:
        return "voice"
    words = set(re.findall(r"[^\W_]+", phrase.lower())) | {phrase}
    words |= {word.removesuffix("s") for word in words}
    return "voice" if words & set(load_words("without_lips")) else "person"


def voice_in(idea: str, quotes: tuple[Quote, ...]) -> Voice:
    """The voice of the first quote of `idea` that is spoken; empty if all are read or are sounds."""
    position = 0
    for quote in quotes:
        lead = re.split(r"[.!?;\n。！？；]", idea[position : quote.start])[-1]
        verbs = list(SPEECH_VERB.finditer(lead))
        position = quote.end
        if verbs:
            return voice_of(lead[: verbs[-1].start()].strip(" ,:，："))
        if lead.rstrip().endswith((":", "：")) and not SHOWN_TEXT.search(lead):
            return voice_of(lead.strip(" ,:，："))
        if not lead.strip():
            return "voice"
    return ""
