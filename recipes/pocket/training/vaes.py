"""Training of the video VAE and of the audio VAE.

The video VAE sees clips at full length: trained on shorter ones, the causal network drifts after their end.
"""

import logging
import math
from contextlib import closing
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from mova.models.audio_vae import AudioVAE
from mova.models.video_vae import decode_whole, encode_whole
from recipes.pocket.training.latents import Encoder
from recipes.pocket.training.loader import stream
from recipes.pocket.training.models import build_audio_vae, build_video_vae
from recipes.pocket.training.muon import of_audio_vae, of_video_vae
from recipes.pocket.training.run import (
    VALIDATION_SEED,
    Budget,
    CodecRun,
    Log,
    Ranks,
    prefetch,
    psnr,
    to_video,
)
from recipes.pocket.training.sounds import Sounds
from recipes.pocket.world.clip import SAMPLE_RATE

logger = logging.getLogger("pocket")
VIDEO_KL_WEIGHT = 3e-5
EDGE_WEIGHT = 0.25
SQUARE_WEIGHT = 16.0
LIKE_WEIGHT = 0.5  # at first, of the latents' distance from those of the checkpoint `like`
LIKE_SHARE = 0.6  # of the run, at whose end that weight has fallen to zero
STRIDE = 8  # pixels between the windows that a crop chooses from
STILL_SHARE = 0.5  # of the weight that all windows of a clip share equally; the rest follows motion
CROPS_EACH = 4  # windows of each drawn clip: drawing costs the CPU more than a window costs the GPU

WINDOWS = (64, 128, 256, 512, 1024, 2048)  # samples
AUDIO_KL_WEIGHT = 1e-4
LATENT_NOISE = 0.4  # at most, relative to a channel's own deviation
WEIGHTS = {"waveform": 0.4, "spectrum": 0.3, "mel": 0.3}  # shares of the gradient at the decoder's end
SEGMENT = 12800  # samples a step sees of each sound
FAINT = 0.02  # of the batch's mean size; fainter sounds count less
HEARD = 1e-3  # magnitude; fainter parts of a spectrum are silence
DITHER = 1e-4  # digital silence has no spectrum to learn


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
        loss = error.abs().mean() + SQUARE_WEIGHT * square + EDGE_WEIGHT * edges + VIDEO_KL_WEIGHT * kl
        return loss + like_weight * unlike, square, kl, unlike


def train_video_vae(
    out: Path,
    *,
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
    trades context for more steps a second; the length is never cut. Latents start close to those of the
    checkpoint `like`, whatever its video VAE's architecture, so that its towers have little to relearn;
    if training continues from that very checkpoint, they stay near its own.
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
        scores = validate_video(vae, truth)
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
def validate_video(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """PSNR [N] in dB of each clip after a round trip through the latents' means."""
    scores = []
    for clip in frames:
        video = to_video(clip[None])
        with torch.autocast(video.device.type, torch.bfloat16, enabled=video.is_cuda):
            latents = encode_whole(vae, video).chunk(2, dim=1)[0]
            decoded = decode_whole(vae, latents).clamp(-1, 1)
        scores.append(psnr(decoded, video))
    return torch.tensor(scores)


def train_audio_vae(
    out: Path,
    *,
    minutes: float,
    batch: int,
    learning_rate: float,
    decay: float,
    decoder_only: bool,
    workers: int | None,
    clips: int,
) -> None:
    """Train for so many minutes on `clips` sounds, from `out/audio_vae.pt` if it is there.

    The sounds are rendered first and stay on the device: drawing pictures is what costs.
    """
    ranks = Ranks.join()
    device = ranks.device
    torch.manual_seed(ranks.rank)
    vae = build_audio_vae().to(device)
    run = CodecRun(vae, out / "audio_vae.pt", ranks, learning_rate, of_audio_vae, decoder_only)
    log = Log(out / "audio_vae.jsonl", ranks)
    first_seed, workers = 7_000_000 + ranks.rank * clips + run.step, ranks.workers(workers)
    sounds = Sounds.render(clips, first_seed, workers, out).waveforms.to(device)
    truth = Sounds.render(64, VALIDATION_SEED, workers, out).waveforms.to(device).float()
    losses = Losses(device)
    budget = Budget(minutes, decay, ranks)
    log.write(sounds=len(sounds))
    for scale in budget.steps():
        rows = torch.randint(len(sounds), (batch,), device=device)
        waveform = augmented(excerpts(sounds[rows].float()))
        loss, terms = objective(vae, waveform, losses)
        loss.backward()
        norm = run.update(scale)
        if budget.is_save_due():
            run.save()
        if run.step % 200 == 0:
            log.write(
                step=run.step,
                **{name: term.item() for name, term in terms.items()},
                norm=norm.item(),
                steps_a_second=budget.steps_a_second,
            )
    if ranks.is_first:
        run.save()
        vae.load_state_dict(run.average.weights)
        log.write(step=run.step, **validate_audio(vae, truth))
    ranks.leave()


def excerpts(sounds: Tensor) -> Tensor:
    """A random `SEGMENT` of each sound [B, 1, S]."""
    starts = torch.randint(sounds.shape[-1] - SEGMENT + 1, (len(sounds), 1), device=sounds.device)
    places = starts + torch.arange(SEGMENT, device=sounds.device)
    return sounds.gather(-1, places[:, None])


def augmented(waveform: Tensor) -> Tensor:
    """Louder, softer, upside down, and dithered."""
    batch, device = len(waveform), waveform.device
    gain = torch.empty(batch, 1, 1, device=device).uniform_(0.5, 1.1)
    sign = torch.randint(0, 2, (batch, 1, 1), device=device) * 2 - 1
    return (waveform * gain * sign + DITHER * torch.randn_like(waveform)).clamp(-1, 1)


def objective(vae: AudioVAE, waveform: Tensor, losses: "Losses") -> tuple[Tensor, dict[str, Tensor]]:
    """The tensor to run backward, whose value means nothing, and the loss terms for the log.

    Latents are decoded with noise, more in some clips than in others. Without it an "s" was 0.06 away from
    silence where latents deviate by 1, and towers never made one; of 18 words with noise of 0.3 on their
    latents 10 were heard, and 16 after six minutes of it on a processor.
    The decoder's gradient is the balanced one whatever the terms' sizes; the posterior's divergence is added.
    """
    posterior = vae.encode(waveform)
    level = LATENT_NOISE * torch.rand(len(waveform), 1, 1, device=waveform.device)
    deviation = posterior.mean.std(dim=(0, 2), keepdim=True)  # with its gradient: else latents outgrow it
    latents = posterior.sample() + level * deviation * torch.randn_like(posterior.mean)
    decoded = vae.decode(latents)[..., : waveform.shape[-1]]
    kl = (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean() / 2
    terms = losses(decoded, waveform)
    return (decoded * balanced(terms, decoded)).sum() + AUDIO_KL_WEIGHT * kl, {"kl": kl, **terms}


def balanced(terms: dict[str, Tensor], decoded: Tensor) -> Tensor:
    """The gradient at `decoded`, each term's share of it as `WEIGHTS` says, whatever the term's own scale.

    Left to themselves, logarithms of faint spectra drown the waveform, and no pitch is learnt. The balance is
    that of Défossez et al., 2022.
    """
    total = torch.zeros_like(decoded)
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, decoded, retain_graph=True)
        total += WEIGHTS[name] * gradient / (gradient.norm() + 1e-12)
    return total


class Losses:
    """Distances between sounds: as waveforms, as spectra, and as loudness on a mel scale."""

    def __init__(self, device: torch.device) -> None:
        self.windows = {size: torch.hann_window(size, device=device) for size in WINDOWS}
        self.mels = {size: mel_matrix(size, device) for size in WINDOWS}

    def __call__(self, decoded: Tensor, waveform: Tensor) -> dict[str, Tensor]:
        linear, loud = decoded.new_zeros(()), decoded.new_zeros(())
        for size in WINDOWS:
            a, b = self.magnitudes(decoded, size), self.magnitudes(waveform, size)
            linear = linear + relative_error((a - b).abs(), b)
            loud = loud + log_error(self.mels[size] @ a, self.mels[size] @ b)
        count = len(WINDOWS)
        error = relative_error((decoded - waveform).square(), waveform.square())
        return {"waveform": error, "spectrum": linear / count, "mel": loud / count}

    def magnitudes(self, waveform: Tensor, size: int) -> Tensor:
        """[B, bins, frames]"""
        spectrum = torch.stft(
            waveform.squeeze(1), size, size // 4, window=self.windows[size], return_complex=True
        )
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt() / size**0.5


def relative_error(errors: Tensor, sizes: Tensor) -> Tensor:
    """Mean relative error of the sounds [B, ...]: a faint clink counts as much as a loud chord."""
    size = sizes.flatten(1).mean(dim=1)
    return (errors.flatten(1).mean(dim=1) / (size + FAINT * size.mean())).mean()


def log_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance of the logarithms of two magnitudes, where either is heard.

    Silence has the steepest logarithm: were it counted, it would take nearly all of the gradient, and no
    fricative be learnt.
    """
    heard = (a > HEARD) | (b > HEARD)
    errors = ((a + HEARD).log() - (b + HEARD).log()).abs()
    return (errors * heard).sum() / heard.sum().clamp_min(1)


def mel_matrix(size: int, device: torch.device) -> Tensor:
    """Triangular filters [mels, bins] up to half the sample rate."""
    bins = size // 2 + 1
    mels = min(80, bins // 2)
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2, device=device) / 2595) - 1)
    centres = torch.linspace(0, SAMPLE_RATE / 2, bins, device=device)
    widths = edges.diff().clamp_min(SAMPLE_RATE / size)
    rising = (centres - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - centres) / widths[1:, None]
    filters = torch.minimum(rising, falling).clamp_min(0)
    return filters / filters.sum(dim=1, keepdim=True).clamp_min(1e-6)


@torch.no_grad()
def validate_audio(vae: AudioVAE, truth: Tensor) -> dict[str, float]:
    """Log-spectral distance and signal-to-noise ratio in dB of a round trip."""
    latents = vae.encode(truth).mode()
    decoded = vae.decode(latents)[..., : truth.shape[-1]]
    window = torch.hann_window(512, device=truth.device)
    a, b = (
        torch.stft(x.squeeze(1), 512, 128, window=window, return_complex=True).abs().clamp_min(1e-2)
        for x in (decoded, truth)
    )
    distance = (20 * (a.log10() - b.log10())).square().mean(dim=1).sqrt().mean()
    noise = 10 * torch.log10(truth.square().sum() / (decoded - truth).square().sum())
    return {
        "log_spectral_distance": distance.item(),
        "signal_to_noise": noise.item(),
        "latent_std": latents.std().item(),
    }
