"""Small random networks of any proportions, for tests that need no golden data."""

import torch

from benchmarks.released_sizes import random_weights
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower

# The arguments of a short run of the golden model, two steps of each expert.
SHORT_RUN = {
    "prompt": "a ball falls",
    "height": 32,
    "width": 48,
    "num_frames": 5,
    "num_inference_steps": 4,
    "output_type": "latent",
}


def dual_tower(
    video_layers=3, audio_layers=2, video_heads=2, audio_heads=2, head_dim=12, bridge_head_dim=12, seed=0
) -> DualTower:
    torch.manual_seed(seed)
    common = {"text_dim": 20, "freq_dim": 32, "eps": 1e-6}
    video_dim, audio_dim = video_heads * head_dim, audio_heads * bridge_head_dim
    video = VideoDiT(
        dim=video_dim,
        in_dim=36,
        ffn_dim=40,
        out_dim=16,
        patch_size=[1, 2, 2],
        num_heads=video_heads,
        num_layers=video_layers,
        **common,
    )
    audio = AudioDiT(
        dim=audio_dim,
        in_dim=6,
        ffn_dim=28,
        out_dim=6,
        patch_size=[1],
        num_heads=audio_heads,
        num_layers=audio_layers,
        **common,
    )
    bridge = Bridge(
        visual_layers=video_layers,
        audio_layers=audio_layers,
        visual_hidden_dim=video_dim,
        audio_hidden_dim=audio_dim,
        audio_fps=50.0,
        head_dim=bridge_head_dim,
    )
    parts = [random_weights(part, "cpu", torch.float32) for part in (video, audio, bridge)]
    return DualTower(*parts)


def inputs(tower: DualTower, batch=1, grid=(3, 4, 6), audio_latents=17, frame_rate=24.0, seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator)

    return {
        "video_latents": draw(batch, 36, *grid),
        "audio_latents": draw(batch, tower.audio_dit.config.in_dim, audio_latents),
        "video_timestep": torch.rand(batch, generator=generator) * 1000,
        "audio_timestep": torch.rand(batch, generator=generator) * 1000,
        "text": draw(batch, 512, 20),
        "frame_rate": frame_rate,
    }


def relative_error(ours, reference) -> float:
    return ((ours - reference).norm() / reference.norm()).item()
