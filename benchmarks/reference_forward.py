"""The joint forward written out as in the paper, one operation at a time, with float64 rotary embeddings.

It shares weights with a `DualTower` and nothing else: the yardstick for its speed, and the second opinion on
its numbers in the tests.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mova.models.attention import Attention
from mova.models.dit import DiT, DiTBlock
from mova.models.dual_tower import DualTower


def rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)).to(x.dtype) * norm.weight


def turn_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Neighbouring channels of `x` [B, L, H, D] turned by `angles` [L, D/2], as complex float64 numbers."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def turn_halves(x: Tensor, angles: Tensor) -> Tensor:
    """Channel i and i + D/2 of `x` [B, L, H, D] turned by `angles` [L, D/2]."""
    cos, sin = (wave(angles).to(x.dtype)[:, None] for wave in (torch.cos, torch.sin))
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def rates(width: int, device: torch.device) -> Tensor:
    return 1 / 10000 ** (torch.arange(0, width, 2, device=device, dtype=torch.float64) / width)


def attention(layer: Attention, x: Tensor, y: Tensor, turn: object = None, at: tuple = ()) -> Tensor:
    q, k, v = rms_norm(layer.q(x), layer.norm_q), rms_norm(layer.k(y), layer.norm_k), layer.v(y)
    q, k, v = (t.unflatten(-1, (layer.num_heads, -1)) for t in (q, k, v))
    if turn is not None:
        q, k = turn(q, at[0]), turn(k, at[1])
    out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return layer.o(out.transpose(1, 2).flatten(-2))


def block(layer: DiTBlock, x: Tensor, text: Tensor, modulation: Tensor, angles: Tensor) -> Tensor:
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (layer.modulation + modulation).chunk(6, dim=1)
    normed = layer.norm1(x) * (1 + scale) + shift
    x = x + gate * attention(layer.self_attn, normed, normed, turn_pairs, (angles, angles))
    x = x + attention(layer.cross_attn, layer.norm3(x), text)
    return x + ffn_gate * layer.ffn(layer.norm2(x) * (1 + ffn_scale) + ffn_shift)


def embed_time(tower: DiT, timestep: Tensor) -> tuple[Tensor, Tensor]:
    half = tower.config.freq_dim // 2
    angles = timestep.double()[:, None] * 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
    wave = torch.cat((angles.cos(), angles.sin()), dim=-1).float().to(tower.head.modulation.device)
    first, second, projection = tower.time_embedding[0], tower.time_embedding[2], tower.time_projection[1]
    linear = [(layer.weight.float(), layer.bias.float()) for layer in (first, second, projection)]
    time = F.linear(F.silu(F.linear(wave, *linear[0])), *linear[1])
    modulation = F.linear(F.silu(time), *linear[2]).unflatten(-1, (6, -1))
    return time.to(first.weight.dtype), modulation.to(first.weight.dtype)


def head(tower: DiT, x: Tensor, time: Tensor) -> Tensor:
    shift, scale = (tower.head.modulation + time[:, None]).chunk(2, dim=1)
    return tower.head.head(tower.head.norm(x) * (1 + scale) + shift).float()


def forward(
    tower: DualTower,
    video_latents: Tensor,
    audio_latents: Tensor,
    video_timestep: Tensor,
    audio_timestep: Tensor,
    text: Tensor,
    frame_rate: float,
    use_bridge: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute the same as `DualTower.forward`, from the same arguments."""
    video_dit, audio_dit, bridge = tower.video_dit, tower.audio_dit, tower.dual_tower_bridge
    dtype, device = video_dit.head.modulation.dtype, video_latents.device
    video = video_dit.patch_embedding(video_latents.to(dtype))
    frames, rows, columns = video.shape[2:]
    video, audio = video.flatten(2).mT, audio_dit.patch_embedding(audio_latents.to(dtype)).mT
    video_time, video_modulation = embed_time(video_dit, video_timestep)
    audio_time, audio_modulation = embed_time(audio_dit, audio_timestep)
    video_text, audio_text = (t.text_embedding(text.to(dtype)) for t in (video_dit, audio_dit))

    i, j, k = (
        index.flatten()
        for index in torch.meshgrid(*map(torch.arange, (frames, rows, columns)), indexing="ij")
    )
    i, j, k = (index.to(device).double()[:, None] for index in (i, j, k))
    width = video_dit.head_dim
    widths = (width - 2 * (width // 3), width // 3, width // 3)
    axes = zip((i, j, k), widths, strict=True)
    video_angles = torch.cat([index * rates(width, device) for index, width in axes], dim=-1)
    steps = torch.arange(audio.shape[1], device=device).double()[:, None]
    audio_angles = steps * rates(audio_dit.head_dim, device)
    shared = rates(bridge.config.head_dim, device)
    video_at, audio_at = i * (bridge.config.audio_fps * 4 / frame_rate) * shared, steps * shared

    for n in range(tower.num_layers):
        if use_bridge and n < len(bridge):
            to_video, to_audio = bridge.audio_to_video_conditioners[n], bridge.video_to_audio_conditioners[n]
            heard = attention(
                to_video.inner, video, to_video.y_norm(audio), turn_halves, (video_at, audio_at)
            )
            seen = attention(to_audio.inner, audio, to_audio.y_norm(video), turn_halves, (audio_at, video_at))
            video, audio = video + heard, audio + seen
        if n < len(video_dit.blocks):
            video = block(video_dit.blocks[n], video, video_text, video_modulation, video_angles)
        if n < len(audio_dit.blocks):
            audio = block(audio_dit.blocks[n], audio, audio_text, audio_modulation, audio_angles)

    patches = head(video_dit, video, video_time).unflatten(1, (frames, rows, columns))
    x, y, z = video_dit.config.patch_size
    patches = patches.unflatten(-1, (x, y, z, -1)).permute(0, 7, 1, 4, 2, 5, 3, 6)
    batch, channels = patches.shape[:2]
    video_velocity = patches.reshape(batch, channels, frames * x, rows * y, columns * z)
    return video_velocity, head(audio_dit, audio, audio_time).mT
