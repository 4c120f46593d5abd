"""The LoRA that is trained: which layers, its weights in float32, and the file it becomes.

The layers compute in the base model's dtype. The weights that the optimizer sees are float32 copies; they are
published into the layers after each step, and gradients are collected from the layers after each backward.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.hooks import apply_layerwise_casting
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora_trainer.config import RunConfig, Tower
from lora_trainer.quantised import LAYER
from mova.adapters import files
from mova.adapters.files import AdapterMetadata
from mova.errors import UserError

NAME = "default"
ATTENTION = r"blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]"
ATTENTION_FFN = rf"{ATTENTION}|blocks\.\d+\.ffn\.[02]"
# Matched against a layer's whole path: a part of it would take layers that nobody asked for.
TARGETS = {
    "attention": ATTENTION,
    "attention_ffn": ATTENTION_FFN,
    "everything": rf"{ATTENTION_FFN}|time_projection\.1|head\.head",
    "bridge": r"(audio_to_video|video_to_audio)_conditioners\.\d+\.inner\.[qkvo]",
    "audio_to_video": r"audio_to_video_conditioners\.\d+\.inner\.[qkvo]",
    "video_to_audio": r"video_to_audio_conditioners\.\d+\.inner\.[qkvo]",
}


class TrainableLora:
    """LoRA layers in the trained towers. `weights` are float32, by "tower.path.lora_A.weight"."""

    def __init__(self, towers: Mapping[str, nn.Module], config: RunConfig) -> None:
        self.towers = dict(towers)
        self.config = config
        self.layer_weights: dict[str, nn.Parameter] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            for name, tower in config.towers.trained().items():
                attach(name, self.towers[name], tower, config)
        for name in config.towers.trained():
            for key, parameter in self.towers[name].named_parameters():
                if f".{NAME}." in key:
                    self.layer_weights[f"{name}.{key.replace(f'.{NAME}', '')}"] = parameter
        modules = [module for model in self.towers.values() for module in model.modules()]
        self.dropouts = [module.lora_dropout for module in modules if isinstance(module, LoraLayer)]
        self.weights: dict[str, nn.Parameter] = {}

    def make_weights(self) -> None:
        """Copy the layers' weights to float32, on the device where the layers have come to be."""
        self.weights = {
            key: nn.Parameter(parameter.detach().float().clone())
            for key, parameter in self.layer_weights.items()
        }

    def scale_of(self, name: str) -> float:
        """What the layers of a tower multiply their update by."""
        return next(m.scaling[NAME] for m in self.towers[name].modules() if isinstance(m, LoraLayer))

    def of_tower(self, name: str) -> dict[str, nn.Parameter]:
        return {key: weight for key, weight in self.weights.items() if key.startswith(f"{name}.")}

    def collect(self, weights: Mapping[str, nn.Parameter] | None = None) -> None:
        """Add the gradients that a backward pass left in the layers to those of `weights`, or of its own."""
        weights = weights or self.weights
        for key, parameter in self.layer_weights.items():
            if parameter.grad is not None:
                weight, gradient = weights[key], parameter.grad.float()
                weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
                parameter.grad = None

    def drop_gradients(self) -> None:
        """Forget what a broken backward pass left in the layers."""
        for parameter in self.layer_weights.values():
            parameter.grad = None

    @torch.no_grad()
    def publish(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Make the layers compute with the weights, or with `values` of the same keys."""
        values = values or self.weights
        torch._foreach_copy_([self.layer_weights[key] for key in values], list(values.values()))

    @torch.no_grad()
    def load(self, adapter: files.Adapter, source: object) -> None:
        """Start from the updates of `adapter`. Raises UserError if its layers or ranks are others."""
        for key, weight in self.weights.items():
            module, _, half = key.removesuffix(".weight").rpartition(".lora_")
            layer = adapter.layers.get(module)
            matrix = None if layer is None else layer.down if half == "A" else layer.up
            if matrix is None or matrix.shape != weight.shape:
                has = "nothing" if matrix is None else f"rank {layer.rank}"
                raise UserError(
                    f"{source} has {has} for {module}, which has rank {weight.shape[half != 'A']} here; "
                    "start from an adapter of the same layers and ranks"
                )
            scale = layer.scale / self.scale_of(module.partition(".")[0])
            weight.copy_(matrix if half == "A" else matrix * scale)
        if more := adapter.layers.keys() - {key.partition(".lora_")[0] for key in self.weights}:
            raise UserError(f"{source} has layers that this run does not train, such as {min(more)}")
        self.publish()

    @contextmanager
    def showing(self, values: Mapping[str, Tensor] | None) -> Iterator[None]:
        """The layers compute with `values` inside the context."""
        try:
            self.publish(values)
            yield
        finally:
            self.publish()

    def set_dropout(self, on: bool) -> None:
        for dropout in self.dropouts:
            dropout.train(on)

    @contextmanager
    def without(self, *names: str) -> Iterator[None]:
        """The LoRA of these towers is off inside the context."""
        layers = [m for name in names for m in self.towers[name].modules() if isinstance(m, LoraLayer)]
        try:
            for layer in layers:
                layer.enable_adapters(False)
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)


def attach(name: str, model: nn.Module, tower: Tower, config: RunConfig) -> None:
    """Put LoRA into the layers of a tower that its targets name, and set which parameters learn."""
    pattern = target_pattern(name, tower)
    if not target_layers(name, model, tower):
        raise UserError(f"{name} has no layers {tower.targets}; this checkpoint cannot be trained so")
    model.add_adapter(
        LoraConfig(
            r=tower.rank,
            lora_alpha=tower.alpha or tower.rank,
            lora_dropout=config.run.dropout,
            use_rslora=config.run.rslora,
            target_modules=pattern.pattern,
            init_lora_weights=True,
        ),
        NAME,
    )
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(f".{NAME}." in key)
    if config.run.base == "fp8":
        store_in_8_bits(model)


def target_pattern(name: str, tower: Tower) -> re.Pattern[str]:
    targets = "bridge" if (name, tower.targets) == ("dual_tower_bridge", "attention") else tower.targets
    return re.compile(TARGETS[targets])


def target_layers(name: str, model: nn.Module, tower: Tower) -> dict[str, nn.Linear]:
    """The linear layers of a tower that its LoRA goes into, by path."""
    pattern = target_pattern(name, tower)
    modules = model.named_modules()
    return {path: m for path, m in modules if isinstance(m, nn.Linear) and pattern.fullmatch(path)}


def store_in_8_bits(model: nn.Module) -> None:
    """Hold the repeated linear layers under the LoRA in 8 bits; they are widened while they run."""
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and LAYER.match(path):
            base = module.get_base_layer()
            apply_layerwise_casting(base, torch.float8_e4m3fn, base.weight.dtype, skip_modules_pattern=())


def save_adapter(
    path: Path, weights: Mapping[str, Tensor], config: RunConfig, dtype: torch.dtype, card: AdapterMetadata
) -> None:
    """Write one file for all towers, with rank, alpha and `card` in its header.

    Raises:
        UserError: there is nothing to save, or it holds NaN. BackendError: the disk is full.
    """
    layers = {}
    for key, down in weights.items():
        module, half, _ = key.rpartition(".lora_A.weight")
        if half:
            tower = getattr(config.towers, module.partition(".")[0])
            pair = (down, weights[f"{module}.lora_B.weight"])
            matrices = (matrix.detach().to("cpu", dtype) for matrix in pair)
            layers[module] = files.LoraUpdate(*matrices, float(tower.alpha or tower.rank), config.run.rslora)
    files.write_adapter(path, files.Adapter(layers, card), overwrite=True)
