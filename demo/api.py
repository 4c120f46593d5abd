"""Public endpoints for programs: gradio_client, curl and agents (MCP).

They do what the page does, with plain values; their clips are in no browser's list. They are declared with
components, not with `gr.api`, which leaves files unchecked (a caller could name any path of this machine as
the image, and would get a path instead of a link) and results without the names that programs know.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from demo.form import WIDE, Form
from demo.service import DemoService, client_address
from demo.settings import describe_model, public_name
from demo.writers import WriterChoice, offered_writers, open_enhancer, writer_name
from mova import catalog
from mova.errors import BackendError, UserError
from mova.prompting.enhancer import EnhanceRequest

WATCH_SECONDS = 0.4
FOLDERS = re.compile(r"(?<![\w:/.])(?:/[\w.@+-]+)+/(?=[\w.@+-])")  # of an absolute path, not of an address


class PublicApi:
    """The endpoints, and the components that declare their parameters."""

    def __init__(self, service: DemoService) -> None:
        self.service = service

    def generate(
        self,
        prompt: str,
        image: str | None = None,
        preset: str = catalog.DEFAULT_PRESET,
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
            image: The picture the clip starts from; leave it out to start from the description alone.
            preset: quick, standard or full; decides steps and length unless these are given.
            shape: wide, tall, square, or image for the first frame's own.
            seconds: Length of the clip.
            seed: The same seed makes the same clip; leave it out for a random one.
            steps: Denoising steps.
            guidance: How closely the words are followed; 1 is off; leave it out for the model's own.
            sync_guidance: How closely sound and picture are held together; 1 is off, 3 is strong, as above.
            negative: What the clip should avoid; leave it out for the model's own.
            model: A model of this page; leave it out for its own choice.

        Returns:
            The clip, and its settings as JSON, the seed among them.
        """
        service = self.service
        with gradio_errors():
            given = {
                "prompt": prompt,
                "image": image,
                "shape": shape,
                "seconds": seconds,
                "seed": seed,
                "num_inference_steps": steps,
                "guidance_scale": guidance,
                "bridge_guidance_scale": sync_guidance,
                "negative_prompt": negative,
            }
            form = fill(service, model, preset, given)
            visitor = service.visitors.issue()
            run = service.submit(visitor, form, client_address(request))
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
        return str(record.clip), record.settings

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
        self, preset: str = catalog.DEFAULT_PRESET, seconds: float | None = None, steps: float | None = None
    ) -> dict[str, Any]:
        """The cost of a clip here before it is made.

        Args:
            preset: quick, standard or full.
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
        preset = gr.Textbox(catalog.DEFAULT_PRESET, label="preset", visible=False)
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
    chosen = described.preset(preset or catalog.DEFAULT_PRESET)
    best = {
        "seconds": described.clip_length(chosen) / described.frame_rate,
        "num_inference_steps": chosen.num_inference_steps,
        "guidance_scale": described.guidance_scale,
        "bridge_guidance_scale": described.bridge_guidance_scale,
        "negative_prompt": described.negative_prompt,
    }
    values = {name: value for name, value in given.items() if value is not None}
    fixed = {"model": name, "preset": chosen.name, "random_seed": given.get("seed") is None}
    return Form(**best | values | fixed)


@contextmanager
def gradio_errors() -> Iterator[None]:
    """Turn our own errors into the ones that gradio hands to the caller."""
    try:
        yield
    except (UserError, BackendError) as error:
        raise gr.Error(without_folders(str(error)), print_exception=False) from error


def without_folders(text: str) -> str:
    """`text` with files of this machine named without their folders."""
    return FOLDERS.sub("", text)
