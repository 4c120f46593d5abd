"""What the form says about itself while it is filled in: what is wrong, what it will make, at what cost."""

from pathlib import Path
from typing import Any

import gradio as gr

from mova import catalog
from mova.shapes import MAX_PROMPT_TOKENS
from mova.types import UserError
from mova.ui import forms, html, pictures
from mova.ui.forms import FieldError, Form
from mova.ui.generate import KEEP_HEIGHT, KEEP_WIDTH, GenerateTab
from mova.ui.machine import what_it_knows
from mova.ui.studio import Studio

READY_SECONDS = 60.0
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


class FormEvents:
    """The form's handlers."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def check(self, visitor: str, *values: object) -> list[dict]:
        """The validator of the form: a sentence under the field that is wrong."""
        names = ["", *forms.FIELDS]
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
        form = wordless(values)
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
        form = wordless(values)
        if not form.image:
            return hidden, "", gr.update(), gr.update()
        try:
            height, width = form.size(forms.describe_model(form.model, self.studio.settings))
            picture, cut = pictures.draw_crop(
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
        shown = [gr.update(visible=slot < count) for slot in range(forms.MAX_ADAPTERS)]
        return [*shown, gr.update(visible=count < forms.MAX_ADAPTERS)]

    def choose_preset(self, name: str, model: str) -> tuple[float, int, Any]:
        """Length and steps of a preset, and what it is good for."""
        described = forms.describe_model(model, self.studio.settings)
        preset = described.preset(name)
        seconds = described.clip_length(preset) / described.frame_rate
        note = gr.update(info=html.sentence(preset.note) + ".")
        return round(min(seconds, self.studio.settings.max_seconds), 2), preset.num_inference_steps, note

    def choose_model(self, model: str) -> tuple:
        """The presets of a model, and the settings it is best used with."""
        described = forms.describe_model(model, self.studio.settings)
        seconds, steps, note = self.choose_preset(catalog.DEFAULT_PRESET, model)
        presets = {"choices": forms.preset_choices(described), "value": catalog.DEFAULT_PRESET}
        return (
            html.note(what_it_knows(model)),
            note | presets,
            seconds,
            steps,
            described.guidance_scale,
            described.bridge_guidance_scale,
            described.negative_prompt,
        )


def wordless(values: tuple) -> Form:
    """The form of all its own fields but the prompt, and without adapters.

    gradio takes away what a validator said of a field as soon as any event that reads the field is done, so
    events that do not need the prompt and the adapters do not read them.
    """
    image, *rest = values
    return Form.read([image, "-", *rest])


def wire_form(studio: Studio, tab: GenerateTab, machine: gr.HTML, demo: gr.Blocks) -> None:
    """What the form says about itself while it is filled in."""
    events = FormEvents(studio)
    live = {"trigger_mode": "always_last", **PRIVATE}
    field = tab.field
    unspoken = [field(name) for name in forms.OWN_FIELDS if name != "prompt"]
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
