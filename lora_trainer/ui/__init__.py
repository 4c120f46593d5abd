"""The train tab: clips, captions, settings with their cost, runs."""

import os
from collections.abc import Callable

import gradio as gr

from lora_trainer.hub_jobs import Login
from lora_trainer.ui import pieces
from lora_trainer.ui.events import PRIVATE, Updates, wire_clips
from lora_trainer.ui.layout import TrainTab, lay_out
from lora_trainer.ui.login import signed
from lora_trainer.ui.run_events import wire_runs
from lora_trainer.ui.workshop import Workshop
from mova.types import BackendError, UserError
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
    if (why := shop.why_not()) and not (can_sign_in and (shop.lends_to_owner or shop.away.is_open)):
        gr.HTML(html.empty(TITLE, ABOUT), elem_id="train-empty")
        gr.HTML(pieces.note(why, "warning"))
        return
    if can_sign_in:
        gate = gr.HTML(pieces.note(why, "warning"))
        gr.LoginButton(size="sm")
    train = lay_out(studio, shop.away.is_open)
    opened = tab.select
    if can_sign_in:
        opened = wire_gate(shop, train, gate, visitor, opened)
    wire_clips(shop, train, visitor, opened)
    wire_runs(shop, train, visitor, opened, generate, tabs)


def wire_gate(
    shop: Workshop, train: TrainTab, gate: gr.HTML, visitor: gr.BrowserState, opened: Callable
) -> Callable:
    """On a Space: who may train comes in. What registers for the moment after that is known."""

    def admit(login: Login | None, visitor_name: str, chosen: str | None) -> Updates:
        return admitted(shop, train, gate, login, visitor_name, chosen)

    shown = [gate, train.body, train.hardware]
    return opened(signed(shop, admit), [visitor, train.hardware], shown, **PRIVATE).then


def admitted(
    shop: Workshop, train: TrainTab, gate: gr.HTML, login: Login | None, visitor: str, chosen: str | None
) -> Updates:
    """Whether the visitor comes in, and the machines that they may choose, with their prices."""
    name, offered = login.name if login else "", gr.update()
    try:
        why = told = shop.admit(visitor, name)
    except UserError as error:
        why = told = str(error)
    if not why and shop.away.is_open:
        here = [] if shop.why_not_here(name) else [("This Space's GPU", "")]
        try:
            offers = [(pieces.offer(each), each.flavor) for each in shop.away.offers()]
            value = "" if here else shop.away.proposed().flavor
        except (UserError, BackendError) as error:
            told, offers, value = str(error), [], "" if here else None
        choices = here + offers
        kept = chosen in [flavor for _, flavor in choices]
        offered = gr.update(choices=choices, value=chosen if kept else value)
    return {
        gate: pieces.note(told, "warning"),
        train.body: gr.update(visible=not why),
        train.hardware: offered,
    }
