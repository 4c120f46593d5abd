"""The generate tab: the form on one side, the clip on the other, examples and one's own clips below."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from demo import history, html
from demo.enhance_tab import suggest
from demo.examples import Example, thumbnail
from demo.form import AS_IMAGE, FIELDS, MAX_ADAPTERS, OWN, Form, adapter_field
from demo.generate_form import (
    FormEvents,
    GenerateTab,
    _lay_out_picture_and_words,
    _lay_out_shape,
    lay_out_advanced,
    wire_form,
)
from demo.history import ClipRecord
from demo.restore import form_of, restore_clip
from demo.service import DemoService
from demo.settings import model_note, sample_prompts
from mova.errors import BackendError, UserError
from mova.machine import human_seconds

EMPTY = (
    "Your clip appears here",
    "Describe a moment: what is seen, what is said, what is heard. A picture to start from is welcome.",
)
PICK = "Pick an example below, or describe a moment: what is seen, what is said, what is heard."


def build_generate(studio: DemoService, examples: list[Example]) -> GenerateTab:
    """Lay the tab out; `generate_events.wire` brings it to life."""
    parts: dict[str, object] = {"shown_clip": gr.State(""), "run_id": gr.State("")}
    by_name: dict[str, gr.components.Component] = {}
    parts["about"] = gr.HTML(html.note(model_note(studio.model_name)), elem_id="about-model")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            parts |= _lay_out_picture_and_words(by_name, sample_prompts(studio.model_name)[0])
            parts |= _lay_out_shape(studio, by_name)
            with gr.Row(elem_classes="mova-phone-wrap"):
                # It can be pressed once the page has told the browser its name (`hello`).
                parts["make"] = gr.Button(
                    "Make the clip", variant="primary", elem_id="make", scale=3, interactive=False
                )
                parts["stop"] = gr.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=90)
            parts |= lay_out_advanced(studio, by_name)
        with gr.Column(scale=6, min_width=320):
            parts |= _lay_out_result(bool(examples))
            parts["examples"] = _lay_out_examples(examples)
    with gr.Column(visible=False) as mine_box:
        gr.Markdown("## Your clips", elem_classes="mova-plain")
        parts["mine"] = gr.Gallery(
            label="Your clips",
            show_label=False,
            columns=6,
            height="auto",
            allow_preview=False,
            elem_id="mine",
            buttons=[],
            interactive=False,
        )
        hours = studio.settings.keep_hours
        kept = f"{hours:g} hours" if hours < 72 else f"{hours / 24:g} days"
        gr.HTML(html.note(f"Only this browser sees them. They are deleted after {kept}."))
    parts["mine_box"] = mine_box
    parts["form"] = [by_name[name] for name in FIELDS]
    return GenerateTab(**parts)


def _lay_out_result(has_examples: bool) -> dict:
    title, text = EMPTY
    status = gr.HTML(html.empty(title, PICK if has_examples else text), elem_id="status", padding=True)
    with gr.Column(visible=False, elem_id="result") as result:
        player = gr.Video(
            label="Clip",
            show_label=False,
            elem_id="player",
            interactive=False,
            buttons=[],
            autoplay=False,
            height=360,
        )
        strip = gr.Image(
            label="Frames over sound",
            elem_id="strip",
            interactive=False,
            show_label=False,
            buttons=["fullscreen"],
            container=False,
        )
        figures = gr.HTML(elem_id="figures", padding=True)
        with gr.Column(elem_id="actions", elem_classes="mova-tight") as actions:
            with gr.Row(elem_classes="mova-phone-wrap"):
                downloads = [
                    gr.DownloadButton(label, size="sm", elem_id=f"download-{kind}", min_width=90)
                    for label, kind in (("Clip (mp4)", "mp4"), ("Sound (wav)", "wav"), ("Settings", "json"))
                ]
            with gr.Row(elem_classes="mova-phone-wrap"):
                reuse = gr.Button("Use these settings", size="sm", elem_id="reuse", min_width=110)
                go_on = gr.Button("Continue from its end", size="sm", elem_id="go-on", min_width=110)
                train = gr.Button("Keep for training", size="sm", elem_id="train-on", min_width=110)
                delete = gr.Button("Delete", size="sm", elem_id="delete", min_width=70)
    restore = gr.UploadButton(
        "Restore settings from a clip",
        file_types=[".mp4"],
        type="filepath",
        size="sm",
        elem_id="restore",
    )
    return {
        "status": status,
        "result": result,
        "player": player,
        "strip": strip,
        "figures": figures,
        "actions": actions,
        "downloads": downloads,
        "reuse": reuse,
        "go_on": go_on,
        "train": train,
        "delete": delete,
        "restore": restore,
    }


def _lay_out_examples(examples: list[Example]) -> gr.Gallery | None:
    pictured = [example for example in examples if example.image or example.clip]
    if not pictured:
        return None
    gr.Markdown("## Examples", elem_classes="mova-plain")
    return gr.Gallery(
        value=[(thumbnail(example), example.title) for example in pictured],
        label="Examples",
        show_label=False,
        columns=6,
        height="auto",
        allow_preview=False,
        elem_id="examples",
        buttons=[],
        interactive=False,
    )


WATCH_SECONDS = 0.4
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
Updates = dict[Any, Any]


class GenerateEvents:
    """The tab's handlers. They return updates by component."""

    def __init__(
        self, studio: DemoService, tab: GenerateTab, mine_ids: gr.State, examples: list[Example]
    ) -> None:
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
        return [gr.update(choices=own_adapters(self.studio, visitor))] * MAX_ADAPTERS

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
            self.tab.field("image"): str(history.save_last_frame(entry.clip)),
            self.tab.field("shape"): AS_IMAGE,
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

    def _entry(self, visitor: str, clip_id: str) -> ClipRecord | None:
        try:
            return self.studio.history.entry(self.studio.visitors.folder_name(visitor), clip_id)
        except UserError:
            return None

    def _fill(self, form: Form) -> Updates:
        return dict(zip(self.tab.form, form.values(), strict=True)) | {
            self.tab.adapters_shown: max(1, len(form.adapters))
        }


def own_adapters(studio: DemoService, visitor: str) -> list[tuple[str, str]]:
    """(label, name in the form) of adapters that were trained from this browser."""
    return [(f"{name} (trained here)", f"{OWN}{name}") for name in studio.trained_adapters(visitor)]


def show(tab: GenerateTab, entry: ClipRecord) -> Updates:
    """Updates that show a finished clip."""
    settings = entry.settings
    lines = [*entry.health, f"Seed {settings['seed']}, made in {human_seconds(entry.seconds)}."]
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


def caption(entry: ClipRecord) -> str:
    text = " ".join(str(entry.settings["prompt"]).split())
    return text if len(text) <= 60 else f"{text[:59].rstrip()}…"


def wire_generate(
    studio: DemoService,
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
    names = [tab.field(adapter_field(slot, "name")) for slot in range(MAX_ADAPTERS)]
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
