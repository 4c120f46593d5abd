"""ZeroGPU: one decorated function for all GPU work, and its refusals in words that help.

The function runs in a forked worker that keeps its pipeline between calls. What goes wrong inside comes back
as a value (`Outcome`); what the platform refuses is raised out here, in the page.
"""

import gradio as gr
import spaces

from demo.costs import Costs
from demo.service import RunOnGpu
from demo.settings import describe_model
from demo.worker import Job, RunOutcome, run_job

QUOTA = "ZeroGPU quota exceeded"
SENTENCES = {
    "ZeroGPU illegal duration": "This clip needs more GPU time at once than your account may book "
    "({detail}). Make it shorter, take fewer steps or the Quick preset; Hugging Face PRO may book more.",
    "ZeroGPU pending credits exceeded": "Another task of yours has booked your quota. Wait for its end.",
    "ZeroGPU queue timeout": "No GPU became free in time. Try again in a minute.",
    "ZeroGPU worker error": "The GPU task was ended by the platform: it took longer than it had booked, or "
    "ran out of memory. Make the clip shorter, or take fewer steps.",
}
NO_TOKEN = (
    "The quota of visitors without an account is used up. Sign in to Hugging Face; programs give a token."
)
EXPIRED = "The page's permission for the GPU has expired. Reload the page; your clips stay."
NO_GPU = "No GPU was free. Try again in a minute."


def on_zero_gpu(costs: Costs) -> RunOnGpu:
    """The GPU function; call it once, before the page is launched."""

    def book(job: Job, *_: object, **__: object) -> int:
        return costs.booked_seconds(job.request, describe_model(job.model, job.settings).source)

    on_gpu = spaces.GPU(run_job, duration=book, size=costs.settings.zerogpu_size)

    def run(job: Job) -> RunOutcome:
        try:
            return on_gpu(job)
        except gr.Error as error:
            return RunOutcome("machine", explain(error.title, str(error.message)))

    return run


def explain(title: str, message: str) -> str:
    """What a refusal of the platform means and what to do about it."""
    if title == QUOTA:
        if "reached its GPU limit" in message or "No GPU was available" in message:
            return NO_TOKEN
        said = message.split(". <")[0].strip()
        return f"{said} Take the Quick preset, which costs least, or wait for tomorrow's quota."
    if title in SENTENCES:
        return SENTENCES[title].format(detail=message.rstrip("."))
    if "token" in message.lower():
        return EXPIRED
    if "No GPU was available" in message:
        return NO_GPU
    return f"The platform refused the GPU ({title}: {message}). Try again in a minute."
