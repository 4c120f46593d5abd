"""Shared by the tabs: options of private events, types of values, a server's fields, a picture field."""

from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component
from gradio.data_classes import ImageData

# Events of the page alone: they are no endpoints.
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
Values = dict[Component, Any]  # given to a handler whose inputs are a set
# By component; a handler may leave out outputs that stay as they are, but not all: {} is a value to gradio.
Updates = dict[Block, Any]


def server_fields(prefix: str, is_configured: bool, info: str | None = None) -> tuple[gr.Textbox, ...]:
    """Address, model and key of an OpenAI-compatible server."""
    address = gr.Textbox(
        label="Address",
        info=info,
        placeholder="as configured" if is_configured else "http://localhost:8000/v1",
        elem_id=f"{prefix}-url",
    )
    model = gr.Textbox(label="Model", placeholder="Empty = server's first model", elem_id=f"{prefix}-model")
    key = gr.Textbox(label="Key", info="Sent to this address only.", type="password", elem_id=f"{prefix}-key")
    return address, model, key


class PictureField(gr.Image):
    """gr.Image of type "filepath" that passes on any file unopened.

    gradio's own opens it before a handler or validator runs, and reports a file that cannot be opened as
    "Error".
    """

    is_template = True  # drawn as gr.Image

    def preprocess(self, payload: ImageData | None) -> str | None:
        return payload.path if payload else None
