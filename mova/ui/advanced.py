"""The fields of the generate form that most people leave alone."""

import gradio as gr

from mova.ui.forms import MAX_ADAPTERS, adapter_field
from mova.ui.studio import Studio


def lay_out_advanced(studio: Studio, by_name: dict) -> dict:
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
