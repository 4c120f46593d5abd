"""What happens when somebody uses the enhance tab, and the wording helper of the generate tab."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from mova.prompting.brief import Brief, Violation
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import EnhanceRequest, EnhanceResult, added_spans
from mova.prompting.local import POCKET_ENHANCER
from mova.prompting.validators import check
from mova.types import BackendError, Cancelled, UserError
from mova.ui import html
from mova.ui.enhance import CARDS, REPAIRS, Card, EnhanceTab
from mova.ui.forms import check_prompt
from mova.ui.generate import GenerateTab
from mova.ui.limits import caller_of
from mova.ui.studio import Studio
from mova.ui.writers import (
    HERE,
    SERVER,
    WriterChoice,
    endpoint_of,
    offered_writers,
    open_enhancer,
)

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

    def __init__(self, studio: Studio, tab: EnhanceTab) -> None:
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
            self.studio.limiter.check(caller_of(request))
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
            self.studio.limiter.check(caller_of(request))
            writer = EndpointWriter(endpoint_of(self.studio, WriterChoice(*choice)))
            answer = writer.probe()
        except (UserError, BackendError) as error:
            return html.note(str(error), "error")
        return html.note(f"It works: {answer.model} answered.", "good")

    def choose_writer(self, kind: str) -> tuple[Any, Any]:
        return gr.update(visible=kind == SERVER), gr.update(visible=kind == HERE)

    def _marks(self, card: Card, text: str, found: list[Violation], brief: Brief) -> Updates:
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
    is_pocket = result.model == str(POCKET_ENHANCER)
    name = "the small model here" if is_pocket else result.model.rpartition("/")[2] or "the model"
    text = ROUTES[result.route].format(model=name)
    parts = html.note(result.failure, "warning") + html.note(text)
    if result.repairs:
        parts += html.note("Mended: " + "; ".join(repair.message for repair in result.repairs))
    return parts + html.notes(result.notes)


def shorten(text: str, most: int = 48) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def wire(
    studio: Studio, tab: EnhanceTab, visitor: gr.BrowserState, generate: GenerateTab, tabs: gr.Tabs
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


def suggest(studio: Studio, tab: GenerateTab, visitor: gr.BrowserState) -> None:
    """The generate tab's wording helper: a suggestion to edit, use or dismiss."""
    del visitor
    kind = offered_writers(studio)[0][1]

    def propose(request: gr.Request, prompt: str, image: str | None, seconds: float) -> Updates:
        try:
            studio.limiter.check(caller_of(request))
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
