"""Pieces of HTML for the train tab. Text of people, file names and models is escaped here."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo import html
from demo.train.worker import ClipReview, Cost, Review
from lora_trainer.config import EXPERTS
from lora_trainer.doctor import Finding
from lora_trainer.jobs.hub import Offer
from lora_trainer.jobs.runs import Status, TrainingRun
from lora_trainer.manifest import DatasetItem
from mova.machine import GIB, human_seconds

LEAST_SECONDS = 600
LOAD_SECONDS = 10  # that the trainer's process takes to load its libraries, on two cores
PHASES = {
    "start": "Starting",
    "keep": "Making clips to keep",
    "captions": "Reading the captions",
    "clips": "Reading the clips",
    "model": "Loading the model",
    "train": "Training",
}
KINDS = {
    "waiting": "waiting",
    "running": "training",
    "stopping": "stopping",
    "done": "ready",
    "stopped": "stopped",
    "failed": "failed",
    "broken": "interrupted",
}
CHART = (320, 150)  # width and height in its own units
MARGIN = (38, 8, 8, 20)  # left, right, top, bottom


def safe(text: object) -> str:
    """Escaped for HTML, and for the page's templates, which read braces and dollars."""
    return escape(str(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def head(number: int, title: str, text: str) -> str:
    return (
        f'<div class="train-head"><span aria-hidden="true">{number}</span>'
        f"<div><h3>{escape(title)}</h3><p>{escape(text)}</p></div></div>"
    )


def file_url(path: Path) -> str:
    return f"gradio_api/file={quote(str(path.absolute()))}"


def cards(items: Sequence[DatasetItem], review: Review | None) -> str:
    """Every clip with its player and findings; None while the review runs."""
    if not items:
        return html.empty(
            "Clips of one thing",
            "Ten to fifty clips of a few seconds, with sound: a face, a voice, a place, a style. "
            "Add them here, or keep clips that you made in Generate for training.",
        )
    reviews = {clip.name: clip for clip in review.clips} if review else {}
    return f'<div class="train-cards">{"".join(card(item, reviews.get(item.name)) for item in items)}</div>'


def card(item: DatasetItem, review: ClipReview | None) -> str:
    player, facts = '<div class="train-empty">…</div>', ""
    if review and review.preview:
        player = f'<video controls preload="metadata" src="{safe(file_url(review.preview))}"></video>'
        used = used_part(item, review.seconds)
        facts = f"{review.seconds:.1f} s, {review.width}×{review.height}{used}"
    elif review:
        player = '<div class="train-empty">cannot be shown</div>'
    found = "".join(map(finding, review.findings)) if review else html.note("Checking it …")
    if review and not review.findings:
        found = html.note("No problems found.", "good")
    name = safe(item.name)
    return (
        f'<article class="train-card">{player}<header><b title="{name}">{name}</b> <span>{facts}</span>'
        f'<button type="button" data-remove="{name}" aria-label="Take {name} out">Take out</button></header>'
        f"{found}</article>"
    )


def used_part(item: DatasetItem, seconds: float) -> str:
    if not item.start and item.end is None:
        return ""
    return f", used from {item.start:.2f} to {item.end or seconds:.2f} s"


def finding(found: Finding) -> str:
    if found.check == "caption":
        return note("It has no caption yet.")
    kind = {"error": "error", "warning": "warning"}.get(found.severity, "quiet")
    figure = found.figure.removeprefix(f"{found.clip} ")
    text = figure if found.fix == "see above" else f"{figure}: {found.fix}"
    return note(f"{text[:1].upper()}{text[1:]}.", kind)


def note(text: str, kind: str = "quiet") -> str:
    """As `html.note`, for text that others wrote."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="mova-note mova-{kind}"{role}>{safe(html.sentence(text))}</p>' if text else ""


def notes(texts: Iterable[str], kind: str = "quiet") -> str:
    return "".join(note(text, kind) for text in texts)


def summary(review: Review) -> str:
    """Number and length of the clips, and what is missing."""
    errors = len({found.clip for found in review.errors})
    text = f"{len(review.clips)} clips, {human_seconds(review.seconds)} to learn from"
    if errors:
        return note(f"{text}; {errors} must be fixed or taken out first.", "warning")
    if review.uncaptioned:
        return note(f"{text}; {review.uncaptioned} captions are missing.")
    return note(f"{text}.", "good")


def cost(cost: Cost, steps: int, price: float | None, pace: float | None, most_seconds: int = 0) -> str:
    """Seconds, memory and money before the click; `pace` is seconds per step of the last run, all included.

    A rented machine is given back after `most_seconds`, and its price is in US dollars.
    """
    setup, keeping = (cost.seconds.get(what, 0.0) for what in ("setup", "regularization"))
    seconds = LOAD_SECONDS + (setup + keeping + pace * steps if pace else sum(cost.seconds.values()))
    # Where steps take milliseconds, overhead dominates, and the plan counts only arithmetic.
    about = "At least" if not pace and seconds < LEAST_SECONDS else "About"
    measured = "as fast as your last run" if pace else "an estimate"
    lines = [f"{about} {human_seconds(seconds)} on {cost.card}, {steps} steps ({measured})."]
    if keeping:
        lines.append(f"The clips to keep take at least {human_seconds(keeping)} of that.")
    if most_seconds:
        rent = [f"${each / 3600 * price:.2f}" for each in (seconds, most_seconds)]
        lines.append(
            f"{about} {rent[0]} at ${price:.2f} an hour, paid by your Hugging Face account; {rent[1]} at the "
            f"very most, as the job is ended after {human_seconds(most_seconds)}."
        )
    elif price:
        lines.append(f"Money: about {seconds / 3600 * price:.2f} at {price:g} an hour.")
    device, host = sum(cost.device.values()) / GIB, sum(cost.host.values()) / GIB
    where = f"{device:.1f} GiB of {cost.vram / GIB:.0f} on the card, {host:.1f} GiB of memory"
    if not cost.is_gpu:
        where = f"{device + host:.1f} GiB of {cost.vram / GIB:.0f} GiB memory"
    lines.append(f"Needs {where}, and {sum(cost.disk.values()) / GIB:.2g} GiB of disk.")
    if cost.changes:
        lines.append("Frozen weights are streamed to the card, so that it fits; that is a little slower.")
    text = notes(lines)
    if not cost.fits:
        text += note("It does not fit the machine.", "error") + notes(cost.advice, "warning")
    return text


def offer(hardware: Offer) -> str:
    return f"{hardware.name}, {hardware.memory}: ${hardware.price:.2f} an hour"


def status(run: TrainingRun, state: Status) -> str:
    """Phase, progress and time left of a run."""
    if not state.is_live:
        kind = {"done": "good", "stopped": "quiet"}.get(state.kind, "error")
        return note(state.message, kind)
    words = PHASES.get(state.phase, KINDS[state.kind].capitalize())
    details = []
    if state.phase == "train":
        learning = f"step {state.done} of {state.count}"
        details = [learning if state.done else "first, measuring what the model knows already"]
    if state.phase in ("keep", "clips") and state.count:
        details.append(f"{state.done} of {state.count}")
    if state.seconds_left:
        details.append(f"about {human_seconds(state.seconds_left)} left")
    share = 100 * state.done / state.count if state.count and state.phase in ("keep", "train") else 0
    return (
        f'<div class="mova-run"><p role="status" aria-live="polite"><b>{escape(words)}</b> '
        f"<span>{escape(' · '.join(details))}</span></p>"
        f'<div class="mova-bar" role="progressbar" aria-label="Progress of {safe(run.about.name)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}"><i style="width:{share:.0f}%">'
        f"</i></div>{note(state.message)}</div>"
    )


def alarms(events: Sequence[Mapping[str, Any]]) -> str:
    texts = [event["message"] for event in events if event["event"] == "alarm"]
    return notes(dict.fromkeys(texts), "warning")


def samples(run: TrainingRun, events: Sequence[Mapping[str, Any]]) -> str:
    """The clips from before training and the newest side by side; those between below."""
    made = [(event["step"], run.folder / event["path"]) for event in events if event["event"] == "sample"]
    made = [(step, path) for step, path in made if path.is_file()]
    if not made:
        return ""
    shown = [made[0], made[-1]] if len(made) > 1 else made
    between = made[1:-1]
    more = f"<details><summary>Those between</summary>{figures(between)}</details>" if between else ""
    words = f'<p class="mova-note mova-quiet">{safe(run.about.prompt)}</p>'
    return f"{words}{figures(shown)}{more}"


def figures(made: Sequence[tuple[int, Path]]) -> str:
    clips = "".join(
        f'<figure><video controls preload="metadata" src="{safe(file_url(path))}"></video>'
        f"<figcaption>{f'After step {step}' if step else 'Before training'}</figcaption></figure>"
        for step, path in made
    )
    return f'<div class="train-samples">{clips}</div>'


def charts(run: TrainingRun, events: Sequence[Mapping[str, Any]]) -> str:
    """The loss on fixed clips and noise against the base model's, for picture and sound."""
    base = next((event for event in events if event["event"] == "base"), None)
    if base is None:
        return ""
    part = "held_out" if base["held_out"] else "training"
    validations = [base, *(event for event in events if event["event"] == "validation")]
    whose = "held-out clips" if part == "held_out" else "training clips"
    drawn = ""
    for title, towers, key in (("Picture", EXPERTS, "video_loss"), ("Sound", ("audio_dit",), "audio_loss")):
        points = [(event.get("step", 0), mean(event[part], towers)) for event in validations]
        points = [(step, value) for step, value in points if value is not None]
        steps = [(e["step"], e[key]) for e in events if e["event"] == "step"]
        if points:
            drawn += chart(title, run.about.steps, points, smoothed(steps))
    text = (
        f"Loss on {whose}, always with the same noise; lower is better, and the dashed line is from before "
        "training. The faint line is the mean loss of the steps."
    )
    return f'<div class="train-charts">{drawn}</div>{note(text)}' if drawn else ""


def mean(figures: Mapping[str, Mapping[str, float]], towers: Iterable[str]) -> float | None:
    values = [value for tower in towers for value in figures.get(tower, {}).values()]
    return sum(values) / len(values) if values else None


def smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each step's loss, which jumps with its timestep, as a mean over the steps around; whole spans only."""
    span = max(8, len(points) // 8)
    return [
        (points[i][0], sum(value for _, value in points[i - span + 1 : i + 1]) / span)
        for i in range(span - 1, len(points))
    ]


def chart(
    title: str, most: int, points: Sequence[tuple[int, float]], steps: Sequence[tuple[int, float]]
) -> str:
    """Points and lines over the run's `most` steps."""
    width, height = CHART
    left, right, top, bottom = MARGIN
    base, now = points[0][1], points[-1][1]
    values = [value for _, value in [*points, *steps]]
    pad = max(0.08 * (max(values) - min(values)), 0.01 * abs(base), 1e-9)
    low, high = min(values) - pad, max(values) + pad

    def place(step: float, value: float) -> str:
        x = left + (width - left - right) * step / most
        return f"{x:.1f} {top + (height - top - bottom) * (high - value) / (high - low):.1f}"

    line = "M" + "L".join(place(*point) for point in points)
    faint = f'<path class="train-steps" d="M{"L".join(place(*p) for p in steps)}"/>' if len(steps) > 1 else ""
    dots = "".join('<circle cx="{}" cy="{}" r="2.6"/>'.format(*place(*p).split()) for p in points)
    change = f"{100 * (now / base - 1):+.1f} %" if len(points) > 1 and base else "not yet measured again"
    said = f"{title}: {now:.4g}, base model {base:.4g}, {change}"
    labels = "".join(
        f'<text x="{left - 5}" y="{place(0, value).split()[1]}" text-anchor="end" dy="3">{value:.3g}</text>'
        for value in (low + pad, high - pad)
    )
    return (
        f'<figure><figcaption><b>{title}</b> {now:.4g} <span>base {base:.4g}, {change}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">'
        f'<path class="train-axis" d="M{place(0, low)}L{place(most, low)}"/>{labels}'
        f'<text x="{left}" y="{height - 6}">step 0</text>'
        f'<text x="{width - right}" y="{height - 6}" text-anchor="end">{most}</text>'
        f'<path class="train-base" d="M{place(0, base)}L{place(most, base)}"/>{faint}'
        f'<path class="train-line" d="{line}"/>{dots}</svg></figure>'
    )  # fmt: skip
