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

    def read(self, y: Tensor, y_rotary: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `y`, for `answer`."""
        return self.inner.keys_values(self.y_norm(y), y_rotary)

    def answer(self, x: Tensor, x_rotary: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """As `forward`, with what was read of `y` before."""
        return x + self.inner.attend_to(x, x_rotary, keys, values)


class PictureMemory:
    """Keys and values of the picture, as the audio tower last read them at each layer of the bridge.

    With it `DualTower.forward_audio` runs without the video blocks. `on_host` keeps it in host memory, pinned
    where the tensors come from a GPU.
    """

    def __init__(self, on_host: bool = False) -> None:
        self.on_host = on_host
        self.layers: dict[int, tuple[Tensor, ...]] = {}

    def write(self, layer: int, keys_values: tuple[Tensor, Tensor]) -> None:
        known = self.layers.get(layer)
        if known is None or known[0].shape != keys_values[0].shape:  # of another number of processes
            pin = self.on_host and keys_values[0].is_cuda
            place = {"device": "cpu", "pin_memory": pin} if self.on_host else {}
            self.layers[layer] = tuple(torch.empty_like(each, **place) for each in keys_values)
        for kept, each in zip(self.layers[layer], keys_values, strict=True):
            kept.copy_(each, non_blocking=True)

    def read(self, layer: int, device: torch.device) -> tuple[Tensor, ...]:
        return tuple(each.to(device, non_blocking=True) for each in self.layers[layer])


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

    def conditioners(self) -> list[Conditioner]:
        """All of them, both ways."""
        return [*self.audio_to_video_conditioners, *self.video_to_audio_conditioners]

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
        return video, self.audio_rotary(audio_tokens, device)

    def audio_rotary(self, audio_tokens: int, device: torch.device) -> Tensor:
        return time_rotary(tuple(map(float, range(audio_tokens))), 1, self.config.head_dim, device)

    def forward(
        self,
        layer: int,
        video: Tensor,
        audio: Tensor,
        rotary: tuple[Tensor, Tensor],
        memory: PictureMemory | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both token streams after each has read the other's state from before the layer.

        What the audio reads of the picture is written into a `memory`.
        """
        video_rotary, audio_rotary = rotary
        listen = self.video_to_audio_conditioners[layer]
        if memory is None:
            heard = listen(audio, video, audio_rotary, video_rotary)
        else:
            keys_values = listen.read(video, video_rotary)
            memory.write(layer, keys_values)
            heard = listen.answer(audio, audio_rotary, *keys_values)
        return self.audio_to_video_conditioners[layer](video, audio, video_rotary, audio_rotary), heard
