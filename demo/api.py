"""Named endpoints for programs: gradio_client, curl and agents (MCP).

They do what the page does, with plain values; their clips are in no browser's list.
"""

from typing import Any

import gradio as gr

from demo.form import WIDE, FieldError, Form
from demo.service import DemoService, client_address
from demo.settings import describe_model
from demo.writers import WriterChoice, offered_writers, open_enhancer
from mova import catalog
from mova.errors import BackendError, UserError
from mova.prompting.enhancer import EnhanceRequest

WATCH_SECONDS = 0.4


def add_endpoints(studio: DemoService) -> None:
    """Add the endpoints to the Blocks in the making."""

    def generate(
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
            negative: What to steer away from; leave it out for the model's own.
            model: A model of this page; leave it out for its own choice.

        Returns:
            The clip, and its settings as JSON, the seed among them.
        """
        form = fill(
            studio,
            prompt=prompt,
            image=image,
            preset=preset,
            shape=shape,
            seconds=seconds,
            seed=seed,
            steps=steps,
            guidance=guidance,
            sync_guidance=sync_guidance,
            negative=negative,
            model=model,
        )
        with gradio_errors():
            visitor = studio.visitors.issue()
            run = studio.submit(visitor, form)
        try:
            while not run.watch(WATCH_SECONDS):
                state = run.state()
                if state.get("steps"):
                    progress((state["step"], state["steps"]), desc=state["stage"], unit="steps")
        finally:
            studio.line.stop(run)
        if run.outcome.kind != "done":
            raise gr.Error(run.outcome.message or "stopped", print_exception=False)
        entry = studio.history.entry(studio.visitors.folder_name(visitor), run.job.folder.name)
        return str(entry.clip), entry.settings

    def enhance(
        idea: str, seconds: float = 8.0, request: gr.Request | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Turn an idea into the structured prompt that the model understands; quoted words are kept.

        Args:
            idea: What happens, in a few words. Spoken words in double quotes.
            seconds: Length of the clip that the prompt is for.

        Returns:
            The prompt, and how it came about: the route, what was repaired, what is still doubtful.
        """
        with gradio_errors():
            studio.limiter.check(client_address(request))
            enhancer = open_enhancer(studio, WriterChoice(offered_writers(studio)[0][1]))
            result = enhancer.enhance(EnhanceRequest(idea, seconds=float(seconds)))
        about = result.to_json()
        return result.text, {
            key: about[key] for key in ("route", "repairs", "violations", "failure", "model")
        }

    def estimate(
        preset: str = catalog.DEFAULT_PRESET, seconds: float | None = None, steps: float | None = None
    ) -> dict[str, Any]:
        """What a clip would cost here before it is made.

        Args:
            preset: quick, standard or full.
            seconds: Length of the clip; leave it out for the preset's.
            steps: Denoising steps; leave it out for the preset's.

        Returns:
            Size, frames, and seconds it would take (null while that is not known).
        """
        form = fill(studio, prompt="-", preset=preset, seconds=seconds, steps=steps)
        with gradio_errors():
            request = form.request(studio.settings)
            source = describe_model(form.model, studio.settings).source
        return {
            "model": form.model,
            "width": request.width,
            "height": request.height,
            "num_frames": request.num_frames,
            "steps": request.num_inference_steps,
            "seconds": studio.costs.seconds(request, source),
            "quota_seconds": studio.costs.quota_seconds(request, source),
        }

    _publish(generate, enhance, estimate)


def _publish(generate: Any, enhance: Any, estimate: Any) -> None:  # noqa: ANN401
    preset = gr.Textbox(catalog.DEFAULT_PRESET, label="preset", visible=False)
    seconds, steps = (gr.Number(None, label=label, visible=False) for label in ("seconds", "steps"))
    trigger = {"concurrency_limit": None, "api_visibility": "public", "show_progress": "hidden"}
    inputs = [
        gr.Textbox(label="prompt", visible=False),
        # A file, as gr.Image opens what comes before our own checks, and fails without a sentence.
        gr.File(type="filepath", label="image", visible=False),
        preset,
        gr.Textbox(WIDE, label="shape", visible=False),
        seconds,
        gr.Number(None, label="seed", precision=0, visible=False),
        steps,
        gr.Number(None, label="guidance", visible=False),
        gr.Number(None, label="sync_guidance", visible=False),
        gr.Textbox(None, label="negative", visible=False),
        gr.Textbox("", label="model", visible=False),
    ]
    outputs = [
        gr.Video(label="clip", visible=False),
        gr.JSON(label="settings", visible=False),
    ]
    button = gr.Button(visible=False)
    button.click(generate, inputs, outputs, api_name="generate", **trigger)
    idea = [gr.Textbox(label="idea", visible=False), gr.Number(8.0, label="seconds", visible=False)]
    about = [gr.Textbox(label="prompt", visible=False), gr.JSON(label="about", visible=False)]
    button.click(enhance, idea, about, api_name="enhance", **trigger)
    button.click(
        estimate,
        [preset, seconds, steps],
        gr.JSON(label="cost", visible=False),
        api_name="estimate",
        **trigger,
    )


def fill(studio: DemoService, **given: Any) -> Form:  # noqa: ANN401
    """A form of the given values, the rest as a preset and the model say."""
    with gradio_errors():
        name = given.get("model") or studio.model_name
        if name not in studio.model_names:
            raise FieldError(
                "model", f"there is no model {name!r} here; choose {', '.join(studio.model_names)}"
            )
        model = describe_model(name, studio.settings)
        preset = model.preset(given.get("preset") or catalog.DEFAULT_PRESET)
    values = {key: value for key, value in given.items() if value is not None}
    best = {
        "seconds": model.clip_length(preset) / model.frame_rate,
        "steps": preset.num_inference_steps,
        "guidance": model.guidance_scale,
        "sync_guidance": model.bridge_guidance_scale,
        "negative": model.negative_prompt,
    }
    fixed = {"model": name, "preset": preset.name, "random_seed": given.get("seed") is None}
    return Form(**best | values | fixed)


class gradio_errors:  # noqa: N801 - reads as a statement
    """Turns our own errors into the ones that gradio hands to the caller."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (UserError, BackendError)):
            raise gr.Error(str(error), print_exception=False) from error
