"""The enhance tab: an idea becomes prompts side by side, each marked, checked, mended and editable."""

from dataclasses import dataclass, field

import gradio as gr

from mova.ui import html
from mova.ui.machine import sample_prompts
from mova.ui.picture import PictureField
from mova.ui.studio import Studio
from mova.ui.writers import SERVER, configured_endpoint, local_models, offered_writers

CARDS, REPAIRS = 3, 4
EMPTY = (
    "From an idea to a prompt",
    "Say in a few words what happens. What you put in quotes is kept word for word.",
)


@dataclass
class Card:
    """One candidate: its text, what was added and what is wrong, and buttons that put it right."""

    box: gr.Column
    marked: gr.HTML
    text: gr.Textbox
    faults: gr.HTML
    repairs: list[gr.Button]
    use: gr.Button
    fixes: gr.State


@dataclass
class EnhanceTab:
    """The tab's components. `writer` has one for each field of `WriterChoice`."""

    idea: gr.Textbox
    image: gr.Image
    seconds: gr.Slider
    count: gr.Radio
    writer: list[gr.components.Component]
    server: gr.Column
    local: gr.Column
    test: gr.Button
    test_note: gr.HTML
    write: gr.Button
    stop: gr.Button
    status: gr.HTML
    kept: gr.HTML
    cards: list[Card] = field(default_factory=list)


def build_enhance(studio: Studio) -> EnhanceTab:
    """Lay the tab out; `enhance_events.wire` brings it to life."""
    parts: dict[str, object] = {}
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            parts["idea"] = gr.Textbox(
                label="Your idea",
                info='Put spoken words in "quotes"; they are never changed.',
                placeholder=sample_prompts(studio.model_name)[1],
                lines=4,
                max_lines=10,
                elem_id="idea",
            )
            parts["write"] = gr.Button("Write the prompt", variant="primary", elem_id="write")
            parts["stop"] = gr.Button("Stop", size="sm", visible=False, elem_id="stop-writing")
        with gr.Column(scale=2, min_width=260):
            parts["count"] = gr.Radio(
                [("One", 1), ("Two", 2), ("Three", 3)],
                value=1,
                label="How many to choose from",
                elem_id="count",
            )
            parts["seconds"] = gr.Slider(
                0.5,
                studio.max_seconds,
                value=studio.default_seconds,
                step=0.1,
                label="Seconds",
                elem_id="idea-seconds",
            )
            parts |= _lay_out_writer(studio)
            with gr.Accordion("First frame", open=False):
                parts["image"] = PictureField(
                    label="The picture the clip starts from (optional)",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=180,
                    elem_id="idea-image",
                    buttons=[],
                )
    parts["status"] = gr.HTML(html.empty(*EMPTY), elem_id="enhance-status", padding=True)
    parts["kept"] = gr.HTML(elem_id="kept", padding=True)
    with gr.Row(equal_height=False, elem_classes="mova-phone-wrap"):
        cards = [_lay_out_card(number) for number in range(CARDS)]
    return EnhanceTab(**parts, cards=cards)


def _lay_out_writer(studio: Studio) -> dict:
    offered = offered_writers(studio)
    kind = gr.Radio(offered, value=offered[0][1], label="Who writes", elem_id="writer")
    is_configured = configured_endpoint() is not None
    with gr.Column(
        visible=offered[0][1] == SERVER and not is_configured, elem_classes="mova-tight"
    ) as server:
        url = gr.Textbox(
            label="Address of the server",
            info="OpenAI-compatible, such as http://localhost:8000/v1",
            placeholder="as configured" if is_configured else "http://localhost:8000/v1",
            elem_id="server-url",
        )
        model = gr.Textbox(label="Model", placeholder="the first that it lists", elem_id="server-model")
        key = gr.Textbox(
            label="Key",
            info="Sent to that address only, and kept nowhere.",
            type="password",
            elem_id="server-key",
        )
        test = gr.Button("Test the server", size="sm", elem_id="test-server")
        test_note = gr.HTML(elem_id="test-note")
    with gr.Column(visible=False, elem_classes="mova-tight") as local:
        source = gr.Dropdown(
            local_models(),
            value=None,
            allow_custom_value=True,
            label="Model",
            info="A folder or a repo id; it is downloaded at the first use.",
            elem_id="local-model",
        )
    return {
        "writer": [kind, url, model, key, source],
        "server": server,
        "local": local,
        "test": test,
        "test_note": test_note,
    }


def _lay_out_card(number: int) -> Card:
    with gr.Column(visible=False, min_width=280, elem_id=f"card-{number}") as box:
        marked = gr.HTML(elem_id=f"marked-{number}", padding=True)
        text = gr.Textbox(
            label="Prompt (edit as you like)", lines=8, max_lines=16, elem_id=f"candidate-{number}"
        )
        faults = gr.HTML(elem_id=f"faults-{number}")
        repairs = [
            gr.Button(visible=False, size="sm", elem_id=f"repair-{number}-{index}")
            for index in range(REPAIRS)
        ]
        use = gr.Button("Use in Generate", variant="primary", elem_id=f"use-{number}")
        fixes = gr.State([])
    return Card(box, marked, text, faults, repairs, use, fixes)
