"""The doctor's report: for the terminal, and as one HTML page with thumbnails and waveforms inside."""

import base64
import io
from collections import Counter
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from lora_trainer.doctor import SEVERITIES, Examination, ExaminedClip
from mova.errors import printable
from mova.files import new_output

WAVE = (400, 60)  # width, height
THUMBNAILS = 5
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #ccc; padding: .8rem 0; } h2 { font-size: 1rem; margin: 0; }
img { height: 72px; margin-right: 3px; } svg { background: #f4f4f4; display: block; margin: 4px 0; }
.error { color: #a40000; } .warning { color: #8a5a00; } .note { color: #555; } p { margin: .2rem 0; }
"""


def text_report(examination: Examination) -> str:
    """Findings by clip, worst first, and what the data set amounts to."""
    lines = []
    for clip in examination.clips:
        for finding in sorted(clip.findings, key=lambda finding: SEVERITIES.index(finding.severity)):
            text = f"{finding.clip}: {finding.kind}: {finding.figure}. {finding.fix}"
            lines.append(f"{finding.severity:8} {printable(text)}")
    return "\n".join([*lines, summary(examination)]) + "\n"


def summary(examination: Examination) -> str:
    counts = Counter(finding.severity for finding in examination.findings)
    buckets = Counter(window.bucket for window in examination.windows)
    sizes = ", ".join(f"{n} of {w}x{h} x {frames}" for (h, w, frames), n in sorted(buckets.items()))
    seconds = sum(window.seconds for window in examination.windows)
    found = ", ".join(f"{counts[severity]} {severity}s" for severity in SEVERITIES)
    kept = sum(clip.item.is_regularization for clip in examination.clips)
    clips = f"{len(examination.clips) - kept} clips{f' and {kept} for regularization' if kept else ''}"
    return f"{clips}, {seconds:.1f} s to train on ({sizes or 'no windows'}): {found}"


def html_report(examination: Examination, path: Path) -> None:
    """Write the page, whole or not at all; an older report is replaced."""
    sections = "".join(section(clip) for clip in examination.clips)
    page = (
        f"<!doctype html><meta charset=utf-8><title>Clips</title><style>{STYLE}</style>"
        f"<h1>Clips</h1><p>{escape(summary(examination))}</p>{sections}"
    )
    with new_output(path, overwrite=True) as temporary:
        temporary.write_text(page, encoding="utf-8")


def section(clip: ExaminedClip) -> str:
    findings = "".join(
        f"<p class={finding.severity}><b>{escape(finding.kind)}</b>: {escape(finding.figure)}. "
        f"{escape(finding.fix)}</p>"
        for finding in sorted(clip.findings, key=lambda finding: SEVERITIES.index(finding.severity))
    )
    caption = f"<p>{escape(clip.item.caption)}</p>"
    pictures = f"{thumbnails(clip)}{waveform(clip)}"
    return f"<section><h2>{escape(clip.item.name)}</h2>{pictures}{caption}{findings}</section>"


def thumbnails(clip: ExaminedClip) -> str:
    if clip.picture is None:
        return ""
    chosen = np.linspace(0, len(clip.picture.frames) - 1, THUMBNAILS).astype(int)
    return "".join(f'<img alt="" src="{data_url(clip.picture.frames[index])}">' for index in chosen)


def data_url(frame: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def waveform(clip: ExaminedClip) -> str:
    if clip.sound is None or not clip.sound.size:
        return ""
    width, height = WAVE
    peaks = [np.abs(part).max(initial=0) for part in np.array_split(clip.mono, width)]
    half = height / 2
    bars = "".join(f"M{x} {half - peak * half:.1f}V{half + peak * half:.1f}" for x, peak in enumerate(peaks))
    return f'<svg width={width} height={height}><path d="{bars}" stroke="#357" fill="none"/></svg>'
