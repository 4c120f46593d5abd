"""MOVAPipeline: a text and what one has, a first frame, a picture, a sound, in; a video and its sound out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from mova.encoders import (
    EncoderMixin,
    FirstFrame,
    Generators,
    Sound,
    Video,
    draw_noise,
    fit_clips,
    fit_waveforms,
    spread,
    to_clips,
    to_pixels,
    to_waveforms,
)
from mova.errors import Cancelled, UserError
from mova.forwards import Run
from mova.guidance import ALWAYS, Branch, Guidance, Interval
from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower
from mova.offload import Offloader
from mova.parallel import Call, Team
from mova.request import check_fields
from mova.scheduler import PairScheduler, Solver
from mova.seams import put_back_frames, put_back_sound
from mova.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, ClipShape
from mova.step_cache import StepCache
from mova.tracks import (
    AUDIO_RAMP,
    VIDEO_RAMP,
    Regenerate,
    Span,
    Track,
    audio_keep,
    check_given,
    check_refine,
    check_strength,
    frames_for_sound,
    made_frames,
    passes,
    ramped,
    refining,
    spans_to_make,
    video_keep,
)

DEFAULT_FRAMES = 193  # the trained length
SEEN_ONCE = 1e-9  # a threshold of the step cache at which a held picture, and nothing else, is looked at once
StepCallback = Callable[["MOVAPipeline", int, Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class MOVAPipelineOutput(BaseOutput):
    """`frames` as `output_type` asks, one clip for each prompt; `audio` [B, 1, S] float32 in [-1, 1].

    With `output_type="latent"` both are the final latents, [B, 16, T, H, W] and [B, C, L]. `notes` say
    what was changed of what was given, a sentence each.
    """

    frames: Tensor | np.ndarray | list[list[Image.Image]]
    audio: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Brought:
    """One track as the user brought it, fitted: pixels [N, 3, F, H, W] or samples [N, 1, S]."""

    media: Tensor
    made: tuple[Span, ...]  # seconds of it that are made again
    keep: np.ndarray  # along the latents: 1 comes out as it went in, 0 is made
    drawn: np.ndarray  # as `keep`, with ramps at the seams

    @property
    def is_held(self) -> bool:
        return bool((self.keep == 1).all())


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
        self.residency = Offloader(vars(self), self.dual_tower)
        self.video_processor = VideoProcessor(vae_scale_factor=SPATIAL_STRIDE)
        self.team: Team | None = None  # set by `mova.placement.place`
        self._interrupt = False
        self._num_timesteps = 0

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

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the running, or the last, call: those of all its passes.

        With a strength below 1 they are fewer than asked.
        """
        return self._num_timesteps

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
        num_frames: int | None = None,
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
        *,
        video: Video | None = None,
        audio: Sound | None = None,
        regenerate_video: Regenerate = False,
        regenerate_audio: Regenerate = False,
        strength: float = 1.0,
        audio_sample_rate: int | None = None,
        solver: str = "euler",
        guidance_interval: Interval = ALWAYS,
        audio_guidance_scale: float | None = None,
        audio_bridge_guidance_scale: float | None = None,
        cache_threshold: float = 0.0,
        refine: int = 0,
    ) -> MOVAPipelineOutput | tuple:
        """Make a clip, or several, each as if it were made alone.

        Args:
            prompt: one text, or a list of B texts. May be empty beside a video or an audio.
            image: first frames, one for all or one for each prompt: PIL, uint8 [H, W, 3] or float [3, H, W]
                in [-1, 1]. Cropped to the clip's aspect. None is the video's first frame; without a video, a
                white frame: text to video and audio, which the released models do with weaker lip-sync.
            video: a picture to keep, at the clip's frame rate: uint8 [F, H, W, 3], a list of images, or float
                [3, F, H, W] in [-1, 1]; with one more axis in front, one for each prompt.
            audio: a sound to keep, float [S], [C, S] or [N, C, S] in [-1, 1]; channels are averaged.
                `audio_sample_rate` is the checkpoint's if None.
            regenerate_video, regenerate_audio: what of the given track is made again: all of it (True), or
                spans (start, end) in seconds. The rest comes out as it went in.
            strength: below 1, what is made again starts from what was given, noised to this sigma.
            height, width: pixels, multiples of 16.
            num_frames: 4k+1. None follows the video, else the audio, else is 193. A clip longer than the
                video continues it; a sound is cut or padded with silence.
            guidance_scale: text guidance; 1 is off and needs half the time.
            bridge_guidance_scale: steers towards synchrony (paper equation 6; it evaluates 2 to 4); 1 is off.
            video_shift, audio_shift: of the schedules; None is the checkpoint's.
            solver: "euler", or "unipc", which needs fewer steps.
            guidance_interval: sigmas of the video (of the audio where the video is held) between which
                guidance is used; outside of it a step is one forward with the prompt.
            audio_guidance_scale, audio_bridge_guidance_scale: of the audio; None is the video's.
            generator: one for all clips, or one for each. Noise is drawn on the generator's device, video
                first, then audio, so a CPU generator gives the same noise on every machine.
            latents, audio_latents: starting noise [B, 16, T, H, W] and [B, C, L] in place of the generator's.
            prompt_embeds, negative_prompt_embeds: [B, 512, D] from `encode_prompt` in place of texts.
            output_type: "pil", "np" [B, F, H, W, 3] or "pt" [B, F, 3, H, W] in 0..1, or "latent".
            callback_on_step_end: diffusers' callback; may ask for the tensors in `_callback_tensor_inputs`.
                `pipe._interrupt = True` in it ends the run.
            should_stop: asked before each forward (two or three a step); True ends the run.
            cache_threshold: leave the video blocks out of steps in which the picture's velocity is expected
                to have changed by less than this share of it (0.1 is much); the sound is made in every step.
                A picture that is kept is then looked at once. 0 is off.
            refine: further passes over what is made: of the sound with the new picture held, which is looked
                at once, then of the picture with the new sound held, and so on; each from other noise.

        Raises:
            UserError: an argument is out of range; the message names a value that works.
            Cancelled: the run was ended on request.
        """
        self._check(output_type, callback_on_step_end_tensor_inputs)
        check_fields(
            height=height,
            width=width,
            frame_rate=frame_rate,
            guidance_scale=guidance_scale,
            bridge_guidance_scale=bridge_guidance_scale,
            audio_guidance_scale=audio_guidance_scale,
            audio_bridge_guidance_scale=audio_bridge_guidance_scale,
            solver=solver,
            guidance_interval=guidance_interval,
        )
        clips, size_note = (None, "") if video is None else to_clips(video, height, width)
        waveforms = self._waveforms(audio, audio_sample_rate)
        if num_frames is None:
            num_frames = self._num_frames(clips, waveforms, frame_rate)
        check_fields(num_frames=num_frames, cache_threshold=cache_threshold, refine=refine)
        shape = self.clip_shape(height, width, num_frames, frame_rate)
        picture, picture_note = self._bring_picture(clips, regenerate_video, shape)
        sound, sound_note = self._bring_sound(waveforms, regenerate_audio, shape)
        if picture and sound and picture.is_held and sound.is_held:
            raise UserError(
                "video and audio are both kept: nothing is left to make; regenerate a part of one"
            )
        check_strength(strength, any(each and each.made for each in (picture, sound)))
        check_refine(refine, any(each and each.is_held for each in (picture, sound)))
        guidance = Guidance(
            guidance_scale,
            bridge_guidance_scale,
            audio_guidance_scale,
            audio_bridge_guidance_scale,
            guidance_interval,
        )
        turbo_notes = self.check_turbo(
            {
                "guidance_scale": guidance_scale,
                "bridge_guidance_scale": bridge_guidance_scale,
                "audio_guidance_scale": audio_guidance_scale,
                "audio_bridge_guidance_scale": audio_bridge_guidance_scale,
            },
            num_inference_steps,
            (video_shift, audio_shift),
            solver,
            self.scheduler.config.shift,
        )
        sigmas = self.scheduler.sigmas(num_inference_steps, video_shift, audio_shift)
        self._interrupt = False

        text = self._text("prompt", prompt, prompt_embeds, may_be_empty=bool(picture or sound))
        batch = len(text) * num_videos_per_prompt
        text = negative = spread(text, batch, "prompts")
        if guidance.needs_negative:
            negative = self._text(
                "negative_prompt", negative_prompt, negative_prompt_embeds, may_be_empty=True
            )
            negative = spread(negative, batch, "negative prompts")
        if image is None and picture:
            images, what = picture.media[:, :, 0], "videos"
        else:
            given, what = image if isinstance(image, list) else [image], "images"
            images = torch.stack([to_pixels(each, height, width) for each in given])
        condition = spread(self.encode_first_frame(images, num_frames), batch, what)
        tracks = (
            self._track(picture, self.encode_video, strength, batch, "videos"),
            self._track(sound, self.encode_audio, strength, batch, "sounds"),
        )
        sizes = self.latent_sizes(shape)
        noise = draw_noise(batch, sizes, generator, (latents, audio_latents))
        starts = passes((tracks[0].start, tracks[1].start), refine)
        steps = [len(self.scheduler.starting_at(sigmas, pair)) - 1 for pair in starts]
        self._num_timesteps = sum(steps)

        def stopped() -> bool:
            return self._interrupt or (should_stop is not None and should_stop())

        def on_step(
            before: int, step: int, timestep: Tensor, tensors: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            if callback_on_step_end is None:
                return tensors
            asked = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            return tensors | callback_on_step_end(self, before + step, timestep, asked)

        pair = noise
        for index, pass_starts in enumerate(starts):
            if index:
                noise = draw_noise(batch, sizes, generator, (None, None))
            pair = self.denoise(
                *noise,
                condition,
                (text, negative),
                sigmas,
                guidance.branches,
                frame_rate,
                partial(on_step, sum(steps[:index])),
                stopped,
                tuple(map(refining, tracks, pair, pass_starts)) if index else tracks,
                solver,
                cache_threshold or (SEEN_ONCE if index else 0.0),
            )
        latents, audio_latents = pair
        if output_type == "latent":
            frames, audio = latents, audio_latents
        else:
            frames = self.video_processor.postprocess_video(self._frames(latents, picture), output_type)
            audio = self._sound(audio_latents, sound, shape)
        notes = tuple(note for note in (size_note, picture_note, sound_note, *turbo_notes) if note)
        return MOVAPipelineOutput(frames, audio, notes) if return_dict else (frames, audio)

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        audio_latents: Tensor,
        condition: Tensor,
        texts: tuple[Tensor, Tensor],
        sigmas: Tensor,
        forwards: Callable[[float], list[Branch]],
        frame_rate: float,
        on_step: Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor]],
        stopped: Callable[[], bool],
        tracks: tuple[Track, Track] = (Track(), Track()),
        solver: str = "euler",
        cache_threshold: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Clean latents from noise, float32: each step's forwards, their weighted sums, the solver's step.

        `texts` are the embeddings of the prompts and of the negative prompts, `forwards` those of a step at a
        sigma of the video, or of the audio where the video is held. What a track keeps follows its
        straight line from the noise to what was given.
        """
        scheduler, device = self.scheduler, self._execution_device
        sigmas = scheduler.starting_at(sigmas, (tracks[0].start, tracks[1].start))
        steps = len(sigmas) - 1
        latents, audio_latents = latents.to(device), audio_latents.to(device)
        video, audio = (each.to(device) for each in tracks)
        noise, audio_noise = latents, audio_latents

        def given_at(pair: Tensor) -> list[Tensor]:
            """The given latents, noised to a pair of sigmas; the noise itself where nothing was given."""
            parts = zip((video, audio), (noise, audio_noise), pair, strict=True)
            return [
                drawn if track.given is None else scheduler.add_noise(track.given, drawn, sigma)
                for track, drawn, sigma in parts
            ]

        latents, audio_latents = given_at(sigmas[0])
        guiding = int(video.start == 0)  # the column of sigmas that decides on guidance
        active, solvers = "", []
        timesteps = scheduler.timesteps(sigmas)
        experts = scheduler.experts(sigmas[:-1], self.config.boundary_ratio)
        run = Run(self.residency, self.team, condition, texts, frame_rate)
        cache = StepCache(cache_threshold, sigmas[:, 0])

        def check_stop(step: int) -> None:
            if stopped():
                raise Cancelled(f"stopped in step {step + 1} of {steps}")

        with run.ready(), self.progress_bar(total=steps) as progress:
            for step, expert in enumerate(experts):
                if expert != active:
                    self.residency.activate(expert)
                    # Velocities of the other expert are no history for a solver of several steps.
                    solvers = [
                        Solver(solver, sigmas[step:, index], track.keep is None)
                        for index, track in enumerate((video, audio))
                    ]
                    active = expert
                velocity, audio_velocity = torch.zeros_like(latents), torch.zeros_like(audio_latents)
                step_forwards = forwards(float(sigmas[step, guiding]))
                reuses = cache.reuses(step, expert, step_forwards)
                calls = [
                    Call(
                        branch.use_prompt,
                        branch.use_bridge,
                        audio_only=reuses or not cache.needs_picture(branch),
                        remembers=cache.remembers(branch),
                    )
                    for branch in step_forwards
                ]
                check = partial(check_stop, step)
                parts = run.velocities(expert, calls, (latents, audio_latents), timesteps[step], check)
                for branch, (video_part, audio_part) in zip(step_forwards, parts, strict=True):
                    if video_part is not None:
                        velocity += branch.weight * video_part
                    audio_velocity += branch.audio_weight * audio_part
                if reuses:
                    velocity = cache.velocity
                else:
                    cache.keep(step, velocity)
                clean = scheduler.denoised(latents, velocity, sigmas[step, 0])
                audio_clean = scheduler.denoised(audio_latents, audio_velocity, sigmas[step, 1])
                moved = solvers[0].step(latents, velocity)
                audio_moved = solvers[1].step(audio_latents, audio_velocity)
                given, audio_given = given_at(sigmas[step + 1])
                tensors = {
                    "latents": video.put_back(moved, given),
                    "audio_latents": audio.put_back(audio_moved, audio_given),
                    "denoised_latents": video.put_back(clean, video.given),
                    "denoised_audio_latents": audio.put_back(audio_clean, audio.given),
                }
                tensors = on_step(step, timesteps[step], tensors)
                latents, audio_latents = tensors["latents"], tensors["audio_latents"]
                progress.update()
        return latents, audio_latents

    def _text(
        self, name: str, texts: str | list[str] | None, embeds: Tensor | None, *, may_be_empty: bool
    ) -> Tensor:
        if embeds is not None:
            return embeds.to(self._execution_device)
        texts = texts if isinstance(texts, list) else [texts or ""]
        for text in texts:
            if text or not may_be_empty:
                check_fields(**{name: text})
        if self.text_encoder is None:
            raise UserError(f"this pipeline has no text encoder; give {name}_embeds")
        return self.encode_prompt(texts)

    def _num_frames(self, clips: Tensor | None, waveforms: Tensor | None, frame_rate: float) -> int:
        """The length of a clip that follows what is given."""
        if clips is not None:
            return (clips.shape[2] - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        if waveforms is not None:
            return frames_for_sound(waveforms.shape[-1] / self.audio_vae.config.sample_rate, frame_rate)
        return DEFAULT_FRAMES

    def _waveforms(self, audio: Sound | None, sample_rate: int | None) -> Tensor | None:
        own = self.audio_vae.config.sample_rate
        return (
            None if audio is None else to_waveforms(audio, own if sample_rate is None else sample_rate, own)
        )

    def _bring_picture(
        self, clips: Tensor | None, regenerate: Regenerate, shape: ClipShape
    ) -> tuple[Brought | None, str]:
        if clips is None:
            check_given("video", regenerate)
            return None, ""
        spans = spans_to_make("regenerate_video", regenerate, shape.seconds)
        keep = video_keep(spans, shape)
        keep[(clips.shape[2] - 1) // TEMPORAL_STRIDE + 1 :] = 0
        drawn = ramped(keep, VIDEO_RAMP, (clips.shape[2] - 1) // TEMPORAL_STRIDE + 1)
        clips, note = fit_clips(clips, shape.num_frames, shape.frame_rate)
        return Brought(clips, spans, keep, drawn), note

    def _bring_sound(
        self, waveforms: Tensor | None, regenerate: Regenerate, shape: ClipShape
    ) -> tuple[Brought | None, str]:
        if waveforms is None:
            check_given("audio", regenerate)
            return None, ""
        spans = spans_to_make("regenerate_audio", regenerate, shape.seconds)
        keep = audio_keep(spans, shape)
        drawn = ramped(keep, AUDIO_RAMP, waveforms.shape[-1] // shape.hop_length)
        waveforms, note = fit_waveforms(waveforms, shape.num_samples, shape.sample_rate, spans)
        return Brought(waveforms, spans, keep, drawn), note

    def _track(
        self,
        brought: Brought | None,
        encode: Callable[[Tensor], Tensor],
        strength: float,
        batch: int,
        what: str,
    ) -> Track:
        if brought is None or (strength == 1 and not brought.keep.any()):
            return Track()
        given = spread(encode(brought.media), batch, what)
        keep = torch.from_numpy(brought.drawn) if brought.keep.any() else None
        return Track(given, keep, strength)

    def _frames(self, latents: Tensor, picture: Brought | None) -> Tensor:
        """Pixels [B, 3, F, H, W] in [-1, 1]: what was given where it is kept, decoded where it is made."""
        if picture is None or not picture.keep.any():
            return self.decode_video(latents)
        given = spread(picture.media, len(latents), "videos")
        if picture.is_held:
            return given
        return put_back_frames(given, self.decode_video(latents).float().cpu(), made_frames(picture.keep))

    def _sound(self, latents: Tensor, sound: Brought | None, shape: ClipShape) -> Tensor:
        """Samples [B, 1, S], float32, likewise."""
        if sound is not None and sound.is_held:
            return spread(sound.media, len(latents), "sounds")
        decoded = self.decode_audio(latents)[..., : shape.num_samples]
        if sound is None or not sound.keep.any():
            return decoded
        return put_back_sound(
            spread(sound.media, len(latents), "sounds"), decoded, sound.made, shape.sample_rate
        )

    def latent_sizes(self, shape: ClipShape) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(C, T, H, W) of the video's latents and (C, L) of the audio's, as `draw_noise` takes them."""
        grid = (shape.latent_frames, shape.latent_height, shape.latent_width)
        return (self.video_vae.config.z_dim, *grid), (self.audio_dit.config.in_dim, shape.audio_latents)

    def _check(self, output_type: str, asked: tuple[str, ...]) -> None:
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(f"output_type={output_type!r} must be pil, np, pt or latent")
        if unknown := set(asked) - set(self._callback_tensor_inputs):
            raise UserError(f"callbacks can ask for {self._callback_tensor_inputs}, not {sorted(unknown)}")
