"""The cleaning that every prompt passes before it is tokenised, as MOVA was trained with. No torch."""

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import ftfy

from mova.errors import UserError
from mova.shapes import MAX_PROMPT_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def clean_prompt(text: str) -> str:
    """`text` repaired, unescaped and on one line.

    Paragraphs vanish, curly quotes become straight and full-width punctuation becomes ASCII, so two prompts
    are the same to the model when they are the same after this.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
SENTENCE = re.compile(
    r".*?(?:[.!?…](?=[\"”’»)」』]*(?:\s|$))|[。！？](?=[”」』]?))[\"”’»)」』]*\s*|.+$", re.DOTALL
)
SCRIPTS = {
    "Chinese": re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]"),
    "Japanese": re.compile(r"[\u3040-\u30ff]"),
    "Korean": re.compile(r"[\uac00-\ud7af]"),
    "Russian": re.compile(r"[\u0400-\u04ff]"),
    "Arabic": re.compile(r"[\u0600-\u06ff]"),
    "Hebrew": re.compile(r"[\u0590-\u05ff]"),
    "Hindi": re.compile(r"[\u0900-\u097f]"),
    "Thai": re.compile(r"[\u0e00-\u0e7f]"),
    "Greek": re.compile(r"[\u0370-\u03ff]"),
}
# The commonest words of a language that English has not: enough to tell whole sentences apart.
FUNCTION_WORDS = {
    "English": "the a an of and to in is are with on at his her its it as from by while then over",
    "Spanish": "el los las una y con del por para se su al que mientras es está",
    "French": "le les une et avec des du dans est sur qui il elle au aux pendant",
    "German": "der die das ein eine und mit dem den ist auf im von zu während sich",
    "Italian": "il gli una e con della di che nel è sul mentre si lo",
    "Portuguese": "o os as uma com do da em que é no na enquanto se para",
}
# Rates of speech: what clips of eight seconds hold comfortably, and the very most they hold.
COMFORTABLE_WORDS_PER_SECOND, FASTEST_WORDS_PER_SECOND = 2.75, 3.5
COMFORTABLE_CHARACTERS_PER_SECOND, FASTEST_CHARACTERS_PER_SECOND = 4.5, 6.0
CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff\ue000]"
)


def plain_text(text: str) -> str:
    """`text` without control characters, direction overrides and lone surrogates; line breaks stay.

    Marks that scripts and emoji need (joiners, left-to-right and right-to-left marks) are kept.
    """
    text = re.sub(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text)
    return CONTROL.sub("", text)


def count_words(text: str) -> int:
    """Count the words of `text`, a Chinese, Japanese or Korean character counting as one."""
    return len(CJK.findall(text)) + len(WORD.findall(CJK.sub(" ", text)))


def sentences(text: str) -> list[tuple[int, int]]:
    """The spans of the sentences of one block of text, closing marks and trailing space included."""
    return [match.span() for match in SENTENCE.finditer(text) if match[0].strip()]


def language_of(text: str) -> str:
    """The language of `text` as far as its script and commonest words tell; "English" if nothing does."""
    letters = sum(character.isalpha() for character in text)
    counts = {name: len(pattern.findall(text)) for name, pattern in SCRIPTS.items()}
    name = max(counts, key=counts.__getitem__)
    if counts[name] * 3 > letters > 0:
        return "Japanese" if name == "Chinese" and counts["Japanese"] * 6 > counts["Chinese"] else name
    # A capital by itself is a note or an initial, whatever it means as a word.
    words = [word.lower() for word in WORD.findall(text) if len(word) > 1 or word.islower()]
    if len(words) < 8:
        return "English"
    shares = {name: sum(w in common.split() for w in words) for name, common in FUNCTION_WORDS.items()}
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > 2 * shares["English"] and shares[best] * 8 > len(words) else "English"


def speech_seconds(text: str, fastest: bool = False) -> float:
    """Seconds that saying `text` takes at a comfortable pace, or as fast as it stays clear."""
    words_rate = FASTEST_WORDS_PER_SECOND if fastest else COMFORTABLE_WORDS_PER_SECOND
    characters_rate = FASTEST_CHARACTERS_PER_SECOND if fastest else COMFORTABLE_CHARACTERS_PER_SECOND
    words = len(WORD.findall(CJK.sub(" ", text)))
    return words / words_rate + len(CJK.findall(text)) / characters_rate


def content_words(text: str) -> set[str]:
    """The words of `text` that carry its meaning, roughly stemmed, in lower case."""
    words = (unicodedata.normalize("NFKC", word).lower() for word in WORD.findall(CJK.sub(" ", text)))
    return {re.sub(r"(?:ing|ed|es|s)$", "", word) for word in words if len(word) > 3 and word not in COMMON}


REQUESTS = (
    "please could would want like make show give create generate animate video clip scene movie film idea"
)
COMMON = frozenset(
    word
    for words in (
        *FUNCTION_WORDS.values(),
        REQUESTS,
        "that this then there they them their into some very have will says said",
    )
    for word in words.split()
)


@dataclass(frozen=True)
class TokenMeter:
    """Counts with the tokenizer.json in `folder`: a checkpoint's `tokenizer` folder, or the
    checkpoint itself.
    """

    folder: Path
    max_tokens: int = MAX_PROMPT_TOKENS

    def count(self, text: str) -> int:
        """Tokens of the cleaned text, the end mark included."""
        return len(_load(self._file()).encode(clean_prompt(text)).ids)

    def cut(self, text: str) -> str:
        """The end of the cleaned text that the encoder would not see; empty if all of it fits."""
        cleaned = clean_prompt(text)
        encoding = _load(self._file()).encode(cleaned)
        if len(encoding.ids) <= self.max_tokens:
            return ""
        return cleaned[encoding.offsets[self.max_tokens - 1][0] :]  # the last place is the end mark's

    def _file(self) -> Path:
        for path in (self.folder / "tokenizer.json", self.folder / "tokenizer" / "tokenizer.json"):
            if path.is_file():
                return path
        raise UserError(f"{self.folder} holds no tokenizer.json; give the folder of a checkpoint")


@lru_cache(maxsize=4)
def _load(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
