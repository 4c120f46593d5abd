"""The train tab: clips, captions, settings with their cost, and the visitor's runs."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import gradio as gr
from gradio.components import Component

from demo.fields import PRIVATE, Updates, Values
from demo.generate_tab import GenerateTab
from demo.html import empty
from demo.service import DemoService, client_address
from demo.train import html
from demo.train.form import LABELS, TrainForm, default_steps, has_examples, is_small
from demo.train.runs import RunPanel, signed
from demo.train.service import TrainService
from demo.train.worker import Review
from demo.writers import SERVER, WriterChoice
from lora_trainer.jobs.hub import HubLogin
from lora_trainer.manifest import DatasetItem
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
NO_CAPTIONS = "The cost is shown when every clip has a caption."
FIX = "Fix what is safe"


def build_train(
    demo: DemoService, visitor: gr.BrowserState, generate: GenerateTab, tabs: gr.Tabs, tab: gr.Tab
) -> None:
    """Fill the Train tab, or say there why nothing is trained here."""
    service = TrainService(demo)
    can_sign_in = demo.settings.can_sign_in
    may_train = not service.why_not() or (can_sign_in and (service.lends_to_owner or service.rental.is_open))
    if not may_train:
        gr.HTML(empty(TITLE, ABOUT), elem_id="train-empty")
        gr.HTML(html.note(service.why_not(), "warning"))
        return
    gate = gr.HTML(html.note(service.why_not(), "warning"), visible=can_sign_in)
    if can_sign_in:
        gr.LoginButton(size="sm")
    train = TrainTab(service, visitor, generate, tabs, gate)
    train.connect(train.admit_first(tab.select) if can_sign_in else tab.select)


class TrainFields:
    """The settings' components, named like the fields of `TrainForm`."""

    def __init__(self, demo: DemoService, rents: bool) -> None:
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.name = gr.Textbox(label="Name", placeholder="anna", elem_id="train-name", scale=1)
            self.prompt = gr.Textbox(
                label="Clip that shows what was learnt",
                info="Made before, during and after training, always with the same seed.",
                placeholder="as the first caption",
                elem_id="train-prompt",
                scale=3,
                min_width=280,
            )
        self.preset = gr.Radio(
            [(label, name) for name, label in LABELS.items()],
            value="look_and_voice",
            label="What it learns",
            elem_id="train-preset",
            elem_classes="mova-wrap",
        )
        examples = has_examples(demo.model)
        source = "its own examples" if examples else "prompts that you list under Advanced"
        self.keep = gr.Checkbox(
            examples and is_small(demo.model),
            label="Keep what it can already",
            info=f"Before training, the model makes clips of {source}; half of the training is then on "
            "these, so that other prompts change less.",
            elem_id="train-keep",
        )
        with gr.Accordion("Advanced", open=False, elem_id="train-advanced"):
            self._lay_out_numbers(default_steps(demo.model))
            self._lay_out_recipe(rents)
            default = " Empty: its own examples." if examples else ""
            self.keep_prompts = gr.Textbox(
                label="What it shall keep",
                info=f"A prompt a line, of what the model can.{default}",
                lines=3,
                max_lines=8,
                elem_id="train-keep-prompts",
            )
        self.own: dict[str, Component] = {
            field.name: getattr(self, field.name) for field in fields(TrainForm)
        }

    def _lay_out_numbers(self, steps: int) -> None:
        def number(elem_id: str, label: str, info: str, value: int = 0) -> gr.Number:
            return gr.Number(value, label=label, info=info, elem_id=elem_id, min_width=150)

        usual = "0: as usual for the model."
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.steps = number("train-steps", "Steps", "More takes longer and can overfit.", steps)
            self.rank = number("train-rank", "Rank", "How much the file can hold. 0: as the preset.")
            self.learning_rate = number("train-learning-rate", "Learning rate", usual)
            self.accumulation = number("train-accumulation", "Clips for a step", usual)

    def _lay_out_recipe(self, rents: bool) -> None:
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.recipe = gr.Dropdown(
                RECIPES, value="balanced", label="Recipe", elem_id="train-recipe", min_width=150
            )
            self.trigger = gr.Textbox(
                label="Word before every caption",
                info="Write it in prompts to call up what was learnt.",
                elem_id="train-trigger",
                min_width=150,
            )
            self.seconds = gr.Number(
                0,
                label="Longest part (s)",
                info="Shorter needs less memory and time. 0: the model's length.",
                elem_id="train-seconds",
                min_width=150,
            )
            self.price = gr.Number(
                0,
                label="Price of an hour",
                info="For the estimate.",
                elem_id="train-price",
                min_width=150,
                visible=not rents,  # the Hub has its own prices
            )

    @property
    def inputs(self) -> set[Component]:
        return set(self.own.values())

    def read(self, values: Values) -> TrainForm:
        return TrainForm(**{name: values[component] for name, component in self.own.items()})


class TrainTab:
    """Components and handlers of clips, captions and settings; `runs` are the visitor's runs."""

    def __init__(
        self,
        service: TrainService,
        visitor: gr.BrowserState,
        generate: GenerateTab,
        tabs: gr.Tabs,
        gate: gr.HTML,
    ) -> None:
        self.service, self.visitor, self.gate = service, visitor, gate
        with gr.Column(elem_id="train-body", visible=not service.demo.settings.space_id) as self.body:
            self._lay_out_clips()
            self._lay_out_captions()
            gr.HTML(html.head(3, "What to learn", "And what it will cost, before you start."))
            self.fields = TrainFields(service.demo, service.rental.is_open)
            self.hardware = gr.Dropdown(
                [],
                label="Machine",
                info="Rented by the minute, at the present prices.",
                elem_id="train-hardware",
                visible=service.rental.is_open,
            )
            self.cost_notes = gr.HTML(elem_id="train-cost", padding=True)
            gr.HTML(
                html.head(4, "Run", "It continues when you close the page, and can be stopped and resumed.")
            )
            self.runs = RunPanel(service, visitor, generate, tabs)

    def _lay_out_clips(self) -> None:
        gr.HTML(html.head(1, "Clips", "Clips of what the model shall learn, seen and heard."))
        self.upload = gr.File(
            label="Add clips (and .txt captions)",
            file_count="multiple",
            type="filepath",
            height=130,
            elem_id="train-upload",
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.clip_notes = gr.HTML(elem_id="train-clip-notes")
            self.fix_button = gr.Button(FIX, size="sm", visible=False, elem_id="train-mend", scale=0)
        self.cards = gr.HTML(html.cards([], None), js_on_load=REMOVE, elem_id="train-clips")

    def _lay_out_captions(self) -> None:
        about = 'What is seen and heard in each clip. Put spoken words in "quotes". It is saved as you write.'
        gr.HTML(html.head(2, "Captions", about))
        self.table = gr.Dataframe(
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
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.suggest_button = gr.Button(
                "Suggest what is missing", size="sm", elem_id="train-suggest", scale=0, min_width=190
            )
            self.caption_notes = gr.HTML(elem_id="train-caption-notes")
        with gr.Accordion("Who suggests", open=False, elem_id="train-server"):
            gr.HTML(
                html.note("A model that sees pictures, behind an OpenAI-compatible address. It cannot hear.")
            )
            has_server = self.service.demo.settings.llm is not None
            with gr.Row(elem_classes="mova-phone-wrap"):
                self.base_url = gr.Textbox(
                    label="Address",
                    placeholder="as configured" if has_server else "http://localhost:8000/v1",
                    elem_id="train-server-url",
                )
                self.model = gr.Textbox(
                    label="Model", placeholder="the server's first", elem_id="train-server-model"
                )
                self.api_key = gr.Textbox(
                    label="Key",
                    info="Sent to that address only, and never stored.",
                    type="password",
                    elem_id="train-server-key",
                )

    def show(self, visitor: str) -> Updates:
        """The clips and captions as they are, not yet reviewed."""
        try:
            items = self.service.clips(self.service.owner(visitor)).items()
        except UserError as error:
            return {self.clip_notes: html.note(str(error), "error")}
        rows = [[item.name, item.caption] for item in items]
        return {self.cards: html.cards(items, None), self.table: gr.update(value=rows, visible=bool(rows))}

    def add(self, visitor: str, files: list[str] | None) -> Updates:
        """Add uploaded files."""
        try:
            problems = self.service.clips(self.service.owner(visitor)).add(map(Path, files or ()))
        except (UserError, BackendError) as error:
            problems = [str(error)]
        return {self.upload: None, self.clip_notes: html.notes(problems, "error")} | self.show(visitor)

    def review(self, values: Values) -> Updates:
        """The doctor's findings."""
        try:
            owner = self.service.owner(values[self.visitor])
            review = self.service.review(owner, self.fields.read(values))
            items = self.service.clips(owner).items()
        except (UserError, BackendError) as error:
            return {
                self.clip_notes: html.note(str(error), "error"),
                self.fix_button: gr.update(visible=False),
            }
        return self._show_review(review, items)

    def _show_review(self, review: Review, items: list[DatasetItem]) -> Updates:
        count = review.fixable
        label = FIX if count == 1 else f"{FIX} ({count})"
        return {
            self.cards: html.cards(items, review),
            self.clip_notes: html.summary(review) if review.clips else "",
            self.fix_button: gr.update(visible=count > 0, value=label),
        }

    def remove(self, visitor: str, event: gr.EventData) -> Updates:
        try:
            self.service.clips(self.service.owner(visitor)).remove(str(event.name))
        except (UserError, OSError) as error:
            return {self.clip_notes: html.note(str(error), "error")} | self.show(visitor)
        return self.show(visitor)

    def fix(self, values: Values) -> Updates:
        visitor = values[self.visitor]
        try:
            changes = self.service.fix(self.service.owner(visitor), self.fields.read(values))
        except (UserError, BackendError) as error:
            return {self.clip_notes: html.note(str(error), "error")}
        return self.show(visitor) | {self.caption_notes: html.notes(changes, "good")}

    def save_captions(self, visitor: str, rows: list[list[str]]) -> Updates:
        try:
            captions = {str(name): str(text or "") for name, text in rows}
            self.service.clips(self.service.owner(visitor)).write_captions(captions)
        except (UserError, BackendError) as error:
            return {self.caption_notes: html.note(str(error), "error")}
        return {self.caption_notes: html.note("Saved.", "good")}

    def suggest(self, request: gr.Request, visitor: str, base_url: str, model: str, key: str) -> Updates:
        """Write captions for clips that have none."""
        try:
            server = WriterChoice(SERVER, base_url=base_url, model=model, api_key=key)
            skipped = self.service.suggest(self.service.owner(visitor), server, client_address(request))
        except (UserError, BackendError) as error:
            notes = html.note(str(error), "error")
        else:
            notes = html.note("Read them, and add what is heard.", "good") + html.notes(skipped, "warning")
        return self.show(visitor) | {self.caption_notes: notes}

    def describe_cost(self, values: Values) -> str:
        """The cost of a run, on a machine of the Hub if one is chosen."""
        form, flavor, most_seconds = self.fields.read(values), values[self.hardware], 0
        service = self.service
        try:
            owner = service.owner(values[self.visitor])
            if not service.clips(owner).videos():
                return ""
            hardware = service.rental.offer(flavor) if flavor else None
            cost = service.cost(owner, form, hardware)
            if hardware and cost:
                form, most_seconds = replace(form, price=hardware.price), service.rental.limit(cost)
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        if cost is None:
            return html.note(NO_CAPTIONS)
        steps = int(form.steps or default_steps(service.demo.model))
        return html.cost(cost, steps, form.price, service.pace(owner, flavor or ""), most_seconds)

    def start(self, login: HubLogin | None, values: Values) -> Updates:
        """Start a run here, or on a machine of the Hub if one is chosen."""
        visitor, flavor, form = values[self.visitor], values[self.hardware], self.fields.read(values)
        try:
            owner = self.service.owner(visitor)
            if flavor:
                run = self.service.rent(owner, form, flavor, login)
            else:
                run = self.service.start(owner, form, login.name if login else "")
        except (UserError, BackendError) as error:
            return {self.runs.notes: html.note(str(error), "error")}
        return {self.runs.notes: ""} | self.runs.show(visitor, run)

    def admit(self, login: HubLogin | None, visitor: str, chosen: str | None) -> Updates:
        """On a Space: show the tab to visitors who may train, with the machines they may choose."""
        name, offered = login.name if login else "", gr.update()
        try:
            refusal = problem = self.service.admit(visitor, name)
        except UserError as error:
            refusal = problem = str(error)
        if not refusal and self.service.rental.is_open:
            here = [] if self.service.why_not_here(name) else [("This Space's GPU", "")]
            try:
                offers = [(html.offer(each), each.flavor) for each in self.service.rental.offers()]
                value = "" if here else self.service.rental.proposed().flavor
            except (UserError, BackendError) as error:
                problem, offers, value = str(error), [], "" if here else None
            choices = here + offers
            is_kept = chosen in [flavor for _, flavor in choices]
            offered = gr.update(choices=choices, value=chosen if is_kept else value)
        return {
            self.gate: html.note(problem, "warning"),
            self.body: gr.update(visible=not refusal),
            self.hardware: offered,
        }

    def admit_first(self, entered: Callable) -> Callable:
        """Admit visitors when the tab comes into view; registers handlers for the moment after that."""
        shown = [self.gate, self.body, self.hardware]
        admit = signed(self.service, self.admit)
        return entered(admit, [self.visitor, self.hardware], shown, **PRIVATE).then

    def connect(self, entered: Callable) -> None:
        """Connect the components; `entered` registers a handler for the tab coming into view."""
        shown = [self.cards, self.table, self.clip_notes]
        noted = [*shown, self.caption_notes]
        asked = self.fields.inputs | {self.visitor}
        costed = asked | {self.hardware}

        def then_review(event: gr.events.Dependency) -> None:
            reviewed = event.then(
                self.review, asked, [self.cards, self.clip_notes, self.fix_button], **PRIVATE
            )
            reviewed.then(self.describe_cost, costed, [self.cost_notes], **PRIVATE)

        then_review(entered(self.show, [self.visitor], shown, **PRIVATE))
        added = [self.upload, *shown]
        then_review(self.upload.upload(self.add, [self.visitor, self.upload], added, **PRIVATE))
        then_review(self.cards.click(self.remove, [self.visitor], shown, **PRIVATE))
        then_review(self.fix_button.click(self.fix, asked, noted, **PRIVATE))
        then_review(
            self.table.input(
                self.save_captions,
                [self.visitor, self.table],
                [self.caption_notes],
                trigger_mode="always_last",
                **PRIVATE,
            )
        )
        server = [self.base_url, self.model, self.api_key]
        then_review(
            self.suggest_button.click(
                self.suggest,
                [self.visitor, *server],
                noted,
                concurrency_limit=2,
                api_visibility="private",
            )
        )
        priced = costed - {self.visitor, self.fields.name}
        gr.on(
            [component.change for component in priced],
            self.describe_cost,
            costed,
            [self.cost_notes],
            trigger_mode="always_last",
            **PRIVATE,
        )
        start = signed(self.service, self.start)
        outputs = [self.runs.notes, *self.runs.shown]
        self.runs.start_button.click(start, costed, outputs, **PRIVATE)
        self.runs.connect(entered)
