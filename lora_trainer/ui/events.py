"""What happens when somebody uses the train tab: clips, captions, cost. Runs are in `run_events`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from lora_trainer.looking import Looks
from lora_trainer.simple import Simple, default_steps
from lora_trainer.ui import pieces
from lora_trainer.ui.layout import TrainTab
from lora_trainer.ui.workshop import Workshop
from mova.types import BackendError, UserError
from mova.ui.limits import caller_of

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
NO_CAPTIONS = "The cost is told when every clip has a caption."
Updates = dict[Any, Any]


class ClipEvents:
    """Handlers of steps 1 to 3. They return updates by component."""

    def __init__(self, shop: Workshop, tab: TrainTab) -> None:
        self.shop, self.tab = shop, tab

    def show(self, visitor: str) -> Updates:
        """The clips and captions as they are, before anything is looked at."""
        tab = self.tab
        try:
            items = self.shop.clips(self.shop.owner(visitor)).items()
        except UserError as error:
            return {tab.clip_notes: pieces.note(str(error), "error")}
        rows = [[item.name, item.caption] for item in items]
        return {tab.cards: pieces.cards(items, None), tab.table: gr.update(value=rows, visible=bool(rows))}

    def add(self, visitor: str, files: list[str] | None) -> Updates:
        """Take in what was uploaded."""
        try:
            told = self.shop.clips(self.shop.owner(visitor)).add(map(Path, files or ()))
        except (UserError, BackendError) as error:
            told = [str(error)]
        updates = self.show(visitor)
        return {self.tab.upload: None, self.tab.clip_notes: pieces.notes(told, "error")} | updates

    def look(self, visitor: str, *form: object) -> Updates:
        """What the doctor finds."""
        tab = self.tab
        try:
            owner = self.shop.owner(visitor)
            looks, items = self.shop.look(owner, Simple.read(form)), self.shop.clips(owner).items()
        except (UserError, BackendError) as error:
            return {tab.clip_notes: pieces.note(str(error), "error"), tab.mend: gr.update(visible=False)}
        return self._found(looks, items)

    def remove(self, visitor: str, event: gr.EventData) -> Updates:
        try:
            self.shop.clips(self.shop.owner(visitor)).remove(str(event.name))
        except (UserError, OSError) as error:
            return {self.tab.clip_notes: pieces.note(str(error), "error")} | self.show(visitor)
        return self.show(visitor)

    def mend(self, visitor: str, *form: object) -> Updates:
        try:
            told = self.shop.mend(self.shop.owner(visitor), Simple.read(form))
        except (UserError, BackendError) as error:
            return {self.tab.clip_notes: pieces.note(str(error), "error")}
        return self.show(visitor) | {self.tab.caption_notes: pieces.notes(told, "good")}

    def write(self, visitor: str, rows: list[list[str]]) -> Updates:
        """Save the captions of the table."""
        try:
            captions = {str(name): str(text or "") for name, text in rows}
            self.shop.clips(self.shop.owner(visitor)).write_captions(captions)
        except (UserError, BackendError) as error:
            return {self.tab.caption_notes: pieces.note(str(error), "error")}
        return {self.tab.caption_notes: pieces.note("Saved.", "good")}

    def suggest(self, request: gr.Request, visitor: str, *server: str) -> Updates:
        tab = self.tab
        try:
            told = self.shop.suggest(self.shop.owner(visitor), server, caller_of(request))
            said = pieces.note("Read them over, and add what is heard.", "good") + pieces.notes(
                told, "warning"
            )
        except (UserError, BackendError) as error:
            said = pieces.note(str(error), "error")
        return self.show(visitor) | {tab.caption_notes: said}

    def cost(self, visitor: str, flavor: str | None, *form: object) -> str:
        """What a run would take, on a machine of the Hub if one is chosen."""
        simple, most = Simple.read(form), 0
        try:
            owner = self.shop.owner(visitor)
            if not self.shop.clips(owner).videos():
                return ""
            hardware = self.shop.away.offer(flavor) if flavor else None
            cost = self.shop.cost(owner, simple, hardware)
            if hardware and cost:
                simple, most = replace(simple, price=hardware.price), self.shop.away.limit(cost)
        except (UserError, BackendError) as error:
            return pieces.note(str(error), "error")
        if cost is None:
            return pieces.note(NO_CAPTIONS)
        steps = int(simple.steps or default_steps(self.shop.studio.model))
        return pieces.cost(cost, steps, simple.price, self.shop.pace(owner, flavor or ""), most)

    def _found(self, looks: Looks, items: list) -> Updates:
        tab, count = self.tab, looks.fixable
        label = "Mend what is safe" if count == 1 else f"Mend what is safe ({count})"
        return {
            tab.cards: pieces.cards(items, looks),
            tab.clip_notes: pieces.summary(looks) if looks.clips else "",
            tab.mend: gr.update(visible=count > 0, value=label),
        }


def wire_clips(shop: Workshop, tab: TrainTab, visitor: gr.BrowserState, opened: Callable) -> None:
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
