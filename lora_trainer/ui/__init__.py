"""The train tab: clips, captions, settings with their cost, runs."""

import os
from collections.abc import Callable

import gradio as gr

from lora_trainer.ui import pieces
from lora_trainer.ui.events import PRIVATE, Updates, wire_clips
from lora_trainer.ui.layout import TrainTab, lay_out
from lora_trainer.ui.run_events import wire_runs
from lora_trainer.ui.workshop import Workshop
from mova.types import UserError
from mova.ui import html
from mova.ui.generate import GenerateTab
from mova.ui.studio import Studio

TITLE = "Teach it a face, a voice, a thing"
ABOUT = (
    "A few clips of your own make an adapter: a small file that adds a look and a sound to the model. "
    "It cannot be trained on this page."
)


def build_train(
    studio: Studio, visitor: gr.BrowserState, generate: GenerateTab, tabs: gr.Tabs, tab: gr.Tab
) -> None:
    """Fill the Train tab; finished adapters are offered in `generate`."""
    shop = Workshop(studio)
    can_sign_in = bool(studio.settings.space_id and os.environ.get("OAUTH_CLIENT_ID"))
    if (why := shop.why_not()) and not (can_sign_in and shop.lends_to_owner):
        gr.HTML(html.empty(TITLE, ABOUT), elem_id="train-empty")
        gr.HTML(pieces.note(why, "warning"))
        return
    if can_sign_in:
        gate = gr.HTML(pieces.note(why, "warning"))
        gr.LoginButton(size="sm")
    train = lay_out(studio)
    opened = tab.select
    if can_sign_in:
        opened = wire_gate(shop, train, gate, visitor, opened)
    wire_clips(shop, train, visitor, opened)
    wire_runs(shop, train, visitor, opened, generate, tabs)


def wire_gate(
    shop: Workshop, train: TrainTab, gate: gr.HTML, visitor: gr.BrowserState, opened: Callable
) -> Callable:
    """On a Space: only its owner comes in. What registers for the moment after that is known."""

    def admit(visitor_name: str, profile: gr.OAuthProfile | None) -> Updates:
        try:
            why = shop.admit(visitor_name, profile.username if profile else "")
        except UserError as error:
            why = str(error)
        return {gate: pieces.note(why, "warning"), train.body: gr.update(visible=not why)}

    return opened(admit, [visitor], [gate, train.body], **PRIVATE).then
