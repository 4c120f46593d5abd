"""The fields of the generate form that most people leave alone."""

import gradio as gr

from mova import catalog
from mova.ui.studio import Studio


def lay_out_advanced(studio: Studio, by_name: dict) -> None:
    preset = catalog.find_preset(catalog.DEFAULT_PRESET)
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
            value=preset.num_inference_steps,
            step=1,
            label="Steps",
            info="More is finer, and slower in proportion.",
            elem_id="steps",
        )
        by_name["guidance"] = gr.Slider(
            0,
            15,
            value=5,
            step=0.1,
            label="Hold to the words",
            info="1 is off, 5 is usual.",
            elem_id="guidance",
        )
        by_name["sync_guidance"] = gr.Slider(
            0,
            10,
            value=1,
            step=0.1,
            label="Hold sound and picture together",
            info="1 is off; 3 helps lips and hits, and takes half as long again.",
            elem_id="sync-guidance",
        )
        by_name["negative"] = gr.Textbox(
            value=catalog.default_negative_prompt(),
            label="Steer away from",
            info="The text the model was released with.",
            lines=2,
            max_lines=4,
            elem_id="negative",
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            by_name["fit"] = gr.Radio(
                [("Crop", "crop"), ("Black bars", "pad")], value="crop", label="First frame", elem_id="fit"
            )
            by_name["exact_size"] = gr.Textbox(
                label="Size in pixels", placeholder="as the shape says; or 640x352", elem_id="exact-size"
            )
        with gr.Row(elem_classes="mova-phone-wrap"):
            for name, label in (("video_shift", "Picture"), ("audio_shift", "Sound")):
                by_name[name] = gr.Number(
                    value=None,
                    label=f"{label}: shift of the noise schedule",
                    info="0: the model's own.",
                    elem_id=name.replace("_", "-"),
                )
        _lay_out_adapter(by_name)


def _lay_out_adapter(by_name: dict) -> None:
    with gr.Accordion("Adapter (LoRA)", open=False, elem_id="adapter"):
        by_name["adapter_trained"] = gr.Dropdown(
            [], value=None, label="Trained here", elem_id="adapter-trained", visible=False
        )
        by_name["adapter_file"] = gr.File(
            label="From a file",
            file_types=[".safetensors"],
            type="filepath",
            height=110,
            elem_id="adapter-file",
        )
        by_name["adapter_repo"] = gr.Textbox(
            label="or from the Hugging Face Hub", placeholder="owner/name", elem_id="adapter-repo"
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            for part, label in (("video", "Picture"), ("audio", "Sound"), ("bridge", "Synchrony")):
                by_name[f"adapter_{part}"] = gr.Slider(
                    -2,
                    2,
                    value=1,
                    step=0.05,
                    label=f"{label}: strength",
                    elem_id=f"adapter-{part}",
                    min_width=150,
                )
