"""Bytes that a training run will take: on the device by part, in host memory, on the disk.

All of it is counted from modules on the meta device and from what the engine keeps, so no weights are needed.
"""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from lora_trainer.config import EXPERTS, WITH_FFN, RunConfig, Tower
from lora_trainer.distributed import GATHERED
from lora_trainer.lora import target_layers
from lora_trainer.quantised import BASES, LAYER, held_bytes, linear_layers
from mova import checkpoint
from mova.adapters.strengths import TOWERS
from mova.machine import DTYPES, GIB
from mova.offload import SLOTS
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape

WORKSPACE = GIB // 2  # kernels' scratch, inputs, the head's output
PROCESS = 4 * GIB  # host memory of Python, torch and the CUDA context
HEADER = 1024  # bytes of a cached file besides its tensors
# Bytes that an optimizer keeps for each weight, besides weight and gradient. Prodigy also keeps the start of
# those that do not start at zero, which are about half.
STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "schedule_free": 8, "prodigy": 14}
Sizes = dict[str, int]  # bytes by part


def build_towers(folder: Path) -> dict[str, nn.Module]:
    """The towers that a checkpoint's configs describe, without weights. Raises UserError."""
    with torch.device("meta"):
        return {name: checkpoint.build(name, folder / name) for name in TOWERS}


def device_memory(
    towers: Mapping[str, nn.Module], shape: ClipShape, config: RunConfig, dtype: str, processes: int = 1
) -> Sizes:
    """Peak bytes on the device: while the last layer's gradients are computed, or at the update."""
    width, run = DTYPES[dtype], config.run
    lora = lora_parameters(towers, config)
    shared = sum(count for name, count in lora.items() if name not in EXPERTS)
    active = shared + max((lora.get(name, 0) for name in EXPERTS), default=0)
    count = sum(lora.values())
    kept = {
        **frozen_on_device(towers, config, width, processes),
        "LoRA in the layers": count * width,
        "LoRA in float32": count * 4,
        "optimizer": count * STATE_BYTES[config.optimizer.name],
        "average (EMA)": count * 4 if run.ema_decay else 0,
    }
    between, inside, passing = activations(towers, shape, config)
    backward = {
        "gradients": active * (width + (4 if run.accumulation > 1 else 0)),
        "activations between layers": between * width,
        "activations inside layers": inside * width,
        "gradients of activations": passing * width,
        "weights widened": widened(towers, config, width),
        "workspace": WORKSPACE,
    }
    # Copies from before the step, differences, and the optimizer's own intermediates.
    update = {"gradients": active * 4, "copies at the update": active * 12, "workspace": WORKSPACE}
    peak = max(backward, update, key=lambda part: sum(part.values()))
    return {name: size for name, size in (kept | peak).items() if size}


def lora_parameters(towers: Mapping[str, nn.Module], config: RunConfig) -> Sizes:
    """LoRA weights of each trained tower (a count, not bytes)."""
    return {
        name: sum(
            tower.rank * (layer.in_features + layer.out_features)
            for layer in target_layers(name, towers[name], tower).values()
        )
        for name, tower in config.towers.trained().items()
    }


def stored_bytes(towers: Mapping[str, nn.Module], name: str, config: RunConfig, width: int) -> Sizes:
    """Bytes of each frozen tensor of a tower, by path, as `run.base` holds it."""
    model, base = towers[name], config.run.base
    sizes = {path: parameter.numel() * width for path, parameter in model.named_parameters()}
    tower = config.towers.trained().get(name)
    if base == "fp8" and tower is not None:
        for path, layer in repeated_targets(name, model, tower).items():
            sizes |= {f"{path}.{key}": parameter.numel() for key, parameter in layer.named_parameters()}
    if base in BASES:
        for path, layer in linear_layers(model).items():
            del sizes[f"{path}.weight"]
            sizes |= {f"{path}.{key}": size for key, size in held_bytes(layer, base).items()}
    return sizes


def repeated_targets(name: str, model: nn.Module, tower: Tower) -> dict[str, nn.Linear]:
    """The layers under a tower's LoRA that `run.base` fp8 holds in 8 bits."""
    return {path: layer for path, layer in target_layers(name, model, tower).items() if LAYER.match(path)}


def frozen_bytes(towers: Mapping[str, nn.Module], name: str, config: RunConfig, width: int) -> int:
    return sum(stored_bytes(towers, name, config, width).values())


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def frozen_on_device(
    towers: Mapping[str, nn.Module], config: RunConfig, width: int, processes: int = 1
) -> Sizes:
    sizes = {name: frozen_bytes(towers, name, config, width) for name in TOWERS}
    if config.run.offload == "none":
        return sizes
    shared = {name: size for name, size in sizes.items() if name not in EXPERTS}
    if config.run.offload == "experts":
        return {"one video expert": max(sizes[name] for name in EXPERTS)} | shared
    rest, *videos = (layer_sizes(towers, part, config, width) for part in ("shared", *EXPERTS))
    layers, largest = sum(map(sum, (rest, *videos))), max(videos[0]) + max(rest)
    outside = {"embeddings and heads": sum(sizes.values()) - layers}
    if config.run.offload == "shards":
        own = {f"one of {processes} parts of all layers": -(-layers // processes)}
        return own | {f"{GATHERED} layers, gathered": GATHERED * largest} | outside
    return {f"{SLOTS} layers, streamed": SLOTS * largest} | outside


def layer_sizes(towers: Mapping[str, nn.Module], part: str, config: RunConfig, width: int) -> list[int]:
    """Bytes of each layer of an expert, or of what both experts share (audio block and bridge)."""
    layers = [0] * max(len(towers[name].blocks) for name in (EXPERTS[0], "audio_dit"))
    for name in ("audio_dit", "dual_tower_bridge") if part == "shared" else (part,):
        for path, size in stored_bytes(towers, name, config, width).items():
            if found := LAYER.match(path):
                layers[int(found["index"])] += size
    return layers


def activations(towers: Mapping[str, nn.Module], shape: ClipShape, config: RunConfig) -> tuple[int, int, int]:
    """Numbers kept for the backward pass: (between layers, inside layers, gradients of activations).

    With checkpointing one layer's inside is there at a time. What is counted is what autograd saves of each
    operation: frozen layers save no input, those under a LoRA do.
    """
    video, audio = towers[EXPERTS[0]].config, towers["audio_dit"].config
    n, a, batch = shape.video_tokens, shape.audio_latents, config.run.batch_size
    trained = config.towers.trained()
    expert = max((trained.get(name) for name in EXPERTS), key=lambda tower: tower.rank if tower else 0)
    blocks = saved_in_block(video.dim, video.ffn_dim, n, expert)
    both = blocks + saved_in_block(audio.dim, audio.ffn_dim, a, trained.get("audio_dit"))
    both += saved_in_bridge(video.dim, audio.dim, n, a, trained.get("dual_tower_bridge"))
    layers, bridged = video.num_layers, len(towers["dual_tower_bridge"])
    inside = both if config.run.gradient_checkpointing else both * bridged + blocks * (layers - bridged)
    between = layers * n * video.dim + min(layers, audio.num_layers) * a * audio.dim
    passing = 2 * n * (video.dim + video.ffn_dim)
    return batch * between, batch * inside, batch * passing


def saved_in_block(dim: int, ffn_dim: int, tokens: int, lora: Tower | None) -> int:
    states = 1 + 6 + 1 + 3 + 1  # norm's input; q, k, v and attention; norm; text's q and attention; norm
    wide, narrow = 1, 0  # states of the feed-forward's width; of the rank
    if lora is not None:
        states, narrow = states + 2, 6 * lora.rank  # inputs of q, k, v of both attentions
        if lora.targets in WITH_FFN:
            states, wide, narrow = states + 1, 2, narrow + 2 * lora.rank
    text = 3 * MAX_PROMPT_TOKENS * dim  # the text's k, normed k, v
    return tokens * (states * dim + wide * ffn_dim + narrow) + text


def saved_in_bridge(video_dim: int, audio_dim: int, n: int, a: int, lora: Tower | None) -> int:
    to_video = 3 * n * video_dim + 3 * a * video_dim
    to_audio = 3 * a * audio_dim + 3 * n * audio_dim
    if lora is not None:
        to_video += a * audio_dim + 2 * (n + a) * lora.rank if lora.targets != "video_to_audio" else 0
        to_audio += n * video_dim + 2 * (n + a) * lora.rank if lora.targets != "audio_to_video" else 0
    return to_video + to_audio


def widened(towers: Mapping[str, nn.Module], config: RunConfig, width: int) -> int:
    """Bytes of small layers in their computing dtype: fp8's, which autograd keeps, or one of the others'."""
    if config.run.base == "plain":
        return 0
    if config.run.base in BASES:
        layers = (linear_layers(model).values() for model in towers.values())
        return max(layer.weight.numel() for layer in chain.from_iterable(layers)) * width
    trained = config.towers.trained()
    sizes = [
        sum(map(size_of, repeated_targets(name, towers[name], tower).values()))
        for name, tower in trained.items()
        if name != EXPERTS[1] or EXPERTS[0] not in trained
    ]
    layers = len(towers[EXPERTS[0]].blocks) if config.run.gradient_checkpointing else 1
    return sum(sizes) * width // layers


def host_memory(towers: Mapping[str, nn.Module], config: RunConfig, dtype: str, on_gpu: bool) -> Sizes:
    """Bytes of host memory; a CPU's weights are counted on the device."""
    width, run = DTYPES[dtype], config.run
    sizes = {"process": PROCESS}
    if run.offload == "experts" and on_gpu:
        frozen = (stored_bytes(towers, name, config, width).values() for name in EXPERTS)
        sizes["video experts, pinned"] = sum(map(pinned, chain.from_iterable(frozen)))
    elif run.offload == "layers":
        parts = (layer_sizes(towers, part, config, width) for part in ("shared", *EXPERTS))
        packed = list(chain.from_iterable(parts))
        sizes["layers, pinned" if on_gpu else "layers"] = sum(map(pinned if on_gpu else int, packed))
    return sizes


def pinned(size: int) -> int:
    """Bytes that torch's allocator of pinned memory takes for `size` bytes: the next power of two."""
    return 1 << (size - 1).bit_length() if size else 0


def disk_space(lora: Sizes, config: RunConfig, dtype: str, more: int = 0) -> Sizes:
    """Bytes on the disk besides the cache: checkpoints (a new one before the oldest goes), adapter.

    `more` are those of a checkpoint that are not the LoRA's.
    """
    count = sum(lora.values())
    adapter = count * DTYPES[dtype]
    average = 4 if config.run.ema_decay else 0
    state = count * (4 + STATE_BYTES[config.optimizer.name] + average) + adapter + more
    saved = min(config.run.keep_checkpoints + 1, max(1, config.run.steps // config.run.checkpoint_every))
    return {"checkpoints": saved * state, "adapter": adapter}


def window_bytes(shape: ClipShape, video_channels: int, audio_channels: int) -> int:
    """Bytes of one window's tensors in the cache: latents, condition (4 channels more), sound, float32."""
    grid = shape.latent_frames * shape.latent_height * shape.latent_width
    return 4 * ((2 * video_channels + 4) * grid + audio_channels * shape.audio_latents) + HEADER
