"""The base model as training needs it: towers frozen on the device, encoders of text left out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lora_trainer.config import EXPERTS, Config
from mova.offload import Residency, WeightSwap
from mova.pipeline import MOVAPipeline
from mova.placement import Machine, preferred_dtype
from mova.types import UserError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class TrainingResidency(Residency):
    """Audio tower and bridge stay on the device, and one expert or both; autoencoders come while used.

    LoRA weights never leave the device (`pinned` holds their ids): a swap only puts frozen weights back where
    they came from, and would lose what was learnt.
    """

    def __init__(self, pipeline: MOVAPipeline, device: torch.device, one_expert: bool) -> None:
        super().__init__(pipeline)
        self._device, self.one_expert = device, one_expert
        for name in ("audio_dit", "dual_tower_bridge", *(() if one_expert else EXPERTS)):
            getattr(pipeline, name).to(device)
        self.swaps: dict[str, WeightSwap] = {}
        self.active: str | None = None
        if one_expert and device.type == "cuda":
            for name in EXPERTS:
                for parameter in getattr(pipeline, name).parameters():
                    parameter.data = parameter.data.pin_memory()

    @property
    def device(self) -> torch.device:
        return self._device

    def keep_learnt(self) -> None:
        """Bring all LoRA weights to the device; they stay there whatever is swapped."""
        for name in EXPERTS:
            expert = getattr(self.pipeline, name)
            learnt = [p for key, p in expert.named_parameters() if ".lora_" in key]
            for parameter in learnt:
                parameter.data = parameter.data.to(self._device)
            self.swaps[name] = WeightSwap([expert], skip={id(parameter) for parameter in learnt})

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        swap = WeightSwap([getattr(self.pipeline, name)])
        try:
            swap.load(self._device)
            yield
        finally:
            swap.evict()

    def activate(self, expert: str) -> None:
        super().activate(expert)
        if not self.one_expert or expert == self.active:
            return
        if self.active is not None:
            self.swaps[self.active].evict()
        self.swaps[expert].load(self._device)
        self.active = expert


def choose_device(config: Config) -> tuple[torch.device, torch.dtype]:
    """Where to train, and in which dtype the frozen model is. Raises UserError: there is no such device."""
    machine = Machine.probe(config.run.device)
    name = config.run.dtype if config.run.dtype != "auto" else preferred_dtype(machine)
    if config.run.base == "fp8" and not machine.has_bfloat16:
        raise UserError("run.base fp8 needs a device with bfloat16; set run.base plain")
    return torch.device(machine.device), DTYPES[name]


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, one_expert: bool) -> MOVAPipeline:
    """The pipeline without text encoder, frozen, its towers on the device."""
    pipeline = MOVAPipeline.from_pretrained(folder, torch_dtype=dtype, text_encoder=None, tokenizer=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.residency = TrainingResidency(pipeline, device, one_expert)
    return pipeline
