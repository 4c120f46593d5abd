"""Train the audio VAE on waveforms and on their spectra at several resolutions."""

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

from mova.models.audio_vae import AudioVAE
from pocket.clip import SAMPLE_RATE
from pocket.codec_run import CodecRun
from pocket.models import build_audio_vae
from pocket.muon import of_audio_vae
from pocket.sounds import Sounds
from pocket.training import VALIDATION_SEED, Budget, Log, Ranks

logger = logging.getLogger("pocket")
WINDOWS = (64, 128, 256, 512, 1024, 2048)  # samples
KL_WEIGHT = 1e-4
LATENT_NOISE = 0.4  # at most, beside a channel's own deviation
WEIGHTS = {"waveform": 0.4, "spectrum": 0.3, "mel": 0.3}  # shares of the gradient at the decoder's end
SEGMENT = 12800  # samples a step sees of each sound
FAINT = 0.02  # of the batch's mean size; fainter sounds count less
HEARD = 1e-3  # magnitude; fainter parts of a spectrum are silence
DITHER = 1e-4  # digital silence has no spectrum to learn


def train_audio_vae(
    out: Path,
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
        log.write(step=run.step, **validate(vae, truth))
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
    """What to run backward, whose value means nothing, and the terms that do, for the log.

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
    return (decoded * balanced(terms, decoded)).sum() + KL_WEIGHT * kl, {"kl": kl, **terms}


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
    """How far sounds are apart: as waveforms, as spectra, and as loudness on a mel scale."""

    def __init__(self, device: torch.device) -> None:
        self.windows = {size: torch.hann_window(size, device=device) for size in WINDOWS}
        self.mels = {size: mel_matrix(size, device) for size in WINDOWS}

    def __call__(self, decoded: Tensor, waveform: Tensor) -> dict[str, Tensor]:
        linear, loud = decoded.new_zeros(()), decoded.new_zeros(())
        for size in WINDOWS:
            a, b = self.magnitudes(decoded, size), self.magnitudes(waveform, size)
            linear = linear + shares((a - b).abs(), b)
            loud = loud + log_error(self.mels[size] @ a, self.mels[size] @ b)
        count = len(WINDOWS)
        error = shares((decoded - waveform).square(), waveform.square())
        return {"waveform": error, "spectrum": linear / count, "mel": loud / count}

    def magnitudes(self, waveform: Tensor, size: int) -> Tensor:
        """[B, bins, frames]"""
        spectrum = torch.stft(
            waveform.squeeze(1), size, size // 4, window=self.windows[size], return_complex=True
        )
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt() / size**0.5


def shares(errors: Tensor, sizes: Tensor) -> Tensor:
    """What part of each sound [B, ...] is wrong, on average: a faint clink counts as much as a loud chord."""
    size = sizes.flatten(1).mean(dim=1)
    return (errors.flatten(1).mean(dim=1) / (size + FAINT * size.mean())).mean()


def log_error(a: Tensor, b: Tensor) -> Tensor:
    """How far magnitudes are apart as logarithms, the mean of where either is heard.

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
def validate(vae: AudioVAE, truth: Tensor) -> dict[str, float]:
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
