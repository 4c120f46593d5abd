"""What happens when somebody uses the generate tab."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from mova import catalog
from mova.types import BackendError, UserError
from mova.ui import forms, html, pictures
from mova.ui.enhance_events import suggest
from mova.ui.examples import Example
from mova.ui.form_events import FormEvents, wire_form
from mova.ui.forms import Form
from mova.ui.generate import EMPTY, GenerateTab
from mova.ui.history import Entry
from mova.ui.restore import form_of, restore_clip
from mova.ui.studio import Studio

WATCH_SECONDS = 0.4
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
Updates = dict[Any, Any]


class GenerateEvents:
    """The tab's handlers. They return updates by component."""

    def __init__(self, studio: Studio, tab: GenerateTab, mine_ids: gr.State, examples: list[Example]) -> None:
        self.studio, self.tab, self.mine_ids = studio, tab, mine_ids
        self.examples = [example for example in examples if example.image or example.clip]

    def make(self, visitor: str, *values: object) -> Updates:
        """Put the clip in the line."""
        tab = self.tab
        try:
            run = self.studio.submit(visitor, Form.read(values))
        except (UserError, BackendError) as error:
            return {tab.run_id: "", tab.status: html.note(str(error), "error")}
        return {
            tab.run_id: run.run_id,
            tab.status: html.progress("load", 0, 0, None),
            tab.result: gr.update(visible=False),
            tab.make: gr.update(interactive=False),
            tab.stop: gr.update(interactive=True),
        }

    def watch(self, visitor: str, run_id: str) -> Iterator[Updates]:
        """Follow a run to its end."""
        tab = self.tab
        if not run_id:
            yield {tab.run_id: ""}  # a generator that yields nothing empties all its outputs
            return
        owner = self.studio.visitors.folder_name(visitor)
        run = self.studio.line.get(owner, run_id)
        if run is None:
            yield {tab.make: gr.update(interactive=True), tab.stop: gr.update(interactive=False)}
            return
        shown = ""
        yield {tab.make: gr.update(interactive=False), tab.stop: gr.update(interactive=True)}
        while not run.watch(WATCH_SECONDS):
            ahead = self.studio.line.ahead(run)
            state = run.state()
            if ahead:
                now = html.waiting(ahead)
            else:
                now = html.progress(
                    state.get("stage", "load"),
                    state.get("step", 0),
                    state.get("steps", 0),
                    state.get("seconds_left"),
                    run.preview(),
                )
            if now != shown:
                shown = now
                yield {tab.status: now}
        yield self._ended(owner, run.outcome.kind, run.outcome.message, run.job.folder.name)

    def list_adapters(self, visitor: str) -> list:
        """The visitor's own adapters as choices, for each place."""
        return [gr.update(choices=own_adapters(self.studio, visitor))] * forms.MAX_ADAPTERS

    def stop(self, visitor: str, run_id: str) -> Updates:
        run = self.studio.line.get(self.studio.visitors.folder_name(visitor), run_id)
        if run is not None:
            self.studio.line.stop(run)
        return {self.tab.stop: gr.update(interactive=False)}

    def hello(self, visitor: str | None) -> tuple[str, str, Any, list, Any, list[str]]:
        """Greet a browser: give it a name if it has none, and find its clips and its run."""
        if not self.studio.visitors.is_known(visitor):
            visitor = self.studio.visitors.issue()
        run = self.studio.line.current(self.studio.visitors.folder_name(visitor))
        run_id = run.run_id if run else ""
        return visitor, run_id, gr.update(interactive=True), *self.list_mine(visitor)

    def list_mine(self, visitor: str) -> tuple[list, Any, list[str]]:
        """The gallery, whether it is shown, and the clips' ids in its order."""
        entries = self.studio.history.entries(self.studio.visitors.folder_name(visitor))
        pictured = [(str(entry.folder / "poster.webp"), caption(entry)) for entry in entries]
        return pictured, gr.update(visible=bool(entries)), [entry.clip_id for entry in entries]

    def pick_mine(self, visitor: str, ids: list[str], event: gr.SelectData) -> Updates:
        owner = self.studio.visitors.folder_name(visitor)
        try:
            return show(self.tab, self.studio.history.entry(owner, ids[event.index]))
        except (UserError, IndexError) as error:
            return {self.tab.status: html.note(str(error), "error")}

    def pick_example(self, event: gr.SelectData) -> Updates:
        """Play an example and fill the form with what made it."""
        example = self.examples[event.index]
        settings = {"prompt": example.prompt, "seed": example.seed}
        is_offered = example.model in self.studio.model_names
        if is_offered:  # another model is best asked in its own way
            settings |= example.settings
        updates = self._fill(form_of(self.studio, settings, example.image, example.model))
        by = "" if is_offered else f" It was made by {example.model}."
        if example.clip:
            updates |= {
                self.tab.status: html.note(f"Example: {example.title}.{by} The form is filled with it."),
                self.tab.result: gr.update(visible=True),
                self.tab.player: str(example.clip),
                self.tab.strip: gr.update(value=None, visible=False),
                self.tab.figures: "",
                self.tab.actions: gr.update(visible=False),
                self.tab.shown_clip: "",
            }
        return updates

    def reuse(self, visitor: str, clip_id: str) -> Updates:
        """Fill the form with the settings of the clip that is shown."""
        entry = self._entry(visitor, clip_id)
        if entry is None:
            return {self.tab.status: html.note("this clip is no longer here", "error")}
        model = str(entry.settings["model"])
        return self._fill(form_of(self.studio, entry.settings, entry.first_frame, model, entry.folder))

    def restore(self, visitor: str, file: str | None) -> Updates:
        """Fill the form from a clip that was dropped on the page."""
        if not file:
            return {}
        try:
            form, remark = restore_clip(self.studio, visitor, Path(file))
        except UserError as error:
            return {self.tab.status: html.note(str(error), "error")}
        return self._fill(form) | {
            self.tab.status: html.note("The clip's settings are in the form.", "good") + html.note(remark)
        }

    def go_on(self, visitor: str, clip_id: str) -> Updates:
        """Take the shown clip's last frame as the next one's first."""
        entry = self._entry(visitor, clip_id)
        if entry is None:
            return {self.tab.status: html.note("only clips of your own can be gone on from", "error")}
        return {
            self.tab.field("image"): str(pictures.save_last_frame(entry.clip)),
            self.tab.field("shape"): forms.AS_IMAGE,
        }

    def keep_for_training(self, visitor: str, clip_id: str) -> Updates:
        entry = self._entry(visitor, clip_id)
        if entry is None:
            return {self.tab.figures: html.note("only clips of your own can be kept for training", "error")}
        count = self.studio.history.add_training_clip(self.studio.visitors.folder_name(visitor), clip_id)
        return {self.tab.figures: html.note(f"Kept; {count} clips wait in the Train tab.", "good")}

    def delete(self, visitor: str, clip_id: str) -> Updates:
        owner = self.studio.visitors.folder_name(visitor)
        try:
            self.studio.history.delete(owner, clip_id)
        except UserError as error:
            return {self.tab.figures: html.note(str(error), "error")}
        gallery, visible, ids = self.list_mine(visitor)
        return {
            self.tab.result: gr.update(visible=False),
            self.tab.player: None,
            self.tab.status: html.empty(*EMPTY),
            self.tab.mine: gallery,
            self.tab.mine_box: visible,
            self.mine_ids: ids,
        }

    def _ended(self, owner: str, kind: str, message: str, clip_id: str) -> Updates:
        tab = self.tab
        updates: Updates = {
            tab.run_id: "",
            tab.make: gr.update(interactive=True),
            tab.stop: gr.update(interactive=False),
        }
        if kind == "stopped":
            return updates | {tab.status: html.note("Stopped. Nothing was kept.")}
        if kind != "done":
            return updates | {tab.status: html.note(message, "error")}
        entry = self.studio.history.entry(owner, clip_id)
        return updates | show(tab, entry) | {tab.field("seed"): entry.settings["seed"]}

    def _entry(self, visitor: str, clip_id: str) -> Entry | None:
        try:
            return self.studio.history.entry(self.studio.visitors.folder_name(visitor), clip_id)
        except UserError:
            return None

    def _fill(self, form: Form) -> Updates:
        return dict(zip(self.tab.form, form.values(), strict=True)) | {
            self.tab.adapters_shown: max(1, len(form.adapters))
        }


def own_adapters(studio: Studio, visitor: str) -> list[tuple[str, str]]:
    """(label, name in the form) of adapters that were trained from this browser."""
    return [(f"{name} (trained here)", f"{forms.OWN}{name}") for name in studio.trained_adapters(visitor)]


def show(tab: GenerateTab, entry: Entry) -> Updates:
    """Updates that show a finished clip."""
    settings = entry.settings
    lines = [*entry.health, f"Seed {settings['seed']}, made in {catalog.human_seconds(entry.seconds)}."]
    mp4, wav, as_json = tab.downloads
    return {
        tab.status: html.notes(entry.warnings, "warning"),
        tab.result: gr.update(visible=True),
        tab.player: str(entry.clip),
        tab.strip: gr.update(value=str(entry.folder / "strip.png"), visible=True),
        tab.figures: html.notes(lines),
        tab.actions: gr.update(visible=True),
        mp4: str(entry.clip),
        wav: str(entry.folder / "sound.wav"),
        as_json: str(entry.folder / "settings.json"),
        tab.shown_clip: entry.clip_id,
    }


def caption(entry: Entry) -> str:
    text = " ".join(str(entry.settings["prompt"]).split())
    return text if len(text) <= 60 else f"{text[:59].rstrip()}…"


def wire(
    studio: Studio,
    tab: GenerateTab,
    visitor: gr.BrowserState,
    machine: gr.HTML,
    examples: list[Example],
    demo: gr.Blocks,
) -> None:
    """Connect the tab's components with their handlers."""
    mine_ids = gr.State([])
    events = GenerateEvents(studio, tab, mine_ids, examples)
    listing = [tab.mine, tab.mine_box, mine_ids]
    running = [tab.make, tab.stop, tab.run_id, *tab.shown, tab.field("seed")]
    follow = {
        "fn": events.watch,
        "inputs": [visitor, tab.run_id],
        "outputs": running,
        "concurrency_limit": None,
    }
    relist = {"fn": events.list_mine, "inputs": [visitor], "outputs": listing}

    hello = demo.load(events.hello, [visitor], [visitor, tab.run_id, tab.make, *listing], **PRIVATE)
    names = [tab.field(forms.adapter_field(slot, "name")) for slot in range(forms.MAX_ADAPTERS)]
    hello.then(events.list_adapters, [visitor], names, **PRIVATE)
    hello.then(**follow, **PRIVATE).then(**relist, **PRIVATE)
    made = tab.make.click(
        events.make,
        [visitor, *tab.form],
        [tab.run_id, tab.status, tab.result, tab.make, tab.stop],
        validator=FormEvents(studio).check,
        concurrency_limit=None,
        **PRIVATE,
    )
    made.success(**follow, **PRIVATE).then(**relist, **PRIVATE)
    tab.stop.click(events.stop, [visitor, tab.run_id], [tab.stop], concurrency_limit=None, **PRIVATE)

    tab.mine.select(events.pick_mine, [visitor, mine_ids], tab.shown, **PRIVATE)
    shown = [visitor, tab.shown_clip]
    filled = [*tab.form, tab.adapters_shown]
    tab.reuse.click(events.reuse, shown, [*filled, tab.status], **PRIVATE)
    tab.go_on.click(events.go_on, shown, [tab.field("image"), tab.field("shape")], **PRIVATE)
    tab.train.click(events.keep_for_training, shown, [tab.figures], **PRIVATE)
    tab.delete.click(events.delete, shown, [tab.result, tab.player, tab.status, *listing], **PRIVATE)
    tab.restore.upload(events.restore, [visitor, tab.restore], [*filled, tab.status], **PRIVATE)
    if tab.examples is not None:
        tab.examples.select(events.pick_example, None, [*filled, *tab.shown], **PRIVATE)
    wire_form(studio, tab, machine, demo)
    suggest(studio, tab, visitor)
