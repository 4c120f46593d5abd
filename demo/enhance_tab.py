"""The enhance tab: an idea becomes prompts side by side, each marked, checked, mended and editable."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from demo import html
from demo.fields import PictureField
from demo.form import check_prompt
from demo.generate_form import GenerateTab
from demo.service import DemoService, client_address
from demo.settings import sample_prompts
from demo.writers import (
    HERE,
    SERVER,
    WriterChoice,
    configured_endpoint,
    endpoint_of,
    local_models,
    offered_writers,
    open_enhancer,
)
from mova.errors import BackendError, Cancelled, UserError
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import EnhanceRequest, EnhanceResult, added_spans
from mova.prompting.rules import PromptRequirements, Violation, check

CARDS, REPAIRS = 3, 4
EMPTY = (
    "From an idea to a prompt",
    "Say in a few words what happens. What you put in quotes is kept word for word.",
)


@dataclass
class CandidateCard:
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
    cards: list[CandidateCard] = field(default_factory=list)


def build_enhance(studio: DemoService) -> EnhanceTab:
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


def _lay_out_writer(studio: DemoService) -> dict:
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


def _lay_out_card(number: int) -> CandidateCard:
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
    return CandidateCard(box, marked, text, faults, repairs, use, fixes)


PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
ROUTES = {
    "answer": "Written by {model}.",
    "repaired": "Written by {model}, and mended where it broke a rule.",
    "asked again": "Written by {model}, which was asked a second time.",
    "template": "Put in order without a language model.",
    "own text": "Your own text.",
}
NOTHING_BETTER = "There is nothing to add to this wording."
Updates = dict[Any, Any]


class EnhanceEvents:
    """The tab's handlers."""

    def __init__(self, studio: DemoService, tab: EnhanceTab) -> None:
        self.studio, self.tab = studio, tab
        self._stops: dict[str, threading.Event] = {}

    def write(
        self,
        request: gr.Request,
        visitor: str,
        idea: str,
        image: str | None,
        seconds: float,
        count: int,
        *choice: str,
    ) -> Iterator[Updates]:
        """Candidates, each shown as soon as it is there."""
        tab = self.tab
        stop = self._stops[str(visitor)] = threading.Event()
        yield {
            tab.status: html.progress("Writing", 0, 0, None),
            tab.write: gr.update(interactive=False),
            tab.stop: gr.update(visible=True),
        }
        done = {tab.write: gr.update(interactive=True), tab.stop: gr.update(visible=False)}
        try:
            self.studio.limiter.check(client_address(request))
            enhancer = open_enhancer(self.studio, WriterChoice(*choice))
            asked = EnhanceRequest(idea or "", Path(image) if image else None, seconds=float(seconds))
            quotes = [quote.text for quote in enhancer.brief(asked).quotes]
            # Every update is whole: the browser may drop all but the last of several that come at once.
            shown: Updates = {card.box: gr.update(visible=False) for card in tab.cards}
            shown[tab.kept] = html.chips("Kept word for word:", quotes)
            results = enhancer.candidates(asked, min(int(count), CARDS), stop.is_set)
            for card, result in zip(tab.cards, results, strict=False):
                shown |= {card.box: gr.update(visible=True), card.text: result.text, tab.status: say(result)}
                yield shown
            yield shown | done
        except (UserError, BackendError) as error:
            yield done | {tab.status: html.note(str(error), "error")}
        except Cancelled:
            yield done | {tab.status: html.note("Stopped.")}

    def stop(self, visitor: str) -> None:
        if stop := self._stops.get(str(visitor)):
            stop.set()

    def recheck(self, number: int, text: str, idea: str, image: str | None, seconds: float) -> Updates:
        """Marks and faults of a text that was written, edited or repaired."""
        brief = self.studio.brief(idea, float(seconds), image is not None)
        return self._marks(self.tab.cards[number], text, check(text, brief), brief)

    def repair(self, index: int, fixes: list[str]) -> Any:  # noqa: ANN401
        """The text put right at one place."""
        return fixes[index] if index < len(fixes) else gr.skip()

    def test(self, request: gr.Request, *choice: str) -> str:
        """Whether the server answers with this address, model and key."""
        try:
            self.studio.limiter.check(client_address(request))
            writer = EndpointWriter(endpoint_of(self.studio, WriterChoice(*choice)))
            answer = writer.probe()
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        return html.note(f"It works: {answer.model} answered.", "good")

    def choose_writer(self, kind: str) -> tuple[Any, Any]:
        return gr.update(visible=kind == SERVER), gr.update(visible=kind == HERE)

    def _marks(
        self, card: CandidateCard, text: str, found: list[Violation], brief: PromptRequirements
    ) -> Updates:
        repairs = [(v.message, v.fix) for v in found if v.fix is not None][:REPAIRS]
        updates: Updates = {
            card.marked: html.highlighted(text, added_spans(brief.idea, text), found),
            card.faults: html.violations(found),
            card.fixes: [fix for _, fix in repairs],
        }
        for index, button in enumerate(card.repairs):
            label = f"Put right: {shorten(repairs[index][0])}" if index < len(repairs) else ""
            updates[button] = gr.update(visible=bool(label), value=label)
        return updates


def say(result: EnhanceResult) -> str:
    """How the prompt came about."""
    name = result.model.rpartition("/")[2] or "the model"
    text = ROUTES[result.route].format(model=name)
    parts = html.note(result.failure, "warning") + html.note(text)
    if result.repairs:
        parts += html.note("Mended: " + "; ".join(repair.message for repair in result.repairs))
    return parts + html.notes(result.notes)


def shorten(text: str, most: int = 48) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def wire_enhance(
    studio: DemoService, tab: EnhanceTab, visitor: gr.BrowserState, generate: GenerateTab, tabs: gr.Tabs
) -> None:
    """Connect the tab's components with their handlers."""
    events = EnhanceEvents(studio, tab)
    asked = [tab.idea, tab.image, tab.seconds]
    outputs = [tab.status, tab.kept, tab.write, tab.stop]
    for card in tab.cards:
        outputs += [card.box, card.text]
    gr.on(
        [tab.write.click, tab.idea.submit],
        events.write,
        [visitor, *asked, tab.count, *tab.writer],
        outputs,
        concurrency_limit=4,
        **PRIVATE,
    )
    tab.stop.click(events.stop, [visitor], None, concurrency_limit=None, **PRIVATE)
    tab.writer[0].change(events.choose_writer, tab.writer[0], [tab.server, tab.local], **PRIVATE)
    tab.test.click(events.test, tab.writer, tab.test_note, concurrency_limit=4, **PRIVATE)
    for number, card in enumerate(tab.cards):
        marks = [card.marked, card.faults, card.fixes, *card.repairs]
        card.text.change(
            partial(events.recheck, number), [card.text, *asked], marks, trigger_mode="always_last", **PRIVATE
        )
        for index, button in enumerate(card.repairs):
            button.click(partial(events.repair, index), [card.fixes], [card.text], **PRIVATE)
        card.use.click(
            lambda text, image: (text, image or gr.skip(), gr.Tabs(selected="generate")),
            [card.text, tab.image],
            [generate.field("prompt"), generate.field("image"), tabs],
            **PRIVATE,
        )


def suggest(studio: DemoService, tab: GenerateTab, visitor: gr.BrowserState) -> None:
    """The generate tab's wording helper: a suggestion to edit, use or dismiss."""
    del visitor
    kind = offered_writers(studio)[0][1]

    def propose(request: gr.Request, prompt: str, image: str | None, seconds: float) -> Updates:
        try:
            studio.limiter.check(client_address(request))
            check_prompt(prompt)
            enhancer = open_enhancer(studio, WriterChoice(kind))
            asked = EnhanceRequest(prompt, Path(image) if image else None, seconds=float(seconds))
            result = enhancer.enhance(asked)
        except (UserError, BackendError) as error:
            return {
                tab.suggestion_box: gr.update(visible=True),
                tab.suggestion: gr.update(visible=False),
                tab.suggestion_notes: html.note(str(error), "error"),
            }
        if result.text == prompt:
            return {
                tab.suggestion_box: gr.update(visible=True),
                tab.suggestion: gr.update(visible=False),
                tab.suggestion_notes: html.note(result.failure, "warning") + html.note(NOTHING_BETTER),
            }
        return {
            tab.suggestion_box: gr.update(visible=True),
            tab.suggestion: gr.update(value=result.text, visible=True),
            tab.suggestion_notes: say(result) + html.highlighted(result.text, result.added),
        }

    fields = [tab.field("prompt"), tab.field("image"), tab.field("seconds")]
    outputs = [tab.suggestion_box, tab.suggestion, tab.suggestion_notes]
    tab.suggest.click(propose, fields, outputs, concurrency_limit=4, **PRIVATE)
    tab.use_suggestion.click(
        lambda text: (text, gr.update(visible=False)),
        [tab.suggestion],
        [tab.field("prompt"), tab.suggestion_box],
        **PRIVATE,
    )
    tab.dismiss_suggestion.click(lambda: gr.update(visible=False), None, tab.suggestion_box, **PRIVATE)
