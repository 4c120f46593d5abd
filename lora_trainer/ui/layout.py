"""The train tab laid out: four steps from clips to an adapter. `events.wire` brings it to life."""

from dataclasses import dataclass, fields

import gradio as gr

from lora_trainer.simple import LABELS, Simple, default_steps, has_examples, is_small
from lora_trainer.ui import pieces
from mova.ui import html
from mova.ui.studio import Studio
from mova.ui.writers import configured_endpoint

REMOVE = """element.addEventListener('click', event => {
  const button = event.target.closest('[data-remove]');
  if (button) { button.disabled = true; trigger('click', {name: button.dataset.remove}); }
});"""
TABLE = ("Clip", "What is seen and heard")
RECIPES = [("Balanced", "balanced"), ("As the public trainer", "released"), ("As in the paper", "paper")]


@dataclass
class TrainTab:
    """The tab's components. `form` has one for each field of `Simple`, in its order."""

    body: gr.Column
    upload: gr.File
    clip_notes: gr.HTML
    mend: gr.Button
    cards: gr.HTML
    table: gr.Dataframe
    suggest: gr.Button
    server: list[gr.Textbox]
    caption_notes: gr.HTML
    form: list[gr.components.Component]
    hardware: gr.Dropdown
    cost: gr.HTML
    start: gr.Button
    start_notes: gr.HTML
    run_box: gr.Column
    runs: gr.Dropdown
    status: gr.HTML
    charts: gr.HTML
    samples: gr.HTML
    stop: gr.Button
    go_on: gr.Button
    use: gr.Button
    download: gr.DownloadButton
    delete: gr.Button
    push_box: gr.Accordion
    repo: gr.Textbox
    public: gr.Checkbox
    push: gr.Button
    push_notes: gr.HTML
    log: gr.Textbox
    timer: gr.Timer

    def field(self, name: str) -> gr.components.Component:
        """The component for a field of `Simple`."""
        return self.form[[f.name for f in fields(Simple)].index(name)]

    @property
    def shown_run(self) -> list[gr.components.Component]:
        """What showing a run sets."""
        return [
            self.run_box, self.runs, self.status, self.charts, self.samples, self.stop, self.go_on,
            self.use, self.download, self.delete, self.push_box, self.log, self.timer,
        ]  # fmt: skip


def lay_out(studio: Studio, rents: bool = False) -> TrainTab:
    """`rents`: machines of the Hub can be chosen, which are told when the tab comes into view."""
    parts: dict[str, object] = {}
    by_name: dict[str, gr.components.Component] = {}
    with gr.Column(elem_id="train-body", visible=not studio.settings.space_id) as body:
        parts |= _lay_out_clips()
        parts |= _lay_out_captions()
        parts |= _lay_out_settings(studio, by_name, rents)
        parts |= _lay_out_run()
    parts |= {"body": body, "timer": gr.Timer(2, active=False)}
    return TrainTab(**parts, form=[by_name[field.name] for field in fields(Simple)])


def _lay_out_clips() -> dict:
    gr.HTML(pieces.head(1, "Clips", "What the model shall learn, seen and heard."))
    upload = gr.File(
        label="Add clips (and .txt captions)",
        file_count="multiple",
        type="filepath",
        height=130,
        elem_id="train-upload",
    )
    with gr.Row(elem_classes="mova-phone-wrap"):
        notes = gr.HTML(elem_id="train-clip-notes")
        mend = gr.Button("Mend what is safe", size="sm", visible=False, elem_id="train-mend", scale=0)
    cards = gr.HTML(pieces.cards([], None), js_on_load=REMOVE, elem_id="train-clips")
    return {"upload": upload, "clip_notes": notes, "mend": mend, "cards": cards}


def _lay_out_captions() -> dict:
    gr.HTML(
        pieces.head(
            2,
            "Captions",
            'What is seen and heard in each clip. Put spoken words in "quotes". It is saved as you write.',
        )
    )
    table = gr.Dataframe(
        headers=list(TABLE),
        datatype=["str", "str"],
        type="array",
        column_count=2,
        row_count=0,
        static_columns=[0],
        column_widths=["26%", "74%"],
        wrap=True,
        interactive=True,
        label="Captions",
        show_label=False,
        buttons=[],
        elem_id="train-table",
    )
    has_server = configured_endpoint() is not None
    with gr.Row(elem_classes="mova-phone-wrap"):
        suggest = gr.Button(
            "Suggest what is missing", size="sm", elem_id="train-suggest", scale=0, min_width=190
        )
        notes = gr.HTML(elem_id="train-caption-notes")
    with gr.Accordion("Who suggests", open=False, elem_id="train-server"):
        gr.HTML(html.note("A model that sees pictures, behind an OpenAI-compatible address. It cannot hear."))
        with gr.Row(elem_classes="mova-phone-wrap"):
            url = gr.Textbox(
                label="Address",
                placeholder="as configured" if has_server else "http://localhost:8000/v1",
                elem_id="train-server-url",
            )
            model = gr.Textbox(
                label="Model", placeholder="the first that it lists", elem_id="train-server-model"
            )
            key = gr.Textbox(
                label="Key",
                info="Sent to that address only, and kept nowhere.",
                type="password",
                elem_id="train-server-key",
            )
    return {"table": table, "suggest": suggest, "caption_notes": notes, "server": [url, model, key]}


def _lay_out_settings(studio: Studio, by_name: dict, rents: bool) -> dict:
    gr.HTML(pieces.head(3, "What to learn", "And what it will cost, before you start."))
    with gr.Row(elem_classes="mova-phone-wrap"):
        by_name["name"] = gr.Textbox(label="Name", placeholder="anna", elem_id="train-name", scale=1)
        by_name["prompt"] = gr.Textbox(
            label="Clip that shows what was learnt",
            info="Made before, during and after training, always with the same seed.",
            placeholder="as the first caption",
            elem_id="train-prompt",
            scale=3,
            min_width=280,
        )
    by_name["preset"] = gr.Radio(
        [(label, name) for name, label in LABELS.items()],
        value="look_and_voice",
        label="What it learns",
        elem_id="train-preset",
        elem_classes="mova-wrap",
    )
    examples = has_examples(studio.model)
    what = "its own examples" if examples else "prompts that you list under Advanced"
    by_name["keep"] = gr.Checkbox(
        examples and is_small(studio.model),
        label="Keep what it can already",
        info=f"Before training, the model makes clips of {what}; half of the training is then on these, "
        "so that other prompts change less.",
        elem_id="train-keep",
    )
    with gr.Accordion("Advanced", open=False, elem_id="train-advanced"):
        _lay_out_advanced(studio, by_name, rents)
    hardware = gr.Dropdown(
        [],
        label="Machine",
        info="Rented by the minute, at the prices of now.",
        elem_id="train-hardware",
        visible=rents,
    )
    return {"hardware": hardware, "cost": gr.HTML(elem_id="train-cost", padding=True)}


def _lay_out_advanced(studio: Studio, by_name: dict, rents: bool) -> None:
    steps = default_steps(studio.model)
    with gr.Row(elem_classes="mova-phone-wrap"):
        for name, label, info, value in (
            ("steps", "Steps", "More is more time, and more learnt by heart.", steps),
            ("rank", "Rank", "How much the file can hold. 0: as the preset.", 0),
            ("learning_rate", "Learning rate", "0: as usual for the model.", 0),
            ("accumulation", "Clips for a step", "0: as usual for the model.", 0),
        ):
            by_name[name] = gr.Number(
                value, label=label, info=info, elem_id=f"train-{name.replace('_', '-')}", min_width=150
            )
    with gr.Row(elem_classes="mova-phone-wrap"):
        by_name["recipe"] = gr.Dropdown(
            RECIPES, value="balanced", label="Recipe", elem_id="train-recipe", min_width=150
        )
        by_name["trigger"] = gr.Textbox(
            label="Word before every caption",
            info="Write it in prompts to call up what was learnt.",
            elem_id="train-trigger",
            min_width=150,
        )
        by_name["seconds"] = gr.Number(
            0,
            label="Longest part (s)",
            info="Shorter needs less memory and time. 0: the model's length.",
            elem_id="train-seconds",
            min_width=150,
        )
        by_name["price"] = gr.Number(
            0,
            label="Price of an hour",
            info="For the estimate.",
            elem_id="train-price",
            min_width=150,
            visible=not rents,  # where the Hub tells it
        )
    default = " Empty: its own examples." if has_examples(studio.model) else ""
    by_name["keep_prompts"] = gr.Textbox(
        label="What it shall keep",
        info=f"A prompt a line, of what the model can.{default}",
        lines=3,
        max_lines=8,
        elem_id="train-keep-prompts",
    )


def _lay_out_run() -> dict:
    gr.HTML(pieces.head(4, "Run", "It goes on when you close the page, and can be stopped and resumed."))
    parts: dict[str, object] = {
        "start": gr.Button("Start training", variant="primary", elem_id="train-start"),
        "start_notes": gr.HTML(elem_id="train-start-notes"),
    }
    with gr.Column(visible=False, elem_id="train-run") as box:
        parts["runs"] = gr.Dropdown([], label="Your runs", elem_id="train-runs")
        parts["status"] = gr.HTML(elem_id="train-status")
        parts["charts"] = gr.HTML(elem_id="train-charts")
        parts["samples"] = gr.HTML(elem_id="train-samples")
        with gr.Row(elem_classes="mova-phone-wrap"):
            for name, label in (("stop", "Stop"), ("go_on", "Go on"), ("use", "Use in Generate")):
                variant = "primary" if name == "use" else "secondary"
                parts[name] = gr.Button(
                    label,
                    size="sm",
                    variant=variant,
                    visible=False,
                    scale=0,
                    min_width=130,
                    elem_id=f"train-{name}",
                )
            parts["download"] = gr.DownloadButton(
                "Download", size="sm", visible=False, scale=0, min_width=130, elem_id="train-download"
            )
            parts["delete"] = gr.Button(
                "Delete", size="sm", visible=False, scale=0, min_width=100, elem_id="train-delete"
            )
        parts |= _lay_out_push()
        with gr.Accordion("What the trainer wrote", open=False):
            parts["log"] = gr.Textbox(
                label="Log", show_label=False, lines=8, max_lines=16, elem_id="train-log", interactive=False
            )
    return parts | {"run_box": box}


def _lay_out_push() -> dict:
    with gr.Accordion(
        "Put it on the Hugging Face Hub", open=False, visible=False, elem_id="train-push-box"
    ) as box:
        gr.HTML(html.note("With a page that plays the base model and yours side by side."))
        with gr.Row(elem_classes="mova-phone-wrap"):
            repo = gr.Textbox(label="Repo", placeholder="your-name/anna", elem_id="train-repo")
            public = gr.Checkbox(False, label="Everybody may see it", elem_id="train-public")
        push = gr.Button("Upload", size="sm", elem_id="train-push")
        notes = gr.HTML(elem_id="train-push-notes")
    return {"push_box": box, "repo": repo, "public": public, "push": push, "push_notes": notes}
