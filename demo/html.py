"""Pieces of HTML for the page. Text that a person or a model wrote is escaped here."""

import base64
import itertools
import re
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from demo.added import Making
from demo.reading import lacks
from mova.machine import human_seconds
from mova.prompting.pocket import PocketReading
from mova.prompting.rules import Violation

# Of an absolute path, not of an address.
FOLDERS = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\",;]+[/\\])+")
STAGES = {
    "load": "Loading the model",
    "encode": "Reading the prompt",
    "denoise": "Generating",
    "decode": "Decoding",
    "write": "Saving",
    "measure": "Checking",
    "submit": "Sending",
    "download": "Downloading",
}
# The player of the page, filled by page.js from what `shown` says.
PLAYER = """<figure class="mova-player">
<div class="mova-screen"><video playsinline preload="auto" aria-label="Clip"></video><button type="button"
class="mova-play" aria-label="Play with sound"></button><button type="button"
class="mova-unmute">Sound on</button></div>
<div class="mova-before" hidden><video playsinline muted preload="auto" aria-label="Clip before"></video>
<p>The clip before</p></div>
<button type="button" class="mova-strip" hidden aria-label="Frames over sound: jump to a moment">
<img alt=""><i></i></button><figcaption></figcaption></figure>"""


def note(text: str, kind: str = "quiet") -> str:
    """A line of text: `kind` is quiet, good, warning or error. Empty text gives nothing."""
    role = ' role="alert"' if kind == "error" else ""
    text = sentence(text)
    return f'<p class="mova-note mova-{kind}"{role}>{escape(text)}</p>' if text else ""


def without_folders(text: str) -> str:
    """`text` with files of this machine named without their folders."""
    return FOLDERS.sub("", text)


def sentence(text: str) -> str:
    """`text` for visitors, without folders, with a capital: errors begin small, as terminals have them."""
    text = without_folders(text)
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


def progress(
    stage: str,
    step: int,
    steps: int,
    seconds_left: float | None,
    picture: str = "",
    number: int = 1,
    clips: int = 1,
) -> str:
    """A running clip, the first or a later of `clips`: stage, steps, time left, and a picture's address."""
    words = STAGES.get(stage, sentence(stage))
    share = (number - 1 + (step / steps if steps else 0.0)) / clips
    clip = f"clip {number} of {clips}" if clips > 1 else ""
    count = f"step {step} of {steps}" if stage == "denoise" and steps else ""
    left = f"about {human_seconds(seconds_left)} left" if seconds_left and stage == "denoise" else ""
    shown = f'<img alt="" src="{escape(picture)}">' if picture else ""
    details = " · ".join(part for part in (clip, count, left) if part)
    return (
        f'<div class="mova-run"><div class="mova-preview">{shown}</div>'
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


def file_url(path: Path) -> str:
    """The address of a file in one of the page's folders, relative to the page."""
    return f"gradio_api/file={quote(str(path.absolute()))}"


def data_url(webp: bytes) -> str:
    """A small picture as an address that holds it."""
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def picture(webp: bytes, description: str) -> str:
    """A small picture inside the page itself."""
    return f'<div class="mova-crop"><img alt="{escape(description)}" src="{data_url(webp)}"></div>'


def shown(
    clip: Path, label: str, *, plays: str, poster: Path | None = None, strip: Path | None = None
) -> str:
    """The clip for the player; `plays` is "sound", "loop" (muted) or empty for its poster alone."""
    # The time makes the browser see the same clip as another: it plays again.
    return f'<i {_clip_data(clip, label, poster, strip)} data-plays="{plays}" data-at="{time.time_ns()}"></i>'


def tile(
    key: str,
    title: str,
    clip: Path,
    *,
    poster: Path | None = None,
    strip: Path | None = None,
    loops: bool = False,
) -> str:
    """A button with a clip's moving (`loops`) or still picture, that plays the clip with sound."""
    if loops:
        still = f' poster="{escape(file_url(poster))}"' if poster else ""
        inside = (
            f'<video muted loop playsinline preload="auto"{still} src="{escape(file_url(clip))}"></video>'
        )
    else:
        inside = f'<img alt="" loading="lazy" src="{escape(file_url(poster))}">' if poster else ""
    data = _clip_data(clip, title, poster, strip)
    return (
        f'<button type="button" class="mova-tile" data-key="{escape(key)}" {data}>{inside}'
        f"<span>{escape(title)}</span></button>"
    )


def tiles(buttons: Iterable[str]) -> str:
    return f'<div class="mova-tiles">{"".join(buttons)}</div>'


def _clip_data(clip: Path, label: str, poster: Path | None, strip: Path | None) -> str:
    """What page.js needs to show a clip, as attributes."""
    files = {"src": clip, "poster": poster, "strip": strip}
    links = "".join(f'data-{name}="{escape(file_url(path))}" ' for name, path in files.items() if path)
    return f'{links}data-label="{escape(label)}"'


def reading(found: PocketReading | None) -> str:
    """The small model's reading of an idea: what it lacks, and the prompt that it becomes."""
    if found is None or not found.prompt:
        return ""
    left_out = note(f"Left out: {lacks(found)}." if found.not_kept else "", "warning")
    new = ", ".join(found.unpractised)
    doubt = note(f"New to this model, so it may fail: {new}." if new else "")
    return (
        f'{left_out}{doubt}<details class="mova-reading"><summary>Completed for this model</summary>'
        f'<p class="mova-text">{escape(found.prompt)}</p></details>'
    )


def waiting(ahead: int) -> str:
    """The run's place in the queue."""
    clips = "1 clip" if ahead == 1 else f"{ahead} clips"
    return (
        '<div class="mova-run"><div class="mova-preview"></div>'
        f'<p role="status" aria-live="polite"><b>Waiting</b> <span>{clips} before yours</span></p></div>'
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
