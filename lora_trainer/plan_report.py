"""A plan as text for people and as JSON for programs, with what a probe measured beside it."""

import json
from dataclasses import asdict
from typing import Any

from lora_trainer.plan import Plan
from lora_trainer.probe import Measured
from mova.catalog import human_seconds
from mova.placement import human_bytes


def text_report(plan: Plan, advice: list[str], price: float | None, measured: Measured | None) -> str:
    shape, card = plan.largest, plan.card
    where = f"{card.processes} x {card.name}" if card.processes > 1 else card.name
    lines = [
        f"{plan.windows} windows, the largest {shape.width}x{shape.height} x {shape.num_frames} frames; "
        f"{plan.steps} steps on {where}, {card.dtype}",
        "",
        *table(f"memory of {card.name} at the peak, {human_bytes(card.vram)} free", plan.device),
        *table("host memory" + (f", {human_bytes(card.ram)} free" if card.ram else ""), plan.host),
        *table("disk", plan.disk),
        *times(plan),
    ]
    if price is not None:
        lines.append(f"{'money':32} {plan.hours * price:10.2f} at {price:g} an hour")
    lines += ["", "It fits." if plan.fits else "It does not fit.", *advice]
    if measured:
        lines += ["", *comparison(plan, measured, price)]
    return "\n".join(lines) + "\n"


def table(title: str, sizes: dict[str, int]) -> list[str]:
    rows = [*sizes.items(), ("all", sum(sizes.values()))]
    return [title, *(f"  {name:30} {human_bytes(size):>12}" for name, size in rows), ""]


def times(plan: Plan) -> list[str]:
    return [
        f"time, a step {plan.step_seconds:.3g} s ({plan.petaflops:.3g} PFLOP)",
        *(f"  {what:30} {human_seconds(spent):>12}" for what, spent in plan.seconds.items()),
        f"  {'all':30} {human_seconds(plan.hours * 3600):>12}",
    ]


def comparison(plan: Plan, measured: Measured, price: float | None) -> list[str]:
    """Predicted beside measured, and the whole run at the measured pace."""
    pace = measured.seconds / measured.predicted_seconds
    hours = plan.hours * pace
    money = "" if price is None else f", {hours * price:.2f}"
    return [
        f"{'probe of ' + str(measured.steps) + ' steps':24} {'predicted':>12} {'measured':>12}",
        f"{'seconds a step':24} {measured.predicted_seconds:12.3g} {measured.seconds:12.3g}",
        f"{'peak memory':24} {human_bytes(measured.predicted_peak):>12} {human_bytes(measured.peak):>12}",
        f"at the measured pace the run takes {human_seconds(hours * 3600)}{money}",
    ]


def json_report(plan: Plan, advice: list[str], price: float | None, measured: Measured | None) -> str:
    record: dict[str, Any] = asdict(plan) | {"hours": plan.hours, "fits": plan.fits, "advice": advice}
    record["money"] = None if price is None else plan.hours * price
    record["probe"] = asdict(measured) if measured else None
    return json.dumps(record, indent=1) + "\n"
