"""Makes clips with the pipeline, in this process."""

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mova import catalog, placement
from mova.images import load_first_frame
from mova.media import write_mp4
from mova.outputs import check_output
from mova.pipeline import MOVAPipeline, StepCallback
from mova.preview import LatentPreview
from mova.shapes import check_num_frames, check_size
from mova.types import BackendError, GenerationRequest, GenerationResult, Progress, ProgressCallback

logger = logging.getLogger(__name__)

BYTES_PER_PIXEL = 0.15  # of an mp4, generously: moving noise at this quality takes 0.1


class LocalBackend:
    """A pipeline that is loaded for the first clip and stays.

    `fixed` are fields of `mova.placement.Placement` decided by hand; the rest is chosen for the machine and for
    the size of the first clip. `want_preview` puts a small picture of the running clip into the progress reports.
    """

    def __init__(self, model: str, want_preview: bool = False, **fixed: object) -> None:
        self.model = model
        self.want_preview = want_preview
        self.fixed = fixed
        self.placement: placement.Placement | None = None
        self._pipeline: MOVAPipeline | None = None
        self._preview: LatentPreview | None = None

    def generate(
        self,
        request: GenerationRequest,
        out: Path,
        progress: ProgressCallback | None = None,
        should_stop: Callable[[], bool] | None = None,
        overwrite: bool = False,
    ) -> GenerationResult:
        """As `mova.backends.Backend.generate`."""
        image = check_request(request, out, overwrite)
        if request.seed is None:
            request = request.replace(seed=secrets.randbelow(2**31))
        report = progress or (lambda _: None)
        seconds: dict[str, float] = {}
        with translated_memory_errors():
            with timed(seconds, "load"):
                report(Progress("load"))
                pipeline = self.load(request)
            with timed(seconds, "generate"), attached(pipeline, request.adapters):
                report(Progress("encode"))
                output = pipeline(
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
                    callback_on_step_end=self._on_step(report, request.num_inference_steps),
                    callback_on_step_end_tensor_inputs=("denoised_latents",),
                    should_stop=should_stop,
                )
                frames = (output.frames[0] * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        with timed(seconds, "write"):
            report(Progress("write", request.num_inference_steps, request.num_inference_steps))
            sample_rate = pipeline.audio_vae.config.sample_rate
            settings = request.to_settings() | {"model": self.model, "image_sha256": digest(request.image)}
            write_mp4(
                out, frames, output.audio[0].numpy(), request.frame_rate, sample_rate, settings, overwrite
            )
        cut = pipeline.truncated_text(request.prompt)
        warnings = (
            (f"the end of the prompt was cut, it is over the model's 512 tokens: {cut!r}",) if cut else ()
        )
        return GenerationResult(out, request, self.model, seconds, warnings)

    def load(self, request: GenerationRequest) -> MOVAPipeline:
        """The pipeline, placed for clips of the request's size; loaded once.

        Raises:
            UserError: the checkpoint is broken, or does not fit this machine.
        """
        if self._pipeline is None:
            machine = placement.Machine.probe(self.fixed.get("device"))
            dtype = placement.DTYPES[self.fixed.get("dtype") or placement.preferred_dtype(machine)]
            pipeline = MOVAPipeline.from_pretrained(catalog.find_model(self.model).source, torch_dtype=dtype)
            shape = pipeline.clip_shape(request.height, request.width, request.num_frames, request.frame_rate)
            workspace = placement.workspace_bytes(shape, pipeline.video_dit.config.dim, dtype.itemsize)
            parameters = placement.count_parameters(pipeline)
            self.placement = placement.choose(machine, parameters, workspace, **self.fixed)
            placement.place(pipeline, self.placement)
            pipeline.set_progress_bar_config(disable=True)
            self._pipeline = pipeline
        return self._pipeline

    def _on_step(self, report: ProgressCallback, steps: int) -> StepCallback:
        began = time.perf_counter()

        def on_step(
            pipeline: MOVAPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            del timestep  # the step count says enough
            preview = None
            if self.want_preview:
                self._preview = self._preview or LatentPreview.fit(pipeline)
                preview = self._preview(tensors["denoised_latents"])
            elapsed = time.perf_counter() - began
            left = elapsed / (step + 1) * (steps - step - 1)
            report(Progress("denoise", step + 1, steps, elapsed, left, preview))
            return {}

        return on_step


def check_request(request: GenerationRequest, out: Path, overwrite: bool) -> np.ndarray | None:
    """The first frame, after all that can be checked before a model is loaded.

    Raises:
        UserError, BackendError: as the checks it is made of.
    """
    check_size(request.height, request.width)
    check_num_frames(request.num_frames)
    pixels = request.height * request.width * request.num_frames
    check_output(out, overwrite, needed_bytes=int(pixels * BYTES_PER_PIXEL))
    if request.image is None:
        return None
    return load_first_frame(request.image, request.height, request.width, request.fit)


@contextmanager
def attached(pipeline: MOVAPipeline, adapters: tuple[tuple[str, float], ...]) -> Iterator[None]:
    """The adapters, each with its strength, are part of the pipeline inside the context and only there."""
    try:
        names = [f"adapter_{index}" for index in range(len(adapters))]
        for name, (source, _) in zip(names, adapters, strict=True):
            pipeline.load_lora_weights(source, adapter_name=name)
        if adapters:
            pipeline.set_adapters(names, [strength for _, strength in adapters])
        yield
    finally:
        if adapters:
            pipeline.unload_lora_weights()


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


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 3)
    logger.info("%s: %.1f s", stage, seconds[stage])


def digest(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None
