"""The fastest exact kernels of a machine; see the rest below."""

import logging

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn

from mova.models.dual_tower import DualTower

logger = logging.getLogger(__name__)


def fast_attention(tower: DualTower, device: torch.device) -> str | None:
    """Give the video tower's self-attention the fastest exact kernel of the device, and name it.

    cuDNN is named because what `native` picks depends on the torch version: a flash-2 kernel takes 1.34x as long
    per forward on an H200. Text, bridge and audio attention are about 1 % of the work and stay native.
    """
    backend = "_native_cudnn" if device.type == "cuda" and _runs("_native_cudnn", device) else None
    set_attention_backend(tower.video_dit, backend)
    return backend


def set_attention_backend(video_dit, backend):
    for block in video_dit.blocks:
        block.self_attn.backend = backend


def _runs(backend: str, device: torch.device) -> bool:
    if torch.cuda.get_device_capability(device) < (8, 0):
        return False
    probe = torch.zeros(1, 128, 2, 128, dtype=torch.bfloat16, device=device)
    try:
        dispatch_attention_fn(probe, probe, probe, backend=backend)
    except (RuntimeError, ValueError) as error:
        logger.info("attention backend %s does not run here: %s", backend, error)
        return False
    return True


def compile_blocks(tower: DualTower) -> None:
    """Compile every block and bridge conditioner in place; one graph each serves all layers and both experts."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for index in range(tower.num_layers):
        for module in tower.layer(index):
            module.compile()
