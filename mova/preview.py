"""A picture of running latents for the price of a small matrix product.

The projection is fitted to the checkpoint's own video VAE, so it holds for any: plain colour fields are
encoded and their colours regressed on the latents by least squares. It shows colour and layout, not detail;
one pixel stands for 8x8 of the clip.
"""

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from mova.pipeline import MOVAPipeline

LEVELS = 4  # of each colour channel: 64 fields
FIELD = 64  # pixels; the middle of a field this large does not feel its border


class LatentPreview:
    """Maps video latents, as the towers see them, to small frames: RGB = latents W + b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias  # [16, 3], [3]

    @classmethod
    @torch.no_grad()
    def fit(cls, pipeline: "MOVAPipeline") -> "LatentPreview":
        """Encode 64 colour fields with the pipeline's VAE and solve for W and b."""
        levels = torch.linspace(-1, 1, LEVELS)
        colours = torch.tensor(list(itertools.product(levels, repeat=3)))  # [N, 3]
        fields = colours[:, :, None, None].expand(-1, -1, FIELD, FIELD)
        latents = pipeline.encode_first_frame(fields, num_frames=1)[:, 4:, 0].cpu()  # [N, 16, h, w]
        middle = latents.shape[-1] // 2
        known = torch.cat((latents[:, :, middle, middle], torch.ones(len(colours), 1)), dim=1)
        solution = torch.linalg.lstsq(known.double(), colours.double(), driver="gelsd").solution.float()
        return cls(solution[:-1], solution[-1])

    def __call__(self, latents: Tensor) -> np.ndarray:
        """Frames uint8 [T, h, w, 3] of the first clip's latents [B, 16, T, h, w]."""
        pixels = latents[0].movedim(0, -1).float().cpu() @ self.weight + self.bias
        return ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
