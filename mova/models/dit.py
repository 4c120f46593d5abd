"""Parts shared by the video and the audio tower: embeddings, the transformer block and the output head."""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mova.errors import UserError
from mova.models.attention import SelfAttention, TextAttention, grid_rotary


class DiTBlock(nn.Module):
    """Self-attention, text attention and feed-forward; the first and last modulated by the timestep."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.self_attn = SelfAttention(dim, num_heads, eps)
        self.cross_attn = TextAttention(dim, num_heads, eps)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU("tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / math.sqrt(dim))

    def forward(self, x: Tensor, text: Tensor, modulation: Tensor, rotary: Tensor) -> Tensor:
        """Tokens `x` [B, L, D] after one block; `text` [B, 512, D], `modulation` [B, 6, D]."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation + modulation).chunk(6, dim=1)
        x = torch.addcmul(x, gate, self.self_attn(modulated_norm(x, shift, scale, self.norm1.eps), rotary))
        x = x + self.cross_attn(self.norm3(x), text)
        return torch.addcmul(x, ffn_gate, self.ffn(modulated_norm(x, ffn_shift, ffn_scale, self.norm2.eps)))


class Head(nn.Module):
    """Normalise, modulate by the time embedding, project each token to its patch."""

    def __init__(self, dim: int, patch_dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, patch_dim)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / math.sqrt(dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.modulation + time[:, None]).chunk(2, dim=1)  # time [B, D]
        return self.head(modulated_norm(x, shift, scale, self.norm.eps))


class DiT(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A tower: everything but its patch embedding, which the modality decides.

    It has no forward of its own: `mova.models.dual_tower` runs both towers layer by layer.
    """

    _repeated_blocks = ("DiTBlock",)
    _no_split_modules = ("DiTBlock",)

    def _build(
        self,
        dim: int,
        ffn_dim: int,
        patch_dim: int,
        text_dim: int,
        freq_dim: int,
        num_heads: int,
        num_layers: int,
        eps: float,
    ) -> None:
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU("tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(DiTBlock(dim, ffn_dim, num_heads, eps) for _ in range(num_layers))
        self.head = Head(dim, patch_dim, eps)

    @property
    def head_dim(self) -> int:
        return self.config.dim // self.config.num_heads

    def embed_time(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding [B, D] and block modulation [B, 6, D] of `timestep` [B] in 0..1000.

        Computed in float32 whatever the weights are stored in; returned in their dtype.
        """
        weight = self.time_embedding[0].weight
        wave = sinusoid(timestep, self.config.freq_dim).to(weight.device)
        time = linear_float32(self.time_embedding[2], F.silu(linear_float32(self.time_embedding[0], wave)))
        modulation = linear_float32(self.time_projection[1], F.silu(time)).unflatten(-1, (6, -1))
        return time.to(weight.dtype), modulation.to(weight.dtype)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm of `x` [B, L, D], scaled by 1 + `scale` and shifted by `shift` [B, 1, D].

    For one clip these are the norm's own affine parameters, and the whole is one kernel (0.3 ms in place of
    0.9 for 43,120 tokens on an H200).
    """
    if len(x) == 1:
        return F.layer_norm(x, x.shape[-1:], (1 + scale).flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


def sinusoid(timestep: Tensor, dim: int) -> Tensor:
    """Embedding [B, dim] of `timestep` [B], cosines first, float32 from float64 angles."""
    rates = 10000 ** (-torch.arange(dim // 2, dtype=torch.float64, device=timestep.device) / (dim // 2))
    angles = timestep.double()[:, None] * rates
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def linear_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer in float32, with what adapters on it add (peft's layer has no such forward)."""
    y = F.linear(x, layer.weight.float(), layer.bias.float())
    if isinstance(layer, nn.Linear) or layer.merged or layer.disable_adapters:
        return y
    for name in layer.active_adapters:
        if name in layer.lora_A:
            down, up = layer.lora_A[name].weight.float(), layer.lora_B[name].weight.float()
            y = y + layer.scaling[name] * F.linear(F.linear(x, down), up)
    return y


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
