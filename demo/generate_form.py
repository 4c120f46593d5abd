"""The generate form: its fields, the button that submits it, and live remarks on what is filled in."""

from dataclasses import fields
from pathlib import Path

import gradio as gr
from gradio.components import Component

from demo import history, html
from demo.added_card import BUTTON, BUTTONS, AddedCard
from demo.fields import PRIVATE, PictureField, Updates, Values
from demo.form import (
    AS_IMAGE,
    MAX_ADAPTERS,
    OWN,
    SQUARE,
    TALL,
    WIDE,
    AdapterChoice,
    Form,
    adapter_field,
    preset_choices,
)
from demo.service import DemoService, client_address
from demo.settings import describe_model, model_note, public_name, sample_prompts
from demo.writers import WriterChoice, describe_result, offered_writers, open_enhancer
from mova import catalog
from mova.errors import BackendError, UserError
from mova.prompting.enhancer import EnhanceRequest
from mova.request import check_fields
from mova.shapes import MAX_PROMPT_TOKENS

READY_SECONDS = 60.0
SHAPE_CHOICES = [("Wide", WIDE), ("Tall", TALL), ("Square", SQUARE), ("As the picture", AS_IMAGE)]
TITLES = {"pocket": "Pocket: small, runs anywhere", "360p": "MOVA 360p", "720p": "MOVA 720p"}
KEEP_WIDTH, KEEP_HEIGHT = "What is kept, from left to right", "What is kept, from top to bottom"
NOTHING_BETTER = "There is nothing to add to this wording."


class AdapterFields:
    """Fields of one adapter, named like those of `AdapterChoice`."""

    def __init__(self, slot: int) -> None:
        def elem_id(part: str) -> str:
            return f"adapter-{slot}-{part}"

        number = f"Adapter {slot + 1}"
        with gr.Group(visible=slot == 0) as self.box:
            self.name = gr.Dropdown(
                [],
                value=None,
                allow_custom_value=True,
                label=number,
                info="One trained here, owner/name on the Hugging Face Hub, or a file. "
                "Strength 1 is as trained, 0 is off.",
                elem_id=elem_id("name"),
            )
            self.file = gr.File(
                label=f"{number}: file (.safetensors)",
                file_types=[".safetensors"],
                type="filepath",
                height=130,
                elem_id=elem_id("file"),
            )
            strength = {"minimum": -2, "maximum": 2, "value": 1, "step": 0.05, "min_width": 120}
            with gr.Row(elem_classes="mova-phone-wrap"):
                self.video = gr.Slider(label="Picture", elem_id=elem_id("video"), **strength)
                self.audio = gr.Slider(label="Sound", elem_id=elem_id("audio"), **strength)
                self.bridge = gr.Slider(label="Synchrony", elem_id=elem_id("bridge"), **strength)
        self.parts: dict[str, Component] = {
            part.name: getattr(self, part.name) for part in fields(AdapterChoice)
        }

    def read(self, values: Values) -> AdapterChoice:
        return AdapterChoice(**{part: values[component] for part, component in self.parts.items()})

    def fill(self, choice: AdapterChoice) -> Updates:
        return {component: getattr(choice, part) for part, component in self.parts.items()}


class GenerateForm:
    """The form's components, named like the fields of `Form`, and its handlers."""

    def __init__(self, service: DemoService) -> None:
        self.service = service
        self._lay_out_picture_and_prompt()
        self.card = AddedCard(service.settings)
        self._lay_out_shape()
        with gr.Row(elem_classes="mova-phone-wrap"):
            # It can be pressed once the browser has a name (`GenerateTab.greet`).
            self.make = gr.Button(BUTTON, variant="primary", elem_id="make", scale=3, interactive=False)
            self.stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=90)
        with gr.Accordion("More settings", open=False, elem_id="advanced"):
            self._lay_out_advanced()
            with gr.Accordion("Adapters (LoRA)", open=False, elem_id="adapters"):
                self.adapters = [AdapterFields(slot) for slot in range(MAX_ADAPTERS)]
                self.more_adapters = gr.Button("Add another adapter", size="sm", elem_id="more-adapters")
        self.adapters_shown = gr.State(1)
        names = [field.name for field in fields(Form) if field.name != "adapters"]
        own = {name: getattr(self, name) for name in names if name not in self.card.parts}
        self.own: dict[str, Component] = own | self.card.parts

    def _lay_out_picture_and_prompt(self) -> None:
        with gr.Group() as self.picture_box:
            self.image = PictureField(
                label="First frame (optional)",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard", "webcam"],
                height=220,
                elem_id="first-frame",
                buttons=[],
            )
            with gr.Column(visible=False, elem_id="crop-box", elem_classes="mova-tight") as self.crop_box:
                self.crop = gr.HTML(elem_id="crop", padding=True)
                self.fit = gr.Radio(
                    [("Cut to fit", "crop"), ("Black bars", "pad")],
                    value="crop",
                    label="Where the picture has another shape",
                    elem_id="fit",
                )
                self.crop_position = gr.Slider(
                    0, 1, value=0.5, step=0.01, label=KEEP_WIDTH, elem_id="crop-position", buttons=[]
                )
        with gr.Group():
            self.prompt = gr.Textbox(
                label="What is seen and heard",
                info='Put spoken words in "quotes". End with the sound: "The audio shows ..."',
                placeholder=sample_prompts(self.service.model_name)[0],
                lines=5,
                max_lines=12,
                elem_id="prompt",
            )
            self.meters = gr.HTML(elem_id="meters", padding=True)
        with gr.Row():
            self.suggest = gr.Button("Improve the wording", size="sm", elem_id="suggest", min_width=120)
            self.add = gr.UploadButton(
                "+ Add a picture, sound or video",
                file_types=["image", "audio", "video"],
                type="filepath",
                size="sm",
                elem_id="add",
                min_width=120,
            )
        with gr.Column(visible=False, elem_classes="mova-tight") as self.suggestion_box:
            self.suggestion_notes = gr.HTML(elem_id="suggestion-notes")
            self.suggestion = gr.Textbox(
                label="Suggested wording (edit as you like)", lines=6, elem_id="suggestion"
            )
            with gr.Row():
                self.use_suggestion = gr.Button(
                    "Use this wording", variant="primary", size="sm", elem_id="use-suggestion"
                )
                self.dismiss_suggestion = gr.Button("Keep mine", size="sm", elem_id="dismiss-suggestion")

    def _lay_out_shape(self) -> None:
        service = self.service
        self.model = gr.Dropdown(
            [(TITLES.get(name, public_name(name)), name) for name in service.model_names],
            value=service.model_name,
            label="Model",
            visible=len(service.model_names) > 1,
            elem_id="model",
        )
        self.preset = gr.Radio(
            preset_choices(service.model),
            value=catalog.DEFAULT_PRESET,
            label="Quality",
            info=html.sentence(service.model.preset().note) + ".",
            elem_id="preset",
            elem_classes="mova-wrap",
        )
        self.shape = gr.Radio(SHAPE_CHOICES, value=WIDE, label="Shape", elem_id="shape")
        self.seconds = gr.Slider(
            0.2,
            service.max_seconds,
            value=service.default_seconds,
            step=0.01,
            label="Seconds",
            elem_id="seconds",
        )
        self.cost_note = gr.HTML(elem_id="cost-note")

    def _lay_out_advanced(self) -> None:
        model = self.service.model
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.seed = gr.Number(
                value=None,
                precision=0,
                label="Seed",
                info="The same seed makes the same clip.",
                elem_id="seed",
            )
            self.random_seed = gr.Checkbox(True, label="A new seed each time", elem_id="random-seed")
        self.num_inference_steps = gr.Slider(
            1,
            self.service.settings.max_steps,
            value=model.preset().num_inference_steps,
            step=1,
            label="Steps",
            info="More is finer, and slower in proportion.",
            elem_id="steps",
        )
        self.guidance_scale = gr.Slider(
            0,
            15,
            value=model.guidance_scale,
            step=0.1,
            label="Prompt guidance",
            info="1 is off; starts at the model's best value.",
            elem_id="guidance",
        )
        self.bridge_guidance_scale = gr.Slider(
            0,
            10,
            value=model.bridge_guidance_scale,
            step=0.1,
            label="Hold sound and picture together",
            info="For lips and hits. 1 is off; 50% slower unless equal to the prompt guidance.",
            elem_id="sync-guidance",
        )
        self.negative_prompt = gr.Textbox(
            value=model.negative_prompt,
            label="Negative prompt",
            info="Starts with the model's own.",
            lines=2,
            max_lines=4,
            elem_id="negative",
        )
        self.exact_size = gr.Textbox(
            label="Size in pixels",
            placeholder=f"by the shape; or {model.width}x{model.height}",
            elem_id="exact-size",
        )
        shift = {"value": None, "info": "0: the model's own."}
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.video_shift = gr.Number(
                label="Picture: shift of the noise schedule", elem_id="video-shift", **shift
            )
            self.audio_shift = gr.Number(
                label="Sound: shift of the noise schedule", elem_id="audio-shift", **shift
            )

    @property
    def filled(self) -> list[Component]:
        """The components that `fill` sets."""
        parts = [component for adapter in self.adapters for component in adapter.parts.values()]
        return [*self.own.values(), *parts, self.adapters_shown]

    @property
    def inputs(self) -> set[Component]:
        """The components that `read` reads."""
        return set(self.filled) - {self.adapters_shown}

    def read(self, values: Values) -> Form:
        """The form of the components in `values`; other fields are as in an empty form."""
        own = {name: values[component] for name, component in self.own.items() if component in values}
        adapters = [adapter.read(values) for adapter in self.adapters if adapter.name in values]
        return Form(**own, adapters=tuple(adapters))

    def fill(self, form: Form) -> Updates:
        """Updates that put `form` into the fields."""
        updates: Updates = {component: getattr(form, name) for name, component in self.own.items()}
        choices = [*form.adapters, *[AdapterChoice()] * MAX_ADAPTERS][:MAX_ADAPTERS]
        for adapter, choice in zip(self.adapters, choices, strict=True):
            updates |= adapter.fill(choice)
        return updates | {self.adapters_shown: max(1, len(form.adapters))}

    def component(self, field: str) -> Component | None:
        """The component of a `UserError`'s field, or None."""
        parts = {
            adapter_field(slot, part): component
            for slot, adapter in enumerate(self.adapters)
            for part, component in adapter.parts.items()
        }
        return (self.own | parts).get(field)

    def validate(self, values: Values, visitor: str) -> list[dict]:
        """A validator's answer, in the order of `values`: a sentence under the field that is wrong."""
        wrong, message = None, ""
        try:
            self.service.check(visitor, self.read(values))
        except UserError as error:
            # Without a field of the form, the click itself reports the fault.
            wrong, message = self.component(error.field), html.sentence(str(error))
        return [gr.validate(component is not wrong, message) for component in values]

    def describe(self, values: Values) -> str:
        """Size and cost of the clip."""
        form = self.read(values)
        size, cost, caution = self.service.describe(form)
        if not cost:
            return html.note(size, "error")
        is_random = form.random_seed or form.seed is None
        seed = "" if is_random else f"Seed {form.seed:.0f} is set: the same form makes the same clip."
        return html.note(f"{cost} {size}.") + html.note(caution, "warning") + html.note(seed)

    def measure_prompt(self, prompt: str | None, model: str, seconds: float) -> str:
        """The meters under the prompt."""
        if not (prompt or "").strip():
            return ""
        parts = []
        if counted := self.service.count_tokens(prompt, model):
            tokens, cut = counted
            parts.append(
                html.meter("Tokens", tokens, MAX_PROMPT_TOKENS, f"{tokens} of {MAX_PROMPT_TOKENS} tokens")
            )
            parts.append(html.note(f"The end will not be read: {cut}" if cut else "", "warning"))
        words, spoken = self.service.speech(prompt)
        if words:
            spoken_words = "1 spoken word" if words == 1 else f"{words} spoken words"
            text = f"{spoken_words}, about {spoken:.1f} s of {seconds:.1f} s"
            parts.append(html.meter("Speech", spoken, seconds, text))
        return f'<div class="mova-meters">{"".join(parts)}</div>'

    def preview_crop(self, values: Values) -> Updates:
        """The first frame with what is cut off dimmed, and the fields that decide it."""
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        form = self.read(values)
        try:
            if not form.image or not form.starts_from_image(form.read_added()):
                return {self.crop_box: hidden, self.crop: ""}
            height, width = form.size(describe_model(form.model, self.service.settings))
            picture, cut = history.draw_crop(
                Path(form.image), height, width, form.fit, float(form.crop_position)
            )
        except UserError as error:
            fault = html.note(str(error), "error")
            return {self.crop_box: shown, self.crop: fault, self.fit: hidden, self.crop_position: hidden}
        if not cut and form.fit == "crop":  # the picture field itself shows it
            return {self.crop_box: hidden, self.crop: "", self.fit: hidden, self.crop_position: hidden}
        text = "Bright: what the clip starts from." if cut else "The clip starts from this."
        return {
            self.crop_box: shown,
            self.crop: html.picture(picture, "The first frame as the clip starts") + html.note(text),
            self.fit: shown,
            self.crop_position: gr.update(
                visible=bool(cut), label=KEEP_HEIGHT if cut == "height" else KEEP_WIDTH
            ),
        }

    def show_added(self, values: Values) -> Updates:
        """The card of what was added; fields that do not apply to it are hidden."""
        form = self.read(values)
        updates = self.card.show(form)
        try:
            added = form.read_added()
        except UserError:
            added = None
        has_picture = added is not None and added.video is not None
        return updates | {
            self.picture_box: gr.update(visible=form.starts_from_image(added)),
            self.shape: gr.update(visible=not has_picture),
            self.seconds: gr.update(visible=added is None),
            self.make: gr.update(value=BUTTONS[added.act(form.act)] if added else BUTTON),
        }

    def show_adapters(self, count: int) -> Updates:
        """As many adapter fields as are asked for, and the button while there can be more."""
        updates: Updates = {
            adapter.box: gr.update(visible=slot < count) for slot, adapter in enumerate(self.adapters)
        }
        return updates | {self.more_adapters: gr.update(visible=count < MAX_ADAPTERS)}

    def list_own_adapters(self, visitor: str) -> Updates:
        """Offer the adapters that were trained from this browser."""
        choices = self.own_adapters(visitor)
        return {adapter.name: gr.update(choices=choices) for adapter in self.adapters}

    def own_adapters(self, visitor: str) -> list[tuple[str, str]]:
        """(label, name in the form) of the visitor's own adapters."""
        return [(f"{name} (trained here)", f"{OWN}{name}") for name in self.service.trained_adapters(visitor)]

    def choose_preset(self, name: str, model: str) -> Updates:
        """Length, steps and note of a preset."""
        described = describe_model(model, self.service.settings)
        preset = described.preset(name)
        seconds = described.clip_length(preset) / described.frame_rate
        return {
            self.seconds: round(min(seconds, self.service.settings.max_seconds), 2),
            self.num_inference_steps: preset.num_inference_steps,
            self.preset: gr.update(info=html.sentence(preset.note) + "."),
        }

    def choose_model(self, model: str) -> Updates:
        """The presets and best settings of a model."""
        described = describe_model(model, self.service.settings)
        updates = self.choose_preset(catalog.DEFAULT_PRESET, model)
        presets = {"choices": preset_choices(described), "value": catalog.DEFAULT_PRESET}
        return updates | {
            self.preset: updates[self.preset] | presets,
            self.guidance_scale: described.guidance_scale,
            self.bridge_guidance_scale: described.bridge_guidance_scale,
            self.negative_prompt: described.negative_prompt,
        }

    def propose(self, request: gr.Request, prompt: str, image: str | None, seconds: float) -> Updates:
        """Another wording of the prompt, to edit, use or dismiss."""
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        try:
            self.service.limiter.check(client_address(request))
            check_fields(prompt=prompt)
            enhancer = open_enhancer(self.service, WriterChoice(offered_writers(self.service)[0][1]))
            image_path = Path(image) if image else None
            result = enhancer.enhance(EnhanceRequest(prompt, image_path, seconds=float(seconds)))
        except (UserError, BackendError) as error:
            notes = html.note(str(error), "error")
            return {self.suggestion_box: shown, self.suggestion: hidden, self.suggestion_notes: notes}
        if result.text == prompt:
            notes = html.note(result.failure, "warning") + html.note(NOTHING_BETTER)
            return {self.suggestion_box: shown, self.suggestion: hidden, self.suggestion_notes: notes}
        return {
            self.suggestion_box: shown,
            self.suggestion: gr.update(value=result.text, visible=True),
            self.suggestion_notes: describe_result(result) + html.highlighted(result.text, result.added),
        }

    def connect(self, demo: gr.Blocks, about: gr.HTML, machine: gr.HTML) -> None:
        """Connect the fields with the remarks on them, and with notes on the model and the machine."""
        latest = {"trigger_mode": "always_last", **PRIVATE}
        # gradio removes a validator's message as soon as any event that reads the field is done. So these
        # events do not read the prompt and the adapters, which they do not need.
        read = {component for name, component in self.own.items() if name != "prompt"}

        def describe_when_ready(values: Values) -> Updates:
            self.service.ready.wait(READY_SECONDS)
            return {self.cost_note: self.describe(values), machine: html.note(self.service.machine)}

        def choose_model(model: str) -> Updates:
            return self.choose_model(model) | {about: html.note(model_note(model))}

        chosen = [self.seconds, self.num_inference_steps, self.preset]
        best = [self.guidance_scale, self.bridge_guidance_scale, self.negative_prompt]
        self.model.input(choose_model, [self.model], [about, *chosen, *best], **latest)
        self.preset.input(self.choose_preset, [self.preset, self.model], chosen, **latest)
        demo.load(describe_when_ready, read, [self.cost_note, machine], concurrency_limit=None, **PRIVATE)
        cost = (self.describe, read, [self.cost_note])
        meters = (self.measure_prompt, [self.prompt, self.model, self.seconds], [self.meters])
        shown = [*self.card.shown, self.picture_box, self.shape, self.seconds, self.make]
        added = (self.show_added, read, shown)
        crop = (self.preview_crop, read, [self.crop_box, self.crop, self.fit, self.crop_position])
        seed = (self.seed, self.random_seed)
        shifts = (self.video_shift, self.audio_shift)
        # An event that came while its "always_last" listener ran is sent to all its listeners again: two of
        # them would keep each other going without end. So every event has one, and the others follow it.
        for changed, answers in (
            ((self.prompt,), [meters]),
            ((self.seconds,), [meters, cost]),
            ((self.model,), [meters, added, crop, cost]),
            (self.card.parts.values(), [added, crop, cost]),
            ((self.image, self.shape, self.exact_size), [crop, cost]),
            ((self.fit, self.crop_position), [crop]),
            ((self.num_inference_steps, *best[:2], *shifts, *seed), [cost]),
        ):
            answered = gr.on([component.change for component in changed], *answers[0], **latest)
            for answer in answers[1:]:
                answered = answered.then(*answer, **latest)
        self._connect_card()
        self._connect_adapters()
        self._connect_suggestion()

    def _connect_card(self) -> None:
        card = self.card
        part = [card.span_start, card.span_end]
        taken = [self.image, *card.parts.values(), card.note]
        self.add.upload(lambda path: card.take(self.image, path), [self.add], taken, **PRIVATE)
        card.act.input(card.choose_act, [card.added, card.act], part, **PRIVATE)
        card.remove.click(lambda: "", None, [card.added], **PRIVATE)

    def _connect_adapters(self) -> None:
        shown = self.adapters_shown
        self.more_adapters.click(lambda count: count + 1, [shown], [shown], **PRIVATE)
        boxes = [adapter.box for adapter in self.adapters]
        shown.change(self.show_adapters, [shown], [*boxes, self.more_adapters], **PRIVATE)

    def _connect_suggestion(self) -> None:
        asked = [self.prompt, self.image, self.seconds]
        outputs = [self.suggestion_box, self.suggestion, self.suggestion_notes]
        self.suggest.click(self.propose, asked, outputs, concurrency_limit=4, **PRIVATE)
        self.use_suggestion.click(
            lambda text: (text, gr.update(visible=False)),
            [self.suggestion],
            [self.prompt, self.suggestion_box],
            **PRIVATE,
        )
        self.dismiss_suggestion.click(lambda: gr.update(visible=False), None, self.suggestion_box, **PRIVATE)
