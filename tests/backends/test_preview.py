import numpy as np
import torch

from mova.backends.local import FIELD, LatentPreview


def test_a_linear_code_is_projected_back_exactly():
    """A VAE whose latents are a linear code of colour is inverted to the level."""

    class Linear:
        code = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))

        def encode_first_frame(self, image, num_frames):
            assert num_frames == 1
            latents = torch.einsum("cr,nrhw->nchw", self.code, image[..., ::8, ::8]) + 0.3
            return torch.cat((torch.ones(len(image), 4, *latents.shape[2:]), latents), dim=1)[:, :, None]

    fields = torch.rand(1, 3, 1, 1).expand(-1, -1, FIELD, FIELD) * 2 - 1
    latents = Linear().encode_first_frame(fields, 1)[:, 4:]
    frames = LatentPreview.fit(Linear())(latents)
    expected = ((fields[0, :, 0, 0] + 1) * 127.5).round().byte().numpy()
    assert np.abs(frames[0, 4, 4].astype(int) - expected.astype(int)).max() <= 1


def test_frames_have_the_size_of_the_latents(pipeline):
    frames = LatentPreview.fit(pipeline)(torch.randn(1, 16, 3, 4, 6))
    assert frames.shape == (3, 4, 6, 3)
    assert frames.dtype == np.uint8
