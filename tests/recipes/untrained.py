"""An untrained checkpoint of pocket's classes, small enough to make clips of full length within seconds."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan

from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler
from recipes.pocket.new_concepts.clips import render_new_concept
from recipes.pocket.training import models
from recipes.pocket.world.clip import NEW_CONCEPTS


def write_untrained(folder: Path, speech: Path) -> Path:
    """Pocket's own text encoder and strides, one layer of narrow towers, thin autoencoders."""
    torch.manual_seed(0)
    text = {"text_dim": models.TEXT_DIM, "freq_dim": 32, "eps": 1e-6, "num_layers": 2}
    video = dict(dim=24, in_dim=36, ffn_dim=24, out_dim=16, patch_size=[1, 2, 2], num_heads=2)
    captions = [render_new_concept(seed, kind, speech).caption for seed in range(4) for kind in NEW_CONCEPTS]
    sizes = {"visual_layers": 2, "audio_layers": 2, "visual_hidden_dim": 24, "audio_hidden_dim": 24}
    MOVAPipeline(
        video_dit=VideoDiT(**video, **text),
        video_dit_2=VideoDiT(**video, **text),
        audio_dit=AudioDiT(dim=24, in_dim=8, ffn_dim=24, out_dim=8, patch_size=[1], num_heads=2, **text),
        dual_tower_bridge=Bridge(**sizes, audio_fps=50.0, head_dim=12),
        video_vae=AutoencoderKLWan(
            base_dim=2,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=0,
            latents_mean=[0.0] * 16,
            latents_std=[1.0] * 16,
        ),
        audio_vae=AudioVAE(
            encoder_dim=4,
            encoder_rates=models.AUDIO_RATES,
            latent_dim=8,
            decoder_dim=32,
            decoder_rates=models.AUDIO_RATES[::-1],
            sample_rate=16000,
        ),
        text_encoder=models.build_text_encoder(),
        tokenizer=models.train_tokenizer(captions, folder / "vocabulary"),
        scheduler=PairScheduler(num_train_timesteps=1000, shift=models.SHIFT),
        boundary_ratio=models.BOUNDARY_RATIO,
    ).save_pretrained(folder / "model")
    return folder / "model"
