"""The enhance tab: an idea becomes prompts, each with marks, checks and fixes, to edit and use."""

import threading
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path

import gradio as gr

from demo import html
from demo.fields import PRIVATE, PictureField, Updates, Values
from demo.service import DemoService, client_address
from demo.settings import sample_prompts
from demo.writers import (
    HERE,
    SERVER,
    WriterChoice,
    describe_result,
    endpoint_of,
    local_models,
    offered_writers,
    open_enhancer,
)
from mova.errors import BackendError, Cancelled, UserError
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import EnhanceRequest, added_spans
from mova.prompting.rules import PromptRequirements, check

CARDS, FIXES = 3, 4
FIX_LABEL_LENGTH = 48
EMPTY = (
    "From an idea to a prompt",
    "Say in a few words what happens. What you put in quotes is kept word for word.",
)


class CandidateCard:
    """One candidate: its text, marks and problems, and buttons that fix them."""

    def __init__(self, number: int) -> None:
        with gr.Column(visible=False, min_width=280, elem_id=f"card-{number}") as self.box:
            self.marked = gr.HTML(elem_id=f"marked-{number}", padding=True)
            self.text = gr.Textbox(
                label="Prompt (edit as you like)", lines=8, max_lines=16, elem_id=f"candidate-{number}"
            )
            self.problems = gr.HTML(elem_id=f"faults-{number}")
            self.fix_buttons = [
                gr.Button(visible=False, size="sm", elem_id=f"repair-{number}-{index}")
                for index in range(FIXES)
            ]
            self.use = gr.Button("Use in Generate", variant="primary", elem_id=f"use-{number}")
            self.fixed_texts = gr.State([])

    def check(self, text: str, idea: str, image: str | None, seconds: float) -> Updates:
        """Marks and problems of a text that was written, edited or fixed."""
        found = check(text, PromptRequirements(idea, float(seconds), image is not None))
        fixes = [(violation.message, violation.fix) for violation in found if violation.fix is not None]
        fixes = fixes[:FIXES]
        updates: Updates = {
            self.marked: html.highlighted(text, added_spans(idea, text), found),
            self.problems: html.violations(found),
            self.fixed_texts: [fixed for _, fixed in fixes],
        }
        for index, button in enumerate(self.fix_buttons):
            label = f"Fix: {_shorten(fixes[index][0])}" if index < len(fixes) else ""
            updates[button] = gr.update(visible=bool(label), value=label)
        return updates

    def fix(self, index: int, fixed_texts: list[str]) -> Updates:
        """Take over the text with one problem fixed."""
        return {self.text: fixed_texts[index]} if index < len(fixed_texts) else {}

    def connect(self, idea: gr.Textbox, image: gr.Image, seconds: gr.Slider) -> None:
        marks = [self.marked, self.problems, self.fixed_texts, *self.fix_buttons]
        checked = [self.text, idea, image, seconds]
        self.text.change(self.check, checked, marks, trigger_mode="always_last", **PRIVATE)
        for index, button in enumerate(self.fix_buttons):
            button.click(partial(self.fix, index), [self.fixed_texts], [self.text], **PRIVATE)


class EnhanceTab:
    """The tab's components and handlers; those of the writer are named like `WriterChoice`'s fields."""

    def __init__(self, service: DemoService, visitor: gr.BrowserState) -> None:
        self.service, self.visitor = service, visitor
        self._stops: dict[str, threading.Event] = {}
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                self.idea = gr.Textbox(
                    label="Your idea",
                    info='Put spoken words in "quotes"; they are never changed.',
                    placeholder=sample_prompts(service.model_name)[1],
                    lines=4,
                    max_lines=10,
                    elem_id="idea",
                )
                self.write_button = gr.Button("Write the prompt", variant="primary", elem_id="write")
                self.stop_button = gr.Button("Stop", size="sm", visible=False, elem_id="stop-writing")
            with gr.Column(scale=2, min_width=260):
                self._lay_out_options()
        self.status = gr.HTML(html.empty(*EMPTY), elem_id="enhance-status", padding=True)
        self.quotes = gr.HTML(elem_id="kept", padding=True)
        with gr.Row(equal_height=False, elem_classes="mova-phone-wrap"):
            self.cards = [CandidateCard(number) for number in range(CARDS)]

    def _lay_out_options(self) -> None:
        self.count = gr.Radio(
            [("One", 1), ("Two", 2), ("Three", 3)],
            value=1,
            label="How many to choose from",
            elem_id="count",
        )
        self.seconds = gr.Slider(
            0.5,
            self.service.max_seconds,
            value=self.service.default_seconds,
            step=0.1,
            label="Seconds",
            elem_id="idea-seconds",
        )
        self._lay_out_writer()
        with gr.Accordion("First frame", open=False):
            self.image = PictureField(
                label="The picture the clip starts from (optional)",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=180,
                elem_id="idea-image",
                buttons=[],
            )

    def _lay_out_writer(self) -> None:
        offered = offered_writers(self.service)
        first, is_configured = offered[0][1], self.service.settings.llm is not None
        self.kind = gr.Radio(offered, value=first, label="Who writes", elem_id="writer")
        with gr.Column(
            visible=first == SERVER and not is_configured, elem_classes="mova-tight"
        ) as self.server_box:
            self.base_url = gr.Textbox(
                label="Address of the server",
                info="OpenAI-compatible, such as http://localhost:8000/v1",
                placeholder="as configured" if is_configured else "http://localhost:8000/v1",
                elem_id="server-url",
            )
            self.model = gr.Textbox(label="Model", placeholder="the server's first", elem_id="server-model")
            self.api_key = gr.Textbox(
                label="Key",
                info="Sent to that address only, and never stored.",
                type="password",
                elem_id="server-key",
            )
            self.test_button = gr.Button("Test the server", size="sm", elem_id="test-server")
            self.test_note = gr.HTML(elem_id="test-note")
        with gr.Column(visible=False, elem_classes="mova-tight") as self.local_box:
            self.local_model = gr.Dropdown(
                local_models(),
                value=None,
                allow_custom_value=True,
                label="Model",
                info="A folder or a repo id; downloaded when first used.",
                elem_id="local-model",
            )

    @property
    def writer(self) -> set[gr.components.Component]:
        """The components that a `WriterChoice` is read from."""
        return {getattr(self, field.name) for field in fields(WriterChoice)}

    def _read_writer(self, values: Values) -> WriterChoice:
        return WriterChoice(
            **{field.name: values[getattr(self, field.name)] for field in fields(WriterChoice)}
        )

    def write(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Candidates, each shown as soon as it is there."""
        stop = self._stops[str(values[self.visitor])] = threading.Event()
        yield {
            self.status: html.progress("Writing", 0, 0, None),
            self.write_button: gr.update(interactive=False),
            self.stop_button: gr.update(visible=True),
        }
        done = {
            self.write_button: gr.update(interactive=True),
            self.stop_button: gr.update(visible=False),
        }
        try:
            self.service.limiter.check(client_address(request))
            enhancer = open_enhancer(self.service, self._read_writer(values))
            image = Path(values[self.image]) if values[self.image] else None
            asked = EnhanceRequest(values[self.idea] or "", image, seconds=float(values[self.seconds]))
            quotes = [quote.text for quote in enhancer.brief(asked).quotes]
            # Every update is whole: the browser may drop all but the last of several that come at once.
            shown: Updates = {card.box: gr.update(visible=False) for card in self.cards}
            shown[self.quotes] = html.chips("Kept word for word:", quotes)
            results = enhancer.candidates(asked, min(int(values[self.count]), CARDS), stop.is_set)
            for card, result in zip(self.cards, results, strict=False):
                shown |= {card.box: gr.update(visible=True), card.text: result.text}
                shown[self.status] = describe_result(result)
                yield shown
            yield shown | done
        except (UserError, BackendError) as error:
            yield done | {self.status: html.note(str(error), "error")}
        except Cancelled:
            yield done | {self.status: html.note("Stopped.")}

    def stop(self, visitor: str) -> None:
        if stop := self._stops.get(str(visitor)):
            stop.set()

    def test(self, values: Values, request: gr.Request) -> str:
        """Ask the server for a word, with this address, model and key."""
        try:
            self.service.limiter.check(client_address(request))
            answer = EndpointWriter(endpoint_of(self.service, self._read_writer(values))).probe()
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        return html.note(f"It works: {answer.model} answered.", "good")

    def choose_writer(self, kind: str) -> Updates:
        return {
            self.server_box: gr.update(visible=kind == SERVER),
            self.local_box: gr.update(visible=kind == HERE),
        }

    def connect(self) -> None:
        """Connect the components with their handlers, except the way to the generate tab."""
        outputs = [self.status, self.quotes, self.write_button, self.stop_button]
        for card in self.cards:
            outputs += [card.box, card.text]
            card.connect(self.idea, self.image, self.seconds)
        gr.on(
            [self.write_button.click, self.idea.submit],
            self.write,
            {self.visitor, self.idea, self.image, self.seconds, self.count} | self.writer,
            outputs,
            concurrency_limit=4,
            **PRIVATE,
        )
        self.stop_button.click(self.stop, [self.visitor], None, concurrency_limit=None, **PRIVATE)
        self.kind.change(self.choose_writer, [self.kind], [self.server_box, self.local_box], **PRIVATE)
        self.test_button.click(self.test, self.writer, [self.test_note], concurrency_limit=4, **PRIVATE)


def _shorten(text: str) -> str:
    return text if len(text) <= FIX_LABEL_LENGTH else f"{text[: FIX_LABEL_LENGTH - 1].rstrip()}…"
