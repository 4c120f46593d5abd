"""Adapters made of adapters: parts left out, strengths written in, several summed into one."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mova.adapters.files import MAX_RANK, Adapter, AdapterMetadata, LoraUpdate
from mova.adapters.strengths import Strength, by_tower, find_towers
from mova.errors import UserError


def strip(adapter: Adapter, parts: Iterable[str]) -> Adapter:
    """Without the towers that `parts` ("audio", "high", ...) name.

    Raises:
        UserError: nothing would be left, or a part is none or has nothing to leave out.
    """
    gone = set()
    for part in parts:
        towers = find_towers(part)
        if not any(adapter.tower(tower) for tower in towers):
            raise UserError(f"the adapter has nothing for {part}; it is for {', '.join(towers_of(adapter))}")
        gone |= set(towers)
    layers = {key: lora for key, lora in adapter.layers.items() if key.partition(".")[0] not in gone}
    if not layers:
        raise UserError("nothing of the adapter would be left; leave out less")
    return replace(adapter, layers=layers)


def scale(adapter: Adapter, strength: Strength) -> Adapter:
    """With its strength written in: alpha is multiplied, the matrices stay as they are.

    Raises:
        UserError: a tower's strength is 0 (leave that tower out instead), or out of range.
    """
    strengths = by_tower(strength)
    layers = {}
    for key, lora in adapter.layers.items():
        tower = key.partition(".")[0]
        if strengths[tower] == 0:
            raise UserError(f"strength 0 takes {tower} out; use strip for that")
        layers[key] = replace(lora, alpha=lora.alpha * strengths[tower])
    return replace(adapter, layers=layers)


def merge(adapters: list[tuple[Adapter, Strength]], rank: int | None = None) -> Adapter:
    """One adapter that acts as these do together at these strengths.

    Ranks add up, and the sum is exact but for rounding. `rank` cuts every layer to the nearest update of
    that rank (truncated SVD, optimal in the squared error).

    Raises:
        UserError: a rank would be over 256, layers have different sizes, or nothing is left.
    """
    parts: dict[str, list[tuple[LoraUpdate, float]]] = {}
    for adapter, strength in adapters:
        strengths = by_tower(strength)
        for key, lora in adapter.layers.items():
            factor = strengths[key.partition(".")[0]] * lora.scale
            if factor:
                parts.setdefault(key, []).append((lora, factor))
    if not parts:
        raise UserError("every strength is 0, so nothing is left to merge")
    layers = {key: join(key, each, rank) for key, each in parts.items()}
    words = [word for adapter, _ in adapters for word in adapter.metadata.trigger_words]
    bases = {adapter.metadata.base_model for adapter, _ in adapters} - {""}
    recipe = {"merged": [adapter.metadata.recipe for adapter, _ in adapters]}
    turbos = {adapter.metadata.turbo for adapter, _ in adapters} - {None}
    if len(turbos) > 1:
        raise UserError("two of the adapters have learnt different steps; merge one of them at a time")
    base = " + ".join(sorted(bases))
    card = AdapterMetadata(base, tuple(dict.fromkeys(words)), recipe, next(iter(turbos), None))
    return Adapter(layers, card)


def join(key: str, parts: list[tuple[LoraUpdate, float]], rank: int | None) -> LoraUpdate:
    """The sum of some updates of one layer, as an update of scale 1."""
    if len({(lora.up.shape[0], lora.down.shape[1]) for lora, _ in parts}) > 1:
        raise UserError(f"{key} has different sizes in the adapters; they are for different models")
    kinds = {lora.down.dtype for lora, _ in parts}
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    down = torch.cat([lora.down.float() for lora, _ in parts])  # [sum of ranks, in]
    up = torch.cat([lora.up.float() * factor for lora, factor in parts], dim=1)  # [out, sum of ranks]
    if rank is not None and rank < down.shape[0]:
        up, down = truncate(up, down, rank)
    if down.shape[0] > MAX_RANK:
        raise UserError(f"{key} would have rank {down.shape[0]}, over {MAX_RANK}; cut it with a rank")
    return LoraUpdate(down.to(kind), up.to(kind), alpha=float(down.shape[0]))


def truncate(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The matrices of rank `rank` whose product is nearest to up @ down; the product is never formed."""
    up_basis, up_rest = torch.linalg.qr(up)
    down_basis, down_rest = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(up_rest @ down_rest.T)
    root = s[:rank].sqrt()
    return up_basis @ u[:, :rank] * root, (root[:, None] * v[:rank]) @ down_basis.T


def towers_of(adapter: Adapter) -> Mapping[str, int]:
    """The number of layers by tower, for those that have any."""
    counts: dict[str, int] = {}
    for key in adapter.layers:
        tower = key.partition(".")[0]
        counts[tower] = counts.get(tower, 0) + 1
    return counts
