"""The train tab: clips, captions, settings with their cost, runs."""

import gradio as gr

from lora_trainer.ui import pieces
from lora_trainer.ui.events import wire_clips
from lora_trainer.ui.layout import lay_out
from lora_trainer.ui.run_events import wire_runs
from lora_trainer.ui.workshop import Workshop
from mova.ui import html
from mova.ui.generate import GenerateTab
from mova.ui.studio import Studio


def build_train(
    studio: Studio, visitor: gr.BrowserState, generate: GenerateTab, tabs: gr.Tabs, tab: gr.Tab
) -> None:
    """Fill the Train tab; finished adapters are offered in `generate`."""
    shop = Workshop(studio)
    if why := shop.why_not():
        gr.HTML(html.empty("Teach it a face, a voice, a thing", ABOUT), elem_id="train-empty")
        gr.HTML(pieces.note(why, "warning"))
        return
    train = lay_out(studio)
    opened = [tab.select, visitor.change]
    wire_clips(shop, train, visitor, opened)
    wire_runs(shop, train, visitor, opened, generate, tabs)


ABOUT = (
    "A few clips of your own make an adapter: a small file that adds a look and a sound to the model. "
    "It cannot be trained on this page."
)
