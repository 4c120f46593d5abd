"""Reports as text: claims with their bars, runs side by side, seconds by stage."""

from collections.abc import Sequence

from recipes.pocket.evaluation.aggregate import BARS, NOT_HEARD, Bar
from recipes.pocket.evaluation.costs import BARS as COST_BARS
from recipes.pocket.evaluation.evaluate import DEFAULT_RUN, Report

COLUMNS = {
    "true": "true",
    "soft": "true, soft",
    "worn": "true, worn",
    "round trip": "true, round trip",
    DEFAULT_RUN: "generated",
    f"{DEFAULT_RUN}, held out": "held out",
}
RUN_COLUMNS = (
    ("ball", "offset", "ball offset"),
    ("ball", "synced", "ball synced"),
    ("ball", "synced_shuffled", "(shuffled)"),
    ("ball", "impacts_for_asked", "impacts seen"),
    ("ball", "heard_is_seen", "sounds seen"),
    ("piano", "notes_heard", "notes"),
    ("piano", "lit_is_heard", "lit = heard"),
    ("piano", "offset", "piano offset"),
    ("face", "words", "words"),
    ("face", "correlation", "mouth"),
    ("face", "lag", "lag"),
)
VIDEO_BAR = 35.0  # decibels


def report_text(report: Report) -> str:
    parts = [claims_table(report)]
    if report["autoencoders"]:
        parts.append(_autoencoders_table(report))
    if len(report["runs"]) > 1:
        parts.append(_runs_table(report))
    if "motion" in report:
        parts.append(_motion_table(report))
    if report["runs"]:
        parts.append(_seconds_table(report))
    if "cost" in report:
        parts.append(_cost_table(report))
    return "\n\n".join(parts)


def claims_table(report: Report) -> str:
    """One line a claim; where a bar is set, generated clips that miss it are marked."""
    kinds = [kind for kind in COLUMNS if kind in report["scores"]]
    rows = [["claim", "bar", *(COLUMNS[kind] for kind in kinds)]]
    for bar in BARS:
        cells = [_claim_cell(report, bar, kind) for kind in kinds]
        rows.append([bar.claim, bar.bar, *cells])
    return aligned(rows)


def _claim_cell(report: Report, bar: Bar, kind: str) -> str:
    scores = report["scores"][kind].get(bar.family)
    if scores is None:
        return "-"
    value = scores[bar.key]
    text = number(value, bar.unit)
    if kind.startswith(DEFAULT_RUN) and bar.reached is not None:
        true = report["scores"]["true"][bar.family][bar.key]
        text += "" if bar.reached(value, true) else "  missed"
    return text


def number(value: float, unit: str) -> str:
    if value >= NOT_HEARD:
        return "none"
    match unit:
        case "%":
            return f"{100 * value:.1f} %"
        case "":
            return f"{value:.2f}"
        case _:
            return f"{value:.2f} {unit}"


def _autoencoders_table(report: Report) -> str:
    rows = [["autoencoders, held-out clips", "PSNR", "last frame", "log-spectral distance"]]
    for family, row in report["autoencoders"].items():
        mark = "" if row["psnr"] >= VIDEO_BAR else "  missed"
        decibels = [row["psnr"], row["last_frame_psnr"], row["log_spectral_distance"]]
        cells = [f"{value:.1f} dB" for value in decibels]
        rows.append([family, cells[0] + mark, *cells[1:]])
    return (
        aligned(rows)
        + f"\n(bar: video PSNR >= {VIDEO_BAR:.0f} dB; the column 'true, round trip' above is of these clips)"
    )


def _runs_table(report: Report) -> str:
    rows = [["run", *(title for *_, title in RUN_COLUMNS), "s/clip"]]
    for name, run in report["runs"].items():
        scores = report["scores"][name]
        cells = [
            number(scores[family][key], _unit(family, key)) if family in scores else "-"
            for family, key, _ in RUN_COLUMNS
        ]
        rows.append([name, *cells, f"{sum(run['seconds_per_clip'].values()):.2f}"])
    return aligned(rows)


def _motion_table(report: Report) -> str:
    rows = [["beside the standard run, where that moves", "PSNR", "sharpness"]]
    for family, row in report["motion"].items():
        rows.append([family, f"{row['psnr']:.1f} dB", f"{100 * row['sharpness']:.0f} %"])
    return aligned(rows)


def _unit(family: str, key: str) -> str:
    unit = next(bar.unit for bar in BARS if (bar.family, bar.key) == (family, key))
    return "" if unit == "frames" else unit


def _seconds_table(report: Report) -> str:
    stages = list(report["runs"][DEFAULT_RUN]["seconds_per_clip"])
    rows = [["seconds a clip, in batches", *stages]]
    for name, run in report["runs"].items():
        rows.append([name, *(f"{run['seconds_per_clip'][stage]:.3f}" for stage in stages)])
    return aligned(rows)


def _cost_table(report: Report) -> str:
    cost = report["cost"]
    rows = [["one clip, by stage", "seconds", "bar"]]
    for name, seconds in cost["seconds"].items():
        rows.append([name, f"{seconds:.2f}", ""])
    for name, (unit, limit) in COST_BARS.items():
        mark = "" if cost[name] <= limit else "  missed"
        rows.append([name.replace("_", " "), f"{cost[name]:.2f} {unit}{mark}", f"<= {limit:g} {unit}"])
    return aligned(rows) + f"\n({cost['machine']})"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0].rstrip()), *lines[1:]])
