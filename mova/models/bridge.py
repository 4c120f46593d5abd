"""The bridge: at every layer that both towers have, each modality attends to the other."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mova.models.attention import CrossModalAttention, time_rotary
from mova.shapes import TEMPORAL_STRIDE


class Conditioner(nn.Module):
    """Cross-attention from one modality to the other: `y` is normalised here, `x` only as queries."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.y_norm = nn.LayerNorm(context_dim, eps=1e-6)
        self.inner = CrossModalAttention(dim, context_dim, num_heads, eps=1e-6)

    def forward(self, x: Tensor, y: Tensor, x_rotary: Tensor, y_rotary: Tensor) -> Tensor:
        return x + self.inner(x, self.y_norm(y), x_rotary, y_rotary)


class Bridge(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Cross-attention both ways, aligned in time by rotary positions (paper section 3, "Aligned RoPE")."""

    _repeated_blocks = ("Conditioner",)
    _no_split_modules = ("Conditioner",)

    @register_to_config
    def __init__(
        self,
        visual_layers: int,
        audio_layers: int,
        visual_hidden_dim: int,
        audio_hidden_dim: int,
        audio_fps: float,  # noqa: ARG002 - read from the config
        head_dim: int,
    ) -> None:
        super().__init__()
        num_layers = min(visual_layers, audio_layers)
        video, audio = visual_hidden_dim, audio_hidden_dim
        self.audio_to_video_conditioners = nn.ModuleList(
            Conditioner(video, audio, video // head_dim) for _ in range(num_layers)
        )
        self.video_to_audio_conditioners = nn.ModuleList(
            Conditioner(audio, video, audio // head_dim) for _ in range(num_layers)
        )

    def __len__(self) -> int:
        return len(self.audio_to_video_conditioners)

    def interval(self, frame_rate: float) -> float:
        """Audio latents from one latent frame to the next: audio_fps / (frame_rate / 4)."""
        return self.config.audio_fps * TEMPORAL_STRIDE / frame_rate

    def rotary(
        self, grid: tuple[int, int, int], audio_tokens: int, frame_rate: float, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Tables of the video and of the audio tokens on the audio latents' time axis.

        Audio latent j stands at j. All tokens of latent frame i stand at i times `interval`.
        """
        frames, tokens_per_frame = grid[0], grid[1] * grid[2]
        interval = self.interval(frame_rate)
        video = time_rotary(
            tuple(i * interval for i in range(frames)), tokens_per_frame, self.config.head_dim, device
        )
        audio = time_rotary(tuple(map(float, range(audio_tokens))), 1, self.config.head_dim, device)
        return video, audio

    def forward(
        self, layer: int, video: Tensor, audio: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both token streams after each has read the other's state from before the layer."""
        video_rotary, audio_rotary = rotary
        return (
            self.audio_to_video_conditioners[layer](video, audio, video_rotary, audio_rotary),
            self.video_to_audio_conditioners[layer](audio, video, audio_rotary, video_rotary),
        )
