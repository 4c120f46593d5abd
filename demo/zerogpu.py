"""ZeroGPU: one decorated function for all GPU work, and the platform's refusals in plain words.

The function runs in a forked worker that keeps its pipeline between calls. A failure inside comes back as a
value (`RunOutcome`); a refusal of the platform is raised out here, in the page.
"""

from pathlib import Path

import gradio as gr
import spaces

from demo.added import one_window
from demo.costs import Costs
from demo.queue import ClipRun
from demo.service import MakeClip
from demo.settings import Settings, describe_model
from demo.worker import RunOutcome, make_clip
from mova.machine import GIB
from mova.request import GenerationRequest

NEEDED_VRAM = {"xlarge": 90 * GIB, "large": 0}  # half a card is refused where a whole one was booked
QUOTA = "ZeroGPU quota exceeded"
SENTENCES = {
    "ZeroGPU illegal duration": "This clip needs more GPU time at once than your account may book "
    "({detail}). Make it shorter, take fewer steps or the Draft preset; Hugging Face PRO may book more.",
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


def on_zero_gpu(costs: Costs) -> MakeClip:
    """The GPU function; call it once, before the page is launched."""
    settings = costs.settings

    def book(request: GenerationRequest, model: str, folder: Path, settings: Settings, vram: int) -> int:
        del folder, vram
        described = describe_model(model, settings)
        return costs.booked_seconds(one_window(request, described), described.source)

    on_gpu = spaces.GPU(make_clip, duration=book, size=settings.zerogpu_size)

    def make(run: ClipRun) -> RunOutcome:
        try:
            return on_gpu(run.request, run.model, run.folder, settings, NEEDED_VRAM[settings.zerogpu_size])
        except gr.Error as error:
            return RunOutcome("machine", explain(error.title, str(error.message)))

    return make


def explain(title: str, message: str) -> str:
    """A refusal of the platform in plain words, with the next step."""
    if title == QUOTA:
        if "reached its GPU limit" in message or "No GPU was available" in message:
            return NO_TOKEN
        reason = message.split(". <")[0].strip()
        return f"{reason} Take the Draft preset, which costs least, or wait for tomorrow's quota."
    if title in SENTENCES:
        return SENTENCES[title].format(detail=message.rstrip("."))
    if "token" in message.lower():
        return EXPIRED
    if "No GPU was available" in message:
        return NO_GPU
    return f"The platform refused the GPU ({title}: {message}). Try again in a minute."
