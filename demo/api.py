"""Public endpoints for programs: gradio_client, curl and agents (MCP).

They do what the page does, with plain values; their clips are in no browser's list. They are declared with
components, not with `gr.api`, which leaves files unchecked (a caller could name any path of this machine as
the image, and would get a path instead of a link) and results without the names that programs know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from demo.added import EXTEND, REDO_PICTURE, REDO_SOUND, RETAKE
from demo.form import WIDE, Form, preset_fields
from demo.html import without_folders
from demo.reading import warning
from demo.service import DemoService, client_address
from demo.settings import describe_model, public_name
from demo.writers import WriterChoice, offered_writers, open_enhancer, writer_name
from mova.catalog import SMALL_MODEL
from mova.errors import BackendError, UserError
from mova.media.clips import read_settings
from mova.prompting.enhancer import EnhanceRequest
from mova.prompting.first_frame import first_frame_for

WATCH_SECONDS = 0.4


class PublicApi:
    """The endpoints, and the components that declare their parameters."""

    def __init__(self, service: DemoService) -> None:
        self.service = service

    def generate(
        self,
        prompt: str,
        image: str | None = None,
        preset: str = "",
        shape: str = WIDE,
        seconds: float | None = None,
        seed: float | None = None,
        steps: float | None = None,
        guidance: float | None = None,
        sync_guidance: float | None = None,
        negative: str | None = None,
        model: str = "",
        request: gr.Request | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio asks for it so
    ) -> tuple[str, dict[str, Any]]:
        """Make a video clip with sound from a description and, if given, a first frame.

        Args:
            prompt: What is seen and heard. Spoken words in double quotes; end with a sentence on the sound.
            image: The picture the clip starts from; left out, pocket draws one for the description,
                and other models start from the words alone. Where it is cut, a face is kept.
            preset: turbo, draft, fast, standard or exact, of those the model has; decides steps and length
                unless these are given; leave it out for the model's own choice.
            shape: wide, tall, square, or image for the first frame's own.
            seconds: Length of the clip.
            seed: The same seed makes the same clip; leave it out for a random one.
            steps: Denoising steps.
            guidance: How closely the words are followed; 1 is off; leave it out for the model's own.
            sync_guidance: How closely sound and picture are held together; 1 is off, 3 is strong, as above.
            negative: What the clip should avoid; leave it out for the model's own.
            model: A model of this page; leave it out for its own choice.

        Returns:
            The clip, and its settings as JSON, the seed among them; a `warning` where the model is too small
            for the prompt.
        """
        with gradio_errors(), drawn_image(prompt, model or self.service.model_name, image) as first:
            given = {
                "prompt": prompt,
                "image": first,
                "shape": shape,
                "seconds": seconds,
                "seed": seed,
                "num_inference_steps": steps,
                "guidance_scale": guidance,
                "bridge_guidance_scale": sync_guidance,
                "negative_prompt": negative,
            }
            form = fill(self.service, model, preset, given)
            return self._make(form, request, progress)

    def extend(
        self,
        clip: str,
        prompt: str | None = None,
        preset: str = "",
        seed: float | None = None,
        request: gr.Request | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio asks for it so
    ) -> tuple[str, dict[str, Any]]:
        """Make a clip longer by one window of the model, picture and sound; what there is stays.

        Args:
            clip: A video with sound.
            prompt: What is seen and heard; leave it out for the clip's own, if it carries one.
            preset: As in generate; decides the steps.
            seed: The same seed makes the same clip; leave it out for a random one.

        Returns:
            The longer clip, and its settings as JSON, the seed among them.
        """
        chosen = {"act": EXTEND, "seed": seed}
        return self._change(clip, prompt, preset, chosen, request, progress)

    def redo_sound(
        self,
        clip: str,
        prompt: str | None = None,
        start: float | None = None,
        end: float | None = None,
        strength: float | None = None,
        preset: str = "",
        seed: float | None = None,
        request: gr.Request | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio asks for it so
    ) -> tuple[str, dict[str, Any]]:
        """Make the sound of a video, silent or not, all of it or a part; the picture stays.

        Args:
            clip: A video, with sound or silent.
            prompt: What is seen and heard; leave it out for the clip's own, if it carries one.
            start: Second from which the sound is made; leave it out for the beginning.
            end: Second up to which it is made; leave it out for the end.
            strength: How much may change, up to 1; less stays closer to the sound that is there.
            preset: As in generate; decides the steps.
            seed: The same seed makes the same clip; leave it out for a random one.

        Returns:
            The clip, and its settings as JSON, the seed among them.
        """
        chosen = {"act": REDO_SOUND, "span_start": start, "span_end": end, "strength": strength, "seed": seed}
        return self._change(clip, prompt, preset, chosen, request, progress)

    def redo_picture(
        self,
        clip: str,
        prompt: str | None = None,
        image: str | None = None,
        start: float | None = None,
        end: float | None = None,
        strength: float | None = None,
        preset: str = "",
        seed: float | None = None,
        request: gr.Request | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio asks for it so
    ) -> tuple[str, dict[str, Any]]:
        """Make the picture of a sound or of a clip, all of it or a part; the sound stays.

        Args:
            clip: A sound, or a video with sound.
            prompt: What is seen and heard; leave it out for the clip's own, if it carries one.
            image: The picture it starts from; leave it out for the clip's first frame.
            start: Second from which the picture is made; leave it out for the beginning.
            end: Second up to which it is made; leave it out for the end.
            strength: How much may change, up to 1; less stays closer to the picture that is there.
            preset: As in generate; decides the steps.
            seed: The same seed makes the same clip; leave it out for a random one.

        Returns:
            The clip, and its settings as JSON, the seed among them.
        """
        chosen = {"act": REDO_PICTURE, "span_start": start, "span_end": end, "strength": strength}
        chosen |= {"seed": seed, "image": image}
        return self._change(clip, prompt, preset, chosen, request, progress)

    def retake(
        self,
        clip: str,
        start: float,
        end: float,
        prompt: str | None = None,
        strength: float | None = None,
        preset: str = "",
        seed: float | None = None,
        request: gr.Request | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio asks for it so
    ) -> tuple[str, dict[str, Any]]:
        """Make a part of a clip again, picture and sound; the rest stays.

        Args:
            clip: A video with sound.
            start: Second at which the part begins.
            end: Second at which it ends.
            prompt: What is seen and heard; leave it out for the clip's own, if it carries one.
            strength: How much may change, up to 1; less stays closer to what is there.
            preset: As in generate; decides the steps.
            seed: The same seed makes the same clip; leave it out for a random one.

        Returns:
            The clip, and its settings as JSON, the seed among them.
        """
        chosen = {"act": RETAKE, "span_start": start, "span_end": end, "strength": strength, "seed": seed}
        return self._change(clip, prompt, preset, chosen, request, progress)

    def _change(
        self,
        clip: str,
        prompt: str | None,
        preset: str,
        chosen: dict[str, Any],
        request: gr.Request | None,
        progress: gr.Progress,
    ) -> tuple[str, dict[str, Any]]:
        with gradio_errors():
            if not clip:
                raise UserError("there is no clip; give a video or a sound")
            given = chosen | {"added": clip, "prompt": own_prompt(Path(clip)) if prompt is None else prompt}
            form = fill(self.service, "", preset, given)
            added = form.read_added()
            if added.act(form.act) != form.act:
                raise UserError(f"a {added.kind} lacks what is to stay or to be changed; give another file")
        return self._make(form, request, progress)

    def _make(
        self, form: Form, request: gr.Request | None, progress: gr.Progress
    ) -> tuple[str, dict[str, Any]]:
        service = self.service
        with gradio_errors():
            run = service.submit(service.visitors.issue(), form, client_address(request))
        try:
            while not run.watch(WATCH_SECONDS):
                state = run.state()
                if state.get("steps"):
                    progress((state["step"], state["steps"]), desc=state["stage"], unit="steps")
        finally:
            service.queue.stop(run)
        if run.outcome.kind != "done":
            raise gr.Error(without_folders(run.outcome.message) or "stopped", print_exception=False)
        record = service.history.record(run.owner, run.folder.name)
        warned = warning(form.prompt, form.model)
        return str(record.clip), record.settings | ({"warning": warned} if warned else {})

    def enhance(
        self, idea: str, seconds: float = 8.0, request: gr.Request | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Turn an idea into the structured prompt that the model understands; quoted words are kept.

        Args:
            idea: What happens, in a few words. Spoken words in double quotes.
            seconds: Length of the clip that the prompt is for.

        Returns:
            The prompt, and how it came about: the route, what was repaired, what is still doubtful.
        """
        with gradio_errors():
            self.service.limiter.check(client_address(request))
            enhancer = open_enhancer(self.service, WriterChoice(offered_writers(self.service)[0][1]))
            result = enhancer.enhance(EnhanceRequest(idea, seconds=float(seconds)))
        about = {key: result.to_json()[key] for key in ("route", "repairs", "violations")}
        failure = without_folders(result.failure)
        return result.text, about | {"failure": failure, "model": writer_name(result.model)}

    def estimate(
        self, preset: str = "", seconds: float | None = None, steps: float | None = None
    ) -> dict[str, Any]:
        """The cost of a clip here before it is made.

        Args:
            preset: As in generate.
            seconds: Length of the clip; leave it out for the preset's.
            steps: Denoising steps; leave it out for the preset's.

        Returns:
            Size, frames, and seconds it would take (null while that is not known).
        """
        service = self.service
        with gradio_errors():
            given = {"prompt": "-", "seconds": seconds, "num_inference_steps": steps}
            form = fill(service, "", preset, given)
            request = form.request(service.settings)
            source = describe_model(form.model, service.settings).source
        return {
            "model": public_name(form.model),
            "width": request.width,
            "height": request.height,
            "num_frames": request.num_frames,
            "steps": request.num_inference_steps,
            "seconds": service.costs.seconds(request, source),
            "quota_seconds": service.costs.quota_seconds(request, source),
        }

    def publish(self) -> None:
        """Add the endpoints to the Blocks in the making."""
        trigger = {"concurrency_limit": None, "api_visibility": "public", "show_progress": "hidden"}
        button = gr.Button(visible=False)
        preset = gr.Textbox("", label="preset", visible=False)
        seconds, steps = _number("seconds"), _number("steps")
        inputs = [
            _text("prompt"),
            # A file, as gr.Image opens what comes before our own checks, and fails without a sentence.
            gr.File(type="filepath", label="image", visible=False),
            preset,
            gr.Textbox(WIDE, label="shape", visible=False),
            seconds,
            gr.Number(None, label="seed", precision=0, visible=False),
            steps,
            _number("guidance"),
            _number("sync_guidance"),
            _text("negative"),
            gr.Textbox("", label="model", visible=False),
        ]
        outputs = [gr.Video(label="clip", visible=False), gr.JSON(label="settings", visible=False)]
        button.click(self.generate, inputs, outputs, api_name="generate", **trigger)
        by_label = {component.label: component for component in inputs}
        by_label |= {"clip": gr.File(type="filepath", label="clip", visible=False)}
        by_label |= {label: _number(label) for label in ("start", "end", "strength")}
        part = ("start", "end", "strength")
        run = ("preset", "seed")
        for function, labels in (
            (self.extend, ("clip", "prompt", *run)),
            (self.redo_sound, ("clip", "prompt", *part, *run)),
            (self.redo_picture, ("clip", "prompt", "image", *part, *run)),
            (self.retake, ("clip", "start", "end", "prompt", "strength", *run)),
        ):
            asked = [by_label[label] for label in labels]
            button.click(function, asked, outputs, api_name=function.__name__, **trigger)
        idea = [_text("idea"), gr.Number(8.0, label="seconds", visible=False)]
        about = [_text("prompt"), gr.JSON(label="about", visible=False)]
        button.click(self.enhance, idea, about, api_name="enhance", **trigger)
        cost = [gr.JSON(label="cost", visible=False)]
        button.click(self.estimate, [preset, seconds, steps], cost, api_name="estimate", **trigger)


def _text(label: str) -> gr.Textbox:
    return gr.Textbox(label=label, visible=False)


def _number(label: str) -> gr.Number:
    return gr.Number(None, label=label, visible=False)


def fill(service: DemoService, model: str, preset: str, given: dict[str, Any]) -> Form:
    """A form of the given fields that are not None, completed by the preset and the model.

    Raises:
        UserError: there is no such model or preset.
    """
    name = model or service.model_name
    if name not in service.model_names:
        offered = ", ".join(map(public_name, service.model_names))
        raise UserError(f"there is no model {name!r} here; choose {offered}", "model")
    described = describe_model(name, service.settings)
    chosen = described.preset(preset or None)
    best = preset_fields(described, chosen) | {
        "seconds": described.clip_length(chosen) / described.frame_rate,
        "negative_prompt": described.negative_prompt,
    }
    values = {name: value for name, value in given.items() if value is not None}
    fixed = {"model": name, "preset": chosen.name, "random_seed": given.get("seed") is None}
    fixed["as_written"] = values.get("prompt", "")  # programs mean the words that they send
    form = Form(**best | values | fixed)
    return replace(form, crop_position=form.best_crop(service.settings)) if form.image else form


@contextmanager
def drawn_image(prompt: str, model: str, image: str | None) -> Iterator[str | None]:
    """The given image, else one that is drawn for pocket's prompt, kept inside the context; or None."""
    drawn = first_frame_for(prompt, model).image if model == SMALL_MODEL and not image else None
    if drawn is None:
        yield image
        return
    with TemporaryDirectory(prefix="mova-") as folder:
        path = Path(folder) / "first.png"
        drawn.save(path)
        yield str(path)


def own_prompt(clip: Path) -> str:
    """The prompt that the clip carries, or an empty one."""
    try:
        return str(read_settings(clip).get("prompt", ""))
    except UserError:
        return ""


@contextmanager
def gradio_errors() -> Iterator[None]:
    """Turn our own errors into the ones that gradio hands to the caller."""
    try:
        yield
    except (UserError, BackendError) as error:
        raise gr.Error(without_folders(str(error)), print_exception=False) from error
