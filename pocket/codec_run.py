"""A training run of either VAE: weights, optimizer, average and checkpoint, whatever the loss."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from mova.models.audio_vae import AudioVAE
from pocket.muon import AdamWRate, Muon
from pocket.training import Average, Ranks, save_state

CLIP = 1.0  # of the gradients' total norm


class CodecRun:
    """Trains `vae` from `path` if it is there. With `decoder_only` the encoder, and so the latents, stay.

    That goes on from the averaged weights: they are what the latents were made with.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan | AudioVAE,
        path: Path,
        ranks: Ranks,
        learning_rate: float,
        adamw_rate: AdamWRate,
        decoder_only: bool,
    ) -> None:
        self.vae, self.path, self.ranks, self.decoder_only = vae, path, ranks, decoder_only
        self.learning_rate = learning_rate
        held = torch.load(path, map_location=ranks.device, weights_only=True) if path.exists() else {}
        if held:
            vae.load_state_dict(held["average" if decoder_only else "weights"])
        ranks.same_weights(vae)
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)
        to_channels_last(vae)
        self.parameters = {name: p for name, p in vae.named_parameters() if p.requires_grad}
        self.optimizer = Muon(self.parameters, adamw_rate)
        self.average = Average(vae.state_dict())
        self.step = held.get("step", 0)
        if held:
            self.average.resume(held["average"], self.step)
            if "optimizer" in held and held["decoder_only"] == decoder_only:
                self.optimizer.load_state_dict(held["optimizer"])

    def update(self, scale: float) -> Tensor:
        """Step on the gradients that a backward pass left, at `scale` of the rate; their norm."""
        gradients = {name: p.grad for name, p in self.parameters.items()}
        self.ranks.average(list(gradients.values()))
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), CLIP)
        self.optimizer.step(gradients, self.learning_rate * scale)
        self.average.update(self.vae.state_dict())
        self.step += 1
        return norm

    def save(self) -> None:
        save_state(
            self.path,
            weights=self.vae.state_dict(),
            average=self.average.weights,
            optimizer=self.optimizer.state_dict(),
            step=self.step,
            decoder_only=self.decoder_only,
        )


def to_channels_last(module: nn.Module) -> None:
    """Lay out the weights of picture and video convolutions as their kernels like them; others stay."""
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)
