"""Clips as the towers see them, encoded once and kept in shards on the disk.

Sounds are kept as they are: encoding them takes seconds, so the audio VAE may still learn while pictures are
encoded.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from mova.models.audio_vae import AudioVAE
from mova.models.video_vae import decode_whole, encode_whole
from recipes.pocket.captions import write_caption
from recipes.pocket.training.loader import stream
from recipes.pocket.training.models import build_audio_vae, build_video_vae, train_tokenizer
from recipes.pocket.training.run import (
    Log,
    Ranks,
    load_captioned,
    prefetch,
    save_captioned,
    to_channels_last,
    to_video,
)
from recipes.pocket.training.sounds import FAMILIES
from recipes.pocket.world.render import DEFAULT_MIX, choose_family, make_scene

logger = logging.getLogger("pocket")
STATISTICS = "latent_statistics.json"
MEASURED_SEED = 6_000_000
TOKENIZER_SEED = 5_000_000
TOKENIZER_SCENES = 600


@dataclass(frozen=True)
class Shard:
    video: Tensor  # [N, 16, T, h, w]
    condition: Tensor  # [N, 16, T, h, w], of the first frame and then grey
    waveforms: Tensor  # float16 [N, 1, S]
    captions: list[str]

    def save(self, path: Path) -> None:
        tensors = {
            "video": self.video.bfloat16(),
            "condition": self.condition.bfloat16(),
            "waveforms": self.waveforms.half(),
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_captioned(path, tensors, self.captions)

    @classmethod
    def load(cls, path: Path) -> "Shard":
        tensors, captions = load_captioned(path)
        return cls(captions=captions, **tensors)


class Encoder:
    """The video VAE of a checkpoint on a device."""

    def __init__(self, folder: Path, device: torch.device, compiled: bool = False) -> None:
        self.device = device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.video_vae = AutoencoderKLWan.from_pretrained(folder / "video_vae").to(device, self.dtype)
        to_channels_last(self.video_vae)
        config = self.video_vae.config
        self.mean = torch.tensor(config.latents_mean, device=device).view(1, -1, 1, 1, 1)
        self.std = torch.tensor(config.latents_std, device=device).view(1, -1, 1, 1, 1)
        self._encode = torch.compile(encode_whole, dynamic=False) if compiled else encode_whole

    @torch.no_grad()
    def means(self, video: Tensor) -> Tensor:
        """Latents [B, 16, T, h, w] of `video` [B, 3, F, H, W] in [-1, 1], as the VAE makes them."""
        video = video.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        return self._encode(self.video_vae, video).float().chunk(2, dim=1)[0]

    def video(self, video: Tensor) -> Tensor:
        """Those latents normalised, as the towers see them."""
        return (self.means(video) - self.mean) / self.std

    @torch.no_grad()
    def condition(self, first_frame: Tensor, num_frames: int) -> Tensor:
        """Normalised latents [B, 16, T, h, w] of `first_frame` [B, 3, H, W] followed by grey."""
        video = first_frame.new_zeros(*first_frame.shape[:2], num_frames, *first_frame.shape[2:])
        video[:, :, 0] = first_frame
        return self.video(video)

    def visibility(self, latents: Tensor) -> Tensor:
        """A matrix [16, 16] after which an error of `latents` is squared as much as it is seen.

        Half of the channels hardly change the picture, and three directions make most of it. How much each
        does is the decoder's pullback metric, averaged over places; the square root of that is taken, so that
        details still count, and scaled to a trace of 16.
        """
        pulled = torch.zeros(latents.shape[1], latents.shape[1], device=self.device)
        for clip in latents.split(1):
            normalised = clip.to(self.device, self.dtype).requires_grad_()
            pictures = decode_whole(
                self.video_vae, normalised * self.std.to(self.dtype) + self.mean.to(self.dtype)
            )
            (gradient,) = torch.autograd.grad(pictures, normalised, torch.randn_like(pictures))
            pulled += torch.einsum("bcthw,bdthw->cd", gradient.float(), gradient.float())
        values, directions = torch.linalg.eigh(pulled)
        seen = values.clamp_min(0).sqrt()
        return directions * (seen * len(seen) / seen.sum()).sqrt() @ directions.T


def encode(out: Path, *, clips: int, per_shard: int, batch: int, compiled: bool, workers: int | None) -> None:
    """Write `clips` clips as shards into `out/latents`, with the video VAE in `out/codecs`."""
    ranks = Ranks.join()
    encoder = Encoder(out / "codecs", ranks.device, compiled)
    log = Log(out / "encode.jsonl", ranks)
    (out / "latents").mkdir(exist_ok=True)
    mine = range(ranks.rank, clips // per_shard, ranks.size)
    first_seed = 20_000_000 + ranks.rank * 10_000_000
    clips_drawn = stream(batch, first_seed, ranks.workers(workers), FAMILIES, speech=out)
    batches = prefetch(clips_drawn, ranks.device)
    for index in mine:
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        captions: list[str] = []
        while len(captions) < per_shard:
            frames, waveforms, said = next(batches)
            video = to_video(frames)
            latents = encoder.video(video), encoder.condition(video[:, :, 0], video.shape[2])
            parts.append((*latents, waveforms))
            captions += said
        columns = [torch.cat(column)[:per_shard] for column in zip(*parts, strict=True)]
        Shard(*columns, captions[:per_shard]).save(out / "latents" / f"{index:05d}.safetensors")
        log.write(shard=index, of=clips // per_shard)
    ranks.leave()


def export_codecs(out: Path, workers: int) -> None:
    """The averaged VAEs with normalised latents, and a tokenizer, into `out/codecs`.

    The statistics of the latents are measured once: the towers are trained on them, and only the decoders may
    change after that.
    """
    video_vae, audio_vae = build_video_vae(), build_audio_vae()
    for name, vae in (("video_vae", video_vae), ("audio_vae", audio_vae)):
        vae.load_state_dict(torch.load(out / f"{name}.pt", map_location="cpu", weights_only=True)["average"])
    path = out / STATISTICS
    if not path.exists():
        path.write_text(json.dumps(measure(video_vae, audio_vae, workers, out)))
    statistics = json.loads(path.read_text())
    video_vae.register_to_config(latents_mean=statistics["video_mean"], latents_std=statistics["video_std"])
    normalise(audio_vae, torch.tensor(statistics["audio_mean"]), torch.tensor(statistics["audio_std"]))
    video_vae.save_pretrained(out / "codecs" / "video_vae")
    audio_vae.save_pretrained(out / "codecs" / "audio_vae")
    if not (out / "codecs" / "tokenizer").exists():
        train_tokenizer(sample_captions(out), out / "codecs" / "tokenizer")


def measure(
    video_vae: AutoencoderKLWan, audio_vae: AudioVAE, workers: int, speech: Path
) -> dict[str, list[float]]:
    """Mean and standard deviation of each latent channel."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 32 if device.type == "cuda" else 2
    batches = stream(size, MEASURED_SEED, workers, speech=speech)
    video, audio = [], []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for _ in range(6):
            batch = next(batches)
            frames = torch.from_numpy(batch.frames).to(device).permute(0, 4, 1, 2, 3)
            latents = encode_whole(video_vae.to(device), to_video(frames)).chunk(2, dim=1)[0]
            video.append(latents.float().transpose(0, 1).flatten(1).cpu())  # [16, B T h w]
            with torch.autocast(device.type, enabled=False):
                waveforms = torch.from_numpy(batch.waveforms).to(device)[:, None]
                audio.append(audio_vae.to(device).encode(waveforms).mode().transpose(0, 1).flatten(1).cpu())
    batches.close()
    found = {}
    for name, parts, vae in (("video", video, video_vae), ("audio", audio, audio_vae)):
        vae.cpu()
        values = torch.cat(parts, dim=1)
        found |= {f"{name}_mean": values.mean(dim=1).tolist(), f"{name}_std": values.std(dim=1).tolist()}
    return found


def normalise(vae: AudioVAE, mean: Tensor, std: Tensor) -> None:
    """Fold mean and deviation [C] of the latents into the VAE: the towers are given them as they are."""
    with torch.no_grad():
        channels = len(mean)
        quant, post = vae.quant_conv, vae.post_quant_conv
        quant.weight[:channels] /= std[:, None, None]
        quant.bias[:channels] = (quant.bias[:channels] - mean) / std
        quant.bias[channels:] -= 2 * std.log()
        post.bias += F.conv1d(mean[None, :, None], post.weight).flatten()
        post.weight *= std[None, :, None]


def sample_captions(speech: Path) -> list[str]:
    """Captions of all kinds and families, several for each scene."""
    captions = []
    for seed in range(TOKENIZER_SEED, TOKENIZER_SEED + TOKENIZER_SCENES):
        family = choose_family(seed)
        scene = make_scene(seed, family, "train", speech)
        rng = np.random.default_rng(seed)
        captions += [one_line(write_caption(rng, family, scene, DEFAULT_MIX)) for _ in range(16)]
    return captions


def one_line(caption: str) -> str:
    """As the text encoder is given it: paragraphs run on."""
    return " ".join(caption.split())
