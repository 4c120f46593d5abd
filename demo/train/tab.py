"""The train tab: cards of clips at the left; settings, cost and the visitor's runs beside them."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import gradio as gr
from gradio.components import Component

from demo.fields import PRIVATE, Updates, Values, server_fields
from demo.generate_tab import GenerateTab
from demo.html import empty
from demo.service import DemoService, client_address
from demo.train import html
from demo.train.form import LABELS, TrainForm, default_steps, has_examples, is_small
from demo.train.runs import RunPanel, signed
from demo.train.service import UNDO_SECONDS, TrainService, bullet_list
from demo.writers import SERVER, WriterChoice
from lora_trainer.jobs.hub import HubLogin
from lora_trainer.manifest import DatasetItem
from mova.errors import BackendError, UserError

TITLE = "Teach it a face, a voice, a thing"
ABOUT = (
    "A few clips of your own make an adapter: a small file that adds a look and a sound to the model. "
    "It cannot be trained on this page."
)
# Buttons of the cards, and captions, which are saved as they are written. The field notes what was sent,
# so that the page's next answer, which holds the same, does not write over what is typed in the meantime.
CARDS = """
const clean = (text) => text.trim().replace(/\\s+/g, ' ');
let waiting;
const send = (field) => {
  clearTimeout(waiting);
  const text = clean(field.value);
  if (text === field.getAttribute('value')) return;
  field.setAttribute('value', text);
  trigger('input', {name: field.dataset.caption, text});
};
element.addEventListener('input', event => {
  const field = event.target.closest('[data-caption]');
  clearTimeout(waiting);
  if (field) waiting = setTimeout(() => send(field), 700);
});
element.addEventListener('focusout', event => {
  const field = event.target.closest('[data-caption]');
  if (field) send(field);
});
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (!button || button.ariaBusy) return;
  button.ariaBusy = 'true'; // not disabled, which would take its focus
  setTimeout(() => { button.ariaBusy = null; }, 3000);
  trigger('click', {act: button.dataset.act, name: button.dataset.name});
});"""
UNDO = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('click', {name: button.dataset.name});
});
let waiting;
watch('value', () => {
  clearTimeout(waiting);
  if (props.value) waiting = setTimeout(() => { props.value = ''; }, 1000 * UNDO_SECONDS);
});""".replace("UNDO_SECONDS", str(UNDO_SECONDS))
RECIPES = [("Balanced", "balanced"), ("As the public trainer", "released"), ("As in the paper", "paper")]
FIX, ADD_CLIPS = "Fix automatically", "Add clips first."


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
        self.name = gr.Textbox(label="Name", placeholder="anna", elem_id="train-name")
        self.preset = gr.Radio(
            [(label, name) for name, label in LABELS.items()],
            value="look_and_voice",
            label="What to learn",
            elem_id="train-preset",
            elem_classes="mova-wrap",
        )
        examples = has_examples(demo.model)
        self.keep = gr.Checkbox(
            examples and is_small(demo.model),
            label="Keep existing skills",
            info="Half of the training is on clips of what the model can do now.",
            elem_id="train-keep",
        )
        with gr.Accordion("Advanced", open=False, elem_id="train-advanced"):
            self.prompt = gr.Textbox(
                label="Test prompt",
                info="Generated before, during and after training with the same seed.",
                placeholder="Empty = first caption",
                elem_id="train-prompt",
            )
            self._lay_out_numbers(default_steps(demo.model))
            self._lay_out_recipe(rents)
            default = " Empty = the model's examples." if examples else ""
            self.keep_prompts = gr.Textbox(
                label="Skills to keep",
                info=f"One prompt per line.{default}",
                lines=2,
                max_lines=8,
                elem_id="train-keep-prompts",
            )
            self.even_volume = gr.Checkbox(
                False, label="Even out volume", info="Of all clips.", elem_id="train-even-volume"
            )
        self.own: dict[str, Component] = {
            field.name: getattr(self, field.name) for field in fields(TrainForm)
        }

    def _lay_out_numbers(self, steps: int) -> None:
        def number(elem_id: str, label: str, info: str, value: int = 0) -> gr.Number:
            return gr.Number(value, label=label, info=info, elem_id=elem_id, min_width=130)

        usual = "0 = default"  # gradio shows an empty number as 0
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.steps = number("train-steps", "Steps", "More takes longer and can overfit.", steps)
            self.rank = number("train-rank", "Rank", f"Size of the file. {usual}")
            self.learning_rate = number("train-learning-rate", "Learning rate", usual)
            self.accumulation = number("train-accumulation", "Gradient accumulation", usual)
            self.seconds = number("train-seconds", "Max clip length (s)", usual)

    def _lay_out_recipe(self, rents: bool) -> None:
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.recipe = gr.Dropdown(
                RECIPES, value="balanced", label="Recipe", elem_id="train-recipe", min_width=130
            )
            self.trigger = gr.Textbox(
                label="Trigger word", info="Starts every caption.", elem_id="train-trigger", min_width=130
            )
            self.price = gr.Number(
                0,
                label="GPU price ($/h)",
                elem_id="train-price",
                min_width=130,
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
        self.unusable = gr.State(())  # names of clips that cannot be trained on
        with gr.Row(
            elem_id="train-body", visible=not service.demo.settings.space_id, equal_height=False
        ) as self.body:
            with gr.Column(scale=3, min_width=300, elem_id="train-left"):
                self._lay_out_clips()
            with gr.Column(scale=2, min_width=300, elem_id="train-side"):
                self.setup = gr.Column(render=False, elem_id="train-setup")
                self.runs = RunPanel(service, visitor, generate, tabs, self.setup)
                self.setup.render()
                with self.setup:
                    self._lay_out_setup()
                self.runs.notes.render()

    def _lay_out_clips(self) -> None:
        self.upload = gr.File(
            label="Upload clips (and .txt captions)",
            file_count="multiple",
            type="filepath",
            height=130,
            elem_id="train-upload",
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.clip_notes = gr.HTML(elem_id="train-clip-notes")
            self.fix_button = gr.Button(FIX, visible=False, elem_id="train-mend", scale=0, min_width=190)
            self.suggest_button = gr.Button(
                "Write captions", visible=False, elem_id="train-suggest", scale=0, min_width=150
            )
        self.undo_line = gr.HTML(js_on_load=UNDO, elem_id="train-undo")
        self.caption_notes = gr.HTML(elem_id="train-caption-notes")
        self.cards = gr.HTML(html.cards([], None), js_on_load=CARDS, elem_id="train-clips")
        with gr.Accordion("Caption model", open=False, elem_id="train-server"):
            gr.HTML(html.note("A model that sees pictures writes captions; add what is heard."))
            has_server = self.service.demo.settings.llm is not None
            with gr.Row(elem_classes="mova-phone-wrap"):
                self.base_url, self.model, self.api_key = server_fields("train-server", has_server)

    def _lay_out_setup(self) -> None:
        self.fields = TrainFields(self.service.demo, self.service.rental.is_open)
        self.hardware = gr.Dropdown(
            [],
            label="Machine",
            info="Rented by the minute.",
            elem_id="train-hardware",
            visible=self.service.rental.is_open,
        )
        self.cost_notes = gr.HTML(elem_id="train-cost")
        self.start_button = gr.Button(
            "Start training", variant="primary", interactive=False, elem_id="train-start"
        )
        self.reason = gr.HTML(html.note(ADD_CLIPS), elem_id="train-reason")

    def show(self, visitor: str) -> Updates:
        """The clips and captions as they are, not yet reviewed."""
        try:
            items = self.service.clips(self.service.owner(visitor)).items()
        except UserError as error:
            return {self.clip_notes: html.note(str(error), "error")}
        lacks = any(not item.caption for item in items)
        return {self.cards: html.cards(items, None), self.suggest_button: gr.update(visible=lacks)}

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
        count = review.fixable
        label = FIX if count == 1 else f"{FIX} ({count})"
        return {
            self.cards: html.cards(items, review),
            self.clip_notes: html.summary(review) if review.clips else "",
            # gradio shows a hidden button whose value is set
            self.fix_button: gr.update(visible=True, value=label) if count else gr.update(visible=False),
            self.suggest_button: gr.update(visible=bool(review.uncaptioned)),
            self.unusable: tuple(review.unusable),
            self.reason: html.note("Estimating …") if review.clips else html.note(ADD_CLIPS),
        }

    def act(self, values: Values, event: gr.EventData) -> Updates:
        """Do what a button of a card says."""
        visitor, name, act = values[self.visitor], str(event.name), str(event.act)
        done: Updates = {self.caption_notes: "", self.undo_line: ""}
        try:
            owner = self.service.owner(visitor)
            if act == "remove":
                self.service.remove(owner, name)
                done[self.undo_line] = html.undo(name)
            elif act == "even_volume":
                done[self.fields.even_volume] = True
            else:
                said = self.service.fix_clip(owner, self.fields.read(values), name, act)
                done[self.caption_notes] = html.note(said, "good")
        except (UserError, BackendError, OSError) as error:
            done[self.caption_notes] = html.note(str(error), "error")
        return done | (self.show(visitor) if act in ("remove", "split") else {})

    def restore(self, visitor: str, event: gr.EventData) -> Updates:
        """Put a removed clip back."""
        try:
            self.service.clips(self.service.owner(visitor)).restore(str(event.name))
        except (UserError, OSError) as error:
            return {self.caption_notes: html.note(str(error), "error"), self.undo_line: ""}
        return {self.undo_line: ""} | self.show(visitor)

    def fix(self, values: Values) -> Updates:
        visitor = values[self.visitor]
        try:
            changes = self.service.fix(self.service.owner(visitor), self.fields.read(values))
        except (UserError, BackendError) as error:
            return {self.clip_notes: html.note(str(error), "error")}
        return self.show(visitor) | {self.caption_notes: html.notes(changes, "good")}

    def save_caption(self, visitor: str, event: gr.EventData) -> str:
        """Save a caption that was typed; a sentence where that failed."""
        try:
            captions = {str(event.name): str(event.text)}
            self.service.clips(self.service.owner(visitor)).write_captions(captions)
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        return ""

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

    def describe_cost(self, values: Values) -> Updates:
        """The cost of a run, on a machine of the Hub if one is chosen, and whether it can start."""
        form, flavor, most_seconds = self.fields.read(values), values[self.hardware], 0
        service, unusable = self.service, values[self.unusable]
        try:
            owner = service.owner(values[self.visitor])
            items = service.clips(owner).items()
            hardware = service.rental.offer(flavor) if flavor and items else None
            cost = service.cost(owner, form, hardware, unusable)
            if hardware and cost:
                form, most_seconds = replace(form, price=hardware.price), service.rental.limit(cost)
        except (UserError, BackendError) as error:
            return self._may_start("") | {self.cost_notes: html.note(str(error), "error")}
        if cost is None:
            return self._may_start(_reason(items, unusable)) | {self.cost_notes: ""}
        steps = int(form.steps or default_steps(service.demo.model))
        clips = [item for item in items if item.name not in unusable]
        lacking = sum(not item.caption for item in clips)
        pace = service.pace(owner, flavor or "")
        text = html.cost(cost, form, steps, pace, len(clips), lacking, most_seconds)
        reason = _reason(items, unusable) if cost.fits else ""
        return self._may_start(reason, cost.fits) | {self.cost_notes: text}

    def _may_start(self, reason: str, is_possible: bool = False) -> Updates:
        return {
            self.start_button: gr.update(interactive=is_possible and not reason),
            self.reason: html.note(reason),
        }

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
        shown = [self.cards, self.clip_notes, self.suggest_button]
        noted = [*shown, self.caption_notes, self.undo_line]
        asked = self.fields.inputs | {self.visitor}
        costed = asked | {self.hardware, self.unusable}
        costs = [self.cost_notes, self.start_button, self.reason]

        def then_review(event: gr.events.Dependency) -> None:
            reviewed = [*shown, self.fix_button, self.unusable, self.reason]
            event.then(self.review, asked, reviewed, trigger_mode="always_last", **PRIVATE).then(
                self.describe_cost, costed, costs, **PRIVATE
            )

        then_review(entered(self.show, [self.visitor], shown, **PRIVATE))
        added = [self.upload, *shown]
        then_review(self.upload.upload(self.add, [self.visitor, self.upload], added, **PRIVATE))
        acted = [*noted, self.fields.even_volume]
        then_review(self.cards.click(self.act, asked, acted, trigger_mode="multiple", **PRIVATE))
        then_review(self.undo_line.click(self.restore, [self.visitor], noted, **PRIVATE))
        then_review(self.fix_button.click(self.fix, asked, noted, **PRIVATE))
        then_review(
            self.cards.input(
                self.save_caption, [self.visitor], [self.caption_notes], trigger_mode="multiple", **PRIVATE
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
        judged = {self.fields.preset, self.fields.seconds, self.fields.even_volume}
        for component in judged:
            then_review(component.change(lambda: None, None, None, **PRIVATE))
        priced = costed - judged - {self.visitor, self.unusable, self.fields.name}
        gr.on(
            [component.change for component in priced],
            self.describe_cost,
            costed,
            costs,
            trigger_mode="always_last",
            **PRIVATE,
        )
        start = signed(self.service, self.start)
        outputs = [self.runs.notes, *self.runs.shown]
        self.start_button.click(start, costed, outputs, **PRIVATE)
        self.runs.connect(entered)


def _reason(items: list[DatasetItem], unusable: Sequence[str]) -> str:
    """The reason why a run cannot start with these clips, as what to do; else empty."""
    if not items:
        return ADD_CLIPS
    if unusable:
        return f"Fix or remove: {bullet_list(unusable)}."
    lacking = [item.name for item in items if not item.caption]
    return f"Add captions to: {bullet_list(lacking)}." if lacking else ""
