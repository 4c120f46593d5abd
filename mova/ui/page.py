"""The page as a whole: its head, its tabs, and what they share."""

from collections.abc import Callable

import gradio as gr

from mova.ui import enhance_events, generate_events, html
from mova.ui.api import add_endpoints
from mova.ui.enhance import build_enhance
from mova.ui.examples import read_examples
from mova.ui.generate import GenerateTab, build_generate
from mova.ui.studio import Studio

TITLE = "MOVA: video with sound"
MAX_QUEUE = 64  # requests of all kinds that may wait; clips have their own line

# Given what the tabs share, the generate tab, all tabs, and its own.
BuildTrainTab = Callable[[Studio, gr.BrowserState, GenerateTab, gr.Tabs, gr.Tab], None]


def build_page(studio: Studio, build_train: BuildTrainTab | None = None) -> gr.Blocks:
    """The page. `build_train` fills the Train tab, which there is only with it."""
    examples = read_examples(studio.settings.examples)
    hours = min(studio.settings.keep_hours, 24)
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, int(hours * 3600))
    ) as demo:
        visitor = gr.BrowserState(None, storage_key="mova-visitor", secret="mova-visitor")
        with gr.Row(elem_id="mova-head", equal_height=True):
            with gr.Column(scale=5, min_width=240):
                gr.HTML(
                    "<h1>Video with sound</h1>"
                    "<p>From a picture and a sentence, in one go: what you see and what you hear.</p>"
                )
            if studio.settings.space_id:
                gr.DuplicateButton("Duplicate this Space", size="sm", scale=1, min_width=160)
        with gr.Tabs(selected="generate") as tabs:
            with gr.Tab("Generate", id="generate"):
                generate_tab = build_generate(studio, examples)
            with gr.Tab("Write a prompt", id="enhance"):
                enhance_tab = build_enhance(studio)
            if build_train is not None:
                with gr.Tab("Train", id="train", elem_id="train-tab") as train_tab:
                    build_train(studio, visitor, generate_tab, tabs, train_tab)
        machine = gr.HTML(html.note(studio.machine), elem_id="machine")
        generate_events.wire(studio, generate_tab, visitor, machine, examples, demo)
        enhance_events.wire(studio, enhance_tab, visitor, generate_tab, tabs)
        add_endpoints(studio)
    demo.queue(max_size=MAX_QUEUE, default_concurrency_limit=16)
    return demo
