"""What the pocket enhancer is worth: ideas that training never saw, answered and read by code.

The validators of `mova.prompting` judge each prompt as the product sees it: quotes back, nothing repaired.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mova.prompting.brief import Brief
from mova.prompting.quotes import put_back, take_out
from mova.prompting.validators import check
from pocket.enhancer.facts import agrees_with_itself, keeps_quotes, split_prompt, states, wanted_facts
from pocket.enhancer.ideas import OUTSIDE, Idea, draw_idea
from pocket.enhancer.typed import TypedIdea, typed_ideas

logger = logging.getLogger(__name__)

MAX_TOKENS = 320
BARE = "face, words without quote marks"
GROUPS = ("ball", "face", BARE, "piano")
COLOURS = frozenset(("colour", "clothes", "hair", "body", "light", "wall"))
SPOKEN = frozenset(("quotes", "words"))


class Enhancer:
    """The model in `folder`, asked as the product asks it: its chat template, greedy."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        self.tokens = 0

    def write(self, idea: str) -> str:
        """The prompt for `idea`, placeholders in it; empty for an idea outside the world."""
        messages = [{"role": "user", "content": idea}]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)
        with torch.inference_mode():
            output = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        new = output[0, inputs["input_ids"].shape[1] :]
        self.tokens += len(new)
        return self.tokenizer.decode(new, skip_special_tokens=True)


@dataclass(frozen=True)
class Verdict:
    """One idea and its answer, read."""

    idea: Idea
    answer: str
    seconds: float = 0.0

    @property
    def group(self) -> str:
        return BARE if self.idea.words else self.idea.family

    @cached_property
    def facts(self) -> dict[str, bool]:
        """Each thing that the idea fixes, and whether the answer states it."""
        wanted = wanted_facts(self.idea.fixed, self.idea.words)
        parts = split_prompt(self.answer, bool(self.idea.quotes or self.idea.words))
        if parts is None:
            return {**dict.fromkeys(wanted, False), "structure": False}
        stated = {name: states(parts, self.idea.family, name, value) for name, value in wanted.items()}
        stated["quotes"] = keeps_quotes(self.answer, len(self.idea.quotes))
        stated["coherent"] = agrees_with_itself(parts, self.idea.family)
        if self.idea.adjective:
            stated["adjective"] = self.idea.adjective in parts.first_frame
        return stated

    @cached_property
    def broken_rules(self) -> tuple[str, ...]:
        """The rules that the prompt breaks in the product, warnings left out."""
        brief = Brief(self.idea.typed)
        found = check(put_back(self.answer, brief.taken), brief)
        return tuple(violation.rule for violation in found if violation.severity == "error")

    @property
    def keeps_all(self) -> bool:
        return not self.answer if self.idea.family == OUTSIDE else all(self.facts.values())

    @property
    def passes(self) -> bool:
        """The bar: the answer keeps colour, material, words, notes and all else, and breaks no rule."""
        return self.keeps_all and (self.idea.family == OUTSIDE or not self.broken_rules)

    def keeps(self, names: frozenset[str]) -> bool | None:
        """Whether those of the facts are kept; None if the idea fixes none of them."""
        kept = [good for name, good in self.facts.items() if name in names]
        return all(kept) if kept else None

    def fault(self) -> str:
        """Why it does not pass."""
        if self.idea.family == OUTSIDE or not self.answer:
            return f"answered {self.answer[:90]!r}"
        lost = [name for name, kept in self.facts.items() if not kept]
        return f"{', '.join([*lost, *self.broken_rules])}: {self.answer!r}"


def evaluate_enhancer(folder: Path, count: int, threads: int = 1, faults: int = 20) -> float:
    """Log the figures for `count` held-out ideas and for typed ones; the share that passes of the former."""
    torch.set_num_threads(threads)
    enhancer = Enhancer(folder)
    enhancer.write("red ball falls")
    enhancer.tokens = 0
    held_out = judge(enhancer, (draw_idea(seed, "heldout") for seed in range(count)))
    _log_speed(enhancer, held_out)
    by_hand = judge(enhancer, map(read_typed, typed_ideas()))
    for title, verdicts in (("held out", held_out), ("typed by hand", by_hand)):
        for line in summary(verdicts):
            logger.info("%s: %s", title, line)
        for verdict in [verdict for verdict in verdicts if not verdict.passes][:faults]:
            logger.info("  %r: %s", verdict.idea.typed, verdict.fault())
    inside = [verdict.passes for verdict in held_out if verdict.idea.family != OUTSIDE]
    return sum(inside) / len(inside)


def judge(enhancer: Enhancer, ideas: Iterable[Idea]) -> list[Verdict]:
    verdicts = []
    for idea in ideas:
        started = time.perf_counter()
        answer = enhancer.write(idea.text)
        verdicts.append(Verdict(idea, answer, time.perf_counter() - started))
    return verdicts


def summary(verdicts: list[Verdict]) -> list[str]:
    """A line of figures for each family, for all of them, and for ideas outside the world."""
    inside = [verdict for verdict in verdicts if verdict.idea.family != OUTSIDE]
    groups = [(group, [verdict for verdict in inside if verdict.group == group]) for group in GROUPS]
    lines = [_figures(name, group) for name, group in (*groups, ("all", inside)) if group]
    outside = [verdict.passes for verdict in verdicts if verdict.idea.family == OUTSIDE]
    if outside:
        lines.append(f"outside the world: {len(outside)} ideas, {np.mean(outside):.1%} handed back")
    return lines


def read_typed(typed: TypedIdea) -> Idea:
    """A typed idea with its quotes taken out."""
    taken = take_out(typed.text)
    fixed = {name: value for name, value in typed.fixed.items() if name != "words"}
    quotes = tuple(quote.raw for quote in taken.quotes)
    return Idea(taken.text, "", typed.family, fixed, quotes, str(typed.fixed.get("words", "")))


def _figures(name: str, verdicts: list[Verdict]) -> str:
    shares: dict[str, list[bool | None]] = {
        "answered": [bool(verdict.answer) for verdict in verdicts],
        "colour": [verdict.keeps(COLOURS) for verdict in verdicts],
        "material": [verdict.keeps(frozenset(("material",))) for verdict in verdicts],
        "words": [verdict.keeps(SPOKEN) if verdict.idea.family == "face" else None for verdict in verdicts],
        "notes": [verdict.keeps(frozenset(("notes",))) for verdict in verdicts],
        "all": [verdict.keeps_all for verdict in verdicts],
        "rules": [not verdict.broken_rules for verdict in verdicts],
        "passes": [verdict.passes for verdict in verdicts],
    }
    judged = {title: [good for good in found if good is not None] for title, found in shares.items()}
    text = ", ".join(f"{title} {np.mean(found):.1%}" for title, found in judged.items() if found)
    rules = Counter(rule for verdict in verdicts for rule in verdict.broken_rules)
    broken = "; ".join(f"{rule} broken {count}x" for rule, count in rules.most_common())
    return f"{name}: {len(verdicts)} ideas, {text}{f' ({broken})' if broken else ''}"


def _log_speed(enhancer: Enhancer, verdicts: list[Verdict]) -> None:
    seconds = np.array([verdict.seconds for verdict in verdicts if verdict.answer])
    rate = enhancer.tokens / sum(verdict.seconds for verdict in verdicts)
    figures = np.median(seconds), np.percentile(seconds, 95), seconds.max(), rate
    logger.info("%.2f s a prompt (95%% within %.2f s, %.2f s at most), %.0f tokens/s", *figures)
