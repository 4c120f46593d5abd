"""The base model as training needs it: towers frozen on the device, encoders of text left out."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from lora_trainer.config import EXPERTS, RunConfig
from lora_trainer.distributed import LayerShards
from mova.adapters.strengths import TOWERS
from mova.checkpoint import is_8_bits
from mova.errors import UserError
from mova.machine import Machine
from mova.models.video_vae import to_channels_last
from mova.offload import LayerStreamer, Offloader, WeightSwap
from mova.pipeline import MOVAPipeline


class TrainingOffloader(Offloader):
    """Frozen weights where `run.offload` says; autoencoders come while they are used.

    LoRA weights never leave the device. A swap only puts frozen weights back where they came from, and would
    lose what was learnt.
    """

    def __init__(self, pipeline: MOVAPipeline, device: torch.device, offload: str) -> None:
        super().__init__(vars(pipeline), pipeline.dual_tower)
        self._device, self.offload = device, offload
        self.swaps: dict[str, WeightSwap] = {}
        self.streamer: LayerStreamer | None = None
        self.shards: LayerShards | None = None
        self.active: str | None = None

    @property
    def device(self) -> torch.device:
        return self._device

    def settle(self) -> None:
        """Bring to the device what stays there. Called once, when the LoRA layers are in place."""
        towers = {name: self.modules[name] for name in TOWERS}
        learnt = [p for tower in towers.values() for p in tower.parameters() if p.requires_grad]
        for parameter in learnt:
            parameter.data = parameter.data.to(self._device)
        skip = {id(parameter) for parameter in learnt}
        experts = {name: towers[name] for name in EXPERTS}
        if self.offload == "shards":
            self.shards = LayerShards(self.dual_tower, experts, self._device)
            WeightSwap(list(towers.values())).load(self._device)  # all but the layers
            return
        if self.offload == "layers":
            self.streamer = LayerStreamer(self.dual_tower, experts, self._device, hold_both=True)
            WeightSwap(list(towers.values()), skip | self.streamer.streamed).load(self._device)
            return
        for name, tower in towers.items():
            if self.offload == "experts" and name in EXPERTS:
                self.swaps[name] = WeightSwap([tower], skip)
                for parameter in tower.parameters():
                    if self._device.type == "cuda" and id(parameter) not in skip:
                        parameter.data = parameter.data.pin_memory()
            else:
                tower.to(self._device)

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        swap = WeightSwap([self.modules[name]])
        try:
            swap.load(self._device)
            yield
        finally:
            swap.evict()

    def activate(self, expert: str) -> None:
        super().activate(expert)
        if self.streamer is not None:
            self.streamer.start(expert)
        elif self.shards is not None:
            self.shards.start(expert)
        elif self.swaps and expert != self.active:
            if self.active is not None:
                self.swaps[self.active].evict()
            self.swaps[expert].load(self._device)
        self.active = expert

    @contextmanager
    def backward(self) -> Iterator[None]:
        """A backward pass runs inside the context, or does not where nothing that learns took part."""
        with self.shards.backward() if self.shards is not None else nullcontext():
            yield


def choose_device(config: RunConfig) -> tuple[torch.device, torch.dtype]:
    """Device of the training and dtype of the frozen model. Raises UserError: there is no such device."""
    machine = Machine.probe(config.run.device)
    name = config.run.dtype if config.run.dtype != "auto" else machine.dtype
    return torch.device(machine.device), getattr(torch, name)


def load_model(folder: Path, device: torch.device, dtype: torch.dtype, offload: str) -> MOVAPipeline:
    """The pipeline without text encoder, frozen, on the CPU until its residency is settled.

    Raises:
        UserError: the checkpoint is broken, or is in fp8.
    """
    pipeline = MOVAPipeline.from_pretrained(folder, torch_dtype=dtype, text_encoder=None, tokenizer=None)
    if is_8_bits(pipeline.video_dit.config):
        raise UserError(
            f"{folder} is in fp8, which is too coarse to train on; train on the checkpoint that it was made "
            "from: the adapter fits both"
        )
    pipeline.set_progress_bar_config(disable=True)
    to_channels_last(pipeline.video_vae)
    pipeline.residency = TrainingOffloader(pipeline, device, offload)
    return pipeline
