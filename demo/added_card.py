"""The card of what was added to the form: a choice, a part to mark, and what is kept and made."""

from pathlib import Path

import gradio as gr
from gradio.components import Component

from demo import html
from demo.added import (
    CLIP,
    EXTEND,
    REDO_PICTURE,
    REDO_SOUND,
    RETAKE,
    SILENT,
    SOUND,
    making,
    probe,
)
from demo.fields import Updates
from demo.form import Form
from demo.settings import Settings
from mova.errors import UserError
from mova.media.clips import read_settings

ACT_CHOICES = [
    ("Extend", EXTEND),
    ("Redo the sound", REDO_SOUND),
    ("Redo the picture", REDO_PICTURE),
    ("Fix a part", RETAKE),
]
BUTTON, ANYWAY = "Generate", "Generate anyway"
BUTTONS = {
    EXTEND: "Extend the clip",
    REDO_SOUND: "Make the sound",
    REDO_PICTURE: "Make the picture",
    RETAKE: "Fix the part",
}
DESCRIPTIONS = {
    SOUND: "Your sound gets a picture; you can add a first frame too.",
    SILENT: "Your silent video gets a sound.",
    CLIP: "Your clip",
}


class AddedCard:
    """The card's components, named like the fields of `Form`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.added = gr.State("")
        with gr.Column(visible=False, elem_id="added", elem_classes="mova-card") as self.box:
            self.about = gr.HTML(elem_id="added-about")
            self.act = gr.Radio(ACT_CHOICES, value=EXTEND, label="What to do with it", elem_id="act")
            part = {"minimum": 0, "maximum": settings.max_seconds, "step": 0.01, "min_width": 140}
            with gr.Row(elem_classes="mova-phone-wrap") as self.span:
                self.span_start = gr.Slider(label="From (s)", value=0, elem_id="span-start", **part)
                self.span_end = gr.Slider(label="To (s)", value=0, elem_id="span-end", **part)
            self.strength = gr.Slider(
                0.05,
                1,
                value=1,
                step=0.05,
                label="How much may change",
                info="1: made from nothing; less stays closer to what it was, and is faster.",
                elem_id="strength",
            )
            self.tracks = gr.HTML(elem_id="tracks")
            with gr.Row(elem_classes="mova-buttons"):
                self.load = gr.Button("Load settings", size="sm", elem_id="load-added", min_width=110)
                self.remove = gr.Button("Remove", size="sm", elem_id="remove-added", min_width=90)
        self.parts: dict[str, Component] = {
            "added": self.added,
            "act": self.act,
            "span_start": self.span_start,
            "span_end": self.span_end,
            "strength": self.strength,
        }

    @property
    def shown(self) -> list[Component]:
        """The components that `show` sets."""
        return [self.box, self.about, self.act, self.span, self.strength, self.tracks, self.load]

    def choose_act(self, path: str, act: str) -> Updates:
        """The part that a choice starts with: a middle third to fix, else all."""
        try:
            seconds = round(probe(Path(path)).seconds, 2)
        except UserError:  # the file is gone: the card says so
            return {}
        part = (round(seconds / 3, 2), round(2 * seconds / 3, 2)) if act == RETAKE else (0.0, seconds)
        return {
            component: gr.update(value=value, maximum=seconds)
            for component, value in zip((self.span_start, self.span_end), part, strict=True)
        }

    def take(self, path: Path) -> Updates:
        """Put a sound or a video in. Raises UserError if it cannot be read."""
        probe(path)
        return {self.added: str(path), self.act: EXTEND, self.strength: 1} | self.choose_act(
            str(path), EXTEND
        )

    def show(self, form: Form) -> Updates:
        """The card for what the form holds."""
        if not form.added:
            return {self.box: gr.update(visible=False)}
        path = Path(form.added)
        try:
            added = form.read_added()
        except UserError as error:
            return {self.box: gr.update(visible=True), self.tracks: html.note(str(error), "error")}
        try:
            tracks = html.tracks(making(form.request(self.settings)))
        except UserError as error:
            tracks = html.note(str(error), "error")
        is_part = added.kind == CLIP and form.act != EXTEND
        return {
            self.box: gr.update(visible=True),
            self.about: html.note(f"{path.name}, {added.seconds:.2f} s. {DESCRIPTIONS[added.kind]}"),
            self.act: gr.update(visible=added.kind == CLIP),
            self.span: gr.update(visible=is_part),
            self.strength: gr.update(visible=is_part),
            self.tracks: tracks,
            self.load: gr.update(visible=added.kind == CLIP and has_settings(path)),
        }


def has_settings(path: Path) -> bool:
    """True for a clip that says how it was made."""
    try:
        return bool(read_settings(path))
    except UserError:
        return False
