"""The generate form: its fields, and what it says about itself while it is filled in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from demo import history, html
from demo.fields import PictureField
from demo.form import (
    AS_IMAGE,
    FIELDS,
    MAX_ADAPTERS,
    OWN_FIELDS,
    SQUARE,
    TALL,
    WIDE,
    FieldError,
    Form,
    adapter_field,
    describe_model,
    preset_choices,
)
from demo.service import DemoService
from demo.settings import model_note
from mova import catalog
from mova.errors import UserError
from mova.shapes import MAX_PROMPT_TOKENS


def lay_out_advanced(studio: DemoService, by_name: dict) -> dict:
    """Lay the fields out into `by_name`; the other parts that events need."""
    model = studio.model
    with gr.Accordion("More settings", open=False, elem_id="advanced"):
        with gr.Row(elem_classes="mova-phone-wrap"):
            by_name["seed"] = gr.Number(
                value=None,
                precision=0,
                label="Seed",
                info="The same seed makes the same clip.",
                elem_id="seed",
            )
            by_name["random_seed"] = gr.Checkbox(True, label="A new seed each time", elem_id="random-seed")
        by_name["steps"] = gr.Slider(
            1,
            studio.settings.max_steps,
            value=model.preset().num_inference_steps,
            step=1,
            label="Steps",
            info="More is finer, and slower in proportion.",
            elem_id="steps",
        )
        by_name["guidance"] = gr.Slider(
            0,
            15,
            value=model.guidance_scale,
            step=0.1,
            label="Hold to the words",
            info="1 is off; at first what the model is best used with.",
            elem_id="guidance",
        )
        by_name["sync_guidance"] = gr.Slider(
            0,
            10,
            value=model.bridge_guidance_scale,
            step=0.1,
            label="Hold sound and picture together",
            info="For lips and hits. 1 is off; slower by half unless equal to the value above.",
            elem_id="sync-guidance",
        )
        by_name["negative"] = gr.Textbox(
            value=model.negative_prompt,
            label="Steer away from",
            info="At first what the model is best used with.",
            lines=2,
            max_lines=4,
            elem_id="negative",
        )
        by_name["exact_size"] = gr.Textbox(
            label="Size in pixels",
            placeholder=f"as the shape says; or {model.width}x{model.height}",
            elem_id="exact-size",
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            for name, label in (("video_shift", "Picture"), ("audio_shift", "Sound")):
                by_name[name] = gr.Number(
                    value=None,
                    label=f"{label}: shift of the noise schedule",
                    info="0: the model's own.",
                    elem_id=name.replace("_", "-"),
                )
        return _lay_out_adapters(by_name)


def _lay_out_adapters(by_name: dict) -> dict:
    """Places for several adapters; the first is shown, the next when there is need of it."""
    boxes = []
    with gr.Accordion("Adapters (LoRA)", open=False, elem_id="adapters"):
        for slot in range(MAX_ADAPTERS):
            with gr.Group(visible=slot == 0) as box:
                _lay_out_adapter(slot, by_name)
            boxes.append(box)
        more = gr.Button("Add another adapter", size="sm", elem_id="more-adapters")
    return {"adapter_boxes": boxes, "more_adapters": more, "adapters_shown": gr.State(1)}


def _lay_out_adapter(slot: int, by_name: dict) -> None:
    def put(part: str, component: gr.components.Component) -> None:
        by_name[adapter_field(slot, part)] = component

    number = f"Adapter {slot + 1}"
    put(
        "name",
        gr.Dropdown(
            [],
            value=None,
            allow_custom_value=True,
            label=number,
            info="One trained here, owner/name on the Hugging Face Hub, or a file. "
            "Strength 1 is as trained, 0 is off.",
            elem_id=f"adapter-{slot}-name",
        ),
    )
    put(
        "file",
        gr.File(
            label=f"{number}: file (.safetensors)",
            file_types=[".safetensors"],
            type="filepath",
            height=130,
            elem_id=f"adapter-{slot}-file",
        ),
    )
    with gr.Row(elem_classes="mova-phone-wrap"):
        for part, label in (("video", "Picture"), ("audio", "Sound"), ("bridge", "Synchrony")):
            slider = gr.Slider(
                -2,
                2,
                value=1,
                step=0.05,
                label=label,
                elem_id=f"adapter-{slot}-{part}",
                min_width=120,
            )
            put(part, slider)


SHAPE_CHOICES = [
    ("Wide", WIDE),
    ("Tall", TALL),
    ("Square", SQUARE),
    ("As the picture", AS_IMAGE),
]
KEEP_WIDTH, KEEP_HEIGHT = "What is kept, from left to right", "What is kept, from top to bottom"


@dataclass
class GenerateTab:
    """The tab's components. `form` has one for each of `forms.FIELDS`, in their order."""

    form: list[gr.components.Component]
    about: gr.HTML
    suggest: gr.Button
    suggestion_box: gr.Column
    suggestion: gr.Textbox
    suggestion_notes: gr.HTML
    use_suggestion: gr.Button
    dismiss_suggestion: gr.Button
    crop: gr.HTML
    crop_box: gr.Column
    meters: gr.HTML
    cost_note: gr.HTML
    make: gr.Button
    stop: gr.Button
    status: gr.HTML
    result: gr.Column
    player: gr.Video
    strip: gr.Image
    figures: gr.HTML
    actions: gr.Column
    downloads: list[gr.DownloadButton]
    reuse: gr.Button
    go_on: gr.Button
    train: gr.Button
    delete: gr.Button
    restore: gr.UploadButton
    examples: gr.Gallery | None
    mine_box: gr.Column
    mine: gr.Gallery
    adapter_boxes: list[gr.Group]
    more_adapters: gr.Button
    adapters_shown: gr.State
    shown_clip: gr.State
    run_id: gr.State

    def field(self, name: str) -> gr.components.Component:
        """The form's component for a field of `Form`."""
        return self.form[FIELDS.index(name)]

    @property
    def shown(self) -> list[gr.components.Component]:
        """What showing a finished clip sets, in the order of `generate_events.show`."""
        return [
            self.status,
            self.result,
            self.player,
            self.strip,
            self.figures,
            self.actions,
            *self.downloads,
            self.shown_clip,
        ]


def _lay_out_picture_and_words(by_name: dict, sample: str) -> dict:
    with gr.Group():
        by_name["image"] = PictureField(
            label="First frame (optional)",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard", "webcam"],
            height=220,
            elem_id="first-frame",
            buttons=[],
        )
        with gr.Column(visible=False, elem_id="crop-box", elem_classes="mova-tight") as crop_box:
            crop = gr.HTML(elem_id="crop", padding=True)
            by_name["fit"] = gr.Radio(
                [("Cut to fit", "crop"), ("Black bars", "pad")],
                value="crop",
                label="Where the picture has another shape",
                elem_id="fit",
            )
            by_name["crop_position"] = gr.Slider(
                0, 1, value=0.5, step=0.01, label=KEEP_WIDTH, elem_id="crop-position", buttons=[]
            )
    with gr.Group():
        by_name["prompt"] = gr.Textbox(
            label="What is seen and heard",
            info='Put spoken words in "quotes". End with the sound: "The audio shows ..."',
            placeholder=sample,
            lines=5,
            max_lines=12,
            elem_id="prompt",
        )
        meters = gr.HTML(elem_id="meters", padding=True)
    suggest = gr.Button("Improve the wording", size="sm", elem_id="suggest")
    with gr.Column(visible=False, elem_classes="mova-tight") as box:
        notes = gr.HTML(elem_id="suggestion-notes")
        suggestion = gr.Textbox(label="Suggested wording (edit as you like)", lines=6, elem_id="suggestion")
        with gr.Row():
            use = gr.Button("Use this wording", variant="primary", size="sm", elem_id="use-suggestion")
            dismiss = gr.Button("Keep mine", size="sm", elem_id="dismiss-suggestion")
    return {
        "crop": crop,
        "crop_box": crop_box,
        "meters": meters,
        "suggest": suggest,
        "suggestion_box": box,
        "suggestion": suggestion,
        "suggestion_notes": notes,
        "use_suggestion": use,
        "dismiss_suggestion": dismiss,
    }


def _lay_out_shape(studio: DemoService, by_name: dict) -> dict:
    names = studio.model_names
    by_name["model"] = gr.Dropdown(
        [(_title(name), name) for name in names],
        value=studio.model_name,
        label="Model",
        visible=len(names) > 1,
        elem_id="model",
    )
    by_name["preset"] = gr.Radio(
        preset_choices(studio.model),
        value=catalog.DEFAULT_PRESET,
        label="Quality",
        info=html.sentence(studio.model.preset().note) + ".",
        elem_id="preset",
        elem_classes="mova-wrap",
    )
    by_name["shape"] = gr.Radio(SHAPE_CHOICES, value=WIDE, label="Shape", elem_id="shape")
    by_name["seconds"] = gr.Slider(
        0.2,
        studio.max_seconds,
        value=studio.default_seconds,
        step=0.01,
        label="Seconds",
        elem_id="seconds",
    )
    return {"cost_note": gr.HTML(elem_id="cost-note")}


def _title(name: str) -> str:
    titles = {"pocket": "Pocket: small, runs anywhere", "360p": "MOVA 360p", "720p": "MOVA 720p"}
    return titles.get(name, name.rstrip("/").rpartition("/")[2])


READY_SECONDS = 60.0
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


class FormEvents:
    """The form's handlers."""

    def __init__(self, studio: DemoService) -> None:
        self.studio = studio

    def check(self, visitor: str, *values: object) -> list[dict]:
        """The validator of the form: a sentence under the field that is wrong."""
        names = ["", *FIELDS]
        wrong, message = "", ""
        try:
            self.studio.check(visitor, Form.read(values))
        except FieldError as error:
            wrong, message = error.field, html.sentence(str(error))
        except UserError:
            wrong = ""  # it lies in no field: the click itself says what is wrong
        return [gr.validate(name != wrong or not wrong, message) for name in names]

    def describe(self, *values: object) -> str:
        """What will be made and what it will cost."""
        form = without_prompt(values)
        size, cost, doubts = self.studio.describe(form)
        if not cost:
            return html.note(size, "error")
        is_random = form.random_seed or form.seed is None
        seed = "" if is_random else f"Seed {form.seed:.0f} is set: the same form makes the same clip."
        return html.note(f"{cost} {size}.") + html.note(doubts, "warning") + html.note(seed)

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
            spoken_words = "1 spoken word" if words == 1 else f"{words} spoken words"
            text = f"{spoken_words}, about {spoken:.1f} s of {seconds:.1f} s"
            parts.append(html.meter("Speech", spoken, seconds, text))
        return f'<div class="mova-meters">{"".join(parts)}</div>'

    def preview_crop(self, *values: object) -> tuple[Any, str, Any, Any]:
        """The box of the preview, the first frame with what falls outside dimmed, and its two fields."""
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        form = without_prompt(values)
        if not form.image:
            return hidden, "", gr.update(), gr.update()
        try:
            height, width = form.size(describe_model(form.model, self.studio.settings))
            picture, cut = history.draw_crop(
                Path(form.image), height, width, form.fit, float(form.crop_position)
            )
        except UserError as error:
            return shown, html.note(str(error), "error"), hidden, hidden
        if not cut and form.fit == "crop":  # the field itself shows it
            return hidden, "", hidden, hidden
        text = "Bright: what the clip starts from." if cut else "The clip starts from this."
        keep = gr.update(visible=bool(cut), label=KEEP_HEIGHT if cut == "height" else KEEP_WIDTH)
        preview = html.picture(picture, "The first frame as the clip starts") + html.note(text)
        return shown, preview, shown, keep

    def show_adapters(self, count: int) -> list:
        """As many places for adapters as are asked for, and whether there can be more."""
        shown = [gr.update(visible=slot < count) for slot in range(MAX_ADAPTERS)]
        return [*shown, gr.update(visible=count < MAX_ADAPTERS)]

    def choose_preset(self, name: str, model: str) -> tuple[float, int, Any]:
        """Length and steps of a preset, and what it is good for."""
        described = describe_model(model, self.studio.settings)
        preset = described.preset(name)
        seconds = described.clip_length(preset) / described.frame_rate
        note = gr.update(info=html.sentence(preset.note) + ".")
        return round(min(seconds, self.studio.settings.max_seconds), 2), preset.num_inference_steps, note

    def choose_model(self, model: str) -> tuple:
        """The presets of a model, and the settings it is best used with."""
        described = describe_model(model, self.studio.settings)
        seconds, steps, note = self.choose_preset(catalog.DEFAULT_PRESET, model)
        presets = {"choices": preset_choices(described), "value": catalog.DEFAULT_PRESET}
        return (
            html.note(model_note(model)),
            note | presets,
            seconds,
            steps,
            described.guidance_scale,
            described.bridge_guidance_scale,
            described.negative_prompt,
        )


def without_prompt(values: tuple) -> Form:
    """The form of all its own fields but the prompt, and without adapters.

    gradio takes away what a validator said of a field as soon as any event that reads the field is done, so
    events that do not need the prompt and the adapters do not read them.
    """
    image, *rest = values
    return Form.read([image, "-", *rest])


def wire_form(studio: DemoService, tab: GenerateTab, machine: gr.HTML, demo: gr.Blocks) -> None:
    """What the form says about itself while it is filled in."""
    events = FormEvents(studio)
    live = {"trigger_mode": "always_last", **PRIVATE}
    field = tab.field
    unspoken = [field(name) for name in OWN_FIELDS if name != "prompt"]
    chosen = ("preset", "seconds", "steps", "guidance", "sync_guidance", "negative")
    field("model").input(
        events.choose_model, [field("model")], [tab.about, *(field(name) for name in chosen)], **live
    )
    field("preset").input(
        events.choose_preset,
        [field("preset"), field("model")],
        [field("seconds"), field("steps"), field("preset")],
        **live,
    )
    demo.load(
        events.describe_when_ready, unspoken, [tab.cost_note, machine], concurrency_limit=None, **PRIVATE
    )
    cost = (events.describe, unspoken, [tab.cost_note])
    meters = (events.measure_prompt, [field("prompt"), field("model"), field("seconds")], [tab.meters])
    crop = (events.preview_crop, unspoken, [tab.crop_box, tab.crop, field("fit"), field("crop_position")])
    # An event that came while its "always_last" listener ran is sent to all its listeners again: two of them
    # would keep each other going without end. So every event has one, and the others follow it.
    for names, answers in (
        (("prompt",), [meters]),
        (("seconds",), [meters, cost]),
        (("model",), [meters, crop, cost]),
        (("image", "shape", "exact_size"), [crop, cost]),
        (("fit", "crop_position"), [crop]),
        (("steps", "guidance", "sync_guidance", "video_shift", "audio_shift", "seed", "random_seed"), [cost]),
    ):
        answered = gr.on([field(name).change for name in names], *answers[0], **live)
        for answer in answers[1:]:
            answered = answered.then(*answer, **live)
    tab.more_adapters.click(lambda count: count + 1, [tab.adapters_shown], [tab.adapters_shown], **PRIVATE)
    places = [*tab.adapter_boxes, tab.more_adapters]
    tab.adapters_shown.change(events.show_adapters, [tab.adapters_shown], places, **PRIVATE)
