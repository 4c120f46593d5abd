import pytest
import torch

from mova.models.audio_vae import AudioVAE
from tests.tiny import relative_error


def build(rates):
    torch.manual_seed(0)
    return AudioVAE(
        encoder_dim=4,
        encoder_rates=list(rates),
        latent_dim=6,
        decoder_dim=32,
        decoder_rates=list(reversed(rates)),
        sample_rate=8000,
    ).eval()


@pytest.mark.parametrize("rates", [(2, 4, 8), (2, 3, 4, 5), (5, 3)])
@torch.no_grad()
def test_every_latent_decodes_to_exactly_one_hop(rates):
    vae = build(rates)
    for latents in (1, 2, 7):
        assert vae.decode(torch.randn(1, 6, latents)).shape == (1, 1, latents * vae.hop_length)


@pytest.mark.parametrize("rates", [(2, 4, 8), (2, 3, 4, 5)])
@torch.no_grad()
def test_a_waveform_that_ends_within_a_hop_is_padded_to_it(rates):
    vae = build(rates)
    for samples in (1, vae.hop_length, vae.hop_length + 1, 5 * vae.hop_length - 1):
        expected = -(-samples // vae.hop_length)
        assert vae.encode(torch.randn(2, 1, samples)).mode().shape == (2, 6, expected)


@torch.no_grad()
def test_golden_waveform_encodes_and_decodes_as_the_reference(pipeline, golden_tensors):
    tensors = golden_tensors("audio_vae")
    posterior = pipeline.audio_vae.encode(tensors["waveform"])
    assert relative_error(posterior.mode(), tensors["latents_mode"]) < 1e-5
    assert relative_error(posterior.std, tensors["latents_std"]) < 1e-5
    assert relative_error(pipeline.audio_vae.decode(tensors["latents_mode"]), tensors["decoded"]) < 1e-5
