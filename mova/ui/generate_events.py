"""What happens when somebody uses the generate tab."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from mova import catalog
from mova.checks import digest
from mova.media import read_settings
from mova.shapes import MAX_PROMPT_TOKENS
from mova.types import BackendError, GenerationRequest, UserError
from mova.ui import forms, html, pictures
from mova.ui.enhance_events import suggest
from mova.ui.examples import Example
from mova.ui.forms import FieldError, Form
from mova.ui.generate import EMPTY, GenerateTab
from mova.ui.history import Entry
from mova.ui.studio import Studio

WATCH_SECONDS = 0.4
READY_SECONDS = 60.0
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
Updates = dict[Any, Any]


class GenerateEvents:
    """The tab's handlers. They return updates by component."""

    def __init__(self, studio: Studio, tab: GenerateTab, mine_ids: gr.State, examples: list[Example]) -> None:
        self.studio, self.tab, self.mine_ids = studio, tab, mine_ids
        self.examples = [example for example in examples if example.image or example.clip]

    def check(self, visitor: str, *values: object) -> list[dict]:
        """The validator of the form: a sentence under the field that is wrong."""
        del visitor
        names = ["", *(field.name for field in dataclasses.fields(Form))]
        wrong, message = "", ""
        try:
            Form(*values).request(self.studio.settings)
        except FieldError as error:
            wrong, message = error.field, html.sentence(str(error))
        return [gr.validate(name != wrong or not wrong, message) for name in names]

    def make(self, visitor: str, *values: object) -> Updates:
        """Put the clip in the line."""
        tab = self.tab
        try:
            run = self.studio.submit(visitor, Form(*values))
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

    def list_adapters(self, visitor: str) -> Any:  # noqa: ANN401
        names = self.studio.trained_adapters(visitor)
        return gr.update(choices=names, visible=bool(names))

    def stop(self, visitor: str, run_id: str) -> Updates:
        run = self.studio.line.get(self.studio.visitors.folder_name(visitor), run_id)
        if run is not None:
            self.studio.line.stop(run)
        return {self.tab.stop: gr.update(interactive=False)}

    def hello(self, visitor: str | None) -> tuple[str, str, list, Any, list[str]]:
        """Greet a browser: give it a name if it has none, and find its clips and its run."""
        if not self.studio.visitors.is_known(visitor):
            visitor = self.studio.visitors.issue()
        run = self.studio.line.current(self.studio.visitors.folder_name(visitor))
        return visitor, run.run_id if run else "", *self.list_mine(visitor)

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
        updates = self._fill(
            {"prompt": example.prompt, "seed": example.seed, **example.settings}, example.image, example.model
        )
        if example.clip:
            updates |= {
                self.tab.status: html.note(f"Example: {example.title}. Its settings are in the form."),
                self.tab.result: gr.update(visible=True),
                self.tab.player: str(example.clip),
                self.tab.strip: gr.update(value=None, visible=False),
                self.tab.figures: "",
                self.tab.shown_clip: "",
            }
        return updates

    def reuse(self, visitor: str, clip_id: str) -> Updates:
        """Fill the form with the settings of the clip that is shown."""
        entry = self._entry(visitor, clip_id)
        if entry is None:
            return {self.tab.status: html.note("this clip is no longer here", "error")}
        return self._fill(entry.settings, entry.first_frame, str(entry.settings["model"]))

    def restore(self, visitor: str, file: str | None) -> Updates:
        """Fill the form from a clip that was dropped on the page."""
        if not file:
            return {}
        path = Path(file)
        try:
            settings = read_settings(path)
            GenerationRequest.from_settings(settings)
            image, remark = self._first_frame_of(visitor, path, settings)
            updates = self._fill(settings, image, str(settings.get("model", "")))
        except UserError as error:
            return {self.tab.status: html.note(str(error), "error")}
        return updates | {
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

    def describe(self, *values: object) -> str:
        """What will be made and what it will cost."""
        size, cost = self.studio.describe(Form(*values))
        return html.note(size) + html.note(cost) if cost else html.note(size, "error")

    def describe_when_ready(self, *values: object) -> tuple[str, str]:
        """The same, once the machine has been looked at, and what the machine is."""
        self.studio.ready.wait(READY_SECONDS)
        return self.describe(*values), html.note(self.studio.machine)

    def measure_prompt(self, prompt: str | None, model: str, seconds: float) -> str:
        """The meters under the prompt."""
        if not (prompt or "").strip():
            return ""
        parts = []
        counted = self.studio.count_tokens(prompt, model)
        if counted:
            tokens, cut = counted
            parts.append(
                html.meter("Tokens", tokens, MAX_PROMPT_TOKENS, f"{tokens} of {MAX_PROMPT_TOKENS} tokens")
            )
            parts.append(html.note(f"The end will not be read: {cut}" if cut else "", "warning"))
        words, spoken = self.studio.speech(prompt)
        if words:
            text = f"{words} spoken words, about {spoken:.1f} s of {seconds:.1f} s"
            parts.append(html.meter("Speech", spoken, seconds, text))
        return f'<div class="mova-meters">{"".join(parts)}</div>'

    def preview_crop(self, *values: object) -> Any:  # noqa: ANN401
        """The first frame with what falls outside the clip dimmed."""
        form = Form(*values)
        if not form.image:
            return gr.update(visible=False, value="")
        try:
            height, width = form.size(forms.describe_model(form.model, self.studio.settings))
            picture = pictures.draw_crop(Path(form.image), height, width, form.fit)
        except UserError as error:
            return gr.update(visible=True, value=html.note(str(error), "error"))
        text = "Bright: what the clip starts from." if form.fit == "crop" else "What the clip starts from."
        return gr.update(
            visible=True, value=html.picture(picture, "The first frame as the clip starts") + html.note(text)
        )

    def choose_preset(self, name: str, model: str) -> tuple[float, int]:
        """Length and steps of a preset."""
        preset = catalog.find_preset(name)
        described = forms.describe_model(model, self.studio.settings)
        seconds = preset.num_frames(described) / described.frame_rate
        return round(min(seconds, self.studio.settings.max_seconds), 2), preset.num_inference_steps

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

    def _first_frame_of(self, visitor: str, clip: Path, settings: dict) -> tuple[Path | None, str]:
        """The picture a dropped clip began with: the very one if it is still here, else from the clip."""
        if not settings.get("image"):
            return None, ""
        for entry in self.studio.history.entries(self.studio.visitors.folder_name(visitor)):
            if entry.first_frame and digest(entry.first_frame) == settings.get("image_sha256"):
                return entry.first_frame, ""
        remark = "Its first frame was taken from the clip, so the new clip will differ a little."
        return pictures.save_frame(clip, 0), remark

    def _fill(self, settings: dict[str, Any], image: Path | None, model: str) -> Updates:
        form = form_of(self.studio, settings, image, model)
        values = {field.name: getattr(form, field.name) for field in dataclasses.fields(Form)}
        values["adapter_trained"] = values["adapter_trained"] or None  # "" is not among a dropdown's choices
        return dict(zip(self.tab.form, values.values(), strict=True))


def form_of(studio: Studio, settings: dict[str, Any], image: Path | None, model: str) -> Form:
    """The form that asks for what `settings` say; what they are silent about is as in a fresh form."""
    name = model if model in studio.model_names else studio.model_name
    described = forms.describe_model(name, studio.settings)
    fresh = GenerationRequest(
        "-",
        height=described.height,
        width=described.width,
        num_frames=catalog.find_preset(catalog.DEFAULT_PRESET).num_frames(described),
        negative_prompt=catalog.default_negative_prompt(),
        num_inference_steps=catalog.find_preset(catalog.DEFAULT_PRESET).num_inference_steps,
    )
    request = GenerationRequest.from_settings(fresh.to_settings() | settings)
    size = (request.height, request.width)
    shape = forms.TALL if size == (described.width, described.height) != size[::-1] else forms.WIDE
    is_own_size = size in ((described.height, described.width), (described.width, described.height))
    return Form(
        image=str(image) if image else None,
        prompt=request.prompt,
        model=name,
        preset=catalog.DEFAULT_PRESET,
        shape=shape,
        seconds=round(request.num_frames / request.frame_rate, 2),
        seed=request.seed,
        random_seed=request.seed is None,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
        sync_guidance=request.bridge_guidance_scale,
        video_shift=request.video_shift,
        audio_shift=request.audio_shift,
        negative=request.negative_prompt,
        fit=request.fit,
        exact_size="" if is_own_size else f"{request.width}x{request.height}",
    )


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

    hello = demo.load(events.hello, [visitor], [visitor, tab.run_id, *listing], **PRIVATE)
    hello.then(events.list_adapters, [visitor], [tab.field("adapter_trained")], **PRIVATE)
    hello.then(**follow, **PRIVATE).then(**relist, **PRIVATE)
    made = tab.make.click(
        events.make,
        [visitor, *tab.form],
        [tab.run_id, tab.status, tab.result, tab.make, tab.stop],
        validator=events.check,
        concurrency_limit=None,
        **PRIVATE,
    )
    made.success(**follow, **PRIVATE).then(**relist, **PRIVATE)
    tab.stop.click(events.stop, [visitor, tab.run_id], [tab.stop], concurrency_limit=None, **PRIVATE)

    tab.mine.select(events.pick_mine, [visitor, mine_ids], tab.shown, **PRIVATE)
    shown = [visitor, tab.shown_clip]
    tab.reuse.click(events.reuse, shown, [*tab.form, tab.status], **PRIVATE)
    tab.go_on.click(events.go_on, shown, [tab.field("image"), tab.field("shape")], **PRIVATE)
    tab.train.click(events.keep_for_training, shown, [tab.figures], **PRIVATE)
    tab.delete.click(events.delete, shown, [tab.result, tab.player, tab.status, *listing], **PRIVATE)
    tab.restore.upload(events.restore, [visitor, tab.restore], [*tab.form, tab.status], **PRIVATE)
    if tab.examples is not None:
        tab.examples.select(events.pick_example, None, [*tab.form, *tab.shown], **PRIVATE)
    wire_form(events, tab, machine, demo)
    suggest(studio, tab, visitor)


def wire_form(events: GenerateEvents, tab: GenerateTab, machine: gr.HTML, demo: gr.Blocks) -> None:
    """What the form says about itself while it is filled in."""
    live = {"trigger_mode": "always_last", **PRIVATE}
    field = tab.field
    tab.field("preset").input(
        events.choose_preset, [field("preset"), field("model")], [field("seconds"), field("steps")], **live
    )
    priced = ("model", "shape", "seconds", "steps", "guidance", "sync_guidance", "exact_size", "image")
    demo.load(
        events.describe_when_ready, tab.form, [tab.cost_note, machine], concurrency_limit=None, **PRIVATE
    )
    triggers = [field(name).change for name in priced]
    gr.on(triggers, events.describe, tab.form, [tab.cost_note], **live)
    gr.on(
        [field("prompt").change, field("seconds").change, field("model").change],
        events.measure_prompt,
        [field("prompt"), field("model"), field("seconds")],
        [tab.meters],
        **live,
    )
    gr.on(
        [field(name).change for name in ("image", "shape", "fit", "exact_size", "model")],
        events.preview_crop,
        tab.form,
        [tab.crop],
        **live,
    )
