"""The audio tower: a transformer over audio latents, one token for each (50 a second in the releases)."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mova.models.attention import grid_rotary
from mova.models.dit import DiT
from mova.types import UserError


class AudioDiT(DiT):
    """The transformer that denoises the latents of the audio VAE."""

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
        if list(patch_size) != [1]:
            raise UserError(f"the audio tower takes one latent a token, not patch_size={patch_size}")
        self.patch_embedding = nn.Conv1d(in_dim, dim, kernel_size=1)
        self._build(dim, ffn_dim, out_dim, text_dim, freq_dim, num_heads, num_layers, eps)

    def embed_patches(self, latents: Tensor) -> tuple[Tensor, tuple[int]]:
        """Tokens [B, L, D] of `latents` [B, C, L], and their grid (L,)."""
        x = self.patch_embedding(latents.to(self.patch_embedding.weight.dtype))
        return x.transpose(1, 2).contiguous(), (x.shape[2],)

    def rotary(self, grid: tuple[int], device: torch.device) -> Tensor:
        return grid_rotary(grid, self.head_dim, device)

    def unpatchify(self, x: Tensor, grid: tuple[int]) -> Tensor:  # noqa: ARG002 - one signature for both towers
        """Latents [B, C, L], float32, of head outputs `x` [B, L, C]."""
        return x.float().transpose(1, 2)
