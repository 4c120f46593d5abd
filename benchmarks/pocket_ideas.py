"""Measure what pocket's word lists make of short ideas: python -m benchmarks.pocket_ideas [FILE.json]

An idea passes if the prompt is the word lists' own, breaks no rule, and states every fact of the idea; it is
handed over whole if the template takes over, breaks no rule and has every word. An idea from outside pocket's
world has to be handed back.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mova.prompting.enhancer import Enhancer, EnhanceRequest
from recipes.pocket.evaluation.prompt_facts import (
    BY_WRITER,
    OUTSIDE,
    Idea,
    is_handed_over,
    lost_facts,
    read_ideas,
)

IDEAS = Path(__file__).parents[1] / "tests" / "prompting" / "pocket_ideas.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pocket_ideas", description=__doc__.split("\n")[0]
    )
    parser.add_argument("file", nargs="?", type=Path, default=IDEAS, help="sets of ideas with their facts")
    parser.add_argument("--faults", action="store_true", help="also each idea that does not pass")
    options = parser.parse_args()
    for name, ideas in read_ideas(options.file).items():
        for family in ("ball", "face", "piano", OUTSIDE):
            sys.stdout.write(
                row(name, family, [idea for idea in ideas if idea.family == family], options.faults)
            )


def row(name: str, family: str, ideas: Sequence[Idea], shows_faults: bool) -> str:
    """The figures of one family as a row of a Markdown table, and its faults as lines below."""
    enhancer = Enhancer(reads_pocket=True)
    results = [enhancer.enhance(EnhanceRequest(idea.text, seed=0)) for idea in ideas]
    pairs = list(zip(ideas, results, strict=True))
    if family == OUTSIDE:
        failed = [(idea, ["written"]) for idea, result in pairs if result.route in BY_WRITER]
        served = len(ideas) - len(failed)
    else:
        failed = [(idea, lost) for idea, result in pairs if (lost := lost_facts(idea, result))]
        served = sum(not lost_facts(idea, result) or is_handed_over(idea, result) for idea, result in pairs)
    passed = len(ideas) - len(failed)
    slowest = max(result.seconds for result in results)
    text = f"| {name} | {family} | {len(ideas)} | {passed / len(ideas):.1%} | {served / len(ideas):.1%} | {slowest:.2f} s |\n"
    return text + "".join(f"    {idea.text!r}: {', '.join(lost)}\n" for idea, lost in failed if shows_faults)


if __name__ == "__main__":
    main()
