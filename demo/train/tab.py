"""The train tab: clips, captions, settings with their cost, runs."""

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from demo.generate_form import GenerateTab
from demo.html import empty
from demo.service import DemoService, client_address
from demo.train import html
from demo.train.form import LABELS, TrainForm, default_steps, has_examples, is_small
from demo.train.runs import PRIVATE, TrainTab, Updates, signed, wire_runs
from demo.train.service import TrainService
from demo.train.worker import Looks
from demo.writers import configured_endpoint
from lora_trainer.jobs.hub import HubLogin
from mova.errors import BackendError, UserError

TITLE = "Teach it a face, a voice, a thing"
ABOUT = (
    "A few clips of your own make an adapter: a small file that adds a look and a sound to the model. "
    "It cannot be trained on this page."
)


REMOVE = """element.addEventListener('click', event => {
  const button = event.target.closest('[data-remove]');
  if (button) { button.disabled = true; trigger('click', {name: button.dataset.remove}); }
});"""
TABLE = ("Clip", "What is seen and heard")
RECIPES = [("Balanced", "balanced"), ("As the public trainer", "released"), ("As in the paper", "paper")]


def lay_out(studio: DemoService, rents: bool = False) -> TrainTab:
    """`rents`: machines of the Hub can be chosen, which are told when the tab comes into view."""
    parts: dict[str, object] = {}
    by_name: dict[str, gr.components.Component] = {}
    with gr.Column(elem_id="train-body", visible=not studio.settings.space_id) as body:
        parts |= _lay_out_clips()
        parts |= _lay_out_captions()
        parts |= _lay_out_settings(studio, by_name, rents)
        parts |= _lay_out_run()
    parts |= {"body": body, "timer": gr.Timer(2, active=False)}
    return TrainTab(**parts, form=[by_name[field.name] for field in fields(TrainForm)])


def _lay_out_clips() -> dict:
    gr.HTML(html.head(1, "Clips", "What the model shall learn, seen and heard."))
    upload = gr.File(
        label="Add clips (and .txt captions)",
        file_count="multiple",
        type="filepath",
        height=130,
        elem_id="train-upload",
    )
    with gr.Row(elem_classes="mova-phone-wrap"):
        notes = gr.HTML(elem_id="train-clip-notes")
        mend = gr.Button("Mend what is safe", size="sm", visible=False, elem_id="train-mend", scale=0)
    cards = gr.HTML(html.cards([], None), js_on_load=REMOVE, elem_id="train-clips")
    return {"upload": upload, "clip_notes": notes, "mend": mend, "cards": cards}


def _lay_out_captions() -> dict:
    gr.HTML(
        html.head(
            2,
            "Captions",
            'What is seen and heard in each clip. Put spoken words in "quotes". It is saved as you write.',
        )
    )
    table = gr.Dataframe(
        headers=list(TABLE),
        datatype=["str", "str"],
        type="array",
        column_count=2,
        row_count=0,
        static_columns=[0],
        column_widths=["26%", "74%"],
        wrap=True,
        interactive=True,
        label="Captions",
        show_label=False,
        buttons=[],
        elem_id="train-table",
    )
    has_server = configured_endpoint() is not None
    with gr.Row(elem_classes="mova-phone-wrap"):
        suggest = gr.Button(
            "Suggest what is missing", size="sm", elem_id="train-suggest", scale=0, min_width=190
        )
        notes = gr.HTML(elem_id="train-caption-notes")
    with gr.Accordion("Who suggests", open=False, elem_id="train-server"):
        gr.HTML(html.note("A model that sees pictures, behind an OpenAI-compatible address. It cannot hear."))
        with gr.Row(elem_classes="mova-phone-wrap"):
            url = gr.Textbox(
                label="Address",
                placeholder="as configured" if has_server else "http://localhost:8000/v1",
                elem_id="train-server-url",
            )
            model = gr.Textbox(
                label="Model", placeholder="the first that it lists", elem_id="train-server-model"
            )
            key = gr.Textbox(
                label="Key",
                info="Sent to that address only, and kept nowhere.",
                type="password",
                elem_id="train-server-key",
            )
    return {"table": table, "suggest": suggest, "caption_notes": notes, "server": [url, model, key]}


def _lay_out_settings(studio: DemoService, by_name: dict, rents: bool) -> dict:
    gr.HTML(html.head(3, "What to learn", "And what it will cost, before you start."))
    with gr.Row(elem_classes="mova-phone-wrap"):
        by_name["name"] = gr.Textbox(label="Name", placeholder="anna", elem_id="train-name", scale=1)
        by_name["prompt"] = gr.Textbox(
            label="Clip that shows what was learnt",
            info="Made before, during and after training, always with the same seed.",
            placeholder="as the first caption",
            elem_id="train-prompt",
            scale=3,
            min_width=280,
        )
    by_name["preset"] = gr.Radio(
        [(label, name) for name, label in LABELS.items()],
        value="look_and_voice",
        label="What it learns",
        elem_id="train-preset",
        elem_classes="mova-wrap",
    )
    examples = has_examples(studio.model)
    what = "its own examples" if examples else "prompts that you list under Advanced"
    by_name["keep"] = gr.Checkbox(
        examples and is_small(studio.model),
        label="Keep what it can already",
        info=f"Before training, the model makes clips of {what}; half of the training is then on these, "
        "so that other prompts change less.",
        elem_id="train-keep",
    )
    with gr.Accordion("Advanced", open=False, elem_id="train-advanced"):
        _lay_out_advanced(studio, by_name, rents)
    hardware = gr.Dropdown(
        [],
        label="Machine",
        info="Rented by the minute, at the prices of now.",
        elem_id="train-hardware",
        visible=rents,
    )
    return {"hardware": hardware, "cost": gr.HTML(elem_id="train-cost", padding=True)}


def _lay_out_advanced(studio: DemoService, by_name: dict, rents: bool) -> None:
    steps = default_steps(studio.model)
    with gr.Row(elem_classes="mova-phone-wrap"):
        for name, label, info, value in (
            ("steps", "Steps", "More is more time, and more learnt by heart.", steps),
            ("rank", "Rank", "How much the file can hold. 0: as the preset.", 0),
            ("learning_rate", "Learning rate", "0: as usual for the model.", 0),
            ("accumulation", "Clips for a step", "0: as usual for the model.", 0),
        ):
            by_name[name] = gr.Number(
                value, label=label, info=info, elem_id=f"train-{name.replace('_', '-')}", min_width=150
            )
    with gr.Row(elem_classes="mova-phone-wrap"):
        by_name["recipe"] = gr.Dropdown(
            RECIPES, value="balanced", label="Recipe", elem_id="train-recipe", min_width=150
        )
        by_name["trigger"] = gr.Textbox(
            label="Word before every caption",
            info="Write it in prompts to call up what was learnt.",
            elem_id="train-trigger",
            min_width=150,
        )
        by_name["seconds"] = gr.Number(
            0,
            label="Longest part (s)",
            info="Shorter needs less memory and time. 0: the model's length.",
            elem_id="train-seconds",
            min_width=150,
        )
        by_name["price"] = gr.Number(
            0,
            label="Price of an hour",
            info="For the estimate.",
            elem_id="train-price",
            min_width=150,
            visible=not rents,  # where the Hub tells it
        )
    default = " Empty: its own examples." if has_examples(studio.model) else ""
    by_name["keep_prompts"] = gr.Textbox(
        label="What it shall keep",
        info=f"A prompt a line, of what the model can.{default}",
        lines=3,
        max_lines=8,
        elem_id="train-keep-prompts",
    )


def _lay_out_run() -> dict:
    gr.HTML(html.head(4, "Run", "It goes on when you close the page, and can be stopped and resumed."))
    parts: dict[str, object] = {
        "start": gr.Button("Start training", variant="primary", elem_id="train-start"),
        "start_notes": gr.HTML(elem_id="train-start-notes"),
    }
    with gr.Column(visible=False, elem_id="train-run") as box:
        parts["runs"] = gr.Dropdown([], label="Your runs", elem_id="train-runs")
        parts["status"] = gr.HTML(elem_id="train-status")
        parts["charts"] = gr.HTML(elem_id="train-charts")
        parts["samples"] = gr.HTML(elem_id="train-samples")
        with gr.Row(elem_classes="mova-phone-wrap"):
            for name, label in (("stop", "Stop"), ("go_on", "Go on"), ("use", "Use in Generate")):
                variant = "primary" if name == "use" else "secondary"
                parts[name] = gr.Button(
                    label,
                    size="sm",
                    variant=variant,
                    visible=False,
                    scale=0,
                    min_width=130,
                    elem_id=f"train-{name}",
                )
            parts["download"] = gr.DownloadButton(
                "Download", size="sm", visible=False, scale=0, min_width=130, elem_id="train-download"
            )
            parts["delete"] = gr.Button(
                "Delete", size="sm", visible=False, scale=0, min_width=100, elem_id="train-delete"
            )
        parts |= _lay_out_push()
        with gr.Accordion("What the trainer wrote", open=False):
            parts["log"] = gr.Textbox(
                label="Log", show_label=False, lines=8, max_lines=16, elem_id="train-log", interactive=False
            )
    return parts | {"run_box": box}


def _lay_out_push() -> dict:
    with gr.Accordion(
        "Put it on the Hugging Face Hub", open=False, visible=False, elem_id="train-push-box"
    ) as box:
        gr.HTML(html.note("With a page that plays the base model and yours side by side."))
        with gr.Row(elem_classes="mova-phone-wrap"):
            repo = gr.Textbox(label="Repo", placeholder="your-name/anna", elem_id="train-repo")
            public = gr.Checkbox(False, label="Everybody may see it", elem_id="train-public")
        push = gr.Button("Upload", size="sm", elem_id="train-push")
        notes = gr.HTML(elem_id="train-push-notes")
    return {"push_box": box, "repo": repo, "public": public, "push": push, "push_notes": notes}


NO_CAPTIONS = "The cost is told when every clip has a caption."


class ClipEvents:
    """Handlers of steps 1 to 3. They return updates by component."""

    def __init__(self, shop: TrainService, tab: TrainTab) -> None:
        self.shop, self.tab = shop, tab

    def show(self, visitor: str) -> Updates:
        """The clips and captions as they are, before anything is looked at."""
        tab = self.tab
        try:
            items = self.shop.clips(self.shop.owner(visitor)).items()
        except UserError as error:
            return {tab.clip_notes: html.note(str(error), "error")}
        rows = [[item.name, item.caption] for item in items]
        return {tab.cards: html.cards(items, None), tab.table: gr.update(value=rows, visible=bool(rows))}

    def add(self, visitor: str, files: list[str] | None) -> Updates:
        """Take in what was uploaded."""
        try:
            told = self.shop.clips(self.shop.owner(visitor)).add(map(Path, files or ()))
        except (UserError, BackendError) as error:
            told = [str(error)]
        updates = self.show(visitor)
        return {self.tab.upload: None, self.tab.clip_notes: html.notes(told, "error")} | updates

    def look(self, visitor: str, *form: object) -> Updates:
        """What the doctor finds."""
        tab = self.tab
        try:
            owner = self.shop.owner(visitor)
            looks, items = self.shop.look(owner, TrainForm.read(form)), self.shop.clips(owner).items()
        except (UserError, BackendError) as error:
            return {tab.clip_notes: html.note(str(error), "error"), tab.mend: gr.update(visible=False)}
        return self._found(looks, items)

    def remove(self, visitor: str, event: gr.EventData) -> Updates:
        try:
            self.shop.clips(self.shop.owner(visitor)).remove(str(event.name))
        except (UserError, OSError) as error:
            return {self.tab.clip_notes: html.note(str(error), "error")} | self.show(visitor)
        return self.show(visitor)

    def mend(self, visitor: str, *form: object) -> Updates:
        try:
            told = self.shop.mend(self.shop.owner(visitor), TrainForm.read(form))
        except (UserError, BackendError) as error:
            return {self.tab.clip_notes: html.note(str(error), "error")}
        return self.show(visitor) | {self.tab.caption_notes: html.notes(told, "good")}

    def write(self, visitor: str, rows: list[list[str]]) -> Updates:
        """Save the captions of the table."""
        try:
            captions = {str(name): str(text or "") for name, text in rows}
            self.shop.clips(self.shop.owner(visitor)).write_captions(captions)
        except (UserError, BackendError) as error:
            return {self.tab.caption_notes: html.note(str(error), "error")}
        return {self.tab.caption_notes: html.note("Saved.", "good")}

    def suggest(self, request: gr.Request, visitor: str, *server: str) -> Updates:
        tab = self.tab
        try:
            told = self.shop.suggest(self.shop.owner(visitor), server, client_address(request))
            said = html.note("Read them over, and add what is heard.", "good") + html.notes(told, "warning")
        except (UserError, BackendError) as error:
            said = html.note(str(error), "error")
        return self.show(visitor) | {tab.caption_notes: said}

    def cost(self, visitor: str, flavor: str | None, *form: object) -> str:
        """What a run would take, on a machine of the Hub if one is chosen."""
        simple, most = TrainForm.read(form), 0
        try:
            owner = self.shop.owner(visitor)
            if not self.shop.clips(owner).videos():
                return ""
            hardware = self.shop.away.offer(flavor) if flavor else None
            cost = self.shop.cost(owner, simple, hardware)
            if hardware and cost:
                simple, most = replace(simple, price=hardware.price), self.shop.away.limit(cost)
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        if cost is None:
            return html.note(NO_CAPTIONS)
        steps = int(simple.steps or default_steps(self.shop.studio.model))
        return html.cost(cost, steps, simple.price, self.shop.pace(owner, flavor or ""), most)

    def _found(self, looks: Looks, items: list) -> Updates:
        tab, count = self.tab, looks.fixable
        label = "Mend what is safe" if count == 1 else f"Mend what is safe ({count})"
        return {
            tab.cards: html.cards(items, looks),
            tab.clip_notes: html.summary(looks) if looks.clips else "",
            tab.mend: gr.update(visible=count > 0, value=label),
        }


def wire_clips(shop: TrainService, tab: TrainTab, visitor: gr.BrowserState, opened: Callable) -> None:
    """Connect steps 1 to 3; `opened` registers what happens when the tab comes into view."""
    events = ClipEvents(shop, tab)
    shown = [tab.cards, tab.table, tab.clip_notes]
    found = [tab.cards, tab.clip_notes, tab.mend]
    asked, costed = [visitor, *tab.form], [visitor, tab.hardware, *tab.form]

    def then_look(event: Any) -> None:  # noqa: ANN401 - gradio's dependency
        looked = event.then(events.look, asked, found, **PRIVATE)
        looked.then(events.cost, costed, [tab.cost], **PRIVATE)

    then_look(opened(events.show, [visitor], shown, **PRIVATE))
    then_look(tab.upload.upload(events.add, [visitor, tab.upload], [tab.upload, *shown], **PRIVATE))
    then_look(tab.cards.click(events.remove, [visitor], shown, **PRIVATE))
    mended = tab.mend.click(events.mend, asked, [*shown, tab.caption_notes], **PRIVATE)
    then_look(mended)
    written = tab.table.input(
        events.write, [visitor, tab.table], [tab.caption_notes], trigger_mode="always_last", **PRIVATE
    )
    then_look(written)
    suggested = tab.suggest.click(
        events.suggest, [visitor, *tab.server], [*shown, tab.caption_notes], concurrency_limit=2,
        api_visibility="private",
    )  # fmt: skip
    then_look(suggested)
    gr.on(
        [each.change for each in (tab.hardware, *tab.form) if each is not tab.field("name")],
        events.cost,
        costed,
        [tab.cost],
        trigger_mode="always_last",
        **PRIVATE,
    )


def build_train(
    studio: DemoService, visitor: gr.BrowserState, generate: GenerateTab, tabs: gr.Tabs, tab: gr.Tab
) -> None:
    """Fill the Train tab; finished adapters are offered in `generate`."""
    shop = TrainService(studio)
    can_sign_in = bool(studio.settings.space_id and os.environ.get("OAUTH_CLIENT_ID"))
    if (why := shop.why_not()) and not (can_sign_in and (shop.lends_to_owner or shop.away.is_open)):
        gr.HTML(empty(TITLE, ABOUT), elem_id="train-empty")
        gr.HTML(html.note(why, "warning"))
        return
    if can_sign_in:
        gate = gr.HTML(html.note(why, "warning"))
        gr.LoginButton(size="sm")
    train = lay_out(studio, shop.away.is_open)
    opened = tab.select
    if can_sign_in:
        opened = wire_gate(shop, train, gate, visitor, opened)
    wire_clips(shop, train, visitor, opened)
    wire_runs(shop, train, visitor, opened, generate, tabs)


def wire_gate(
    shop: TrainService, train: TrainTab, gate: gr.HTML, visitor: gr.BrowserState, opened: Callable
) -> Callable:
    """On a Space: who may train comes in. What registers for the moment after that is known."""

    def admit(login: HubLogin | None, visitor_name: str, chosen: str | None) -> Updates:
        return admitted(shop, train, gate, login, visitor_name, chosen)

    shown = [gate, train.body, train.hardware]
    return opened(signed(shop, admit), [visitor, train.hardware], shown, **PRIVATE).then


def admitted(
    shop: TrainService,
    train: TrainTab,
    gate: gr.HTML,
    login: HubLogin | None,
    visitor: str,
    chosen: str | None,
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
            offers = [(html.offer(each), each.flavor) for each in shop.away.offers()]
            value = "" if here else shop.away.proposed().flavor
        except (UserError, BackendError) as error:
            told, offers, value = str(error), [], "" if here else None
        choices = here + offers
        kept = chosen in [flavor for _, flavor in choices]
        offered = gr.update(choices=choices, value=chosen if kept else value)
    return {
        gate: html.note(told, "warning"),
        train.body: gr.update(visible=not why),
        train.hardware: offered,
    }
