"""The video tower: a transformer over patches of video latents. Each of MOVA's two experts is one."""

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mova.models.attention import grid_rotary
from mova.models.dit import DiT
from mova.types import UserError


class VideoDiT(DiT):
    """Wan2.2-style video transformer; input channels are noise 16, mask 4, first-frame latents 16."""

    @register_to_config
    def __init__(
        self,
        dim: int,
        in_dim: int,
        ffn_dim: int,
        out_dim: int,
        text_dim: int,
        freq_dim: int,
        eps: float,
        patch_size: list[int],
        num_heads: int,
        num_layers: int,
    ) -> None:
        super().__init__()
        if (dim // num_heads // 3) % 2:
            raise UserError(
                f"heads of {dim // num_heads} channels cannot be split among time, height and width"
            )
        self.patch_embedding = nn.Conv3d(in_dim, dim, kernel_size=tuple(patch_size), stride=tuple(patch_size))
        patch_dim = out_dim * math.prod(patch_size)
        self._build(dim, ffn_dim, patch_dim, text_dim, freq_dim, num_heads, num_layers, eps)

    def embed_patches(self, latents: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens [B, L, D] of `latents` [B, C, T, H, W], and their grid (frames, rows, columns)."""
        x = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype))
        # Made contiguous here: the residual stream would keep the convolution's layout through every layer.
        return x.flatten(2).transpose(1, 2).contiguous(), tuple(x.shape[2:])

    def rotary(self, grid: tuple[int, int, int], device: torch.device) -> Tensor:
        return grid_rotary(grid, self.head_dim, device)

    def unpatchify(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Latents [B, C, T, H, W], float32, of head outputs `x` [B, L, pt * ph * pw * C]."""
        x = (
            x.float().unflatten(-1, (*self.config.patch_size, -1)).unflatten(1, grid)
        )  # [B, T, H, W, pt, ph, pw, C]
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
