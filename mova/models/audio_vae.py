"""The audio VAE: the continuous variant of the Descript audio codec, mono, ends in tanh.

Kept in float32: it is small, and its snake activations are sensitive.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, one alpha for each channel (Ziyin et al., 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)


class ResidualUnit(nn.Module):
    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(dim),
            nn.Conv1d(dim, dim, kernel_size=7, dilation=dilation, padding=3 * dilation),
            Snake(dim),
            nn.Conv1d(dim, dim, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class EncoderBlock(nn.Module):
    """Three residual units, then `stride` times fewer steps of twice the channels."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(dim // 2, dilation) for dilation in (1, 3, 9)),
            Snake(dim // 2),
            nn.Conv1d(dim // 2, dim, 2 * stride, stride, padding=math.ceil(stride / 2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Encoder(nn.Module):
    def __init__(self, dim: int, rates: list[int], latent_dim: int) -> None:
        super().__init__()
        widths = [dim * 2**i for i in range(len(rates) + 1)]
        self.block = nn.Sequential(
            nn.Conv1d(1, dim, kernel_size=7, padding=3),
            *(EncoderBlock(width, rate) for width, rate in zip(widths[1:], rates, strict=True)),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], latent_dim, kernel_size=3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class DecoderBlock(nn.Module):
    """`stride` times more steps of half the channels, then three residual units."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        # output_padding makes odd strides exact: L latents in, L * stride out.
        up = nn.ConvTranspose1d(
            dim, dim // 2, 2 * stride, stride, padding=math.ceil(stride / 2), output_padding=stride % 2
        )
        self.block = nn.Sequential(
            Snake(dim), up, *(ResidualUnit(dim // 2, dilation) for dilation in (1, 3, 9))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Decoder(nn.Module):
    def __init__(self, latent_dim: int, dim: int, rates: list[int]) -> None:
        super().__init__()
        widths = [dim // 2**i for i in range(len(rates) + 1)]
        self.model = nn.Sequential(
            nn.Conv1d(latent_dim, dim, kernel_size=7, padding=3),
            *(DecoderBlock(width, rate) for width, rate in zip(widths, rates, strict=False)),
            Snake(widths[-1]),
            nn.Conv1d(widths[-1], 1, kernel_size=7, padding=3),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class AudioVAE(ModelMixin, ConfigMixin):
    """Waveform [B, 1, S] <-> latents [B, C, L], L = ceil(S / hop_length). Latents are not normalised."""

    @register_to_config
    def __init__(
        self,
        encoder_dim: int,
        encoder_rates: list[int],
        latent_dim: int,
        decoder_dim: int,
        decoder_rates: list[int],
        sample_rate: int,  # noqa: ARG002 - kept in the config
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder_dim, encoder_rates, latent_dim)
        self.decoder = Decoder(latent_dim, decoder_dim, decoder_rates)
        self.quant_conv = nn.Conv1d(latent_dim, 2 * latent_dim, kernel_size=1)
        self.post_quant_conv = nn.Conv1d(latent_dim, latent_dim, kernel_size=1)

    @property
    def hop_length(self) -> int:
        """Samples for each latent."""
        return math.prod(self.config.encoder_rates)

    def encode(self, waveform: Tensor) -> DiagonalGaussianDistribution:
        """Posterior over latents of `waveform` [B, 1, S] in [-1, 1]; the end is padded with silence."""
        padding = -waveform.shape[-1] % self.hop_length
        moments = self.quant_conv(self.encoder(F.pad(waveform, (0, padding))))
        return DiagonalGaussianDistribution(moments)

    def decode(self, latents: Tensor) -> Tensor:
        """Waveform [B, 1, L * hop_length] in [-1, 1] of `latents` [B, C, L]."""
        return self.decoder(self.post_quant_conv(latents))
