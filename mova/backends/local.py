"""Make clips with the pipeline, in this process."""

import gc
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mova import catalog, parallel, placement
from mova.adapters.files import Adapter
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import Strength
from mova.backends import timed
from mova.backends.given import GivenTracks
from mova.errors import BackendError
from mova.inspection import Checkpoint, inspect_checkpoint
from mova.layout import Layout
from mova.machine import Machine, estimate_time
from mova.parallel import Team
from mova.pipeline import MOVAPipeline, MOVAPipelineOutput, StepCallback
from mova.request import (
    GenerationRequest,
    GenerationResult,
    Progress,
    ProgressCallback,
    run_settings,
)

logger = logging.getLogger(__name__)


LEVELS = 4  # of each colour channel: 64 fields
FIELD = 64  # pixels; the middle of a field this large does not feel its border


class LatentPreview:
    """Maps video latents, as the towers see them, to small frames: RGB = latents W + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias  # [16, 3], [3]

    @classmethod
    @torch.no_grad()
    def fit(cls, pipeline: "MOVAPipeline") -> "LatentPreview":
        """Encode 64 colour fields with the pipeline's VAE and solve for W and b."""
        levels = torch.linspace(-1, 1, LEVELS)
        colours = torch.tensor(list(itertools.product(levels, repeat=3)))  # [N, 3]
        fields = colours[:, :, None, None].expand(-1, -1, FIELD, FIELD)
        latents = pipeline.encode_first_frame(fields, num_frames=1)[:, 4:, 0].cpu()  # [N, 16, h, w]
        middle = latents.shape[-1] // 2
        known = torch.cat((latents[:, :, middle, middle], torch.ones(len(colours), 1)), dim=1)
        solution = torch.linalg.lstsq(known.double(), colours.double(), driver="gelsd").solution.float()
        return cls(solution[:-1], solution[-1])

    def __call__(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 [T, h, w, 3] of the first clip's latents [B, 16, T, h, w]."""
        pixels = latents[0].movedim(0, -1).float().cpu() @ self.weight + self.bias
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


@dataclass(frozen=True)
class RunEstimate:
    """Prediction of a run on this machine: where the weights go, and about how long denoising takes."""

    placement: placement.Placement
    seconds: float
    layout: Layout


class LocalBackend:
    """A pipeline that is loaded for the first clip and stays.

    `device` is the machine's best if None. `fixed` are fields of `mova.placement.Placement` set by hand;
    the rest is chosen for the machine and for the size of the first clip. `want_preview` puts a small picture
    of the running clip into the progress reports.
    """

    def __init__(
        self, model: str, device: str | None = None, want_preview: bool = False, **fixed: object
    ) -> None:
        spec = catalog.find_model(model)
        self.model, self.source = spec.name, spec.source
        self.device = device
        self.want_preview = want_preview
        self.fixed = fixed
        self.placement: placement.Placement | None = None
        self._machine: Machine | None = None
        self._checkpoint: Checkpoint | None = None
        self._pipeline: MOVAPipeline | None = None
        self._preview: LatentPreview | None = None

    def plan(self, request: GenerationRequest) -> RunEstimate:
        """Predict where the weights would go and the time, from configs and file headers alone.

        Raises:
            UserError: the checkpoint is broken, or does not fit this machine.
        """
        self._machine = self._machine or Machine.probe(self.device)
        self._checkpoint = self._checkpoint or inspect_checkpoint(self.source)
        machine, checkpoint = self._machine, self._checkpoint
        workspace = checkpoint.workspace(request, machine, self.fixed.get("dtype"))
        chosen = self.placement or checkpoint.place(machine, workspace, **self.fixed)
        gpus, mode = chosen.gpus, chosen.parallel
        time = estimate_time(request, checkpoint.configs, machine.name, machine.cores, gpus, mode)
        return RunEstimate(chosen, time.denoising, time.layout)

    def load(self, request: GenerationRequest) -> MOVAPipeline:
        """The pipeline, placed for clips of the request's size; loaded once.

        Raises:
            UserError: as `plan`.
        """
        if self._pipeline is None:
            chosen = self.plan(request).placement
            self._gather_team(chosen)
            pipeline = load_pipeline(self.source, chosen)
            self._preview = LatentPreview.fit(pipeline) if self.want_preview else None
            self.placement, self._pipeline = chosen, pipeline
        elif self._pipeline.team is not None and self._pipeline.team.failure:
            self._pipeline.team = self._gather_team(self.placement)
        return self._pipeline

    def _gather_team(self, chosen: placement.Placement) -> Team | None:
        """The processes for the other GPUs, told to load the model; those that failed are replaced."""
        if chosen.gpus == 1:
            return None
        team = parallel.gather(chosen.gpus, chosen.device)
        team.mode = chosen.parallel
        team.tell(load_follower, self.source, chosen)
        return team

    def generate(
        self,
        request: GenerationRequest,
        out: Path,
        progress: ProgressCallback | None = None,
        should_stop: Callable[[], bool] | None = None,
        overwrite: bool = False,
    ) -> GenerationResult:
        """As `mova.backends.Backend.generate`."""
        image = request.check(out, overwrite)
        given = GivenTracks.read(request)
        adapters = [(read_adapter(source), strength) for source, strength in request.adapters]
        request = request.seeded()
        settings = run_settings(request, self.model, out)
        report = progress or (lambda _: None)
        seconds: dict[str, float] = {}
        with timed(seconds, "load"), translated_memory_errors():
            report(Progress("load"))
            pipeline = self.load(request)
        with timed(seconds, "generate"):
            output = self.run(request, adapters, image, given.arguments(), report, should_stop)
        with timed(seconds, "write"):
            report(Progress("write", pipeline.num_timesteps, pipeline.num_timesteps))
            settings |= {"dtype": self.placement.dtype, "fp8": self.placement.fp8}
            frames = to_uint8(output.frames[0])
            sample_rate = pipeline.audio_vae.config.sample_rate
            notes = given.write(out, frames, output.audio[0].numpy(), sample_rate, settings, overwrite)
        notes = output.notes + notes
        for note in notes:
            logger.warning("%s", note)
        return GenerationResult(out, request, self.model, seconds, warnings(pipeline, request) + notes)

    def run(
        self,
        request: GenerationRequest,
        adapters: list[tuple[Adapter, Strength]],
        image: np.ndarray | None,
        given: dict[str, Any],
        report: ProgressCallback,
        should_stop: Callable[[], bool] | None,
    ) -> MOVAPipelineOutput:
        """The pipeline's output for `request`, frames [1, F, 3, H, W] in 0..1.

        `adapters` are those of the request, read, and `given` the pipeline's arguments for the two tracks.

        Raises:
            UserError, BackendError, Cancelled: as `generate`.
        """
        report(Progress("encode", 0, request.total_steps))
        with translated_memory_errors(), with_adapters(self.load(request), adapters) as pipeline:
            return pipeline(
                prompt=request.prompt,
                image=image,
                negative_prompt=request.negative_prompt,
                height=request.height,
                width=request.width,
                num_frames=request.num_frames,
                frame_rate=request.frame_rate,
                num_inference_steps=request.num_inference_steps,
                guidance_scale=request.guidance_scale,
                bridge_guidance_scale=request.bridge_guidance_scale,
                video_shift=request.video_shift,
                audio_shift=request.audio_shift,
                generator=torch.Generator().manual_seed(request.seed),
                output_type="pt",
                callback_on_step_end=self._on_step(report),
                callback_on_step_end_tensor_inputs=("denoised_latents",),
                should_stop=should_stop,
                solver=request.solver,
                guidance_interval=request.guidance_interval,
                audio_guidance_scale=request.audio_guidance_scale,
                audio_bridge_guidance_scale=request.audio_bridge_guidance_scale,
                cache_threshold=request.cache_threshold,
                refine=request.refine,
                **given,
            )

    def _on_step(self, report: ProgressCallback) -> StepCallback:
        began = time.perf_counter()
        finished: list[float] = []

        def on_step(
            pipeline: MOVAPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            del timestep  # the step count says enough
            steps = pipeline.num_timesteps
            finished.append(time.perf_counter())
            elapsed = finished[-1] - began
            # The first step comes after the encoders; from the second on it is left out of the rate.
            rate = (finished[-1] - finished[0]) / step if step else elapsed
            preview = self._preview(tensors["denoised_latents"]) if self._preview else None
            report(Progress("denoise", step + 1, steps, elapsed, rate * (steps - step - 1), preview))
            if step + 1 == steps:
                report(Progress("decode", steps, steps, elapsed))
            return {}

        return on_step


def load_pipeline(source: str, chosen: placement.Placement) -> MOVAPipeline:
    pipeline = MOVAPipeline.from_pretrained(source, torch_dtype=chosen.torch_dtype)
    placement.place(pipeline, chosen)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_follower(team: Team, source: str, chosen: placement.Placement) -> None:
    team.pipeline = None  # the one before may fill the GPU
    gc.collect()
    team.pipeline = load_pipeline(source, replace(chosen, device=team.device(chosen.device)))


def to_uint8(frames: Tensor) -> np.ndarray:
    """Frames [F, 3, H, W] in 0..1 as uint8 [F, H, W, 3]."""
    return (frames * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def warnings(pipeline: MOVAPipeline, request: GenerationRequest) -> tuple[str, ...]:
    cut = pipeline.truncated_text(request.prompt)
    return (f"the end of the prompt was cut, it is over the model's 512 tokens: {cut!r}",) if cut else ()


@contextmanager
def with_adapters(pipeline: MOVAPipeline, adapters: list[tuple[Adapter, Strength]]) -> Iterator[MOVAPipeline]:
    """Attach the adapters, each with its strength, inside the context and only there; in the team too."""
    team = pipeline.team if adapters else None
    try:
        attach_all(pipeline, adapters)
        if team is not None:
            team.tell(attach_in_follower, adapters)
        yield pipeline
    finally:
        if adapters:
            pipeline.unload_lora_weights()
        if team is not None and not team.failure:
            team.tell(detach_in_follower)


def attach_all(pipeline: MOVAPipeline, adapters: list[tuple[Adapter, Strength]]) -> None:
    names = [f"adapter_{index}" for index in range(len(adapters))]
    for name, (adapter, _) in zip(names, adapters, strict=True):
        pipeline.load_lora_weights(adapter, adapter_name=name)
    if adapters:
        pipeline.set_adapters(names, [strength for _, strength in adapters])


def attach_in_follower(team: Team, adapters: list[tuple[Adapter, Strength]]) -> None:
    attach_all(team.pipeline, adapters)


def detach_in_follower(team: Team) -> None:
    team.pipeline.unload_lora_weights()


@contextmanager
def translated_memory_errors() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise BackendError(
            "the GPU ran out of memory; choose fewer frames or a smaller size, --offload layers or --fp8, "
            f"or close what else uses it ({str(error).splitlines()[0]})"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise BackendError(
            "the machine ran out of memory; choose fewer frames or a smaller size, or close other programs"
        ) from error
