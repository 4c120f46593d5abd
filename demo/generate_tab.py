"""The generate tab: the prompt, below it examples and the visitor's clips beside the result."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import gradio as gr

from demo import history, html
from demo.best import best_of
from demo.examples import Example
from demo.fields import PRIVATE, Updates, Values
from demo.form import AS_IMAGE
from demo.generate_form import GenerateForm
from demo.history import ClipRecord
from demo.queue import ClipRun
from demo.restore import form_of, restore_clip
from demo.result import Result, progress
from demo.service import DemoService, client_address
from mova.errors import BackendError, UserError

WATCH_SECONDS = 0.4
GONE = "this clip is no longer here"
# A tile plays at once; the page's process then follows.
PICK = """element.addEventListener('click', event => {
  const tile = event.target.closest('[data-key]');
  if (tile) { window.movaPlay(tile.dataset); trigger('click', {key: tile.dataset.key}); }
});"""


class GenerateTab:
    """The tab's components and handlers; `visitor` holds the browser's name."""

    def __init__(self, service: DemoService, visitor: gr.BrowserState, examples: list[Example]) -> None:
        self.service, self.visitor = service, visitor
        self.examples = {example.id: example for example in examples if example.clip}
        gr.HTML("<h1>Describe a moment. Get a video with its own sound.</h1>", elem_id="mova-line")
        self.form = GenerateForm(service, visitor)
        with self.form.shelf:
            self.example_tiles = self._lay_out_examples()
            self._lay_out_own_clips()
        with self.form.side:
            self.result = Result(next(iter(self.examples.values()), None))
        self.status = self.result.status
        self.shown_clip, self.run_id = gr.State(""), gr.State("")

    def _lay_out_examples(self) -> gr.HTML | None:
        if not self.examples:
            return None
        gr.HTML("<h2>Examples</h2>", elem_classes="mova-title")
        buttons = (
            html.tile(each.id, each.title, each.clip, poster=each.image, loops=True)
            for each in self.examples.values()
        )
        return gr.HTML(html.tiles(buttons), js_on_load=PICK, elem_id="examples")

    def _lay_out_own_clips(self) -> None:
        with gr.Column(visible=False, elem_id="own-box") as self.own_box:
            gr.HTML("<h2>Your clips</h2>", elem_classes="mova-title")
            self.own_tiles = gr.HTML(js_on_load=PICK, elem_id="mine")
            hours = self.service.settings.keep_hours
            kept = f"{hours:g} hours" if hours < 72 else f"{hours / 24:g} days"
            gr.HTML(html.note(f"Private to this browser for {kept}."))

    def validate(self, values: Values) -> list[dict]:
        return self.form.validate(values, values[self.visitor])

    def make(self, values: Values, request: gr.Request) -> Updates:
        """Queue the clip, unless the model can draw none of it and the visitor does not know yet."""
        form = self.form.read(values)
        if self.form.warns(form, values[self.form.warned]):
            return {self.run_id: ""} | self.form.read_prompt(form)
        try:
            run = self.service.submit(values[self.visitor], form, client_address(request))
        except (UserError, BackendError) as error:
            return {self.run_id: "", self.status: html.note(str(error), "error")}
        return {self.run_id: run.run_id} | self._follow(run)

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
        while not run.watch(WATCH_SECONDS):
            if (now := self._progress(run)) != shown:
                shown = now
                yield {self.status: now}
        yield self._end(run)

    def _follow(self, run: ClipRun) -> Updates:
        """The page while the run goes on."""
        hidden = gr.update(visible=False)
        shown = {self.status: self._progress(run), self.result.notes: "", self.result.actions: hidden}
        return shown | self._running(True)

    def _progress(self, run: ClipRun) -> str:
        return progress(run.turn, self.service.queue.ahead(run.turn))

    def _running(self, is_running: bool) -> Updates:
        return {
            self.form.make: gr.update(visible=not is_running, interactive=True),
            self.form.stop: gr.update(visible=is_running, interactive=True),
        }

    def _end(self, run: ClipRun) -> Updates:
        updates = self._running(False) | {self.run_id: ""}
        made = [each for each in run.series if each.outcome.kind == "done"]
        faults = {each.outcome.message for each in run.series if each.outcome.message}
        end = html.notes(sorted(faults), "error")
        if not faults and len(made) < len(run.series):
            end = html.note("Stopped.")
        if not made:
            return updates | {self.status: end}
        best, why = best_of([each.outcome.measured for each in made])
        record = self.service.history.record(run.owner, made[best].folder.name)
        updates |= {self.form.seed: run.series[0].request.seed, self.shown_clip: record.clip_id}
        return updates | self.result.describe(record, end + html.note(why)) | self.result.play(record)

    def stop(self, visitor: str, run_id: str) -> Updates:
        run = self.service.queue.get(self.service.visitors.folder_name(visitor), run_id)
        if run is not None:
            self.service.queue.stop(run)
        return {self.form.stop: gr.update(interactive=False)}

    def greet(self, visitor: str | None) -> Updates:
        """Give a new browser a name; find the form, the clips and the run of a known one."""
        if not self.service.visitors.is_known(visitor):
            visitor = self.service.visitors.issue()
        owner = self.service.visitors.folder_name(visitor)
        draft, run = self.form.drafts.form(owner), self.service.queue.current(owner)
        found: Updates = self.form.fill(draft) if draft else {}
        found |= self._follow(run) if run else self._running(False)
        found |= {self.visitor: visitor, self.run_id: run.run_id if run else ""}
        return found | self.list_own(visitor)

    def list_own(self, visitor: str) -> Updates:
        """The visitor's clips, shown if there are any."""
        records = self.service.history.records(self.service.visitors.folder_name(visitor))
        buttons = (
            html.tile(
                record.clip_id,
                record.name,
                record.clip,
                poster=record.folder / history.POSTER,
                strip=record.folder / history.STRIP,
            )
            for record in records
        )
        return {self.own_tiles: html.tiles(buttons), self.own_box: gr.update(visible=bool(records))}

    def pick_own(self, visitor: str, event: gr.EventData) -> Updates:
        """Describe a clip that already plays."""
        record = self._record(visitor, str(event.key))
        if record is None:
            return {self.status: html.note(GONE, "error")}
        return self.result.describe(record) | {self.shown_clip: record.clip_id}

    def pick_example(self, event: gr.EventData) -> Updates:
        """Fill the form with the settings of an example that already plays."""
        example = self.examples[str(event.key)]
        settings = {"prompt": example.prompt, "seed": example.seed}
        is_offered = example.model in self.service.model_names
        if is_offered:  # another model has other best settings
            settings |= example.settings
        form = form_of(self.service, settings, example.image, example.model)
        by = "" if is_offered else html.note(f"Made by {example.model}.")
        shown = {
            self.status: "",
            self.result.notes: by,
            self.result.actions: gr.update(visible=False),
            self.shown_clip: "",
        }
        return self.form.fill(form) | shown

    def reuse(self, visitor: str, clip_id: str) -> Updates:
        """Fill the form with the settings of the shown clip."""
        record = self._record(visitor, clip_id)
        if record is None:
            return {self.status: html.note(GONE, "error")}
        model = str(record.settings["model"])
        form = form_of(self.service, record.settings, record.first_frame, model, record.folder)
        return self.form.fill(form)

    def restore(self, visitor: str, file: str | None) -> Updates:
        """Fill the form from the settings of a clip that was added."""
        if not file:
            return gr.skip()
        try:
            form, remark = restore_clip(self.service, visitor, Path(file))
        except UserError as error:
            return {self.form.note: html.note(str(error), "error")}
        note = html.note("Settings loaded.", "good") + html.note(remark)
        return self.form.fill(form) | {self.form.note: note}

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
            return {self.result.notes: html.note("only your own clips can be added to Train", "error")}
        count = self.service.history.add_training_clip(self.service.visitors.folder_name(visitor), clip_id)
        clips = "1 clip" if count == 1 else f"{count} clips"
        return {self.result.notes: html.note(f"Added to Train ({clips}).", "good")}

    def remove(self, visitor: str, clip_id: str) -> Updates:
        """Take a clip away, with a while to undo it."""
        try:
            self.service.history.remove(self.service.visitors.folder_name(visitor), clip_id)
        except UserError as error:
            return {self.result.notes: html.note(str(error), "error")}
        return self.result.show_nothing() | self.result.offer_undo(True) | self.list_own(visitor)

    def undo(self, visitor: str, clip_id: str) -> Updates:
        """Bring the removed clip back."""
        offered = self.result.offer_undo(False)
        try:
            record = self.service.history.bring_back(self.service.visitors.folder_name(visitor), clip_id)
        except UserError as error:
            return offered | {self.result.notes: html.note(str(error), "error")}
        return offered | self.result.describe(record) | self.result.play(record) | self.list_own(visitor)

    def _record(self, visitor: str, clip_id: str) -> ClipRecord | None:
        try:
            return self.service.history.record(self.service.visitors.folder_name(visitor), clip_id)
        except UserError:
            return None

    def connect(self, demo: gr.Blocks, machine: gr.HTML) -> None:
        """Connect the components with their handlers; `machine` is the page's note on it."""
        form, visitor, result = self.form, self.visitor, self.result
        listing = [self.own_tiles, self.own_box]
        buttons = [form.make, form.stop, self.run_id]
        run = [visitor, self.run_id]
        described = [*result.filled, self.shown_clip]
        follow = {
            "fn": self.watch,
            "inputs": run,
            "outputs": [*buttons, *described, result.shown, form.seed],
            "concurrency_limit": None,
        }
        relist = {"fn": self.list_own, "inputs": [visitor], "outputs": listing}
        running = [*buttons, self.status, result.notes, result.actions]

        greeted = demo.load(self.greet, [visitor], [visitor, *running, *form.filled, *listing], **PRIVATE)
        greeted.then(**follow, **PRIVATE).then(**relist, **PRIVATE)
        names = [adapter.name for adapter in form.adapters]
        greeted.then(form.list_own_adapters, [visitor], names, **PRIVATE)
        made = form.make.click(
            self.make,
            form.inputs | {visitor, form.warned},
            [*running, *form.answered],
            validator=self.validate,
            concurrency_limit=None,
            **PRIVATE,
        )
        followed = made.success(**follow, **PRIVATE).then(**relist, **PRIVATE)
        followed.then(form.show_presets, [form.model], [form.preset], **PRIVATE)
        form.stop.click(self.stop, run, [form.stop], concurrency_limit=None, **PRIVATE)

        self.own_tiles.click(self.pick_own, [visitor], described, **PRIVATE)
        if self.example_tiles is not None:
            picked = [self.status, result.notes, result.actions, self.shown_clip]
            self.example_tiles.click(self.pick_example, None, [*form.filled, *picked], **PRIVATE)
        shown, filled = [visitor, self.shown_clip], [*form.filled, self.status]
        result.reuse.click(self.reuse, shown, filled, **PRIVATE)
        for act, button in result.acts.items():
            button.click(partial(self.bring, act), shown, filled, **PRIVATE)
        continued = [form.image, form.shape, self.status]
        result.from_end.click(self.continue_clip, shown, continued, **PRIVATE)
        result.train.click(self.keep_for_training, shown, [result.notes], **PRIVATE)
        undoing = [result.undo_box, result.undo_timer]
        removed = [*result.filled, result.shown, *undoing, *listing]
        result.remove.click(self.remove, shown, removed, **PRIVATE)
        result.undo.click(self.undo, shown, removed, **PRIVATE)
        result.undo_timer.tick(lambda: result.offer_undo(False), None, undoing, **PRIVATE)
        loaded = [*form.filled, form.note]
        form.card.load.click(self.restore, [visitor, form.card.added], loaded, **PRIVATE)
        form.connect(demo, machine)
