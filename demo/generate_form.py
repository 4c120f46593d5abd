"""The generate form: the prompt with its row of buttons, what was added, More, and remarks on all of it."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import gradio as gr
from gradio.components import Component

from demo import html
from demo.added import is_track, probe
from demo.added_card import ANYWAY, BUTTON, BUTTONS, AddedCard
from demo.drafts import Drafts
from demo.drawn_card import PAINT, DrawnCard
from demo.fields import PRIVATE, Updates, Values
from demo.form import (
    AS_IMAGE,
    CLIPS,
    MAX_ADAPTERS,
    OWN,
    SQUARE,
    TALL,
    WIDE,
    AdapterChoice,
    Form,
    adapter_field,
    preset_choices,
    preset_fields,
)
from demo.picture_card import PictureCard
from demo.reading import is_outside, read_prompt
from demo.service import DemoService, client_address
from demo.settings import describe_model, model_hint, model_note, public_name, sample_ideas
from demo.writers import WriterChoice, describe_result, offered_writers, open_enhancer
from mova.errors import BackendError, UserError
from mova.prompting.enhancer import EnhanceRequest
from mova.request import GenerationRequest, check_fields
from mova.shapes import MAX_PROMPT_TOKENS

READY_SECONDS = 60.0
SHAPE_CHOICES = [("Wide", WIDE), ("Tall", TALL), ("Square", SQUARE), ("As the picture", AS_IMAGE)]
TITLES = {"pocket": "Pocket: small, runs anywhere", "360p": "MOVA 360p", "720p": "MOVA 720p"}
PLACEHOLDER = 'Describe a moment: what is seen, said and heard. Put spoken words in "quotes".'
NOTHING_BETTER = "There is nothing to add to this prompt."
OUTSIDE = "This model can't draw that. Try one of these:"
NEARLY_FULL, TOO_FAST = 0.8, 1.0  # shares of the tokens and of the clip's seconds from which a meter shows
# The form once it has settled: of changes that follow each other only the last is asked about, so that no
# older answer comes after a newer one, and nobody is corrected in a word. A change must have no other
# listener: gradio would call it after this one, which ends for the last change alone.
SETTLED = """async (prompt, ...others) => {
  const typed = document.querySelector('#prompt textarea').value;
  const turn = window.movaTurn = (window.movaTurn ?? 0) + 1;
  await new Promise(done => setTimeout(done, typed === window.movaTyped ? 60 : 400));
  if (turn !== window.movaTurn) await new Promise(() => {});
  window.movaAsked = turn;
  window.movaTyped = document.querySelector('#prompt textarea').value;
  return [window.movaTyped, ...others];
}"""


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

    def __init__(self, service: DemoService, visitor: gr.BrowserState | None = None) -> None:
        self.service, self.visitor, self.drafts = service, visitor, Drafts()
        with gr.Column(elem_id="composer"):
            with gr.Column(elem_id="prompt-box"):
                self._lay_out_prompt()
            self._lay_out_remarks()
        # The tab adds examples and clips on the left, the result on the right.
        with gr.Row(equal_height=False, elem_id="stage"):
            with gr.Column(scale=6, min_width=320, elem_id="shelf") as self.shelf:
                self._lay_out_suggestion()
                self.note = gr.HTML(elem_id="added-note")
                self.words = DrawnCard(service)
                self.picture = PictureCard(service.settings)
                self.card = AddedCard(service.settings)
                with gr.Column(elem_id="more-panel", elem_classes="mova-card"):
                    self._lay_out_more()
            self.side = gr.Column(scale=5, min_width=320, elem_id="side")
        self.adapters_shown = gr.State(1)
        self.as_written, self.warned = gr.State(""), gr.State("")
        self.painted = gr.State(None)  # with the picture that it is to take the place of
        cards = self.picture.parts | self.card.parts | self.words.parts
        names = [field.name for field in fields(Form) if field.name not in ("adapters", *cards)]
        self.own: dict[str, Component] = {name: getattr(self, name) for name in names} | cards
        self.image, self.crop_position = self.picture.image, self.picture.crop_position
        self.fit = self.picture.fit

    def _lay_out_prompt(self) -> None:
        self.prompt = gr.Textbox(
            label="Prompt",
            show_label=False,
            container=False,
            placeholder=PLACEHOLDER,
            lines=2,
            max_lines=6,
            elem_id="prompt",
        )
        with gr.Row(elem_id="prompt-row"):
            self.add = gr.UploadButton(
                "+ Add",
                file_types=["image", "audio", "video"],
                type="filepath",
                elem_id="add",
                scale=0,
                min_width=80,
            )
            self.preset = gr.Dropdown(
                preset_choices(self.service.model),
                value=self.service.model.default_preset,
                label="Quality",
                show_label=False,
                container=False,
                filterable=False,
                elem_id="preset",
                scale=0,
                min_width=170,
            )
            self.more = gr.Button("More", elem_id="more", scale=0, min_width=80)
            self.suggest = gr.Button("Improve", elem_id="suggest", scale=0, min_width=90)
            # It can be pressed once the browser has a name (`GenerateTab.greet`).
            self.make = gr.Button(
                BUTTON, variant="primary", elem_id="make", scale=0, min_width=160, interactive=False
            )
            self.stop = gr.Button(
                "Stop", variant="stop", elem_id="stop", scale=0, min_width=160, visible=False
            )

    def _lay_out_remarks(self) -> None:
        model = self.service.model_name
        with gr.Row(elem_id="hints"):
            self.hint = gr.HTML(html.note(model_hint(model)), elem_id="hint")
            self.chips = [
                (gr.Button(label, size="sm", elem_id=f"chip-{number}", scale=0, min_width=60), idea)
                for number, (label, idea) in enumerate(sample_ideas(model))
            ]
        self.reading = gr.HTML(elem_id="reading")
        self.remarks = gr.HTML(elem_id="remarks")
        with gr.Row(visible=False, elem_id="seed-box") as self.seed_box:
            self.seed_note = gr.HTML(elem_id="seed-note")
            self.new_seed = gr.Button("New seed", size="sm", elem_id="new-seed", scale=0, min_width=90)

    def _lay_out_suggestion(self) -> None:
        with gr.Column(
            visible=False, elem_id="suggestion-box", elem_classes="mova-card"
        ) as self.suggestion_box:
            self.suggestion_notes = gr.HTML(elem_id="suggestion-notes")
            self.suggestion = gr.Textbox(
                label="Suggested prompt (edit as you like)", lines=6, elem_id="suggestion"
            )
            with gr.Row(elem_classes="mova-buttons"):
                self.use_suggestion = gr.Button(
                    "Use", variant="primary", size="sm", elem_id="use-suggestion", min_width=90
                )
                self.dismiss_suggestion = gr.Button(
                    "Dismiss", size="sm", elem_id="dismiss-suggestion", min_width=90
                )

    def _lay_out_more(self) -> None:
        service = self.service
        self.cost_note = gr.HTML(elem_id="cost-note")
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.shape = gr.Radio(SHAPE_CHOICES, value=WIDE, label="Shape", elem_id="shape")
            self.seconds = gr.Slider(
                0.2,
                service.max_seconds,
                value=service.default_seconds,
                step=0.01,
                label="Seconds",
                elem_id="seconds",
            )
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.seed = gr.Number(
                value=None,
                precision=0,
                label="Seed",
                info="The same seed makes the same clip.",
                elem_id="seed",
            )
            self.random_seed = gr.Checkbox(True, label="Random seed", elem_id="random-seed")
        self.clips = gr.Radio(
            [("1", 1), *((f"Best of {count}", count) for count in CLIPS[1:])],
            value=1,
            label="Clips",
            info="All are measured and kept; the best plays first.",
            visible=False,
            elem_id="clips",
        )
        self.model = gr.Dropdown(
            [(TITLES.get(name, public_name(name)), name) for name in service.model_names],
            value=service.model_name,
            label="Model",
            visible=len(service.model_names) > 1,
            elem_id="model",
        )
        self._lay_out_guidance()
        with gr.Accordion("Adapters (LoRA)", open=False, elem_id="adapters"):
            self.adapters = [AdapterFields(slot) for slot in range(MAX_ADAPTERS)]
            self.more_adapters = gr.Button("Add another adapter", size="sm", elem_id="more-adapters")
        with gr.Row(elem_classes="mova-buttons"):
            self.camera = gr.Button("Start from a camera picture", size="sm", elem_id="camera")
        self.about = gr.HTML(html.note(model_note(service.model_name)), elem_id="about-model")

    def _lay_out_guidance(self) -> None:
        model = self.service.model
        chosen = preset_fields(model, model.preset())
        self.further = gr.State(chosen["further"])
        self.num_inference_steps = gr.Slider(
            1,
            self.service.settings.max_steps,
            value=chosen["num_inference_steps"],
            step=1,
            label="Steps",
            info="More is finer, and slower in proportion.",
            elem_id="steps",
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.guidance_scale = gr.Slider(
                0,
                15,
                value=chosen["guidance_scale"],
                step=0.1,
                label="Prompt strength",
                info="1 = off",
                elem_id="guidance",
            )
            self.bridge_guidance_scale = gr.Slider(
                0,
                10,
                value=chosen["bridge_guidance_scale"],
                step=0.1,
                label="Sync strength",
                info="1 = off; 50% slower unless equal to Prompt strength",
                elem_id="sync-guidance",
            )
        self.negative_prompt = gr.Textbox(
            value=model.negative_prompt, label="Avoid", lines=2, max_lines=6, elem_id="negative"
        )
        with gr.Row(elem_classes="mova-phone-wrap"):
            self.exact_size = gr.Textbox(
                label="Size in pixels",
                placeholder=f"by the shape; or {model.width}x{model.height}",
                elem_id="exact-size",
            )
            shift = {"value": None, "info": "0 = default"}
            self.video_shift = gr.Number(label="Noise shift, picture", elem_id="video-shift", **shift)
            self.audio_shift = gr.Number(label="Noise shift, sound", elem_id="audio-shift", **shift)

    @property
    def described(self) -> list[Component]:
        """The components that `describe` and `show_added` set, but for those of the cards."""
        notes = [self.cost_note, self.remarks, self.seed_box, self.seed_note]
        return [*notes, self.camera, self.shape, self.seconds, self.clips]

    @property
    def answered(self) -> list[Component]:
        """The components that `read_prompt` sets."""
        read = [self.reading, self.hint, self.make, self.warned, self.as_written, self.random_seed]
        return read + self.words.shown

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

    def describe(self, values: Values) -> Updates:
        """Size and cost of the clip, and what should be known of them before the click."""
        form = self.read(values)
        size, cost, caution, is_quick = self.service.describe(form)
        fault = "" if cost else html.note(size, "error")
        is_dear = self.service.settings.is_zero_gpu or form.clips > 1
        is_locked = bool(form.as_written) and not form.random_seed and form.seed is not None
        return {
            self.cost_note: html.note(f"{cost} {size}.") if cost else "",
            self.remarks: fault or html.note(cost if is_dear else "") + html.note(caution, "warning"),
            self.clips: gr.update(visible=is_quick or form.clips > 1) if cost else gr.skip(),
            self.seed_box: gr.update(visible=is_locked),
            self.seed_note: html.note(f"Seed {form.seed:.0f} locked: same clip again.") if is_locked else "",
        }

    def keep(self, values: Values) -> None:
        """Keep the fields in `values` as the visitor's draft."""
        visitor = values[self.visitor]
        if self.service.visitors.is_known(visitor):
            own = {name: values[component] for name, component in self.own.items() if component in values}
            self.drafts.keep(self.service.visitors.folder_name(visitor), own)

    def show_presets(self, model: str) -> Updates:
        """The presets with the time that each takes here."""
        described = describe_model(model, self.service.settings)
        seconds = {
            preset.name: self.service.costs.seconds(
                GenerationRequest("-", **described.defaults(preset)), described.source
            )
            for preset in described.presets
        }
        return {self.preset: gr.update(choices=preset_choices(described, seconds))}

    def read_prompt(self, form: Form) -> Updates:
        """What the model can make of the prompt, its first frame, and the name of the button."""
        prompt, model, as_written = form.prompt, form.model, form.as_written
        is_changed = bool(as_written) and prompt != as_written
        found = None if prompt == as_written else read_prompt(prompt, model)
        outside = found is not None and found.belongs == "not"
        updates: Updates = {
            self.reading: html.reading(found) + self._meters(prompt, model, form.seconds),
            self.hint: html.note(OUTSIDE, "warning") if outside else html.note(model_hint(model)),
            self.make: gr.update(
                value=self._button(form.added, form.act, outside),
                variant="secondary" if outside else "primary",
            ),
            self.warned: prompt if outside else "",
        }
        if is_changed:  # the seed that came with the old prompt must not pin the new one's clips
            updates |= {self.as_written: "", self.random_seed: True}
        return updates | self.words.show(form, found.not_kept if found else ())

    def warns(self, form: Form, warned: str) -> bool:
        """True where the model can draw none of it and the visitor has not seen that yet."""
        return form.prompt not in (warned, form.as_written) and is_outside(form.prompt, form.model)

    def _button(self, added: str, act: str, outside: bool) -> str:
        if added:
            try:
                return BUTTONS[probe(Path(added)).act(act)]
            except UserError:  # the file is gone: its card says so
                return BUTTON
        return ANYWAY if outside else BUTTON

    def _meters(self, prompt: str, model: str, seconds: float) -> str:
        """Meters of what is nearly full: the text encoder's tokens, and the time to speak in."""
        if not prompt.strip():
            return ""
        parts = []
        if counted := self.service.count_tokens(prompt, model):
            tokens, cut = counted
            if tokens > NEARLY_FULL * MAX_PROMPT_TOKENS:
                text = "Almost full" if not cut else "Too long"
                parts.append(html.meter("Tokens", tokens, MAX_PROMPT_TOKENS, text))
            parts.append(html.note(f"Ignored: {cut}" if cut else "", "warning"))
        words, spoken = self.service.speech(prompt)
        if spoken > TOO_FAST * seconds:
            spoken_words = "1 spoken word" if words == 1 else f"{words} spoken words"
            text = f"{spoken_words}, about {spoken:.1f} s of {seconds:.1f} s"
            parts.append(html.meter("Speech", spoken, seconds, text))
        return f'<div class="mova-meters">{"".join(parts)}</div>' if parts else ""

    def show_added(self, values: Values) -> Updates:
        """The cards of what was added; fields that do not apply to it are hidden."""
        form = self.read(values)
        try:
            added = form.read_added()
        except UserError:
            added = None
        has_picture = added is not None and added.video is not None
        return (
            self.card.show(form)
            | self.picture.show(form)
            | {
                self.camera: gr.update(visible=form.starts_from_image(added)),
                self.shape: gr.update(visible=not has_picture),
                self.seconds: gr.update(visible=added is None),
            }
        )

    def take(self, values: Values) -> Updates:
        """Put an added file where it belongs: a picture is the first frame, all else is `added`."""
        if not values[self.add]:
            return gr.skip()
        path = Path(values[self.add])
        try:
            taken = self.card.take(path) if is_track(path) else self.picture.take(path, self.read(values))
        except UserError as error:
            return {self.note: html.note(str(error), "error")}
        return taken | {self.note: ""}

    def place_crop(self, values: Values) -> Updates:
        """Keep a face in the crop, now that the picture or the clip's shape is another one."""
        form, position = self.read(values), gr.skip()
        if form.image:
            with suppress(UserError):  # its card says so
                position = form.best_crop(self.service.settings)
        return {self.crop_position: position}

    def paint(self, values: Values, request: gr.Request) -> Iterator[Updates]:
        """Paint a first frame from the words; `take_painted` follows."""
        buttons = (self.words.paint, self.picture.another)
        yield dict.fromkeys(buttons, gr.update(value="Painting…", interactive=False))
        form, painted, note = self.read(values), None, ""
        try:
            self.service.limiter.check(client_address(request))
            picture = self.words.paint_frame(form)
            painted = form.image, str(self.picture.keep_painted(picture))
        except (UserError, BackendError) as error:
            note = html.note(str(error), "error")
        names = {self.words.paint: PAINT, self.picture.another: "Another"}
        ready = {button: gr.update(value=name, interactive=True) for button, name in names.items()}
        yield ready | {self.painted: painted, self.note: note}

    def take_painted(self, values: Values) -> Updates:
        """Put the painted picture in, unless the visitor has meanwhile put in something else."""
        form, painted = self.read(values), values[self.painted]
        if not painted or painted[0] != form.image or not form.can_be_painted(self.service.settings):
            return {self.painted: None}
        return self.picture.take(Path(painted[1]), form) | {self.painted: None}

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
        """Length and steps of a preset."""
        described = describe_model(model, self.service.settings)
        preset = described.preset(name)
        seconds = described.clip_length(preset) / described.frame_rate
        return {
            self.seconds: round(min(seconds, self.service.settings.max_seconds), 2),
            **{getattr(self, field): value for field, value in preset_fields(described, preset).items()},
        }

    def choose_model(self, model: str) -> Updates:
        """The presets and best settings of a model."""
        described = describe_model(model, self.service.settings)
        presets = self.show_presets(model)
        presets[self.preset] |= {"value": described.default_preset}
        updates = self.choose_preset(None, model) | presets
        return updates | {
            self.negative_prompt: described.negative_prompt,
            self.about: html.note(model_note(model)),
        }

    def propose(
        self, request: gr.Request, prompt: str, image: str | None, seconds: float, model: str
    ) -> Updates:
        """Another wording of the prompt, to edit, use or dismiss."""
        shown, hidden = gr.update(visible=True), gr.update(visible=False)
        try:
            self.service.limiter.check(client_address(request))
            check_fields(prompt=prompt)
            if is_outside(prompt, model):
                return {self.suggestion_box: hidden, self.hint: html.note(OUTSIDE, "warning")}
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

    def react(self, values: Values) -> Updates:
        """Keep the form as a draft, and show all that follows from it."""
        self.keep(values)
        return self.describe(values) | self.show_added(values) | self.read_prompt(self.read(values))

    def connect(self, demo: gr.Blocks, machine: gr.HTML) -> None:
        """Connect the fields with what follows from them, and with the note on the machine."""
        latest = {"trigger_mode": "always_last", **PRIVATE}
        best = [self.num_inference_steps, self.guidance_scale, self.bridge_guidance_scale]
        chosen = [self.seconds, self.further, *best]
        described = [*chosen, self.preset, self.negative_prompt, self.about]
        self.model.input(self.choose_model, [self.model], described, **latest)
        self.preset.input(self.choose_preset, [self.preset, self.model], chosen, **latest)

        known = gr.State(False)

        def show_machine(model: str) -> Updates:
            self.service.ready.wait(READY_SECONDS)
            return self.show_presets(model) | {machine: html.note(self.service.machine), known: True}

        read = [self.prompt, *(each for each in self.own.values() if each is not self.prompt), self.visitor]
        gr.on(
            [component.change for component in (*self.own.values(), known)],
            lambda *given: self.react(dict(zip(read, given, strict=True))),
            read,
            [*self.described, *self.answered, *self.card.shown, *self.picture.shown],
            js=SETTLED,
            **latest,
        )
        outputs = [self.preset, machine, known]
        demo.load(show_machine, [self.model], outputs, concurrency_limit=None, **PRIVATE)
        self.new_seed.click(lambda: True, None, [self.random_seed], **PRIVATE)
        for chip, idea in self.chips:
            chip.click(None, None, [self.prompt], js=f"() => {json.dumps(idea)}", **PRIVATE)
        self._connect_cards()
        self._connect_adapters()
        self._connect_suggestion()

    def _connect_cards(self) -> None:
        card = self.card
        part = [card.span_start, card.span_end]
        sized = {self.image, self.model, self.shape, self.exact_size, card.added}
        taken = [self.image, self.crop_position, *card.parts.values(), self.note]
        self.add.upload(self.take, sized | {self.add}, taken, **PRIVATE)
        placed = [self.shape.input, self.image.input, self.image.upload]
        gr.on(placed, self.place_crop, sized, [self.crop_position], trigger_mode="always_last", **PRIVATE)
        card.act.input(
            lambda *chosen: card.choose_act(*chosen) or gr.skip(), [card.added, card.act], part, **PRIVATE
        )
        card.remove.click(lambda: "", None, [card.added], **PRIVATE)
        self.picture.connect(self.camera)
        words, drawn = self.words, [self.words.drawn]
        words.another.click(lambda variant: variant + 1, drawn, drawn, **PRIVATE)
        words.none.click(lambda: -1, None, drawn, **PRIVATE)
        painting = [words.paint, self.picture.another, self.painted, self.note]
        gr.on(
            [words.paint.click, self.picture.another.click],
            self.paint,
            sized | {self.prompt},
            painting,
            concurrency_limit=4,
            **PRIVATE,
        ).then(
            self.take_painted,
            sized | {self.painted},
            [self.image, self.crop_position, self.painted],
            **PRIVATE,
        )

    def _connect_adapters(self) -> None:
        shown = self.adapters_shown
        self.more_adapters.click(lambda count: count + 1, [shown], [shown], **PRIVATE)
        boxes = [adapter.box for adapter in self.adapters]
        shown.change(self.show_adapters, [shown], [*boxes, self.more_adapters], **PRIVATE)

    def _connect_suggestion(self) -> None:
        asked = [self.prompt, self.image, self.seconds, self.model]
        outputs = [self.suggestion_box, self.suggestion, self.suggestion_notes, self.hint]
        self.suggest.click(self.propose, asked, outputs, concurrency_limit=4, **PRIVATE)
        self.use_suggestion.click(
            lambda text: (text, gr.update(visible=False)),
            [self.suggestion],
            [self.prompt, self.suggestion_box],
            **PRIVATE,
        )
        self.dismiss_suggestion.click(lambda: gr.update(visible=False), None, self.suggestion_box, **PRIVATE)
