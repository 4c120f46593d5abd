"""The video VAE over a whole clip against the library's own loop over chunks."""

import pytest
import torch
from diffusers import AutoencoderKLWan

from mova.models.video_vae import decode, decode_whole, encode, encode_whole, fits_whole

PATCHED = {"patch_size": 2, "in_channels": 12, "out_channels": 12, "temperal_downsample": [True, True]}


@pytest.fixture(scope="module", params=[[1, 2, 2, 2], [1, 2, 2]], ids=["as released", "in patches"])
def vae(request):
    torch.manual_seed(0)
    patched = PATCHED if len(request.param) == 3 else {}
    return AutoencoderKLWan(base_dim=8, dim_mult=request.param, num_res_blocks=1, **patched).eval()


@pytest.mark.parametrize("latent_frames", [1, 2, 3, 5])
@torch.no_grad()
def test_a_whole_clip_encodes_and_decodes_as_in_chunks(vae, latent_frames):
    video = torch.rand(2, 3, 4 * latent_frames - 3, 16, 24) * 2 - 1
    mode = vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(encode_whole(vae, video)[:, :16], mode, atol=1e-5, rtol=1e-4)
    chunked = vae.decode(mode).sample
    torch.testing.assert_close(decode_whole(vae, mode).clamp(-1, 1), chunked, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_clip_too_large_for_one_piece_goes_through_in_chunks(vae, monkeypatch):
    video = torch.rand(1, 3, 9, 16, 24) * 2 - 1
    whole = encode(vae, video), decode(vae, encode(vae, video))
    monkeypatch.setattr("mova.models.video_vae.WHOLE_CLIP_BYTES", 0)
    assert not fits_whole(vae, 9, 16, 24)
    chunked = encode(vae, video), decode(vae, encode(vae, video))
    for a, b in zip(whole, chunked, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_released_clips_are_not_held_whole():
    with torch.device("meta"):
        released = AutoencoderKLWan()
    assert not fits_whole(released.to(torch.bfloat16), 193, 352, 640)
