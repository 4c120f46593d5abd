"""The prompt tab: an idea becomes a text to edit, in several versions, with what was added and what lacks."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import gradio as gr

from demo import enhance_html, html
from demo.fields import PRIVATE, PictureField, Updates, Values, server_fields
from demo.generate_form import GenerateForm
from demo.service import DemoService, client_address
from demo.settings import sample_prompts
from demo.writers import (
    BUILT_IN,
    HERE,
    POCKET,
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
from mova.prompting.enhancer import EnhanceRequest, EnhanceResult, added_spans
from mova.prompting.rules import PromptRequirements, add_missing, check

MAX_VERSIONS = 3
EMPTY = ("Your prompt", "An idea in a few words becomes a prompt that the model understands.")
# A click on a button inside of a piece of HTML, with the number or the idea that it stands for.
CLICKS = """element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('click', {...button.dataset});
});"""


@dataclass(frozen=True)
class Version:
    """One of the texts to choose from, as written or edited; `about` is HTML."""

    text: str
    about: str
    not_kept: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: EnhanceResult) -> "Version":
        about = describe_result(result)
        if result.is_outside:
            return cls(result.text, enhance_html.outside() + about)
        return cls(result.text, about, result.not_kept)


class EnhanceTab:
    """The tab's components and handlers; those of the writer are named like `WriterChoice`'s fields."""

    def __init__(self, service: DemoService, visitor: gr.BrowserState) -> None:
        self.service, self.visitor = service, visitor
        self._stops: dict[str, threading.Event] = {}
        self.versions = gr.State([])  # of Version
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                self.idea = gr.Textbox(
                    label="Your idea",
                    info='Put spoken words in "quotes".',
                    placeholder=sample_prompts(service.model_name)[1],
                    lines=3,
                    max_lines=10,
                    elem_id="idea",
                )
                with gr.Row():
                    self.write_button = gr.Button("Write", variant="primary", elem_id="write")
                    self.stop_button = gr.Button("Stop", visible=False, elem_id="stop-writing")
                self._lay_out_options()
            with gr.Column(scale=3, min_width=300):
                self._lay_out_text()

    def _lay_out_options(self) -> None:
        self._lay_out_writer()
        writes_at_once = self.kind.value in (BUILT_IN, POCKET)
        with gr.Accordion("Variants", open=False, elem_id="variants"):
            self.count = gr.Radio(
                [(str(number), number) for number in range(1, MAX_VERSIONS + 1)],
                value=MAX_VERSIONS if writes_at_once else 1,
                label="Variants",
                show_label=False,
                elem_id="count",
            )
        with gr.Accordion("First frame and length", open=False, elem_id="idea-more"):
            self.image = PictureField(
                label="First frame",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                height=180,
                elem_id="idea-image",
                buttons=[],
            )
            self.seconds = gr.Slider(
                0.5,
                self.service.max_seconds,
                value=self.service.default_seconds,
                step=0.1,
                label="Seconds",
                elem_id="idea-seconds",
            )

    def _lay_out_writer(self) -> None:
        offered = offered_writers(self.service)
        first, is_configured = offered[0][1], self.service.settings.llm is not None
        with gr.Accordion("Writer", open=False, elem_id="writers"):
            self.kind = gr.Radio(offered, value=first, label="Writer", show_label=False, elem_id="writer")
            with gr.Column(
                visible=first == SERVER and not is_configured, elem_classes="mova-tight"
            ) as self.server_box:
                self.base_url, self.model, self.api_key = server_fields(
                    "server", is_configured, "OpenAI-compatible"
                )
                self.test_button = gr.Button("Test", elem_id="test-server")
                self.test_note = gr.HTML(elem_id="test-note")
            with gr.Column(visible=False, elem_classes="mova-tight") as self.local_box:
                self.local_model = gr.Dropdown(
                    local_models(),
                    value=None,
                    allow_custom_value=True,
                    label="Model",
                    info="A folder or a repo id; downloaded on first use.",
                    elem_id="local-model",
                )

    def _lay_out_text(self) -> None:
        self.status = gr.HTML(html.empty(*EMPTY), js_on_load=CLICKS, elem_id="enhance-status")
        with gr.Column(visible=False, elem_id="prompt-sheet") as self.sheet:
            self.number = gr.Radio([], label="Variant", show_label=False, visible=False, elem_id="variant")
            with gr.Column(elem_id="sheet-text"):
                self.text = gr.Textbox(
                    label="Prompt",
                    show_label=False,
                    container=False,
                    lines=6,
                    max_lines=40,
                    elem_id="candidate-0",
                )
                self.marked = gr.HTML(elem_id="marked-0")
            self.words = gr.HTML(js_on_load=CLICKS, elem_id="kept")
            self.problems = gr.HTML(js_on_load=CLICKS, elem_id="faults-0")
            self.use_button = gr.Button("Use in Generate", variant="primary", elem_id="use-0")

    @property
    def writer(self) -> set[gr.components.Component]:
        """The components that a `WriterChoice` is read from."""
        return {getattr(self, field.name) for field in fields(WriterChoice)}

    def _read_writer(self, values: Values) -> WriterChoice:
        return WriterChoice(
            **{field.name: values[getattr(self, field.name)] for field in fields(WriterChoice)}
        )

    def write(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """The versions, the first shown as soon as it is there, and open to changes once all are."""
        stop = self._stops[str(values[self.visitor])] = threading.Event()
        yield {
            self.status: html.note("Writing …"),
            self.write_button: gr.update(interactive=False),
            self.stop_button: gr.update(visible=True),
        }
        done = {
            self.write_button: gr.update(interactive=True),
            self.stop_button: gr.update(visible=False),
        }
        versions: list[Version] = []
        try:
            self.service.limiter.check(client_address(request))
            enhancer = open_enhancer(self.service, self._read_writer(values))
            image = Path(values[self.image]) if values[self.image] else None
            asked = EnhanceRequest(values[self.idea] or "", image, seconds=float(values[self.seconds]))
            count = min(int(values[self.count]), MAX_VERSIONS)
            for result in enhancer.candidates(asked, count, stop.is_set):
                versions = [*versions, Version.of(result)]
                yield self._show(versions, interactive=False)
            yield done | self._show(versions, interactive=True)
        except (UserError, BackendError) as error:
            yield (
                done | self._show(versions, interactive=True) | {self.status: html.note(str(error), "error")}
            )
        except Cancelled:
            yield done | {self.status: html.note("Stopped.")} | self._show(versions, interactive=True)

    def _show(self, versions: list[Version], interactive: bool) -> Updates:
        """All versions, the first of them in the field.

        Every update is whole: the browser may drop all but the last of several that come at once. So what is
        chosen or typed before the last one came would be lost.
        """
        if not versions:
            return {}
        choices = [(f"Variant {number}", str(number)) for number in range(1, len(versions) + 1)]
        several = len(versions) > 1
        return {
            self.versions: versions,
            self.number: gr.update(choices=choices, value="1", visible=several, interactive=interactive),
            self.text: gr.update(value=versions[0].text, interactive=interactive),
            self.status: versions[0].about,
            self.sheet: gr.update(visible=True),
        }

    def choose(self, number: str, versions: list[Version]) -> Updates:
        version = versions[int(number) - 1]
        return {self.text: version.text, self.status: version.about}

    def keep(self, text: str, number: str, versions: list[Version]) -> list[Version]:
        """The versions with the present one as it was edited."""
        return [replace(v, text=text) if str(i) == number else v for i, v in enumerate(versions, 1)]

    def check(self, values: Values) -> Updates:
        """Marks, words and problems of a text that was written, chosen or edited."""
        text, brief, found = self._violations(values)
        versions = values[self.versions]
        # The field may change before the radio has its first value.
        not_kept = versions[int(values[self.number] or 1) - 1].not_kept if versions else ()
        return {
            self.marked: enhance_html.marks(text, added_spans(brief.idea, text), found),
            self.words: enhance_html.words(text, brief, found, not_kept),
            self.problems: enhance_html.problems(found),
        }

    def repair(self, values: Values, event: gr.EventData) -> Updates:
        """The text with one problem fixed, or with missing words added."""
        text, brief, found = self._violations(values)
        clicked = event._data
        index = int(clicked.get("fix", clicked.get("add", -1)))
        if not 0 <= index < len(found):
            return {self.text: text}
        violation = found[index]
        return {self.text: add_missing(text, violation, brief) if "add" in clicked else violation.fix or text}

    def _violations(self, values: Values) -> tuple[str, PromptRequirements, list]:
        text, idea, seconds = values[self.text] or "", values[self.idea] or "", values[self.seconds]
        brief = PromptRequirements(idea, float(seconds), values[self.image] is not None)
        return text, brief, check(text, brief) if text else []

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
        return html.note(f"Connected: {answer.model}", "good")

    def choose_writer(self, kind: str) -> Updates:
        return {
            self.server_box: gr.update(visible=kind == SERVER),
            self.local_box: gr.update(visible=kind == HERE),
        }

    def connect(self, generate: GenerateForm, tabs: gr.Tabs) -> None:
        """Connect the components with their handlers, and the text with the form of the generate tab."""
        shown = [self.versions, self.number, self.text, self.status, self.sheet]
        asked = {self.visitor, self.idea, self.image, self.seconds, self.count} | self.writer
        written = [*shown, self.write_button, self.stop_button]
        gr.on(
            [self.write_button.click, self.idea.submit],
            self.write,
            asked,
            written,
            concurrency_limit=4,
            **PRIVATE,
        )
        tried = self.status.click(self.try_idea, [self.idea], [self.idea], **PRIVATE)
        tried.then(self.write, asked, written, concurrency_limit=4, **PRIVATE)
        self.number.input(self.choose, [self.number, self.versions], [self.text, self.status], **PRIVATE)
        read = {self.text, self.idea, self.image, self.seconds, self.versions, self.number}
        marks = [self.marked, self.words, self.problems]
        self.text.change(self.check, read, marks, trigger_mode="always_last", **PRIVATE)
        kept = (self.keep, [self.text, self.number, self.versions], [self.versions])
        self.text.input(*kept, trigger_mode="always_last", **PRIVATE)
        for buttons in (self.words, self.problems):
            buttons.click(self.repair, read, [self.text], **PRIVATE).then(*kept, **PRIVATE)
        self.stop_button.click(self.stop, [self.visitor], None, concurrency_limit=None, **PRIVATE)
        self.kind.change(self.choose_writer, [self.kind], [self.server_box, self.local_box], **PRIVATE)
        self.test_button.click(self.test, self.writer, [self.test_note], concurrency_limit=4, **PRIVATE)
        for field in (self.base_url, self.model, self.api_key):
            field.input(lambda: "", None, [self.test_note], **PRIVATE)
        self.use_button.click(
            lambda text, image, seconds: (text, image or gr.skip(), seconds, gr.Tabs(selected="generate")),
            [self.text, self.image, self.seconds],
            [generate.prompt, generate.image, generate.seconds, tabs],
            **PRIVATE,
        )

    def try_idea(self, idea: str, event: gr.EventData) -> str:
        """The idea of the button that was clicked."""
        number = event._data.get("try")
        return enhance_html.TRY[int(number)][1] if number is not None else idea
