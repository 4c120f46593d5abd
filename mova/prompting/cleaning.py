"""The cleaning that every prompt passes before it is tokenised, as MOVA was trained with. No torch."""

import html
import re

import ftfy


def clean_prompt(text: str) -> str:
    """`text` repaired, unescaped and on one line.

    Paragraphs vanish, curly quotes become straight and full-width punctuation becomes ASCII, so two prompts
    are the same to the model when they are the same after this.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()
