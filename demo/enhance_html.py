"""Pieces of HTML for the prompt tab. Text that a person or a model wrote is escaped here."""

from collections.abc import Sequence
from html import escape

from demo import html
from mova.prompting.quotes import locate
from mova.prompting.rules import PromptRequirements, Violation

# Ideas of the small model's world, as buttons that write them.
TRY = (
    ("Woman says hello", 'a woman says "hello"'),
    ("Ball bounces", "a red ball bounces"),
    ("Piano plays C E G", "a toy piano plays C E G"),
)
OUTSIDE = "This model can't draw that. Try:"


def outside() -> str:
    """The sentence for an idea that the small model cannot draw, and ideas that it can."""
    buttons = "".join(
        f'<button type="button" data-try="{i}">{name}</button>' for i, (name, _) in enumerate(TRY)
    )
    buttons = f'<span class="mova-try">{buttons}</span>'
    return f'<p class="mova-note mova-warning" role="alert">{OUTSIDE} {buttons}</p>'


def marks(text: str, added: Sequence[tuple[int, int]], found: Sequence[Violation]) -> str:
    """The text again, invisible under the field, with what was added and what is wrong marked."""
    return html.highlighted(text, added, found).replace("<div ", '<div aria-hidden="true" ', 1)


def words(text: str, brief: PromptRequirements, found: Sequence[Violation], not_kept: Sequence[str]) -> str:
    """What is kept of the idea, what is missing (with a button that adds it), what the model cannot draw."""
    places = locate(text, brief.quotes)
    kept = [quote.raw for quote, place in zip(brief.quotes, places, strict=True) if place is not None]
    lines = [_line("Your words", [escape(each) for each in dict.fromkeys(kept)], "kept")]
    lacks = [each.partition(":")[0] for each in not_kept]
    missing = [
        f"{escape(violation.missing)} {_button('add', index, 'Add', violation.missing)}"
        for index, violation in enumerate(found)
        if violation.missing and violation.missing not in lacks
    ]
    lines.append(_line("Missing", missing, "missing"))
    lines.append(_line("This model can't draw", list(map(escape, lacks)), "missing"))
    return "".join(lines)


def _line(label: str, chips: Sequence[str], kind: str) -> str:
    inner = "".join(f'<span class="mova-chip mova-{kind}">{chip}</span>' for chip in chips)
    return f'<p class="mova-words"><b>{label}</b> {inner}</p>' if chips else ""


def problems(found: Sequence[Violation]) -> str:
    """The other broken rules, each with a button that fixes it where code can."""
    return "".join(
        f'<p class="mova-note mova-{violation.severity}">{escape(html.sentence(violation.message))} '
        f"{_button('fix', index, 'Fix', violation.message) if violation.fix is not None else ''}</p>"
        for index, violation in enumerate(found)
        if not violation.missing
    )


def _button(action: str, index: int, label: str, what: str) -> str:
    name = escape(f"{label}: {what}")
    return f'<button type="button" data-{action}="{index}" aria-label="{name}">{label}</button>'
