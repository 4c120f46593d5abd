"""Optimizers, all of them from libraries, with one parameter group for each tower."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from lora_trainer.config import Optimizer, RunConfig
from mova.errors import UserError

LIBRARIES = {"adamw8bit": "bitsandbytes", "schedule_free": "schedulefree", "prodigy": "prodigyopt"}


def learning_rate_scale(step: float, steps: int, optimizer: Optimizer) -> float:
    """The factor on learning rates at `step` of `steps`: warm-up, then the schedule."""
    if optimizer.name == "schedule_free":  # it has its own warm-up, and no schedule by design
        return 1.0
    warmup = min(optimizer.warmup_steps, steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if optimizer.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = 1 - done if optimizer.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return optimizer.final_scale + (1 - optimizer.final_scale) * left


def build_optimizer(towers: Mapping[str, list[nn.Parameter]], config: RunConfig) -> torch.optim.Optimizer:
    """The configured optimizer over the towers' weights. Raises UserError where its library is missing."""
    settings = config.optimizer
    groups = [
        {
            "params": weights,
            "name": name,
            "lr": settings.rate * getattr(config.towers, name).learning_rate_scale,
        }
        for name, weights in towers.items()
    ]
    common = {"betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, **common)
    if settings.name == "adamw8bit":
        return library(LIBRARIES[settings.name]).optim.AdamW8bit(groups, **common)
    if settings.name == "schedule_free":
        optimizer = library(LIBRARIES[settings.name]).AdamWScheduleFree(
            groups, warmup_steps=settings.warmup_steps, **common
        )
        optimizer.train()
        return optimizer
    return library(LIBRARIES[settings.name]).Prodigy(
        groups, use_bias_correction=True, safeguard_warmup=True, **common
    )


def check_library(optimizer: str) -> None:
    """Raise UserError where the library of an optimizer is missing."""
    if optimizer in LIBRARIES:
        library(LIBRARIES[optimizer])


def library(name: str) -> ModuleType:
    """The module `name`. Raises UserError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"this needs {name}: run `pip install {name}`, or choose another setting") from error


def set_learning_rates(optimizer: torch.optim.Optimizer, config: RunConfig, scale: float) -> float:
    """Set every group's rate, `scale` of the configured one, and return the first group's."""
    settings = config.optimizer
    for group in optimizer.param_groups:
        tower = getattr(config.towers, group["name"])
        group["lr"] = settings.rate * tower.learning_rate_scale * scale
    return optimizer.param_groups[0]["lr"]


def training_state(weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What decides how the weights go on: they, the gradients they have, and the optimizer's state."""
    return {
        "weights": {key: weight.detach() for key, weight in weights.items()},
        "gradients": {key: weight.grad for key, weight in weights.items() if weight.grad is not None},
        "optimizer": optimizer.state_dict(),
    }


@torch.no_grad()
def restore_training(
    weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Put a `training_state` back."""
    for key, weight in weights.items():
        weight.copy_(state["weights"][key])
        gradient = state["gradients"].get(key)
        weight.grad = None if gradient is None else gradient.to(weight.device)
    optimizer.load_state_dict(state["optimizer"])


@contextmanager
def averaged(optimizer: torch.optim.Optimizer, settings: Optimizer) -> Iterator[None]:
    """Inside the context the weights are those to evaluate and save: schedule-free's average.

    They are restored from a copy: the library's own way back rounds, and measuring must not change a run.
    """
    if settings.name != "schedule_free":
        yield
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    held = [weight.detach().clone() for weight in weights]
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        with torch.no_grad():
            for weight, value in zip(weights, held, strict=True):
                weight.copy_(value)
