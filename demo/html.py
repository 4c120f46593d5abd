"""Pieces of HTML for the page. Text that a person or a model wrote is escaped here."""

import base64
import itertools
from collections.abc import Iterable, Sequence
from html import escape

from demo.added import Making
from mova.machine import human_seconds
from mova.prompting.rules import Violation

STAGES = {
    "load": "Loading the model",
    "encode": "Reading the prompt and the first frame",
    "denoise": "Making picture and sound",
    "decode": "Decoding frames and sound",
    "write": "Writing the clip",
    "measure": "Checking picture and sound",
    "submit": "Sending the request",
    "download": "Fetching the clip",
}


def note(text: str, kind: str = "quiet") -> str:
    """A line of text: `kind` is quiet, good, warning or error. Empty text gives nothing."""
    role = ' role="alert"' if kind == "error" else ""
    text = sentence(text)
    return f'<p class="mova-note mova-{kind}"{role}>{escape(text)}</p>' if text else ""


def sentence(text: str) -> str:
    """`text` with a capital: errors of the toolkit begin small, as terminals have them."""
    is_word = not set(text.partition(" ")[0][:-1]) & set(".=_/")  # no file, field or address
    return text[:1].upper() + text[1:] if text[:2].islower() and is_word else text


def notes(texts: Iterable[str], kind: str = "quiet") -> str:
    return "".join(note(text, kind) for text in texts)


def meter(label: str, value: float, limit: float, text: str) -> str:
    """A thin bar of `value` against `limit`, red above it."""
    share = min(1.0, value / limit) if limit else 0.0
    kind = " mova-over" if value > limit else ""
    return (
        f'<div class="mova-meter{kind}"><span>{escape(text)}</span>'
        f'<div role="meter" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="{limit:g}" '
        f'aria-valuenow="{min(value, limit):g}" aria-valuetext="{escape(text)}">'
        f'<i style="width:{100 * share:.0f}%"></i></div></div>'
    )


def progress(stage: str, step: int, steps: int, seconds_left: float | None, preview: bytes = b"") -> str:
    """A running clip: stage, steps, time left and the clip so far."""
    words = STAGES.get(stage, sentence(stage))
    share = step / steps if steps else 0.0
    count = f"step {step} of {steps}" if stage == "denoise" and steps else ""
    left = f"about {human_seconds(seconds_left)} left" if seconds_left and stage == "denoise" else ""
    picture = ""
    if preview:
        data = base64.b64encode(preview).decode()
        picture = f'<img alt="Preview of the clip so far" src="data:image/webp;base64,{data}">'
    details = " · ".join(part for part in (count, left) if part)
    return (
        f'<div class="mova-run"><div class="mova-preview">{picture or "<span></span>"}</div>'
        f'<p role="status" aria-live="polite"><b>{escape(words)}</b> <span>{details}</span></p>'
        f'<div class="mova-bar" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * share:.0f}">'
        f'<i style="width:{100 * share:.0f}%"></i></div></div>'
    )


def tracks(making: Making) -> str:
    """Both tracks along time, what is made filled, and the same in words."""
    rows = []
    spans = (making.picture, making.sound)
    for name, made, words in zip(("Picture", "Sound"), spans, making.words(), strict=True):
        bars = "".join(
            f'<i style="left:{100 * start / making.seconds:.2f}%;'
            f'width:{100 * (end - start) / making.seconds:.2f}%"></i>'
            for start, end in made
        )
        rows.append(f"<p><b>{name}</b> <span>{words}</span></p>")
        rows.append(f'<div class="mova-track" aria-hidden="true">{bars}</div>')
    axis = f'<p class="mova-axis" aria-hidden="true"><span>0 s</span><span>{making.seconds:.2f} s</span></p>'
    return f'<div class="mova-tracks">{"".join(rows)}{axis}</div>'


def picture(webp: bytes, description: str) -> str:
    """A small picture inside the page itself."""
    data = base64.b64encode(webp).decode()
    return (
        f'<div class="mova-crop"><img alt="{escape(description)}" src="data:image/webp;base64,{data}"></div>'
    )


def waiting(ahead: int) -> str:
    """The run's place in the queue."""
    clips = "one clip is" if ahead == 1 else f"{ahead} clips are"
    return (
        f'<div class="mova-run"><p role="status" aria-live="polite"><b>Waiting</b> '
        f"<span>{clips} before yours</span></p></div>"
    )


def empty(title: str, text: str) -> str:
    """A placeholder with a title and a hint."""
    return (
        '<div class="mova-empty"><svg viewBox="0 0 96 48" aria-hidden="true">'
        + "".join(
            f'<rect x="{4 + 8 * i}" y="{24 - h / 2}" width="4" height="{h}" rx="2"/>'
            for i, h in enumerate((6, 14, 24, 36, 20, 40, 28, 14, 30, 18, 8))
        )
        + f"</svg><h2>{escape(title)}</h2><p>{escape(text)}</p></div>"
    )


def highlighted(text: str, added: Sequence[tuple[int, int]], violations: Sequence[Violation] = ()) -> str:
    """`text` with added words and broken rules marked."""
    marks = [(start, end, "mova-added") for start, end in added]
    faulty = [violation.span for violation in violations if violation.span]
    edges = sorted({0, len(text), *(p for s, e, _ in marks for p in (s, e)), *(p for s in faulty for p in s)})
    parts = []
    for start, end in itertools.pairwise(edges):
        kinds = [kind for s, e, kind in marks if s <= start and end <= e]
        kinds += ["mova-fault" for s, e in faulty if s <= start and end <= e]
        piece = escape(text[start:end])
        parts.append(f'<mark class="{" ".join(kinds)}">{piece}</mark>' if kinds else piece)
    return f'<div class="mova-text" lang="">{"".join(parts)}</div>'


def violations(found: Sequence[Violation]) -> str:
    return notes((v.message for v in found if v.severity == "error"), "error") + notes(
        (v.message for v in found if v.severity == "warning"), "warning"
    )


def chips(label: str, texts: Sequence[str]) -> str:
    """Words that are kept as they are."""
    if not texts:
        return ""
    return (
        f'<p class="mova-chips"><span>{escape(label)}</span> '
        + " ".join(f"<code>{escape(text)}</code>" for text in texts)
        + "</p>"
    )
