"""Between media and what the towers see: text and first frame to embeddings, latents to picture and sound."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from mova.errors import UserError, check_finite
from mova.media.images import fit_image, white_frame
from mova.media.sound import resample
from mova.models import video_vae
from mova.models.audio_vae import AudioVAE
from mova.offload import Offloader
from mova.shapes import MAX_PROMPT_TOKENS, TEMPORAL_STRIDE, ClipShape, check_num_frames
from mova.text import clean_prompt
from mova.tracks import Span

logger = logging.getLogger(__name__)

SAMPLE_RATES = (1000, 384_000)  # Hz
NO_FRAMES = "the video has no frames; give at least one"
SLACK_SECONDS = 0.001  # of difference in length that is not worth a note
MIRRORED_SECONDS = 0.25  # over twice as far as the audio encoder looks ahead
TURN_SECONDS = (
    0.008  # of it, in which it turns from a point reflection, which keeps the slope, to a mirror image
)
ENCODED_FRAMES = (
    121  # past these the causal encoder has forgotten the first frame; its latents repeat exactly
)


class EncoderMixin:
    """The encoders and decoders of a pipeline; generation and training share them."""

    text_encoder: UMT5EncoderModel | None
    tokenizer: PreTrainedTokenizerFast | None
    video_vae: AutoencoderKLWan
    audio_vae: AudioVAE
    residency: Offloader

    def clip_shape(self, height: int, width: int, num_frames: int, frame_rate: float) -> ClipShape:
        """The sizes of a clip in this checkpoint's latents and samples."""
        audio = self.audio_vae
        return ClipShape(height, width, num_frames, frame_rate, audio.config.sample_rate, audio.hop_length)

    @torch.no_grad()
    def encode_prompt(self, prompt: str | list[str]) -> Tensor:
        """Text embeddings [B, 512, D] of the cleaned prompts, zero behind each prompt's end."""
        prompts = [clean_prompt(text) for text in ([prompt] if isinstance(prompt, str) else prompt)]
        for text in prompts:
            if cut := self.truncated_text(text):
                logger.warning("the prompt has over %d tokens; its end is cut: %r", MAX_PROMPT_TOKENS, cut)
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=MAX_PROMPT_TOKENS, truncation=True, return_tensors="pt"
        )
        with self.residency.use("text_encoder"):
            mask = tokens.attention_mask.to(self.text_encoder.device)
            embeds = self.text_encoder(
                tokens.input_ids.to(mask.device), attention_mask=mask
            ).last_hidden_state
            return (embeds * mask[..., None]).to(self.residency.device)

    def truncated_text(self, prompt: str) -> str:
        """The end of `prompt` that the text encoder will not see; empty where all of it fits."""
        text = clean_prompt(prompt)
        kept = self.tokenizer(
            text, max_length=MAX_PROMPT_TOKENS, truncation=True, return_offsets_mapping=True, verbose=False
        )
        whole = self.tokenizer(text, verbose=False)
        if len(whole.input_ids) <= MAX_PROMPT_TOKENS:
            return ""
        return text[max(end for _, end in kept.offset_mapping) :]

    @torch.no_grad()
    def encode_first_frame(self, image: Tensor, num_frames: int) -> Tensor:
        """Condition [B, 20, T, h, w] of `image` [B, 3, H, W] in [-1, 1]: 4 mask channels, 16 latent channels.

        The clip that is encoded is the image and then mid grey.
        """
        frames = min(num_frames, ENCODED_FRAMES)
        with self.residency.use("video_vae"):
            clip = torch.zeros(*image.shape[:2], frames, *image.shape[2:], device=self.residency.device)
            clip[:, :, 0] = image
            encoded = video_vae.encode(self.video_vae, clip.to(self.video_vae.dtype)).float()
        encoded = self.normalise_latents(encoded)
        missing = (num_frames - frames) // TEMPORAL_STRIDE
        encoded = torch.cat((encoded, encoded[:, :, -1:].expand(-1, -1, missing, -1, -1)), dim=2)
        mask = torch.zeros_like(encoded[:, :4])
        mask[:, :, 0] = 1
        return torch.cat((mask, encoded), dim=1)

    @torch.no_grad()
    def encode_video(self, frames: Tensor) -> Tensor:
        """Normalised latents [B, 16, T, h, w], float32, of `frames` [B, 3, F, H, W] in [-1, 1], F = 4k+1."""
        check_num_frames(frames.shape[2])
        with self.residency.use("video_vae"):
            frames = frames.to(self.residency.device, self.video_vae.dtype)
            return self.normalise_latents(video_vae.encode(self.video_vae, frames).float())

    @torch.no_grad()
    def encode_audio(self, waveform: Tensor) -> Tensor:
        """Latents [B, C, L], float32, of `waveform` [B, 1, S] in [-1, 1]; the end is padded with silence."""
        with self.residency.use("audio_vae"):
            waveform = waveform.to(self.residency.device, self.audio_vae.dtype)
            return self.audio_vae.encode(waveform).mode().float()

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """Frames [B, 3, F, H, W] in about [-1, 1] of normalised latents [B, 16, T, h, w]."""
        with self.residency.use("video_vae"):
            mean, std = self._latent_statistics(latents)
            return video_vae.decode(self.video_vae, (latents * std + mean).to(self.video_vae.dtype))

    @torch.no_grad()
    def decode_audio(self, latents: Tensor) -> Tensor:
        """Waveform [B, 1, L * hop_length] in [-1, 1], float32, on the CPU."""
        with self.residency.use("audio_vae"):
            return self.audio_vae.decode(latents.to(self.audio_vae.dtype)).float().cpu()

    def normalise_latents(self, latents: Tensor) -> Tensor:
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self.video_vae.config
        mean, std = (
            latents.new_tensor(values).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std


FirstFrame = Image.Image | np.ndarray | Tensor
Video = np.ndarray | Tensor | list[Image.Image]
Sound = np.ndarray | Tensor
Generators = torch.Generator | list[torch.Generator] | None


def to_pixels(image: FirstFrame | None, height: int, width: int) -> Tensor:
    """`image` as float32 [3, H, W] in [-1, 1]; PIL and uint8 [h, w, 3] are cropped to fit, None is white."""
    if isinstance(image, Tensor):
        if tuple(image.shape) != (3, height, width):
            raise UserError(f"an image tensor must be [3, {height}, {width}], not {list(image.shape)}")
        return image.float()
    if image is None:
        image = white_frame(height, width)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    pixels = np.asarray(fit_image(image.convert("RGB"), height, width), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def to_clips(video: Video, height: int, width: int) -> tuple[Tensor, str]:
    """`video` as float32 [N, 3, F, H, W] in [-1, 1], and a note if its frames were cropped and resized.

    One clip or N: uint8 [F, h, w, 3] or [N, F, h, w, 3], a list of images (one clip), or [3, F, H, W] or
    [N, 3, F, H, W] in [-1, 1].
    """
    size = height, width
    if isinstance(video, Tensor):
        if video.ndim not in (4, 5) or video.shape[-4] != 3 or tuple(video.shape[-2:]) != (height, width):
            raise UserError(
                f"a video tensor must be [3, F, {height}, {width}] in [-1, 1], not {list(video.shape)}"
            )
        clips = video.float().reshape(-1, *video.shape[-4:])
    elif isinstance(video, list):
        clips = _stack_frames(video, height, width)[None]
        size = np.asarray(video[0]).shape[:2]
    else:
        if video.ndim not in (4, 5) or video.shape[-1] != 3 or video.dtype != np.uint8:
            raise UserError(
                f"a video array must be uint8 [F, H, W, 3], not {video.dtype} {list(video.shape)}"
            )
        several = video if video.ndim == 5 else video[None]
        clips = torch.stack([_stack_frames(frames, height, width) for frames in several])
        size = video.shape[-3:-1]
    if not clips.shape[2]:
        raise UserError(NO_FRAMES)
    if not clips.isfinite().all():
        raise UserError("the video has values that are not finite; give frames in [-1, 1]")
    if tuple(size) == (height, width):
        return clips, ""
    return clips, f"the video was cropped and resized from {size[1]}x{size[0]} to {width}x{height}"


def _stack_frames(frames: Sequence[FirstFrame], height: int, width: int) -> Tensor:
    if not len(frames):
        raise UserError(NO_FRAMES)
    return torch.stack([to_pixels(frame, height, width) for frame in frames], dim=1)


def to_waveforms(audio: Sound, sample_rate: int, new_rate: int) -> Tensor:
    """`audio` [S], [C, S] or [N, C, S] in [-1, 1] as float32 [N, 1, S] at `new_rate`, channels averaged."""
    audio = torch.as_tensor(audio)
    if audio.ndim not in (1, 2, 3) or not audio.is_floating_point():
        raise UserError(
            f"audio must be float samples [S], [C, S] or [N, C, S] in [-1, 1], "
            f"not {audio.dtype} {list(audio.shape)}"
        )
    if not audio.numel():
        raise UserError("the audio has no samples; give at least one")
    if not audio.isfinite().all():
        raise UserError("the audio has samples that are not finite; give numbers in [-1, 1]")
    check_finite("audio_sample_rate", sample_rate, *SAMPLE_RATES)
    channels = torch.atleast_2d(audio.float().cpu())
    mono = channels.reshape(-1, *channels.shape[-2:]).mean(dim=1)  # [N, S]; the mean of one is exact
    if sample_rate != new_rate:
        mono = torch.stack([torch.from_numpy(resample(each.numpy(), sample_rate, new_rate)) for each in mono])
    return mono[:, None]


def fit_clips(clips: Tensor, num_frames: int, frame_rate: float) -> tuple[Tensor, str]:
    """`clips` [N, 3, F, H, W] with `num_frames` frames, and a note of what was changed.

    Cut at the end, or with the last frame repeated: what follows on it is to be made.
    """
    missing = num_frames - clips.shape[2]
    if missing > 0:
        kept = (clips.shape[2] - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        note = f"the video is kept for {kept / frame_rate:.2f} s; the picture after it is made"
        return torch.cat((clips, clips[:, :, -1:].expand(-1, -1, missing, -1, -1)), dim=2), note
    note = f"the last {-missing} frames of the video were cut; the clip has {num_frames}" if missing else ""
    return clips[:, :, :num_frames], note


def fit_waveforms(
    waveforms: Tensor, num_samples: int, sample_rate: int, spans: Sequence[Span]
) -> tuple[Tensor, str]:
    """`waveforms` [N, 1, S] with `num_samples` samples, and a note of what was changed.

    Cut at the end, or padded with silence. Where a span that is made covers the end, the sound is first
    mirrored there: the encoder looks ahead, and would hear it stop.
    """
    given = waveforms.shape[-1]
    missing = num_samples - given
    seconds, clip_seconds = given / sample_rate, num_samples / sample_rate
    changed = abs(missing) > SLACK_SECONDS * sample_rate
    if missing <= 0:
        note = (
            f"the audio lasts {seconds:.2f} s; its end after {clip_seconds:.2f} s was cut" if changed else ""
        )
        return waveforms[..., :num_samples], note
    padded = torch.cat((waveforms, waveforms.new_zeros(*waveforms.shape[:2], missing)), dim=-1)
    if any(start <= seconds + SLACK_SECONDS and end > seconds for start, end in spans):
        mirrored = min(missing, given - 1, round(MIRRORED_SECONDS * sample_rate))
        tail = waveforms[..., given - 1 - mirrored : given - 1].flip(-1)
        turn = waveforms.new_zeros(mirrored)
        length = min(mirrored, round(TURN_SECONDS * sample_rate))
        turn[:length] = torch.linspace(2, 0, length)
        padded[..., given : given + mirrored] = tail + turn * (waveforms[..., -1:] - tail)
        return padded, ""
    note = f"the audio lasts {seconds:.2f} s; the clip's end after it is silent" if changed else ""
    return padded, note


def spread(parts: Tensor, batch: int, what: str) -> Tensor:
    """`parts` [N, ...] as [batch, ...]: one for all, one for each prompt, or one for each clip.

    Raises:
        UserError: N does not go into the batch.
    """
    if batch % len(parts):
        raise UserError(f"{len(parts)} {what} for {batch} clips; give one, or one for each prompt")
    return parts.repeat_interleave(batch // len(parts), dim=0)


def draw_noise(
    batch: int, sizes: Sequence[tuple[int, ...]], generator: Generators, given: Sequence[Tensor | None]
) -> list[Tensor]:
    """Starting noise float32 [batch, *size] for each size: what is given, the rest drawn.

    Clip by clip and size by size in order, on the generator's device; without one, from torch's global
    generator. So a clip's noise does not depend on its neighbours when each has its own generator.
    """
    generators = generator if isinstance(generator, list) else [generator] * batch
    if len(generators) != batch:
        raise UserError(f"{len(generators)} generators for {batch} clips; give one, or one for each")
    for tensor, size in zip(given, sizes, strict=True):
        if tensor is not None and tuple(tensor.shape) != (batch, *size):
            raise UserError(f"latents of shape {tuple(tensor.shape)} were given, expected {(batch, *size)}")
    drawn = [
        [torch.randn(size, generator=each, device=each.device if each else "cpu") for size in sizes]
        for each in generators
    ]
    columns = [torch.stack(column) for column in zip(*drawn, strict=True)]
    return [new if old is None else old.float() for old, new in zip(given, columns, strict=True)]
