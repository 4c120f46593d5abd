"""The generate tab: the form on one side, the clip on the other, examples and the visitor's clips below."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.components import Component

from demo import history, html
from demo.added import EXTEND, REDO_PICTURE, REDO_SOUND, RETAKE
from demo.examples import Example, thumbnail
from demo.fields import PRIVATE, Updates, Values
from demo.form import AS_IMAGE
from demo.generate_form import GenerateForm
from demo.history import ClipRecord
from demo.queue import ClipRun
from demo.restore import form_of, restore_clip
from demo.service import DemoService, client_address
from demo.settings import model_note
from mova.errors import BackendError, UserError
from mova.machine import human_seconds

WATCH_SECONDS = 0.4
EMPTY = (
    "Your clip appears here",
    "Describe a moment: what is seen, what is said, what is heard. A picture to start from is welcome.",
)
PICK = "Pick an example below, or describe a moment: what is seen, what is said, what is heard."
GONE = "this clip is no longer here"


class GenerateTab:
    """The tab's components and handlers; `visitor` holds the browser's name."""

    def __init__(self, service: DemoService, visitor: gr.BrowserState, examples: list[Example]) -> None:
        self.service, self.visitor = service, visitor
        self.examples = [example for example in examples if example.image or example.clip]
        self.about = gr.HTML(html.note(model_note(service.model_name)), elem_id="about-model")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self.form = GenerateForm(service)
            with gr.Column(scale=6, min_width=320):
                self._lay_out_result()
                self.example_gallery = self._lay_out_examples()
        self._lay_out_own_clips()
        self.shown_clip, self.run_id, self.own_ids = gr.State(""), gr.State(""), gr.State([])

    def _lay_out_result(self) -> None:
        title, text = EMPTY
        self.status = gr.HTML(
            html.empty(title, PICK if self.examples else text), elem_id="status", padding=True
        )
        with gr.Column(visible=False, elem_id="result") as self.result:
            self.player = gr.Video(
                label="Clip",
                show_label=False,
                elem_id="player",
                interactive=False,
                buttons=[],
                autoplay=False,
                height=360,
            )
            self.strip = gr.Image(
                label="Frames over sound",
                elem_id="strip",
                interactive=False,
                show_label=False,
                buttons=["fullscreen"],
                container=False,
            )
            self.figures = gr.HTML(elem_id="figures", padding=True)
            with gr.Column(elem_id="actions", elem_classes="mova-tight") as self.actions:
                self._lay_out_actions()
        self.restore_button = gr.UploadButton(
            "Restore settings from a clip",
            file_types=[".mp4"],
            type="filepath",
            size="sm",
            elem_id="restore",
        )

    def _lay_out_actions(self) -> None:
        small = {"size": "sm"}
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.download_clip = gr.DownloadButton(
                "Clip (mp4)", elem_id="download-mp4", min_width=90, **small
            )
            self.download_sound = gr.DownloadButton(
                "Sound (wav)", elem_id="download-wav", min_width=90, **small
            )
            self.download_settings = gr.DownloadButton(
                "Settings", elem_id="download-json", min_width=90, **small
            )
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.act_buttons = {
                act: gr.Button(label, elem_id=elem_id, min_width=100, **small)
                for act, label, elem_id in (
                    (EXTEND, "Extend", "extend"),
                    (REDO_SOUND, "Redo the sound", "redo-sound"),
                    (REDO_PICTURE, "Redo the picture", "redo-picture"),
                    (RETAKE, "Retake a part", "retake"),
                )
            }
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.reuse_button = gr.Button("Use these settings", elem_id="reuse", min_width=110, **small)
            self.continue_button = gr.Button("Continue from its end", elem_id="go-on", min_width=110, **small)
            self.train_button = gr.Button("Keep for training", elem_id="train-on", min_width=110, **small)
            self.delete_button = gr.Button("Delete", elem_id="delete", min_width=70, **small)

    def _lay_out_examples(self) -> gr.Gallery | None:
        if not self.examples:
            return None
        gr.Markdown("## Examples", elem_classes="mova-plain")
        return gr.Gallery(
            value=[(thumbnail(example), example.title) for example in self.examples],
            label="Examples",
            show_label=False,
            columns=6,
            height="auto",
            allow_preview=False,
            elem_id="examples",
            buttons=[],
            interactive=False,
        )

    def _lay_out_own_clips(self) -> None:
        with gr.Column(visible=False) as self.own_box:
            gr.Markdown("## Your clips", elem_classes="mova-plain")
            self.own_gallery = gr.Gallery(
                label="Your clips",
                show_label=False,
                columns=6,
                height="auto",
                allow_preview=False,
                elem_id="mine",
                buttons=[],
                interactive=False,
            )
            hours = self.service.settings.keep_hours
            kept = f"{hours:g} hours" if hours < 72 else f"{hours / 24:g} days"
            gr.HTML(html.note(f"Only this browser sees them. They are deleted after {kept}."))

    @property
    def shown(self) -> list[Component]:
        """The components that showing a clip sets."""
        downloads = [self.download_clip, self.download_sound, self.download_settings]
        player = [self.player, self.strip, self.figures, self.actions]
        return [self.status, self.result, *player, *downloads, self.shown_clip]

    def validate(self, values: Values) -> list[dict]:
        return self.form.validate(values, values[self.visitor])

    def make(self, values: Values, request: gr.Request) -> Updates:
        """Queue the clip."""
        try:
            form = self.form.read(values)
            run = self.service.submit(values[self.visitor], form, client_address(request))
        except (UserError, BackendError) as error:
            return {self.run_id: "", self.status: html.note(str(error), "error")}
        return {
            self.run_id: run.run_id,
            self.status: html.progress("load", 0, 0, None),
            self.result: gr.update(visible=False),
        } | self._running(True)

    def watch(self, visitor: str, run_id: str) -> Iterator[Updates]:
        """Follow a run to its end."""
        if not run_id:
            yield {self.run_id: ""}  # a generator that yields nothing empties all its outputs
            return
        owner = self.service.visitors.folder_name(visitor)
        run = self.service.queue.get(owner, run_id)
        if run is None:
            yield self._running(False)
            return
        shown = ""
        yield self._running(True)
        while not run.watch(WATCH_SECONDS):
            if (now := self._progress(run)) != shown:
                shown = now
                yield {self.status: now}
        yield self._end(run)

    def _progress(self, run: ClipRun) -> str:
        if ahead := self.service.queue.ahead(run):
            return html.waiting(ahead)
        state = run.state()
        stage, step, steps = state.get("stage", "load"), state.get("step", 0), state.get("steps", 0)
        return html.progress(stage, step, steps, state.get("seconds_left"), run.preview())

    def _running(self, is_running: bool) -> Updates:
        make, stop = gr.update(interactive=not is_running), gr.update(interactive=is_running)
        return {self.form.make: make, self.form.stop: stop}

    def _end(self, run: ClipRun) -> Updates:
        updates = self._running(False) | {self.run_id: ""}
        if run.outcome.kind == "stopped":
            return updates | {self.status: html.note("Stopped. Nothing was kept.")}
        if run.outcome.kind != "done":
            return updates | {self.status: html.note(run.outcome.message, "error")}
        record = self.service.history.record(run.owner, run.folder.name)
        return updates | self._show(record) | {self.form.seed: record.settings["seed"]}

    def _show(self, record: ClipRecord) -> Updates:
        lines = [*record.health, f"Seed {record.settings['seed']}, made in {human_seconds(record.seconds)}."]
        return {
            self.status: html.notes(record.warnings, "warning"),
            self.result: gr.update(visible=True),
            self.player: str(record.clip),
            self.strip: gr.update(value=str(record.folder / history.STRIP), visible=True),
            self.figures: html.notes(lines),
            self.actions: gr.update(visible=True),
            self.download_clip: str(record.clip),
            self.download_sound: str(record.folder / history.SOUND),
            self.download_settings: str(record.folder / history.SETTINGS),
            self.shown_clip: record.clip_id,
        }

    def stop(self, visitor: str, run_id: str) -> Updates:
        run = self.service.queue.get(self.service.visitors.folder_name(visitor), run_id)
        if run is not None:
            self.service.queue.stop(run)
        return {self.form.stop: gr.update(interactive=False)}

    def greet(self, visitor: str | None) -> Updates:
        """Give a new browser a name; find the clips and the run of a known one."""
        if not self.service.visitors.is_known(visitor):
            visitor = self.service.visitors.issue()
        run = self.service.queue.current(self.service.visitors.folder_name(visitor))
        return self.list_own(visitor) | {
            self.visitor: visitor,
            self.run_id: run.run_id if run else "",
            self.form.make: gr.update(interactive=True),
        }

    def list_own(self, visitor: str) -> Updates:
        """The gallery of the visitor's clips, shown if there are any."""
        records = self.service.history.records(self.service.visitors.folder_name(visitor))
        pictured = [(str(record.folder / history.POSTER), _caption(record)) for record in records]
        return {
            self.own_gallery: pictured,
            self.own_box: gr.update(visible=bool(records)),
            self.own_ids: [record.clip_id for record in records],
        }

    def pick_own(self, visitor: str, ids: list[str], event: gr.SelectData) -> Updates:
        record = self._record(visitor, ids[event.index]) if event.index < len(ids) else None
        return self._show(record) if record else {self.status: html.note(GONE, "error")}

    def pick_example(self, event: gr.SelectData) -> Updates:
        """Play an example and fill the form with its settings."""
        example = self.examples[event.index]
        settings = {"prompt": example.prompt, "seed": example.seed}
        is_offered = example.model in self.service.model_names
        if is_offered:  # another model has other best settings
            settings |= example.settings
        updates = self.form.fill(form_of(self.service, settings, example.image, example.model))
        by = "" if is_offered else f" It was made by {example.model}."
        if example.clip:
            updates |= {
                self.status: html.note(f"Example: {example.title}.{by} The form is filled with it."),
                self.result: gr.update(visible=True),
                self.player: str(example.clip),
                self.strip: gr.update(value=None, visible=False),
                self.figures: "",
                self.actions: gr.update(visible=False),
                self.shown_clip: "",
            }
        return updates

    def reuse(self, visitor: str, clip_id: str) -> Updates:
        """Fill the form with the settings of the shown clip."""
        record = self._record(visitor, clip_id)
        if record is None:
            return {self.status: html.note(GONE, "error")}
        model = str(record.settings["model"])
        form = form_of(self.service, record.settings, record.first_frame, model, record.folder)
        return self.form.fill(form)

    def restore(self, visitor: str, file: str | None) -> Updates:
        """Fill the form from a clip that was dropped on the page."""
        if not file:
            return {}
        try:
            form, remark = restore_clip(self.service, visitor, Path(file))
        except UserError as error:
            return {self.status: html.note(str(error), "error")}
        note = html.note("The clip's settings are in the form.", "good") + html.note(remark)
        return self.form.fill(form) | {self.status: note}

    def bring(self, act: str, visitor: str, clip_id: str) -> Updates:
        """Fill the form with the shown clip, its settings, and what is to be done with it."""
        record = self._record(visitor, clip_id)
        if record is None:
            return {self.status: html.note("only your own clips can be changed", "error")}
        model = str(record.settings["model"])
        form = form_of(self.service, record.settings, record.first_frame, model, record.folder)
        form = replace(form, added=str(record.clip), act=act, random_seed=True, strength=1.0)
        return self.form.fill(form) | self.form.card.choose_act(form.added, act)

    def continue_clip(self, visitor: str, clip_id: str) -> Updates:
        """Take the shown clip's last frame as the next one's first."""
        record = self._record(visitor, clip_id)
        if record is None:
            return {self.status: html.note("only your own clips can be continued", "error")}
        return {self.form.image: str(history.save_last_frame(record.clip)), self.form.shape: AS_IMAGE}

    def keep_for_training(self, visitor: str, clip_id: str) -> Updates:
        if self._record(visitor, clip_id) is None:
            return {self.figures: html.note("only your own clips can be kept for training", "error")}
        count = self.service.history.add_training_clip(self.service.visitors.folder_name(visitor), clip_id)
        clips = "1 clip waits" if count == 1 else f"{count} clips wait"
        return {self.figures: html.note(f"Kept; {clips} in the Train tab.", "good")}

    def delete(self, visitor: str, clip_id: str) -> Updates:
        try:
            self.service.history.delete(self.service.visitors.folder_name(visitor), clip_id)
        except UserError as error:
            return {self.figures: html.note(str(error), "error")}
        hidden = {self.result: gr.update(visible=False), self.player: None}
        return hidden | {self.status: html.empty(*EMPTY)} | self.list_own(visitor)

    def _record(self, visitor: str, clip_id: str) -> ClipRecord | None:
        try:
            return self.service.history.record(self.service.visitors.folder_name(visitor), clip_id)
        except UserError:
            return None

    def connect(self, demo: gr.Blocks, machine: gr.HTML) -> None:
        """Connect the components with their handlers; `machine` is the page's note on it."""
        form, visitor = self.form, self.visitor
        listing = [self.own_gallery, self.own_box, self.own_ids]
        buttons = [form.make, form.stop, self.run_id]
        run = [visitor, self.run_id]
        follow = {
            "fn": self.watch,
            "inputs": run,
            "outputs": [*buttons, *self.shown, form.seed],
            "concurrency_limit": None,
        }
        relist = {"fn": self.list_own, "inputs": [visitor], "outputs": listing}

        greeted = demo.load(self.greet, [visitor], [visitor, self.run_id, form.make, *listing], **PRIVATE)
        names = [adapter.name for adapter in form.adapters]
        greeted.then(form.list_own_adapters, [visitor], names, **PRIVATE)
        greeted.then(**follow, **PRIVATE).then(**relist, **PRIVATE)
        made = form.make.click(
            self.make,
            form.inputs | {visitor},
            [*buttons, self.status, self.result],
            validator=self.validate,
            concurrency_limit=None,
            **PRIVATE,
        )
        made.success(**follow, **PRIVATE).then(**relist, **PRIVATE)
        form.stop.click(self.stop, run, [form.stop], concurrency_limit=None, **PRIVATE)

        self.own_gallery.select(self.pick_own, [visitor, self.own_ids], self.shown, **PRIVATE)
        if self.example_gallery is not None:
            self.example_gallery.select(self.pick_example, None, [*form.filled, *self.shown], **PRIVATE)
        shown, filled = [visitor, self.shown_clip], [*form.filled, self.status]
        self.reuse_button.click(self.reuse, shown, filled, **PRIVATE)
        for act, button in self.act_buttons.items():
            button.click(partial(self.bring, act), shown, filled, **PRIVATE)
        continued = [form.image, form.shape, self.status]
        self.continue_button.click(self.continue_clip, shown, continued, **PRIVATE)
        self.train_button.click(self.keep_for_training, shown, [self.figures], **PRIVATE)
        deleted = [self.result, self.player, self.status, self.figures, *listing]
        self.delete_button.click(self.delete, shown, deleted, **PRIVATE)
        self.restore_button.upload(self.restore, [visitor, self.restore_button], filled, **PRIVATE)
        form.card.load.click(self.restore, [visitor, form.card.added], filled, **PRIVATE)
        form.connect(demo, self.about, machine)


def _caption(record: ClipRecord) -> str:
    text = " ".join(str(record.settings["prompt"]).split())
    return text if len(text) <= 60 else f"{text[:59].rstrip()}…"
