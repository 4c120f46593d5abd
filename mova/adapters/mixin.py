"""LoRA adapters in a pipeline: attach, strengths by tower, fuse and take off; and out of trained towers."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from mova.adapters.files import Adapter, LoraUpdate
from mova.adapters.sources import read_adapter
from mova.adapters.strengths import TOWERS, Strength, by_tower
from mova.adapters.turbo import Turbo
from mova.errors import UserError

logger = logging.getLogger(__name__)

FUSABLE = (torch.float32, torch.float16, torch.bfloat16)


class AdapterMixin(LoraBaseMixin):
    """LoRA loading for a pipeline with MOVA's towers, with diffusers' names and meanings.

    diffusers' own `delete_adapters`, `disable_lora`, `enable_lora` and `unload_lora_weights` do the rest.
    """

    _lora_loadable_modules: ClassVar[list[str]] = list(TOWERS)

    def load_lora_weights(
        self,
        source: str | Path | Adapter,
        adapter_name: str = "default",
        expert: str | None = None,
        alpha: float | None = None,
        weight_name: str | None = None,
        **hub_options: object,
    ) -> None:
        """Attach an adapter: a file, a folder, a Hub repo id, or one that is read already.

        `weight_name` is a file in the folder or repo. Formats, `expert`, `alpha` and `hub_options` are those
        of `mova.adapters.sources.read_adapter`. The adapter loaded last is the active one; `set_adapters`
        makes several act at once.

        Raises:
            UserError: it is not an adapter for this model; the message says why. Nothing is attached then.
        """
        name = str(adapter_name)
        if name in {each for names in self.get_list_adapters().values() for each in names}:
            raise UserError(f"an adapter {name!r} is attached already; choose another adapter_name")
        source = source if weight_name is None else f"{source}/{weight_name}"
        given = isinstance(source, Adapter)
        adapter = source if given else read_adapter(source, expert, alpha, **hub_options)
        source = "the adapter" if given else source
        towers = {tower: getattr(self, tower) for tower in TOWERS}
        check_fits(adapter, towers, source)
        self._turbo[name] = adapter.metadata.turbo
        self._silent.discard(name)
        for tower, model in towers.items():
            if layers := adapter.tower(tower):
                attach(model, layers, name)
        logger.info("attached %s: %d modules", source, len(adapter.layers))

    def set_adapters(
        self, adapter_names: str | list[str], adapter_weights: Strength | list[Strength | None] | None = None
    ) -> None:
        """Make these adapters, and no others, act; each with a strength, or strengths by tower.

        Towers go by their names or by those of `strengths.PARTS`; those not named have strength 1.

        Raises:
            UserError: there is no such adapter or tower, or a strength is out of range.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = adapter_weights if isinstance(adapter_weights, list) else [adapter_weights] * len(names)
        if len(weights) != len(names):
            raise UserError(f"{len(names)} adapters have {len(weights)} strengths; give one for each")
        attached = {each for held in self.get_list_adapters().values() for each in held}
        if missing := set(names) - attached:
            raise UserError(f"no adapter {sorted(missing)[0]!r} is attached; there are {sorted(attached)}")
        strengths = [
            by_tower(1.0 if weight is None else weight, name)
            for name, weight in zip(names, weights, strict=True)
        ]
        self._silent.clear()
        self._silent.update(
            name for name, strength in zip(names, strengths, strict=True) if not any(strength.values())
        )
        for tower in TOWERS:
            getattr(self, tower).set_adapters(names, [strength[tower] for strength in strengths])

    def check_turbo(
        self,
        scales: Mapping[str, float | None],
        steps: int,
        shifts: tuple[float | None, float | None],
        solver: str,
        shift: float,
    ) -> tuple[str, ...]:
        """Sentences about few-step adapters that act on a run with another schedule than they learnt.

        `scales` are the guidance scales by their arguments' names, the rest as for `Turbo.other_schedule`.

        Raises:
            UserError: such an adapter acts and a scale is not 1.
        """
        notes = []
        for name, turbo in self._turbo.items():
            if turbo is not None and name in self._acting:
                turbo.check_guidance(scales, "a few-step adapter")
                notes.append(turbo.other_schedule("a few-step adapter", steps, shifts, solver, shift))
        return tuple(note for note in notes if note)

    @property
    def _acting(self) -> set[str]:
        """Names of the adapters that change the towers."""
        layers = (layer for tower in TOWERS for _, layer in lora_layers(getattr(self, tower)))
        names = {name for layer in layers if not layer.disable_adapters for name in layer.active_adapters}
        return names - self._silent

    @property
    def _turbo(self) -> dict[str, Turbo | None]:
        """Schedules of few-step adapters by name."""
        return self.__dict__.setdefault("_turbo_adapters", {})

    @property
    def _silent(self) -> set[str]:
        """Names of the adapters whose strength is 0 in all towers."""
        return self.__dict__.setdefault("_silent_adapters", set())

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = True,  # noqa: ARG002 - the library's argument; see below
        adapter_names: list[str] | None = None,
    ) -> None:
        """Add the active adapters (or those named) to the weights of all towers, or of `components`.

        A forward then costs what the base model's does. The weights as they were are kept, in host memory
        if they were on another device, so that `unfuse_lora` restores every bit, even after
        `unload_lora_weights`. NaN in the sum is refused whatever `safe_fusing` says.

        Raises:
            UserError: the weights are stored in 8 bits or streamed, or are fused already.
        """
        towers = list(components or TOWERS)
        layers = {
            (tower, path): layer for tower in towers for path, layer in lora_layers(getattr(self, tower))
        }
        self._check_fusable(layers)
        scalings = {key: dict(layer.scaling) for key, layer in layers.items()}
        for key, layer in layers.items():
            weight = layer.get_base_layer().weight.data
            self._unfused[key] = weight if weight.device.type == "cpu" else weight.cpu()
        # With safe_fusing peft sums into a copy; otherwise it would write into the weights that are kept.
        super().fuse_lora(towers, lora_scale, safe_fusing=True, adapter_names=adapter_names)
        for key, layer in layers.items():  # the library leaves lora_scale in them
            layer.scaling.update(scalings[key])

    def unfuse_lora(self, components: list[str] | None = None) -> None:
        """Give all towers, or `components`, the very weights back that they had before `fuse_lora`."""
        towers = list(components or TOWERS)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already unmerged")
            super().unfuse_lora(towers)
        for tower, path in [key for key in self._unfused if key[0] in towers]:
            weight = base_layer(getattr(self, tower).get_submodule(path)).weight
            weight.data = self._unfused.pop((tower, path)).to(weight.device)

    @property
    def _unfused(self) -> dict[tuple[str, str], Tensor]:
        """Weights before they were fused, by tower and path."""
        return self.__dict__.setdefault("_unfused_weights", {})

    def _check_fusable(self, layers: Mapping[tuple[str, str], LoraLayer]) -> None:
        if not layers:
            raise UserError("no adapter is attached to these towers; call load_lora_weights first")
        if not self.residency.weights_may_change:
            raise UserError(
                "the layers are streamed from packed copies, which fusing would miss; fuse before placing "
                "the pipeline, or leave the adapter attached"
            )
        for (tower, path), layer in layers.items():
            weight = layer.get_base_layer().weight
            if weight.dtype not in FUSABLE or type(weight.data) is not Tensor:
                raise UserError(
                    f"{tower}.{path} is stored as {weight.dtype}, too coarse to add an adapter to; leave the "
                    "adapter attached, or load without 8-bit storage"
                )
            if (tower, path) in self._unfused:
                raise UserError(f"{tower} is fused already; call unfuse_lora first")


def attach(model: nn.Module, layers: Mapping[str, LoraUpdate], adapter_name: str) -> None:
    """Put the layers into a tower through peft, in the tower's type; their scale goes into `up`."""
    state, dtype = {}, model.dtype  # asking walks through all parameters
    for path, lora in layers.items():
        state[f"{path}.lora_A.weight"] = lora.down.to(dtype)
        state[f"{path}.lora_B.weight"] = (lora.up.float() * lora.scale).to(dtype)
    ranks = {path: lora.rank for path, lora in layers.items()}
    ((usual, _),) = Counter(ranks.values()).most_common(1)
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    config = {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": list(layers),
    }
    with warnings.catch_warnings():  # peft wonders at a second adapter, which is meant
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        model.load_lora_adapter(state, prefix=None, adapter_name=adapter_name, metadata=config)
    model.requires_grad_(False)
    # peft creates them in the layer's type; where that is 8 bits it would round them.
    for path, layer in lora_layers(model):
        if path in layers:
            for half, module in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
                parameter = module[adapter_name].weight
                parameter.data = state[f"{path}.{half}.weight"].to(parameter.device)


def check_fits(adapter: Adapter, towers: Mapping[str, nn.Module], source: object) -> None:
    """Raise UserError unless every module of the adapter is a linear layer of that shape in its tower."""
    modules = {tower: dict(model.named_modules()) for tower, model in towers.items()}
    for module, lora in adapter.layers.items():
        tower, _, path = module.partition(".")
        layer = modules[tower].get(path)
        layer = layer if layer is None else base_layer(layer)
        if not isinstance(layer, nn.Linear):
            raise UserError(f"{source}: this model has no linear layer {module}")
        expected, given = (layer.out_features, layer.in_features), (lora.up.shape[0], lora.down.shape[1])
        if given != expected:
            raise UserError(
                f"{source}: {module} is for a layer {given[0]}x{given[1]}, this one is {expected}"
            )


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The layers of a tower that carry adapters, by path."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            yield path, module


def active_adapters(towers: Mapping[str, nn.Module]) -> dict[str, list[tuple[str, float]]]:
    """The adapters that act in each tower, with the factors on their updates."""
    return {
        tower: sorted(
            {
                (name, float(layer.scaling[name]))
                for _, layer in lora_layers(towers[tower])
                for name in layer.active_adapters
                if name in layer.scaling and not layer.disable_adapters
            }
        )
        for tower in TOWERS
    }


def base_layer(layer: nn.Module) -> nn.Module:
    """The layer itself, also under adapters."""
    return layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
