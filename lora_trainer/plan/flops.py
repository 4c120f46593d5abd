"""Floating-point operations of training, part by part, and the seconds they take on a card.

Frozen layers need the gradient of their input only, layers under a LoRA also those of its two matrices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lora_trainer.batch_sampler import expert_at
from lora_trainer.config import WITH_FFN, RunConfig, Tower
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape

# Of the rate of a forward, that of a backward pass: fitted to 97 frames at the released size on an H100.
BACKWARD_RATE = 0.65
# Operations for each pixel of each frame: the video autoencoder of base_dim 96 (counted on its convolutions),
# which on a GPU is bound by memory and reaches this share of the transformers' rate; on a CPU it was measured
# with pocket: a clip of 49 frames takes two cores 0.4 s to encode and 0.9 s to decode.
ENCODE_FLOPS, DECODE_FLOPS, CODEC_DIM, CODEC_RATE = 5.0e6, 8.5e6, 96, 0.15
CODEC_RATE_CPU = 4.4


@dataclass(frozen=True)
class Flops:
    """Operations of a part: in the forward pass and in the backward pass."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)

    @property
    def without_backward(self) -> "Flops":
        return Flops(self.forward)


@dataclass(frozen=True)
class StepFlops:
    """Operations of one micro-batch. `recomputed` is the forward of checkpointed layers once more."""

    forward: float
    recomputed: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.recomputed + self.backward

    def seconds(self, tflops: float) -> float:
        return (self.forward + self.recomputed + self.backward / BACKWARD_RATE) / (tflops * 1e12)


def training_pass(
    configs: Mapping[str, Mapping[str, Any]], shape: ClipShape, config: RunConfig, expert: str
) -> StepFlops:
    """Operations of one micro-batch of windows of this shape, with `expert` as the video tower."""
    video, audio, bridge = (configs[name] for name in (expert, "audio_dit", "dual_tower_bridge"))
    n, a, trained = shape.video_tokens, shape.audio_latents, config.towers.trained()
    sees, hears = (weight > 0 for weight in config.objective.weights)
    bridged = min(bridge["visual_layers"], bridge["audio_layers"])
    edges = ends(video, n, sees) + ends(audio, a, hears)
    layers, recomputed = Flops(), 0.0
    for index in range(max(video["num_layers"], audio["num_layers"])):
        layer = Flops()
        crossing = index < bridged
        # A stream matters to its own loss, and through later layers of the bridge to the other's.
        matters = {"video": sees or index + 1 < bridged, "audio": hears or index + 1 < bridged}
        if crossing:
            layer += conditioners(
                video["dim"], audio["dim"], n, a, trained.get("dual_tower_bridge"), index == 0, matters
            )
        for which, tower, tokens, name in (("video", video, n, expert), ("audio", audio, a, "audio_dit")):
            if index < tower["num_layers"]:
                work = block(tower, tokens, trained.get(name), index == 0)
                layer += work if matters[which] else work.without_backward
        layers += layer
        recomputed += layer.forward if layer.backward and config.run.gradient_checkpointing else 0.0
    batch = config.run.batch_size
    forward, backward = edges.forward + layers.forward, edges.backward + layers.backward
    return StepFlops(batch * forward, batch * recomputed, batch * backward)


def product(tokens: int, n_in: int, n_out: int, rank: int = 0, input_grad: bool = True) -> Flops:
    """A linear layer over `tokens`, with a LoRA of `rank` (0: none)."""
    base, down, up = (2 * tokens * size for size in (n_in * n_out, n_in * rank, rank * n_out))
    return Flops(base + down + up, (base + down if input_grad else 0) + down + 2 * up)


def attention(queries: int, keys: int, dim: int) -> Flops:
    """Two products forward; backward five, as the scores are computed again."""
    return Flops(4 * queries * keys * dim, 10 * queries * keys * dim)


def block(tower: Mapping[str, Any], tokens: int, lora: Tower | None, first: bool) -> Flops:
    dim, ffn_dim, text = tower["dim"], tower["ffn_dim"], MAX_PROMPT_TOKENS
    rank = lora.rank if lora else 0
    wide = rank if lora and lora.targets in WITH_FFN else 0
    work = attention(tokens, tokens, dim) + attention(tokens, text, dim)
    for _ in range(3):
        work += product(tokens, dim, dim, rank, input_grad=not first)
    for _ in range(3):
        work += product(tokens, dim, dim, rank)
    for _ in range(2):  # the text needs no gradient
        work += product(text, dim, dim, rank, input_grad=False)
    return work + product(tokens, dim, ffn_dim, wide) + product(tokens, ffn_dim, dim, wide)


def conditioners(
    video_dim: int,
    audio_dim: int,
    n: int,
    a: int,
    lora: Tower | None,
    first: bool,
    matters: Mapping[str, bool],
) -> Flops:
    """Both directions of one layer of the bridge."""
    works = Flops()
    for dim, context, x, y, targets, which in (
        (video_dim, audio_dim, n, a, "audio_to_video", "video"),
        (audio_dim, video_dim, a, n, "video_to_audio", "audio"),
    ):
        rank = lora.rank if lora and lora.targets in ("attention", targets) else 0
        work = attention(x, y, dim) + product(x, dim, dim, rank)
        work += product(x, dim, dim, rank, input_grad=not first)
        for _ in range(2):
            work += product(y, context, dim, rank, input_grad=not first)
        works += work if matters[which] else work.without_backward
    return works


def ends(tower: Mapping[str, Any], tokens: int, matters: bool) -> Flops:
    """Embeddings of patches, text and time, which learn nothing, and the head."""
    dim, patch = tower["dim"], 1
    for side in tower["patch_size"]:
        patch *= side
    embedded = tokens * tower["in_dim"] * patch * dim
    embedded += MAX_PROMPT_TOKENS * dim * (tower["text_dim"] + dim) + dim * (tower["freq_dim"] + 7 * dim)
    head = product(tokens, dim, tower["out_dim"] * patch)
    return Flops(2 * embedded) + (head if matters else head.without_backward)


def expert_switches(steps: int, high_share: float, hold_steps: int) -> int:
    """Number of times that an expert comes to the device in a run of `steps`."""
    order = [expert_at(step, high_share, hold_steps) for step in range(steps)]
    return 1 + sum(one != other for one, other in pairwise(order))
