"""Pieces of HTML for the train tab. Text of people, file names and models is escaped here."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from demo import html
from demo.train.form import TrainForm
from demo.train.worker import ClipReview, Cost, Review
from lora_trainer.config import EXPERTS
from lora_trainer.doctor import EDGE, EVEN_LUFS, Finding
from lora_trainer.jobs.hub import Offer
from lora_trainer.jobs.runs import Status, TrainingRun
from lora_trainer.manifest import DatasetItem
from mova.machine import GIB, human_seconds
from mova.shapes import MAX_PROMPT_TOKENS

LEAST_SECONDS = 600
LOAD_SECONDS = 10  # that the trainer's process takes to load its libraries, on two cores
PHASES = {
    "start": "Starting",
    "keep": "Making clips of existing skills",
    "captions": "Reading captions",
    "clips": "Reading clips",
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
PLACEHOLDER = 'What is seen and heard. Put spoken words in "quotes".'
ACTS = {
    "remove": "Remove",
    "picture_only": "Picture only",
    "even_volume": "Even out volume",
    "trim": "Trim",
    "split": "Split here",
    "one_channel": "Use one channel",
    "shift": "Shift",
    "reset": "Undo changes",
}
# Findings that are said the same whatever their numbers, by kind, and what can be done.
SIMPLE: dict[str, tuple[str, tuple[str, ...]]] = {
    "unreadable": ("Cannot be read. Export it again as mp4.", ("remove",)),
    "unusable": ("Cannot be used. Export it again as mp4.", ("remove",)),
    "windows": ("Damaged. Export it again as mp4.", ("remove",)),
    "damage": ("Damaged. Export it again as mp4.", ("remove",)),
    "no sound": ("No sound", ("remove", "picture_only")),
    "stereo": ("Left and right cancel out", ("one_channel", "picture_only")),
    "clipping": ("Sound is distorted", ("picture_only",)),
    "bandwidth": ("Sound is muffled", ("picture_only",)),
    "size": ("Small picture: may blur", ()),
}
SETTINGS = re.compile(
    r"(?:[;,:(]|\bor\b|\band\b)?[^;,:(]*(?:\b(?:data|run|samples|optimizer|towers)\.[a-z_]+|(?<!\w)--[a-z]|\.jsonl).*",
    re.DOTALL,
)
CHART = (320, 150)  # width and height in its own units
MARGIN = (38, 8, 8, 20)  # left, right, top, bottom


def safe(text: object) -> str:
    """Escaped for HTML, and for the page's templates, which read braces and dollars."""
    return escape(str(text)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def file_url(path: Path) -> str:
    return f"gradio_api/file={quote(str(path.absolute()))}"


def cards(items: Sequence[DatasetItem], review: Review | None) -> str:
    """Every clip with its player, caption field and findings; None while the review runs."""
    if not items:
        return html.empty(
            "Upload clips of one person, thing or style.",
            "Ten to fifty clips of a few seconds, with sound. Or add clips that you made in Generate.",
        )
    reviews = {clip.name: clip for clip in review.clips} if review else {}
    return f'<div class="train-cards">{"".join(card(item, reviews.get(item.name)) for item in items)}</div>'


def card(item: DatasetItem, review: ClipReview | None) -> str:
    player, facts = '<div class="train-empty">…</div>', ""
    if review and review.preview:
        player = f'<video controls preload="metadata" src="{safe(file_url(review.preview))}"></video>'
        facts = f"{review.seconds:.1f} s{used_part(item, review.seconds)}"
    elif review:
        player = '<div class="train-empty">No preview</div>'
    found = "".join(finding(each, item.name) for each in review.findings) if review else note("Checking …")
    if review and not review.findings:
        found = note("Ready.", "good")
    if review and (item.start or item.end is not None or item.is_silent):
        found += f'<p class="mova-note">{button("reset", item.name)}</p>'
    name, caption = safe(item.name), safe(item.caption)
    return (
        f'<article class="train-card">{player}<header><b title="{name}">{name}</b> <span>{facts}</span>'
        f"{button('remove', item.name, '✕')}</header>"
        f'<label><span class="train-unseen">Caption of {name}</span>'
        f'<textarea data-caption="{name}" value="{caption}" rows="3" placeholder="{safe(PLACEHOLDER)}">'
        f"{caption}</textarea></label><div>{found}</div></article>"
    )


def used_part(item: DatasetItem, seconds: float) -> str:
    words = ", picture only" if item.is_silent else ""
    if not item.start and item.end is None:
        return words
    return f", used {item.start:.1f} to {item.end or seconds:.1f} s{words}"


def button(act: str, name: str, sign: str = "") -> str:
    """A button of a card, for the tab's script; `sign` stands for its words."""
    label = ACTS[act]
    return (
        f'<button type="button" data-act="{act}" data-name="{safe(name)}" title="{label}" '
        f'aria-label="{label}: {safe(name)}">{sign or label}</button>'
    )


def finding(found: Finding, name: str) -> str:
    """A finding in the page's words, with buttons that do something about it."""
    text, acts = words_of(found)
    kind = {"error": "error", "warning": "warning"}.get(found.severity, "quiet")
    kind = "quiet" if found.kind == "caption" else kind  # the next step, not a fault
    buttons = "".join(button(act, name) for act in acts)
    return f'<p class="mova-note mova-{kind}">{safe(text)} {buttons}</p>'


def words_of(found: Finding) -> tuple[str, tuple[str, ...]]:
    """A finding in a few words, and the names in ACTS of what can be done."""
    values = found.values
    match found.kind:
        case "caption":
            return "No caption yet.", ()
        case "black" | "frozen":
            start, end = values["start"], values["end"]
            what = "Black" if found.kind == "black" else "Still"
            if found.fixable and start <= EDGE:
                return "Starts black", ("trim",)
            if found.fixable:
                return "Ends black", ("trim",)
            text = f"{what} from {start:.1f} to {end:.1f} s"
            return text, ("trim", "remove") if values["at_edge"] else ("remove",)
        case "cut":
            times = values["times"]
            if len(times) == 1:
                return f"Cut at {times[0]:.1f} s", ("split",)
            return f"Cuts at {', '.join(f'{time:.1f}' for time in times[:5])} s", ("split",)
        case "loudness":
            return "Too quiet" if values["lufs"] < EVEN_LUFS else "Too loud", ("even_volume",)
        case "silence":
            if found.severity == "error":
                return "Silent", ("picture_only", "remove")
            return "Mostly silent", ("picture_only", "remove")
        case "sync":
            seconds = values["seconds"]
            return f"Sound {abs(seconds):.1f} s {'late' if seconds > 0 else 'early'}", ("shift", "remove")
        case "start":
            seconds = values["seconds"]
            return f"Sound starts {abs(seconds):.1f} s {'after' if seconds > 0 else 'before'} the picture", ()
        case "ends early":
            return f"Sound ends {values['seconds']:.1f} s early", ("trim",)
        case "duplicate":
            return f"Same as {values['other']}", ("remove",)
        case "same caption":
            return f"Same caption as {values['other']}. Say what differs.", ()
        case "short":
            return f"Too short: needs {values['seconds']:.1f} s", ("remove",)
        case "long caption":
            return f"Caption too long: {values['tokens']} tokens of {MAX_PROMPT_TOKENS}. Shorten it.", ()
        case "quotes":
            speaks = found.severity == "warning"
            return ('Quote the words: She says, "Hello."' if speaks else "Speech? Quote the words."), ()
        case "frame rate":
            return f"Only {values['rate']:.3g} frames per second: motion may stutter", ()
    return SIMPLE.get(found.kind, SIMPLE["unusable"])


def note(text: str, kind: str = "quiet") -> str:
    """As `html.note`, for text that others wrote."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="mova-note mova-{kind}"{role}>{safe(html.sentence(visible(text)))}</p>' if text else ""


def notes(texts: Iterable[str], kind: str = "quiet") -> str:
    return "".join(note(text, kind) for text in texts)


def visible(text: str) -> str:
    """`text` without what only the command line knows: folders of this machine, and words on its settings."""
    shown = html.without_folders(text)
    return f"{SETTINGS.split(shown)[0].rstrip(' ,;:(-')}." if SETTINGS.search(shown) else shown


def log(run: TrainingRun) -> str:
    """The end of the trainer's log: files of the run are named from its folder, others without folders."""
    return html.without_folders(run.log_tail().replace(f"{run.folder}{os.sep}", ""))


def undo(name: str) -> str:
    """The line that offers to restore a removed clip."""
    return (
        f'<p class="mova-note" role="status">{safe(name)} removed. '
        f'<button type="button" data-act="undo" data-name="{safe(name)}">Undo</button></p>'
    )


def summary(review: Review) -> str:
    """Number and length of the clips."""
    clips = counted(len(review.clips), "clip")
    text = f"{clips}, {human_seconds(review.seconds)} to learn from"
    if review.unusable:
        return note(f"{text}; {len(review.unusable)} to fix or remove.", "warning")
    return note(f"{text}.")


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def cost(
    cost: Cost,
    form: TrainForm,
    steps: int,
    pace: float | None,
    clips: int,
    uncaptioned: int = 0,
    most_seconds: int = 0,
) -> str:
    """Seconds, money and memory before the click; `pace` is seconds per step of the last run, all included.

    A rented machine is given back after `most_seconds`, and its price is in US dollars.
    """
    setup, keeping = (cost.seconds.get(what, 0.0) for what in ("setup", "regularization"))
    seconds = LOAD_SECONDS + (setup + keeping + pace * steps if pace else sum(cost.seconds.values()))
    # Where steps take milliseconds, overhead dominates, and the plan counts only arithmetic.
    about = "At least" if not pace and seconds < LEAST_SECONDS else "About"
    first = f"{about} {human_seconds(seconds)} for {counted(clips, 'clip')}."
    text = f'<p class="mova-note train-about">{safe(first)}</p>'
    text += note(f"Captions missing: {uncaptioned}." if uncaptioned else "", "warning")
    measured = "as fast as your last run" if pace else "estimate"
    lines = [f"{steps} steps on {cost.card} ({measured})."]
    if keeping:
        lines.append(f"Keeping existing skills takes at least {human_seconds(keeping)} of that.")
    price = form.price
    if most_seconds:
        rent = [f"${each / 3600 * price:.2f}" for each in (seconds, most_seconds)]
        lines.append(
            f"{about} {rent[0]} at ${price:.2f} an hour, paid by your Hugging Face account; {rent[1]} at the "
            f"very most, as the job is ended after {human_seconds(most_seconds)}."
        )
    elif price:
        lines.append(f"About ${seconds / 3600 * price:.2f} at ${price:g} an hour.")
    device, host = sum(cost.device.values()) / GIB, sum(cost.host.values()) / GIB
    where = f"{device:.1f} GiB of {cost.vram / GIB:.0f} on the GPU, {host:.1f} GiB of memory"
    if not cost.is_gpu:
        where = f"{device + host:.1f} of {cost.vram / GIB:.0f} GiB memory"
    lines.append(f"Needs {where}, and {sum(cost.disk.values()) / GIB:.2g} GiB of disk.")
    if cost.changes:
        lines.append("Parts of the model are moved to the GPU as needed: it fits, and is a little slower.")
    text += notes(lines)
    if not cost.fits:
        text += note("This does not fit the machine.", "error") + notes(cost.advice, "warning")
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
        details = [learning if state.done else "Measuring the start"]
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


def samples(run: TrainingRun, events: Sequence[Mapping[str, Any]], is_live: bool) -> str:
    """The same prompt and seed before training and now, side by side; those between below.

    Of a run that has ended both play, muted, until one of them is listened to.
    """
    made = [(event["step"], run.folder / event["path"]) for event in events if event["event"] == "sample"]
    made = [(step, path) for step, path in made if path.is_file()]
    if not made:
        return ""
    shown = [made[0], made[-1]] if len(made) > 1 else made
    between = made[1:-1]
    more = f"<details><summary>In between</summary>{figures(between)}</details>" if between else ""
    words = f'<p class="mova-note mova-quiet">{safe(run.about.prompt)}</p>'
    return f"{figures(shown, plays=not is_live)}{words}{more}"


def figures(made: Sequence[tuple[int, Path]], plays: bool = False) -> str:
    how = 'controls autoplay muted loop preload="auto"' if plays else 'controls preload="metadata"'
    clips = "".join(
        f'<figure><video {how} playsinline src="{safe(file_url(path))}" '
        f'aria-label="{_when(step)}"></video><figcaption>{_when(step)}</figcaption></figure>'
        for step, path in made
    )
    return f'<div class="train-samples">{clips}</div>'


def _when(step: int) -> str:
    return f"After {step} steps" if step else "Before training"


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
    text = f"Loss on {whose}. Lower is better; dashed: before training."
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
