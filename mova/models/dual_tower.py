"""The one joint forward of MOVA: a video expert, the audio tower and the bridge, layer by layer.

Inference, training, offload and caching all go through `DualTower.forward`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from mova.models.bridge import Bridge, PictureMemory
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.sharding import ContextGather, HeadExchange, TokenShards

# The default order varies with the torch version; with a flash-2 kernel a forward takes 1.34x as long (H200).
ATTENTION_ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class Conditions(NamedTuple):
    """Inputs of every layer other than the two token streams. `bridge_rotary` of None skips the bridge."""

    video_text: Tensor
    video_modulation: Tensor
    video_rotary: Tensor
    audio_text: Tensor
    audio_modulation: Tensor
    audio_rotary: Tensor
    bridge_rotary: tuple[Tensor, Tensor] | None


class DualTower(nn.Module):
    """Predicts the velocities of video and audio latents together.

    `video_dit` is the active expert; assigning the other one switches. `before_layer`, when set, is called
    with each layer's index before the layer runs (with `audio_only=True` if that is without the picture): the
    place where streamed weights arrive. With `gradient_checkpointing` only the token streams between layers
    are kept for the backward pass, in which each layer runs again (and is announced again). `share_tokens`
    lets several processes run one forward.
    """

    def __init__(self, video_dit: VideoDiT, audio_dit: AudioDiT, dual_tower_bridge: Bridge) -> None:
        super().__init__()
        self.video_dit = video_dit
        self.audio_dit = audio_dit
        self.dual_tower_bridge = dual_tower_bridge
        self.before_layer: Callable[..., None] | None = None
        self.gradient_checkpointing = False
        self.shards: TokenShards | None = None

    def share_tokens(self, shards: TokenShards | None) -> None:
        """Share the picture's tokens out, from the next forward on; None ends it.

        All processes then run the forward, with the same inputs, and have the same velocities after it.
        """
        self.shards = shards
        for block in self.video_dit.blocks:
            block.self_attn.exchange = shards and HeadExchange(shards)
        for conditioner in self.dual_tower_bridge.video_to_audio_conditioners:
            conditioner.inner.exchange = shards and ContextGather(shards)

    @property
    def num_layers(self) -> int:
        return max(len(self.video_dit.blocks), len(self.audio_dit.blocks))

    def memory_bytes(self, batch: int, grid: tuple[int, int, int]) -> int:
        """Size of the `PictureMemory` of a forward with `grid` (frames, rows, columns) of latents."""
        (_, rows, columns), bridge = self.video_dit.config.patch_size, self.dual_tower_bridge
        tokens = batch * grid[0] * (grid[1] // rows) * (grid[2] // columns)
        width = self.audio_dit.config.dim * self.audio_dit.head.modulation.element_size()
        return 2 * len(bridge) * tokens * width

    def layer(self, index: int) -> list[nn.Module]:
        """The modules that layer `index` runs: bridge conditioners, video block, audio block."""
        bridge = self.dual_tower_bridge
        parts = (
            bridge.audio_to_video_conditioners,
            bridge.video_to_audio_conditioners,
            self.video_dit.blocks,
            self.audio_dit.blocks,
        )
        return [part[index] for part in parts if index < len(part)]

    def forward(
        self,
        video_latents: Tensor,
        audio_latents: Tensor,
        video_timestep: Tensor,
        audio_timestep: Tensor,
        text: Tensor,
        frame_rate: float,
        use_bridge: bool = True,
        memory: PictureMemory | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Velocities of the video [B, 16, T, H, W] and the audio [B, C, L], float32.

        `video_latents` [B, 36, T, H, W] are noise, mask and first-frame condition; `audio_latents` [B, C, L];
        the timesteps [B] are in 0..1000; `text` [B, 512, D] is zero behind the prompt. Without the bridge the
        towers do not know of each other (paper equation 6). What the audio tower reads of the picture is
        written into a `memory`, for `forward_audio`.
        """
        video_dit, audio_dit, bridge = self.video_dit, self.audio_dit, self.dual_tower_bridge
        video, video_grid = video_dit.embed_patches(video_latents)
        audio, audio_grid = audio_dit.embed_patches(audio_latents)
        video_time, video_modulation = video_dit.embed_time(video_timestep)
        audio_time, audio_modulation = audio_dit.embed_time(audio_timestep)
        video_text = video_dit.text_embedding(text.to(video.dtype))
        audio_text = audio_dit.text_embedding(text.to(audio.dtype))
        device = video.device
        video_rotary, audio_rotary = (
            video_dit.rotary(video_grid, device),
            audio_dit.rotary(audio_grid, device),
        )
        bridge_rotary = bridge.rotary(video_grid, audio_grid[0], frame_rate, device) if use_bridge else None
        if self.shards is not None:
            video, video_rotary = self.shards.split(video, 1), self.shards.split(video_rotary, 0)
            if bridge_rotary is not None:
                bridge_rotary = self.shards.split(bridge_rotary[0], 0), bridge_rotary[1]
        conditions = Conditions(
            video_text,
            video_modulation,
            video_rotary,
            audio_text,
            audio_modulation,
            audio_rotary,
            bridge_rotary,
        )
        for index in range(self.num_layers):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                video, audio = checkpoint(
                    self._run_layer, index, video, audio, conditions, use_reentrant=False
                )
            else:
                video, audio = self._run_layer(index, video, audio, conditions, memory)

        video_patches = video_dit.head(video, video_time)
        if self.shards is not None:
            video_patches = self.shards.gather(video_patches)
        return (
            video_dit.unpatchify(video_patches, video_grid),
            audio_dit.unpatchify(audio_dit.head(audio, audio_time), audio_grid),
        )

    def forward_audio(
        self, audio_latents: Tensor, audio_timestep: Tensor, text: Tensor, memory: PictureMemory | None
    ) -> Tensor:
        """Velocity of the audio [B, C, L] alone, float32: the picture is as a forward left it in `memory`.

        Without one the audio tower does not know of a picture, as without the bridge.
        """
        audio_dit, bridge = self.audio_dit, self.dual_tower_bridge
        audio, grid = audio_dit.embed_patches(audio_latents)
        time, modulation = audio_dit.embed_time(audio_timestep)
        text = audio_dit.text_embedding(text.to(audio.dtype))
        rotary = audio_dit.rotary(grid, audio.device)
        bridge_rotary = bridge.audio_rotary(grid[0], audio.device)
        with sdpa_kernel(ATTENTION_ORDER, set_priority=True):
            for index, block in enumerate(audio_dit.blocks):
                if self.before_layer is not None:
                    self.before_layer(index, audio_only=True)
                if memory is not None and index < len(bridge):
                    keys_values = memory.read(index, audio.device)
                    audio = bridge.video_to_audio_conditioners[index].answer(
                        audio, bridge_rotary, *keys_values
                    )
                audio = block(audio, text, modulation, rotary)
        return audio_dit.unpatchify(audio_dit.head(audio, time), grid)

    def _run_layer(
        self,
        index: int,
        video: Tensor,
        audio: Tensor,
        conditions: Conditions,
        memory: PictureMemory | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Both token streams after the bridge and the blocks of one layer."""
        video_text, video_modulation, video_rotary, *audio_conditions, bridge_rotary = conditions
        if self.before_layer is not None:
            self.before_layer(index)
        # Set here, so that a layer that runs again in the backward pass uses the same kernels.
        with sdpa_kernel(ATTENTION_ORDER, set_priority=True):
            if bridge_rotary is not None and index < len(self.dual_tower_bridge):
                video, audio = self.dual_tower_bridge(index, video, audio, bridge_rotary, memory)
            if index < len(self.video_dit.blocks):
                video = self.video_dit.blocks[index](video, video_text, video_modulation, video_rotary)
            if index < len(self.audio_dit.blocks):
                audio = self.audio_dit.blocks[index](audio, *audio_conditions)
        return video, audio
