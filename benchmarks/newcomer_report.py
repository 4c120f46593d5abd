"""The tables of `benchmarks.learn_newcomer`, and whether its claims hold."""

import json
from pathlib import Path

from pocket.scores import BARS
from pocket.table import aligned, number

KEPT = 0.9  # of a figure without the adapter
MOST, FEWEST = 0.75, 0.10  # of fresh prompts that show it with the adapter, and at most without
CLAIMS = {
    "character": {"striped": "striped shirt seen", "word": "new word heard", "voice": "in the new voice"},
    "cube": {"cube": "cube seen", "honks": "honks heard", "synced": "hits with a honk within 2 frames"},
}
OLD_SKILLS = tuple(bar for bar in BARS if bar.reached is not None and bar.unit != "frames")


def save(report: dict[str, object], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(report, indent=1), encoding="utf-8")


def report_text(report: dict[str, object]) -> tuple[str, bool]:
    """The tables, and whether every claim holds."""
    claims, reached = claims_table(report)
    if "old" not in report:
        return claims, reached
    old, old_kept = old_table(report["old"])
    rows = [["seconds", *report["kinds"]]]
    for stage in next(iter(report["kinds"].values()))["seconds"]:
        rows.append([stage, *(f"{each['seconds'][stage]:.0f}" for each in report["kinds"].values())])
    rows += [
        [stage, f"{value:.0f} (once)", *[""] * (len(rows[0]) - 2)]
        for stage, value in report["seconds"].items()
    ]
    same = all(each["strength_0_is_base"] for each in report["kinds"].values())
    zero = f"Strength 0 is the base model bit for bit: {'yes' if same else 'NO'}."
    return "\n\n".join((claims, old, zero, aligned(rows))), reached and old_kept and same


def claims_table(report: dict[str, object]) -> tuple[str, bool]:
    columns = ["true", "other clips"]
    if "kinds" in report:
        columns += ["true, coded", "other, coded", "without", "with"]
    rows, reached = [["newcomer", *columns, ""]], True
    for kind, scores in report["detectors"].items():
        made = report.get("kinds", {}).get(kind)
        for key, claim in CLAIMS[kind].items():
            values = [scores["true"][key], scores["others"][key]]
            good = values[0] > 0.99 and values[1] < 0.01
            if made:
                best, mistaken = scores["coded"][key], scores["others, coded"][key]
                without, shown = made["without"][key], made["with"][key]
                values += [best, mistaken, without, shown]
                good = good and min(best, shown) >= MOST and max(mistaken, without) <= FEWEST
            cells = [number(value, "%") for value in values]
            rows.append([f"{kind}: {claim}", *cells, "" if good else "missed"])
            reached = reached and good
    bar = (
        f"(with, as coded true clips, >= {MOST:.0%}, without, as other coded clips, <= {FEWEST:.0%}; true "
        "clips show how good the detectors are, coded ones what an adapter could reach)"
    )
    return f"{aligned(rows)}\n{bar}", reached


def old_table(scores: dict[str, dict[str, dict[str, float]]]) -> tuple[str, bool]:
    rows, reached = [["old skill", *scores]], True
    for bar in OLD_SKILLS:
        if bar.family not in scores["without"]:
            continue
        base = scores["without"][bar.family][bar.key]
        row = [bar.claim]
        for families in scores.values():
            value = families[bar.family][bar.key]
            good = value >= base - (1 - KEPT) * abs(base)
            row.append(number(value, bar.unit) + ("" if good else "  missed"))
            reached = reached and good
        rows.append(row)
    return f"{aligned(rows)}\n(with an adapter at least {KEPT:.0%} of the figure without)", reached
