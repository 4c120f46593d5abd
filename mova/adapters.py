"""LoRA adapters: read, check, attach with a strength for each tower.

An adapter is one safetensors file whose keys are the released module names behind the tower's name
(`audio_dit.blocks.0.self_attn.q.lora_A.weight`), with alpha in the header. Upstream's folder of two `.pt`
files (`lora_weights.pt`, `lora_config.pt`) is read too, from the local disk only: they are pickles.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import ClassVar

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mova.layout import TOWERS
from mova.types import UserError

logger = logging.getLogger(__name__)

MAX_RANK = 256
MAX_BYTES = 4 * 2**30
MAX_TENSORS = 10_000


@dataclass(frozen=True)
class Adapter:
    """LoRA matrices by "tower.path.to.module": `down` [rank, in], `up` [out, rank]; scale alpha / rank."""

    down: dict[str, Tensor]
    up: dict[str, Tensor]
    alpha: float | None

    def tower(self, name: str) -> dict[str, Tensor]:
        """peft's state dict of one tower, with the scale that `alpha` asks for in `up` already."""
        state = {}
        for module, down in self.down.items():
            tower, _, path = module.partition(".")
            if tower == name:
                rank = down.shape[0]
                scale = 1.0 if self.alpha is None else self.alpha / rank
                state[f"{path}.lora_A.weight"] = down
                state[f"{path}.lora_B.weight"] = self.up[module] * scale
        return state


class AdapterMixin(LoraBaseMixin):
    """LoRA loading for a pipeline with MOVA's towers.

    diffusers' own `set_adapters(["a"], [{"audio_dit": 0.3, ...}])`, `fuse_lora`, `unfuse_lora`,
    `delete_adapters` and `unload_lora_weights` do the rest.
    """

    _lora_loadable_modules: ClassVar[list[str]] = list(TOWERS)

    def load_lora_weights(self, source: str | Path, adapter_name: str = "default") -> None:
        """Attach the adapter in `source` (a safetensors file, or upstream's folder of two `.pt` files).

        Raises:
            UserError: it is no adapter for this model; the message says why. Nothing is attached then.
        """
        adapter = read_adapter(Path(source))
        check_fits(adapter, {name: getattr(self, name) for name in TOWERS}, Path(source))
        for name in TOWERS:
            model = getattr(self, name)
            if state := adapter.tower(name):
                state = {key: tensor.to(model.dtype) for key, tensor in state.items()}
                with warnings.catch_warnings():  # peft wonders at a second adapter, which is meant
                    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                    model.load_lora_adapter(state, prefix=None, adapter_name=adapter_name)
                model.requires_grad_(False)
                # peft creates them in the layer's type; where that is 8 bits it would round them.
                for key, parameter in model.named_parameters():
                    if f".{adapter_name}." in key:
                        parameter.data = state[key.replace(f".{adapter_name}.", ".")].to(parameter.device)
        logger.info("attached %s: %d modules", source, len(adapter.down))


def read_adapter(source: Path) -> Adapter:
    """The adapter in a safetensors file or in upstream's folder.

    Raises:
        UserError: no adapter, too large, or a tensor is unpaired, no matrix, or not finite.
    """
    if (source / "lora_weights.pt").is_file():
        tensors, alpha = read_upstream(source)
    elif source.is_file() and source.suffix == ".safetensors":
        tensors, alpha = read_safetensors(source)
    else:
        raise UserError(f"{source} is no adapter; give a .safetensors file or a folder with lora_weights.pt")
    down, up = {}, {}
    for key, tensor in tensors.items():
        module, half = split_key(key, source)
        if tensor.ndim != 2 or not tensor.is_floating_point():
            raise UserError(f"{source}: {key} is {tensor.dtype} {list(tensor.shape)}, not a matrix of floats")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{source}: {key} holds NaN or infinite values; the training broke down")
        (down if half == "lora_A" else up)[module] = tensor
    if not down:
        raise UserError(f"{source} holds no LoRA matrices; the training that wrote it saved nothing")
    for module in down.keys() ^ up.keys():
        raise UserError(f"{source}: {module} has only one of its two matrices")
    return Adapter(down, up, alpha)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], float | None]:
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} has over {MAX_BYTES // 2**30} GiB, too large for an adapter")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise UserError(f"{path} holds {len(names)} tensors, too many for an adapter")
            alpha = (file.metadata() or {}).get("alpha")
            return {name: file.get_tensor(name) for name in names}, float(alpha) if alpha else None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an adapter ({error})") from error


def read_upstream(folder: Path) -> tuple[dict[str, Tensor], float | None]:
    """Upstream's accelerate format. Its `rank` may be a class name, so the matrices tell the rank."""
    try:
        tensors = torch.load(folder / "lora_weights.pt", map_location="cpu", weights_only=True)
        config = torch.load(folder / "lora_config.pt", map_location="cpu", weights_only=True)
        return dict(tensors), float(config["alpha"])
    except (OSError, UnpicklingError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} cannot be read as an upstream adapter ({error})") from error


def split_key(key: str, source: Path) -> tuple[str, str]:
    """("tower.path", "lora_A" or "lora_B") of a key; an adapter name that peft put in between is dropped."""
    parts = key.split(".")
    for half in ("lora_A", "lora_B"):
        if half in parts and parts[0] in TOWERS:
            return ".".join(parts[: parts.index(half)]), half
    raise UserError(f"{source}: {key} is no LoRA key of {', '.join(TOWERS)}")


def check_fits(adapter: Adapter, towers: Mapping[str, torch.nn.Module], source: Path) -> None:
    """Raise UserError unless every module of the adapter is a linear layer of that shape in its tower."""
    for module, down in adapter.down.items():
        tower, _, path = module.partition(".")
        layer = dict(towers[tower].named_modules()).get(path)
        if isinstance(layer, BaseTunerLayer):  # under an adapter that is attached already
            layer = layer.get_base_layer()
        if not isinstance(layer, torch.nn.Linear):
            raise UserError(f"{source}: this model has no linear layer {module}")
        rank, expected = down.shape[0], (layer.out_features, layer.in_features)
        up = adapter.up[module]
        if (up.shape[0], down.shape[1]) != expected or up.shape[1] != rank:
            raise UserError(
                f"{source}: {module} is for a layer {up.shape[0]}x{down.shape[1]}, this one is {expected}"
            )
        if rank > MAX_RANK:
            raise UserError(f"{source}: {module} has rank {rank}; up to {MAX_RANK} are accepted")
