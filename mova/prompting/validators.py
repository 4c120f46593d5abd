"""Whether a prompt keeps the rules, and how it can be mended without asking anyone.

A rule yields violations, each with its place and, where code can put it right, the whole text put right.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mova.prompting import rules_form, rules_named, rules_sound, rules_words
from mova.prompting.brief import Brief, Violation

Rule = Callable[[str, Brief], Iterator[Violation]]
RULES: dict[str, Rule] = {
    # What hides the text itself comes first: the later rules then read the prompt alone.
    "reasoning": rules_form.reasoning,
    "plain_text": rules_form.plain,
    "marks": rules_form.marks,
    "residue": rules_form.residue,
    "empty": rules_form.empty,
    "refusal": rules_form.refusal,
    "language": rules_form.language,
    "quotes": rules_words.quotes,
    "invented_dialogue": rules_words.invented_dialogue,
    "unrelated": rules_words.unrelated,
    "named": rules_named.named,
    "notes": rules_named.notes,
    "bare_words": rules_named.bare_words,
    "camera": rules_words.camera,
    "stillness": rules_words.stillness,
    "audio_last": rules_sound.audio_last,
    "subtitles": rules_form.subtitles,
    "structure": rules_form.structure,
    "sounds": rules_sound.sounds,
    "speech": rules_sound.speech,
    "length": rules_words.length,
    "tokens": rules_words.tokens,
}
MAX_REPAIRS = 40


@dataclass(frozen=True)
class Repaired:
    """A text after its repairs: what was wrong and put right, and what is still wrong."""

    text: str
    repairs: tuple[Violation, ...]
    violations: tuple[Violation, ...]

    @property
    def is_good(self) -> bool:
        return not any(violation.severity == "error" for violation in self.violations)


def check(text: str, brief: Brief) -> list[Violation]:
    """All violations of `text`, by the order of RULES."""
    return [violation for rule in RULES.values() for violation in rule(text, brief)]


def repair(text: str, brief: Brief) -> Repaired:
    """`text` with every error put right that code can put right. Warnings are left to the person."""
    repairs: list[Violation] = []
    seen = {text}
    while len(repairs) < MAX_REPAIRS and (mend := _first_repairable(text, brief, seen)):
        repairs.append(mend)
        text = mend.fix
        seen.add(text)
    return Repaired(text, tuple(repairs), tuple(check(text, brief)))


def _first_repairable(text: str, brief: Brief, seen: set[str]) -> Violation | None:
    found = (violation for rule in RULES.values() for violation in rule(text, brief))
    return next((v for v in found if v.severity == "error" and v.fix is not None and v.fix not in seen), None)
