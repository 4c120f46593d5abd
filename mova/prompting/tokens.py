"""How many tokens of the text encoder a prompt takes, and what of it would be cut. No torch."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mova.prompting.cleaning import clean_prompt
from mova.shapes import MAX_PROMPT_TOKENS
from mova.types import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


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
