"""MOVAPipeline: a first frame and a text in, a video and its sound out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from mova import checkpoint
from mova.adapters.mixin import AdapterMixin
from mova.encoders import EncoderMixin, FirstFrame, Generators, draw_noise, spread, to_pixels
from mova.errors import Cancelled, UserError
from mova.guidance import Branch, branches
from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower
from mova.offload import Offloader
from mova.request import check_fields
from mova.scheduler import PairScheduler
from mova.shapes import SPATIAL_STRIDE, ClipShape

StepCallback = Callable[["MOVAPipeline", int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class MOVAPipelineOutput(BaseOutput):
    """`frames` as `output_type` asks, one clip for each prompt; `audio` [B, 1, S] float32 in [-1, 1].

    With `output_type="latent"` both are the final latents, [B, 16, T, H, W] and [B, C, L].
    """

    frames: Tensor | np.ndarray | list[list[Image.Image]]
    audio: Tensor


class MOVAPipeline(DiffusionPipeline, EncoderMixin, AdapterMixin):
    """Video with synchronised sound from a first frame and a text (MOVA, arXiv 2602.08794).

    `video_dit` is the expert for high noise, `video_dit_2` the one for timesteps below
    `boundary_ratio` * 1000. `dual_tower` runs the active one with the audio tower and the bridge.
    """

    _callback_tensor_inputs = ("latents", "audio_latents", "denoised_latents", "denoised_audio_latents")

    def __init__(
        self,
        video_dit: VideoDiT,
        video_dit_2: VideoDiT,
        audio_dit: AudioDiT,
        dual_tower_bridge: Bridge,
        video_vae: AutoencoderKLWan,
        audio_vae: AudioVAE,
        text_encoder: UMT5EncoderModel | None,
        tokenizer: PreTrainedTokenizerFast | None,
        scheduler: PairScheduler,
        boundary_ratio: float = 0.9,
    ) -> None:
        super().__init__()
        self.register_modules(
            video_dit=video_dit,
            video_dit_2=video_dit_2,
            audio_dit=audio_dit,
            dual_tower_bridge=dual_tower_bridge,
            video_vae=video_vae,
            audio_vae=audio_vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(boundary_ratio=boundary_ratio)
        self.dual_tower = DualTower(video_dit, audio_dit, dual_tower_bridge)
        self.residency = Offloader(self)
        self.video_processor = VideoProcessor(vae_scale_factor=SPATIAL_STRIDE)
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls, model: str | Path, torch_dtype: torch.dtype | None = None, **options: object
    ) -> "MOVAPipeline":
        """The pipeline of a Hub repo id or a local folder in the released layout, on the CPU.

        Weights stay memory-mapped until they are moved (`.to("cuda")` or `mova.placement.place`), so 77 GB
        need no 77 GB of host memory. Any component may be given by keyword in place of the stored one;
        `text_encoder=None, tokenizer=None` leaves them out (then calls need `prompt_embeds`). Other options
        (revision, token, cache_dir, local_files_only) go to the Hub.

        Raises:
            UserError: what is missing or broken, and what to do.
        """
        given = {name: options.pop(name) for name in checkpoint.COMPONENTS if name in options}
        wanted = [name for name in checkpoint.COMPONENTS if name not in given]
        folder = checkpoint.resolve(model, ["model_index.json", *(f"{name}/*" for name in wanted)], **options)
        parts = checkpoint.load_components(folder, wanted, torch_dtype) | given
        return cls(**parts, boundary_ratio=checkpoint.read_boundary_ratio(folder))

    def save_pretrained(self, save_directory: str | Path, **options: object) -> None:
        """Write the checkpoint in the released layout; `options` (max_shard_size, ...) go to the networks."""
        parts = {name: part for name, part in self.components.items() if part is not None}
        checkpoint.save_components(parts, self.config.boundary_ratio, Path(save_directory), **options)

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def enable_group_offload(self, *_: object, **__: object) -> None:
        """Refused, like the library's other offloads: its hooks sit on forwards that are not called here.

        Raises:
            NotImplementedError: names what to use.
        """
        raise NotImplementedError(
            'use mova.placement.place(pipe, Placement("cuda", offload="layers" or "component"))'
        )

    enable_model_cpu_offload = enable_sequential_cpu_offload = enable_group_offload

    @property
    def _execution_device(self) -> torch.device:
        return self.residency.device

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: FirstFrame | list[FirstFrame] | None = None,
        negative_prompt: str | list[str] = "",
        height: int = 352,
        width: int = 640,
        num_frames: int = 193,
        frame_rate: float = 24.0,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        bridge_guidance_scale: float = 1.0,
        video_shift: float | None = None,
        audio_shift: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        audio_latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents", "audio_latents"),
        should_stop: Callable[[], bool] | None = None,
    ) -> MOVAPipelineOutput | tuple:
        """Make a clip, or several, each as if it were made alone.

        Args:
            prompt: one text, or a list of B texts.
            image: first frames, one for all or one for each prompt: PIL, uint8 [H, W, 3] or float [3, H, W]
                in [-1, 1]. Cropped to the clip's aspect. None starts from a white frame: text to video and
                audio, which the released models do with weaker lip-sync.
            height, width: pixels, multiples of 16. num_frames: 4k+1.
            guidance_scale: text guidance; 1 is off and needs half the time.
            bridge_guidance_scale: steers towards synchrony (paper equation 6; it evaluates 2 to 4); 1 is off.
            video_shift, audio_shift: of the schedules; None is the checkpoint's.
            generator: one for all clips, or one for each. Noise is drawn on the generator's device, video
                first, then audio, so a CPU generator gives the same noise on every machine.
            latents, audio_latents: starting noise [B, 16, T, H, W] and [B, C, L] in place of the generator's.
            prompt_embeds, negative_prompt_embeds: [B, 512, D] from `encode_prompt` in place of texts.
            output_type: "pil", "np" [B, F, H, W, 3] or "pt" [B, F, 3, H, W] in 0..1, or "latent".
            callback_on_step_end: diffusers' callback; may ask for the tensors in `_callback_tensor_inputs`.
                `pipe._interrupt = True` in it ends the run.
            should_stop: asked before each forward (two or three a step); True ends the run.

        Raises:
            UserError: an argument is out of range; the message names a value that works.
            Cancelled: the run was ended on request.
        """
        shape = self._check(
            height, width, num_frames, frame_rate, output_type, callback_on_step_end_tensor_inputs
        )
        forwards = branches(guidance_scale, bridge_guidance_scale)
        sigmas = self.scheduler.sigmas(num_inference_steps, video_shift, audio_shift)
        self._interrupt = False

        text = self._text("prompt", prompt, prompt_embeds)
        batch = len(text) * num_videos_per_prompt
        text = negative = spread(text, batch, "prompts")
        if not all(branch.use_prompt for branch in forwards):
            negative = self._text("negative_prompt", negative_prompt, negative_prompt_embeds)
            negative = spread(negative, batch, "negative prompts")
        images = [to_pixels(each, height, width) for each in (image if isinstance(image, list) else [image])]
        condition = spread(self.encode_first_frame(torch.stack(images), num_frames), batch, "images")
        latents, audio_latents = draw_noise(
            batch, self._latent_sizes(shape), generator, (latents, audio_latents)
        )

        def stopped() -> bool:
            return self._interrupt or (should_stop is not None and should_stop())

        def on_step(step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if callback_on_step_end is None:
                return tensors
            asked = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            return tensors | callback_on_step_end(self, step, timestep, asked)

        latents, audio_latents = self.denoise(
            latents,
            audio_latents,
            condition,
            (text, negative),
            sigmas,
            forwards,
            frame_rate,
            on_step,
            stopped,
        )
        if output_type == "latent":
            frames, audio = latents, audio_latents
        else:
            frames = self.video_processor.postprocess_video(self.decode_video(latents), output_type)
            audio = self.decode_audio(audio_latents)[..., : shape.num_samples]
        return MOVAPipelineOutput(frames, audio) if return_dict else (frames, audio)

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        audio_latents: Tensor,
        condition: Tensor,
        texts: tuple[Tensor, Tensor],
        sigmas: Tensor,
        forwards: list[Branch],
        frame_rate: float,
        on_step: Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor]],
        stopped: Callable[[], bool],
    ) -> tuple[Tensor, Tensor]:
        """Clean latents from noise, float32: for each step its forwards, their weighted sum, the Euler step.

        `texts` are the embeddings of the prompts and of the negative prompts.
        """
        scheduler, steps = self.scheduler, len(sigmas) - 1
        device = self._execution_device
        latents, audio_latents, condition = (each.to(device) for each in (latents, audio_latents, condition))
        timesteps = scheduler.timesteps(sigmas)
        boundary = self.config.boundary_ratio * scheduler.config.num_train_timesteps
        with self.residency.use_towers(), self.progress_bar(total=steps) as progress:
            for step in range(steps):
                self.residency.activate("video_dit" if timesteps[step, 0] >= boundary else "video_dit_2")
                velocity, audio_velocity = torch.zeros_like(latents), torch.zeros_like(audio_latents)
                for branch in forwards:
                    if stopped():
                        raise Cancelled(f"stopped in step {step + 1} of {steps}")
                    video_part, audio_part = self.dual_tower(
                        torch.cat((latents, condition), dim=1),
                        audio_latents,
                        *timesteps[step, :, None].expand(-1, len(latents)),
                        texts[0] if branch.use_prompt else texts[1],
                        frame_rate,
                        branch.use_bridge,
                    )
                    velocity += branch.weight * video_part
                    audio_velocity += branch.weight * audio_part
                (sigma, audio_sigma), (next_sigma, next_audio_sigma) = sigmas[step], sigmas[step + 1]
                tensors = {
                    "latents": scheduler.step(latents, velocity, sigma, next_sigma),
                    "audio_latents": scheduler.step(
                        audio_latents, audio_velocity, audio_sigma, next_audio_sigma
                    ),
                    "denoised_latents": scheduler.denoised(latents, velocity, sigma),
                    "denoised_audio_latents": scheduler.denoised(audio_latents, audio_velocity, audio_sigma),
                }
                tensors = on_step(step, timesteps[step], tensors)
                latents, audio_latents = tensors["latents"], tensors["audio_latents"]
                progress.update()
        return latents, audio_latents

    def _text(self, name: str, texts: str | list[str] | None, embeds: Tensor | None) -> Tensor:
        if embeds is not None:
            return embeds.to(self._execution_device)
        texts = [texts] if isinstance(texts, str) or texts is None else texts
        for text in texts:
            check_fields(**{name: text})
        if self.text_encoder is None:
            raise UserError(f"this pipeline has no text encoder; give {name}_embeds")
        return self.encode_prompt(texts)

    def _latent_sizes(self, shape: ClipShape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
        return (self.video_vae.config.z_dim, *grid), (self.audio_dit.config.in_dim, shape.audio_latents)

    def _check(
        self,
        height: int,
        width: int,
        num_frames: int,
        frame_rate: float,
        output_type: str,
        asked: tuple[str, ...],
    ) -> ClipShape:
        check_fields(height=height, width=width, num_frames=num_frames, frame_rate=frame_rate)
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type={output_type!r} must be pil, np, pt or latent")
        if unknown := set(asked) - set(self._callback_tensor_inputs):
            raise UserError(f"callbacks can ask for {self._callback_tensor_inputs}, not {sorted(unknown)}")
        return self.clip_shape(height, width, num_frames, frame_rate)
