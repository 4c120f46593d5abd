"""The released configs with random weights: right for speed and memory, silent about quality."""

import math
import re

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from mova.catalog import POCKET
from mova.checkpoint import load_tokenizer
from mova.models.audio_vae import AudioVAE
from mova.models.bridge import Bridge
from mova.models.dit import AudioDiT, VideoDiT
from mova.models.dual_tower import DualTower
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler

VIDEO_DIT = {
    "dim": 5120,
    "in_dim": 36,
    "ffn_dim": 13824,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "eps": 1e-6,
    "patch_size": [1, 2, 2],
    "num_heads": 40,
    "num_layers": 40,
}
AUDIO_DIT = {
    "dim": 1536,
    "in_dim": 128,
    "ffn_dim": 8960,
    "out_dim": 128,
    "text_dim": 4096,
    "freq_dim": 256,
    "eps": 1e-6,
    "patch_size": [1],
    "num_heads": 12,
    "num_layers": 30,
}
BRIDGE = {
    "visual_layers": 40,
    "audio_layers": 30,
    "visual_hidden_dim": 5120,
    "audio_hidden_dim": 1536,
    "audio_fps": 50.0,
    "head_dim": 128,
}
AUDIO_VAE = {
    "encoder_dim": 128,
    "encoder_rates": [2, 3, 4, 5, 8],
    "latent_dim": 128,
    "decoder_dim": 2048,
    "decoder_rates": [8, 5, 4, 3, 2],
    "sample_rate": 48000,
}

TEXT_ENCODER = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 256384,
    "feed_forward_proj": "gated-gelu",
}

LAYER = re.compile(r"^(blocks|(?:audio_to_video|video_to_audio)_conditioners)\.\d+\.")


def random_weights(module: nn.Module, device: str, dtype: torch.dtype) -> nn.Module:
    """Fill a meta `module` on `device`: matrices of unit gain, norms of one, small biases."""
    module.to(dtype).to_empty(device=device).requires_grad_(False)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0) if "norm" in name and name.endswith("weight") else parameter.normal_(
                std=0.02
            )
        else:
            parameter.normal_(std=1 / math.sqrt(parameter[0].numel()))
    return module.eval()


def build(cls: type, config: dict, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    with torch.device("meta"):
        module = cls(**config)
    return random_weights(module, device, dtype)


def draw_repeating(cls: type, config: dict, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights, on the host, of a module with one layer; pinned if `device` is a GPU."""
    one = config | {key: 1 for key in ("num_layers", "visual_layers", "audio_layers") if key in config}
    weights = build(cls, one, str(device), dtype).state_dict()
    if device.type == "cuda":
        return {name: tensor.cpu().pin_memory() for name, tensor in weights.items()}
    return weights


def build_repeating(cls: type, config: dict, weights: dict[str, Tensor]) -> nn.Module:
    """A module all of whose layers are those of `draw_repeating`: parameters of their own on its memory."""
    with torch.device("meta"):
        module = cls(**config)
    named = {name: weights[LAYER.sub(r"\1.0.", name)] for name in module.state_dict()}
    module.load_state_dict(named, assign=True)
    return module.requires_grad_(False).eval()


def dual_tower(device: str = "cuda") -> DualTower:
    return DualTower(
        build(VideoDiT, VIDEO_DIT, device), build(AudioDiT, AUDIO_DIT, device), build(Bridge, BRIDGE, device)
    )


def audio_vae(device: str = "cuda") -> AudioVAE:
    return build(AudioVAE, AUDIO_VAE, device, torch.float32)


def pipeline(device: str = "cuda") -> MOVAPipeline:
    """All components of a release, 78 GB, on the device; the tokenizer, of no matter here, is pocket's."""
    with torch.device("meta"):
        text_encoder = UMT5EncoderModel(UMT5Config(**TEXT_ENCODER))
    random_weights(text_encoder, device, torch.bfloat16)
    text_encoder.encoder.embed_tokens.weight = text_encoder.shared.weight
    return MOVAPipeline(
        video_dit=build(VideoDiT, VIDEO_DIT, device),
        video_dit_2=build(VideoDiT, VIDEO_DIT, device),
        audio_dit=build(AudioDiT, AUDIO_DIT, device),
        dual_tower_bridge=build(Bridge, BRIDGE, device),
        video_vae=build(AutoencoderKLWan, {}, device),  # the library's defaults are Wan 2.1's
        audio_vae=audio_vae(device),
        text_encoder=text_encoder,
        tokenizer=load_tokenizer(POCKET / "tokenizer"),
        scheduler=PairScheduler(num_train_timesteps=1000, shift=5.0),
    )
