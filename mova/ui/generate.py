"""The generate tab: the form on one side, the clip on the other, examples and one's own clips below."""

from dataclasses import dataclass

import gradio as gr

from mova import catalog
from mova.ui import forms, html
from mova.ui.advanced import lay_out_advanced
from mova.ui.examples import Example, thumbnail
from mova.ui.machine import sample_prompts, what_it_knows
from mova.ui.picture import PictureField
from mova.ui.studio import Studio

SHAPE_CHOICES = [
    ("Wide", forms.WIDE),
    ("Tall", forms.TALL),
    ("Square", forms.SQUARE),
    ("As the picture", forms.AS_IMAGE),
]
KEEP_WIDTH, KEEP_HEIGHT = "What is kept, from left to right", "What is kept, from top to bottom"
EMPTY = (
    "Your clip appears here",
    "Describe a moment: what is seen, what is said, what is heard. A picture to start from is welcome.",
)
PICK = "Pick an example below, or describe a moment: what is seen, what is said, what is heard."


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
        return self.form[forms.FIELDS.index(name)]

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


def build_generate(studio: Studio, examples: list[Example]) -> GenerateTab:
    """Lay the tab out; `generate_events.wire` brings it to life."""
    parts: dict[str, object] = {"shown_clip": gr.State(""), "run_id": gr.State("")}
    by_name: dict[str, gr.components.Component] = {}
    parts["about"] = gr.HTML(html.note(what_it_knows(studio.model_name)), elem_id="about-model")
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
    parts["form"] = [by_name[name] for name in forms.FIELDS]
    return GenerateTab(**parts)


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


def _lay_out_shape(studio: Studio, by_name: dict) -> dict:
    names = studio.model_names
    by_name["model"] = gr.Dropdown(
        [(_title(name), name) for name in names],
        value=studio.model_name,
        label="Model",
        visible=len(names) > 1,
        elem_id="model",
    )
    by_name["preset"] = gr.Radio(
        forms.preset_choices(studio.model),
        value=catalog.DEFAULT_PRESET,
        label="Quality",
        info=html.sentence(studio.model.preset().note) + ".",
        elem_id="preset",
        elem_classes="mova-wrap",
    )
    by_name["shape"] = gr.Radio(SHAPE_CHOICES, value=forms.WIDE, label="Shape", elem_id="shape")
    by_name["seconds"] = gr.Slider(
        0.2,
        studio.max_seconds,
        value=studio.default_seconds,
        step=0.01,
        label="Seconds",
        elem_id="seconds",
    )
    return {"cost_note": gr.HTML(elem_id="cost-note")}


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


def _title(name: str) -> str:
    titles = {"pocket": "Pocket: small, runs anywhere", "360p": "MOVA 360p", "720p": "MOVA 720p"}
    return titles.get(name, name.rstrip("/").rpartition("/")[2])
