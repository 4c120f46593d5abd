"""Train the video VAE at full length: trained on shorter clips the causal network drifts after them."""

import logging
import math
from contextlib import closing
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from mova.models.video_vae import decode_whole, encode_whole
from pocket.codec_run import CodecRun
from pocket.latents import Encoder
from pocket.loader import stream
from pocket.models import build_video_vae
from pocket.muon import of_video_vae
from pocket.training import VALIDATION_SEED, Budget, Log, Ranks, prefetch, psnr, to_video

logger = logging.getLogger("pocket")
KL_WEIGHT = 3e-5
EDGE_WEIGHT = 0.25
SQUARE_WEIGHT = 16.0
LIKE_WEIGHT = 0.5  # at first, of how far latents are from those of the checkpoint that they begin like
LIKE_SHARE = 0.6  # of the run, at whose end that weight has fallen to zero
STRIDE = 8  # pixels between the windows that a crop chooses from
STILL_SHARE = 0.5  # of the weight that all windows of a clip share alike, beside that for what moves in them
CROPS_EACH = (
    4  # windows of each clip that is drawn: drawing it costs the processor more than a window the GPU
)


class Autoencoder(nn.Module):
    """Reconstruction and loss of a batch in one call, so that it can be compiled as a whole."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, video: Tensor, noise: Tensor, wanted: Tensor, like_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss and three of its terms, of `video` [B, 3, F, H, W] drawn with `noise`: the mean squared error,
        the KL divergence, and how far the latents' means are from `wanted`, which are of the noise's shape.
        """
        mean, log_variance = encode_whole(self.vae, video).float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-12, 4)
        latents = mean + noise * (log_variance / 2).exp()
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        error = decode_whole(self.vae, latents).float() - video
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        square = error.square().mean()
        unlike = (mean - wanted).square().mean()
        loss = error.abs().mean() + SQUARE_WEIGHT * square + EDGE_WEIGHT * edges + KL_WEIGHT * kl
        return loss + like_weight * unlike, square, kl, unlike


def train_video_vae(
    out: Path,
    minutes: float,
    batch: int,
    learning_rate: float,
    decay: float,
    decoder_only: bool,
    compiled: bool,
    crop: tuple[int, int] | None,
    like: Path | None,
    workers: int | None,
) -> None:
    """Train for so many minutes, from `out/video_vae.pt` if it is there.

    `decoder_only` leaves the latents as they are: the towers that were trained on them stay valid. `crop`
    trades context for more steps a second; the length is never cut. Latents begin like those of the
    checkpoint `like`, whatever its video VAE's architecture, so that its towers have little to learn anew;
    if it is the one that training goes on from, they stay near its own.
    Left alone, a VAE's latents explained a third of another's after 300 steps, through a linear map; with it
    they were another's to 93 % after 500.
    """
    ranks = Ranks.join()
    device = ranks.device
    torch.manual_seed(ranks.rank)
    torch.backends.cudnn.benchmark = True
    vae = build_video_vae().to(device)
    run = CodecRun(vae, out / "video_vae.pt", ranks, learning_rate, of_video_vae, decoder_only)
    model = Autoencoder(vae)
    reconstruct = torch.compile(model, dynamic=False) if compiled else model
    log = Log(out / "video_vae.jsonl", ranks)
    teacher = Encoder(like, device, compiled) if like and not decoder_only else None
    truth = validation_clips(16 if device.type == "cuda" else 1, out).to(device)
    first_seed = (1 + ranks.rank) * 200_000_000 + run.step * batch
    clips = math.ceil(batch / CROPS_EACH) if crop else batch
    batches = prefetch(stream(clips, first_seed, ranks.workers(workers), speech=out), device)
    budget = Budget(minutes, decay, ranks)
    for scale in budget.steps():
        drawn = next(batches)[0]
        if crop:
            drawn = cropped(drawn.repeat(batch // clips, 1, 1, 1, 1), crop)
        video = to_video(drawn).contiguous(memory_format=torch.channels_last_3d)
        noise = torch.randn(latent_size(video), device=device)
        like_weight = LIKE_WEIGHT * max(0.0, 1 - budget.fraction / LIKE_SHARE) if teacher else 0.0
        wanted = teacher.means(video) if like_weight else torch.zeros_like(noise)
        with torch.autocast(device.type, torch.bfloat16, enabled=video.is_cuda):
            # Filled there: copied from here, the host would wait for the device at every step.
            loss, square, kl, unlike = reconstruct(video, noise, wanted, noise.new_full((), like_weight))
        loss.backward()
        norm = run.update(scale)
        if budget.is_save_due():
            run.save()
        if run.step % 100 == 0:
            log.write(
                step=run.step,
                psnr=10 * math.log10(4 / square.item()),
                loss=loss.item(),
                kl=kl.item(),
                **({"unlike": unlike.item()} if like_weight else {}),
                norm=norm.item(),
                steps_a_second=budget.steps_a_second,
            )
    if ranks.is_first:
        run.save()
        vae.load_state_dict(run.average.weights)
        scores = validate(vae, truth)
        log.write(step=run.step, held_out_psnr=scores.mean().item(), worst=scores.min().item())
    ranks.leave()


def cropped(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """A window of `size` (height, width) of each clip [3, F, H, W] of a batch, likelier where more moves.

    Walls are most of a clip and learnt soon; balls, lips and keys are small.
    """
    motion = frames.float().diff(dim=2).abs().mean(dim=(1, 2))  # [B, H, W]
    moving = nn.functional.avg_pool2d(motion[:, None], size, STRIDE)[:, 0]  # [B, tops, lefts]
    likely = moving.flatten(1) / moving.flatten(1).sum(dim=1, keepdim=True).clamp_min(1e-6)
    place = torch.multinomial(likely + STILL_SHARE / likely.shape[1], 1)[:, 0]
    top = STRIDE * (place // moving.shape[2])
    left = STRIDE * (place % moving.shape[2])
    rows = top[:, None] + torch.arange(size[0], device=frames.device)
    columns = left[:, None] + torch.arange(size[1], device=frames.device)
    clip = torch.arange(len(frames), device=frames.device)
    picked = frames[clip[:, None, None], :, :, rows[:, :, None], columns[:, None]]  # [B, h, w, 3, F]
    return picked.permute(0, 3, 4, 1, 2)


def latent_size(video: Tensor) -> tuple[int, ...]:
    batch, _, frames, height, width = video.shape
    return (batch, 16, (frames + 3) // 4, height // 8, width // 8)


def validation_clips(count: int, speech: Path) -> Tensor:
    """uint8 [N, 3, F, H, W], of seeds that training does not draw."""
    with closing(stream(count, VALIDATION_SEED, speech=speech, workers=min(count, 8), slots=2)) as batches:
        return torch.from_numpy(next(batches).frames).permute(0, 4, 1, 2, 3).clone()


@torch.no_grad()
def validate(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """PSNR [N] in dB of each clip after a round trip through the latents' means."""
    scores = []
    for clip in frames:
        video = to_video(clip[None])
        with torch.autocast(video.device.type, torch.bfloat16, enabled=video.is_cuda):
            latents = encode_whole(vae, video).chunk(2, dim=1)[0]
            decoded = decode_whole(vae, latents).clamp(-1, 1)
        scores.append(psnr(decoded, video))
    return torch.tensor(scores)
