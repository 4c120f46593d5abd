"""A picture field that leaves the opening of the file to us."""

import gradio as gr
from gradio.data_classes import ImageData


class PictureField(gr.Image):
    """gr.Image of type "filepath" that hands over any file as it came.

    gradio's own opens it before a handler or validator is asked, and of what it cannot open says "Error".
    """

    is_template = True  # drawn as gr.Image

    def preprocess(self, payload: ImageData | None) -> str | None:
        return payload.path if payload else None
