"""What the pocket enhancer is worth: ideas that training never saw, through the product's own path.

An idea of the world passes if the prompt is the model's, breaks no rule of `mova.prompting`, and states all
that the idea fixes. One outside the world passes if the model hands it back and the template takes over.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mova.prompting.enhancer import Enhancer, EnhanceRequest, EnhanceResult
from mova.prompting.local import pocket_writer
from mova.text import WORD
from recipes.pocket.enhancer.ideas import OUTSIDE, Idea, draw_idea
from recipes.pocket.enhancer.typed import typed_ideas
from recipes.pocket.evaluation.prompt_facts import facts_kept

logger = logging.getLogger(__name__)

BARE = "face, words without quote marks"
GROUPS = ("ball", "face", BARE, "piano", OUTSIDE)
COLOURS = frozenset(("colour", "clothes", "hair", "body", "light", "wall"))
SPOKEN = frozenset(("quotes", "words"))
BY_MODEL = ("answer", "repaired", "asked again")


@dataclass(frozen=True)
class Verdict:
    """One idea and what the product made of it."""

    idea: Idea
    result: EnhanceResult

    @property
    def group(self) -> str:
        return BARE if self.idea.words else self.idea.family

    @property
    def is_by_model(self) -> bool:
        return self.result.route in BY_MODEL

    @cached_property
    def facts(self) -> dict[str, bool]:
        """Each thing that the idea fixes, and whether the model's prompt states it."""
        text = self.result.text
        for index, quote in enumerate(self.idea.quotes):
            text = text.replace(quote, f"<Q{index + 1}>", 1)
        return facts_kept(self.idea, text if self.is_by_model else "")

    @property
    def broken_rules(self) -> tuple[str, ...]:
        return tuple(found.rule for found in self.result.violations if found.severity == "error")

    @property
    def passes(self) -> bool:
        quoted = all(quote in self.result.text for quote in self.idea.quotes)
        return quoted and bool(self.result.text) and all(self.facts.values()) and not self.broken_rules

    @property
    def serves(self) -> bool:
        """Whether it passes, or the fall-back breaks no rule and has every word of the idea."""
        fell_back = not self.is_by_model and not self.broken_rules
        own = set(WORD.findall(self.idea.typed.lower()))
        return self.passes or (fell_back and own <= set(WORD.findall(self.result.text.lower())))

    def keeps(self, names: frozenset[str]) -> bool | None:
        """Whether those of the facts are kept; None if the idea fixes none of them."""
        kept = [is_kept for name, is_kept in self.facts.items() if name in names]
        return all(kept) if kept else None

    def fault(self) -> str:
        """Why it does not pass."""
        lost = [name for name, is_kept in self.facts.items() if not is_kept]
        why = ", ".join([*lost, *self.broken_rules])
        return f"{why}: {'; '.join(self.result.notes) or self.result.text!r}"


def evaluate_enhancer(folder: Path, count: int, faults: int = 20, typed: bool = True) -> float:
    """Log the figures for `count` held-out ideas and, if `typed`, for those written by hand.

    Returns:
        The share that passes of the held-out ideas of the world.
    """
    enhancer = Enhancer(pocket_writer(folder))
    enhancer.enhance(EnhanceRequest("red ball falls"))  # loads the model
    held_out = judge(enhancer, (draw_idea(seed, "heldout") for seed in range(count)))
    by_hand = judge(enhancer, typed_ideas()) if typed else []
    for title, verdicts in (("held out", held_out), ("typed by hand", by_hand)):
        for line in summary(verdicts):
            logger.info("%s: %s", title, line)
        for verdict in [verdict for verdict in verdicts if not verdict.passes][:faults]:
            logger.info("  %r: %s", verdict.idea.typed, verdict.fault())
    seconds = [verdict.result.seconds for verdict in held_out if verdict.is_by_model]
    if seconds:
        logger.info("%.2f s a prompt, %.2f s at most", np.median(seconds), max(seconds))
    return float(np.mean([verdict.passes for verdict in held_out if verdict.idea.family != OUTSIDE]))


def judge(enhancer: Enhancer, ideas: Iterable[Idea]) -> list[Verdict]:
    drawn = (idea for idea in ideas if idea.typed.strip())  # the product refuses an empty idea
    return [Verdict(idea, enhancer.enhance(EnhanceRequest(idea.typed, seed=0))) for idea in drawn]


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """A line of figures for each family, for all of the world, and for ideas outside it."""
    groups = {group: [verdict for verdict in verdicts if verdict.group == group] for group in GROUPS}
    groups["all of the world"] = [verdict for verdict in verdicts if verdict.idea.family != OUTSIDE]
    return [_figures(name, group) for name, group in groups.items() if group]


def _figures(name: str, verdicts: Sequence[Verdict]) -> str:
    shares: dict[str, list[bool | None]] = {
        "by the model": [verdict.is_by_model for verdict in verdicts],
        "colour": [verdict.keeps(COLOURS) for verdict in verdicts],
        "material": [verdict.keeps(frozenset(("material",))) for verdict in verdicts],
        "words": [verdict.keeps(SPOKEN) if verdict.idea.family == "face" else None for verdict in verdicts],
        "notes": [verdict.keeps(frozenset(("notes",))) for verdict in verdicts],
        "rules": [not verdict.broken_rules for verdict in verdicts],
        "passes": [verdict.passes for verdict in verdicts],
        "passes or falls back whole": [verdict.serves for verdict in verdicts],
    }
    judged = {title: [good for good in found if good is not None] for title, found in shares.items()}
    text = ", ".join(f"{title} {np.mean(found):.1%}" for title, found in judged.items() if found)
    rules = Counter(rule for verdict in verdicts for rule in verdict.broken_rules)
    routes = Counter(verdict.result.route for verdict in verdicts)
    taken = ", ".join(f"{route} {count / len(verdicts):.1%}" for route, count in routes.most_common())
    broken = "; ".join(f"{rule} broken {count}x" for rule, count in rules.most_common())
    return f"{name}: {len(verdicts)} ideas, {text}{f' ({broken})' if broken else ''}; {taken}"
