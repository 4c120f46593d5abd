"""What the form says about itself while it is filled in: what is wrong, what it will make, at what cost."""

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr

from mova import catalog
from mova.shapes import MAX_PROMPT_TOKENS
from mova.types import UserError
from mova.ui import forms, html, pictures
from mova.ui.forms import FieldError, Form
from mova.ui.generate import GenerateTab
from mova.ui.studio import Studio

READY_SECONDS = 60.0
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


class FormEvents:
    """The form's handlers."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

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

    def describe(self, *values: object) -> str:
        """What will be made and what it will cost."""
        size, cost = self.studio.describe(wordless(values))
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
        form = wordless(values)
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


def wordless(values: tuple) -> Form:
    """The form of all its fields but the prompt.

    gradio takes away what a validator said of a field as soon as any event that reads the field is done, so
    events that do not need the prompt do not read it.
    """
    image, *rest = values
    return Form(image, "-", *rest)


def wire_form(studio: Studio, tab: GenerateTab, machine: gr.HTML, demo: gr.Blocks) -> None:
    """What the form says about itself while it is filled in."""
    events = FormEvents(studio)
    live = {"trigger_mode": "always_last", **PRIVATE}
    field = tab.field
    unspoken = [component for component in tab.form if component is not field("prompt")]
    tab.field("preset").input(
        events.choose_preset, [field("preset"), field("model")], [field("seconds"), field("steps")], **live
    )
    priced = ("model", "shape", "seconds", "steps", "guidance", "sync_guidance", "exact_size", "image")
    demo.load(
        events.describe_when_ready, unspoken, [tab.cost_note, machine], concurrency_limit=None, **PRIVATE
    )
    triggers = [field(name).change for name in priced]
    gr.on(triggers, events.describe, unspoken, [tab.cost_note], **live)
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
        unspoken,
        [tab.crop],
        **live,
    )
