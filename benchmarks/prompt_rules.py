"""Share of the cases that each way of writing prompts brings through each rule.

    python -m benchmarks.prompt_rules [--base-url URL [--model NAME] [--api-key-env NAME]] [--local MODEL]

Always measured: the idea as typed, the template, and pocket's word lists. A cell is the
share of prompts that keep the rule; the last rows: words kept, prompts without an error, seconds.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from mova.errors import UserError
from mova.openai_client import visitor_endpoint
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import Enhancer, EnhanceRequest, EnhanceResult
from mova.prompting.local import LocalWriter
from mova.prompting.rules import RULES, check
from mova.text import clean_prompt

CASES = Path(__file__).parents[1] / "tests" / "prompting" / "cases.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prompt_rules", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--base-url", metavar="URL")
    parser.add_argument("--model", default="")
    parser.add_argument("--api-key-env", metavar="NAME", default="MOVA_LLM_API_KEY")
    parser.add_argument("--local", metavar="MODEL")
    options = parser.parse_args()
    enhancers = {"template": Enhancer(), "pocket": Enhancer(reads_pocket=True)}
    if options.base_url:
        key = os.environ.get(options.api_key_env, "")
        endpoint = visitor_endpoint(options.base_url, options.model, key, None, is_public_page=False)
        enhancers["endpoint"] = Enhancer(EndpointWriter(endpoint))
    if options.local:
        enhancers["local"] = Enhancer(LocalWriter(options.local))
    cases = load_cases()
    columns = {"as typed": as_typed(cases)}
    for name, enhancer in enhancers.items():
        columns[name] = measure(cases, enhancer)
    sys.stdout.write(table(columns, len(cases)))
    return 0


def load_cases() -> list[dict]:
    """The cases that have an idea at all."""
    return [case for case in json.loads(CASES.read_text(encoding="utf-8")) if not case.get("refused")]


def as_typed(cases: list[dict]) -> dict[str, float]:
    enhancer = Enhancer()
    marks = []
    for case in cases:
        brief = enhancer.brief(EnhanceRequest(case["idea"]))
        marks.append(mark(brief.idea, case, check(brief.idea, brief.as_own_words())))
    return shares(marks)


def measure(cases: list[dict], enhancer: Enhancer) -> dict[str, float]:
    """The shares for one enhancer, with how often it had another answer than the template's."""
    results = [enhancer.enhance(EnhanceRequest(case["idea"], seed=0)) for case in cases]
    column = shares([mark(r.text, case, r.violations) for r, case in zip(results, cases, strict=True)])
    column["own answer used"] = sum(used(result) for result in results) / len(results)
    column["seconds each"] = sum(result.seconds for result in results) / len(results)
    return column


def used(result: EnhanceResult) -> bool:
    return result.route in ("answer", "repaired", "asked again")


def mark(text: str, case: dict, violations: tuple) -> dict[str, bool]:
    broken = {violation.rule for violation in violations}
    marks = {rule: rule not in broken for rule in RULES}
    cleaned = clean_prompt(text)
    marks["words kept"] = all(clean_prompt(word) in cleaned for word in case["words"])
    marks["no error"] = not any(violation.severity == "error" for violation in violations)
    return marks


def shares(marks: list[dict[str, bool]]) -> dict[str, float]:
    return {name: sum(mark[name] for mark in marks) / len(marks) for name in marks[0]}


def table(columns: dict[str, dict[str, float]], count: int) -> str:
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    lines = [f"| {count} cases | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in names:
        form = "{:.2f}" if name == "seconds each" else "{:.0%}"
        cells = [form.format(column[name]) if name in column else "" for column in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
