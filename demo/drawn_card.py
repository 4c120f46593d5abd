"""The card of a first frame from the words: drawn for pocket, painted for other models if one asks for it."""

import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components import Component

from demo import history, html
from demo.fields import Updates
from demo.form import Form
from demo.service import DemoService
from demo.settings import describe_model
from mova.prompting.first_frame import LocalPainter, first_frame_for, paint_locally
from mova.request import check_fields

if TYPE_CHECKING:
    from PIL.Image import Image

PAINT = "Paint a first frame"
MAX_SEED = 2**31


class DrawnCard:
    """The card's components; `drawn` is the field of `Form`."""

    def __init__(self, service: DemoService) -> None:
        self.service = service
        self.drawn = gr.State(0)
        with gr.Column(visible=False, elem_id="drawn", elem_classes="mova-card") as self.box:
            self.picture = gr.HTML(elem_id="drawn-picture")
            with gr.Row(elem_classes="mova-buttons"):
                self.another = gr.Button("Another", size="sm", elem_id="draw-another")
                self.none = gr.Button("No picture", size="sm", elem_id="draw-none")
                self.paint = gr.Button(PAINT, size="sm", elem_id="paint")
        self.parts: dict[str, Component] = {"drawn": self.drawn}

    @property
    def shown(self) -> list[Component]:
        """The components that `show` sets."""
        return [self.box, self.picture, self.another, self.none, self.paint]

    def show(self, form: Form, not_kept: tuple[str, ...]) -> Updates:
        """The clip's first frame from the words, or an offer of one; `not_kept` is said elsewhere."""
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        if form.can_be_painted(self.service.settings) and form.prompt.strip() and not form.image:
            offer = {self.picture: html.note("The clip starts from your words alone."), self.paint: shown}
            return {self.box: shown, self.another: hidden, self.none: hidden} | offer
        if not (form.draws_frame or replace(form, drawn=0).draws_frame):
            return {self.box: hidden}
        frame = first_frame_for(form.prompt, form.model, max(0, form.drawn))
        if frame.image is None:
            return {self.box: hidden}
        picture = html.note("The clip starts from nothing: faces may come out wrong.", "warning")
        if form.draws_frame:
            picture = html.picture(history.as_webp(frame.image), "The first frame, drawn from your words")
            lacks = "; ".join(reason for reason in frame.differs if reason not in not_kept)
            picture += html.notes(["Drawn from your words; the clip starts from it.", lacks])
        return {
            self.box: shown,
            self.picture: picture,
            self.another: gr.update(value="Another" if form.draws_frame else "Draw a picture", visible=True),
            self.none: gr.update(visible=form.draws_frame),
            self.paint: hidden,
        }

    def paint_frame(self, form: Form) -> "Image":
        """A picture of the form's words in the shape of its clip.

        Raises:
            UserError: something in the form is wrong.
            BackendError: the painter failed.
        """
        check_fields(prompt=form.prompt)
        height, width = form.size(describe_model(form.model, self.service.settings))
        painter = self.service.settings.painter
        if isinstance(painter, LocalPainter):
            in_process = partial(self.service.text_worker.call, paint_locally)
            painter = replace(painter, seed=secrets.randbelow(MAX_SEED), paint=in_process)
        return first_frame_for(form.prompt, form.model, 0, painter, height, width).image
