"""Streams transformer layers from host memory, so that a tower needs the device memory of three layers.

Each layer lies in flat pinned buffers; one copy brings it to a slot on the device, two layers before it runs,
on a stream of its own; its parameters become views of the slot. Hooks are not used, so compiled blocks stay
compiled. Parameters that learn are left alone. In a backward pass with gradient checkpointing the layers come
again, the last first.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from mova.models.dual_tower import DualTower
from mova.models.video_dit import VideoDiT

logger = logging.getLogger(__name__)

SLOTS = 3  # layers on the device at once: one runs, two arrive
ALIGNMENT = 256  # bytes


class PackedLayer:
    """The parameters of some modules as views of one flat host buffer.

    `keep` remembers the tensors they had, so that `unpack` can give them back and free the buffer for its
    next owner; worth it where those tensors are views of a file.
    """

    def __init__(
        self, parameters: list[nn.Parameter], pin: bool, keep: bool = False, buffer: Tensor | None = None
    ) -> None:
        self.parameters = parameters
        sources = [p.data for p in parameters]
        self.sources = sources if keep else []
        layout, end = [], 0
        for source in sources:
            layout.append((end, source.nbytes, source.dtype, source.shape))
            end += -(-source.nbytes // ALIGNMENT) * ALIGNMENT
        self.layout = tuple(layout)
        self.buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pin) if buffer is None else buffer
        self.host = self.views(self.buffer)
        for view, source in zip(self.host, sources, strict=True):
            view.copy_(source)
        self.point_at(self.host)

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The layer's tensors inside `buffer`, host or device."""
        return [buffer[at : at + size].view(dtype).view(shape) for at, size, dtype, shape in self.layout]

    def point_at(self, tensors: list[Tensor]) -> None:
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor

    def unpack(self) -> Tensor:
        self.point_at(self.sources)
        return self.buffer


class Slot:
    """Device memory for one layer: a buffer for each of its parts."""

    def __init__(self, sizes: list[int], device: torch.device) -> None:
        self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for size in sizes]
        self.ready = torch.cuda.Event() if device.type == "cuda" else None
        self._views: dict[tuple, list[Tensor]] = {}

    def views(self, part: int, packed: PackedLayer) -> list[Tensor]:
        key = (part, packed.layout)
        if key not in self._views:
            self._views[key] = packed.views(self.buffers[part])
        return self._views[key]

    def fetch(self, layer: list[PackedLayer]) -> None:
        for buffer, packed in zip(self.buffers, layer, strict=True):
            buffer[: len(packed.buffer)].copy_(packed.buffer, non_blocking=True)


class LayerStreamer:
    """Feeds `DualTower.forward` with the layers of the active expert, the audio tower and the bridge.

    A layer has two parts: its video block, and what both experts share (audio block and bridge). With
    `hold_both` the video blocks of both experts stay packed, else those of the active one. Without CUDA the
    copies are plain and in order.
    """

    def __init__(
        self, tower: DualTower, experts: Mapping[str, VideoDiT], device: torch.device, hold_both: bool
    ) -> None:
        self.tower = tower
        self.experts = experts
        self.device = device
        self.hold_both = hold_both
        self.pin = device.type == "cuda"
        self.copies = torch.cuda.Stream(device) if self.pin else None
        bridge = tower.dual_tower_bridge
        self.shared_parts = [
            parameters_at(
                i,
                tower.audio_dit.blocks,
                bridge.audio_to_video_conditioners,
                bridge.video_to_audio_conditioners,
            )
            for i in range(tower.num_layers)
        ]
        self.video_parts = {
            name: [parameters_at(i, expert.blocks) for i in range(tower.num_layers)]
            for name, expert in experts.items()
        }
        every = [*self.shared_parts, *(part for parts in self.video_parts.values() for part in parts)]
        self.streamed = frozenset(id(parameter) for part in every for parameter in part)
        self.shared: list[PackedLayer] = []
        self.video: dict[str, list[PackedLayer]] = {}
        self.layers: list[list[PackedLayer]] = []
        self.slots: list[Slot] = []
        self.active: str | None = None
        self.arriving: deque[tuple[int, Slot]] = deque()
        self.turn = 0
        self.last, self.direction = 0, 1

    def start(self, expert: str) -> None:
        """Begin to feed the layers of `expert`; nothing happens if it is fed already."""
        if self.active == expert:
            return
        self.stop()
        began = time.perf_counter()
        if not self.shared:
            self.shared = [PackedLayer(part, self.pin) for part in self.shared_parts]
        if expert not in self.video:
            buffers = [None] * len(self.shared)
            if not self.hold_both and self.video:
                _, packed = self.video.popitem()
                buffers = [layer.unpack() for layer in packed]
            parts = zip(self.video_parts[expert], buffers, strict=True)
            self.video[expert] = [PackedLayer(part, self.pin, not self.hold_both, b) for part, b in parts]
            logger.info("packed the layers of %s in %.1f s", expert, time.perf_counter() - began)
        self.layers = [list(parts) for parts in zip(self.video[expert], self.shared, strict=True)]
        sizes = [max(len(layer[part].buffer) for layer in self.layers) for part in range(2)]
        self.slots = [Slot(sizes, self.device) for _ in range(SLOTS)]
        self.active = expert
        self.tower.before_layer = self._arrive

    def stop(self) -> None:
        """Give every layer its host tensors back and free the slots."""
        self._wait()
        self.tower.before_layer = None
        for layer in self.layers:
            for packed in layer:
                packed.point_at(packed.host)
        self.layers, self.slots, self.active = [], [], None

    def _arrive(self, index: int) -> None:
        """Layer `index` is about to run: wait for it, use it, and send for the one two further on."""
        if not self.arriving or self.arriving[0][0] != index:  # a pass begins, or the last one broke off
            self._wait()
            self.direction = -1 if index and self.last in (index, index + 1) else 1
            for ahead in range(SLOTS - 1):
                self._send_for(index + ahead * self.direction)
        self.last = index
        _, slot = self.arriving.popleft()
        if slot.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
        for part, packed in enumerate(self.layers[index]):
            packed.point_at(slot.views(part, packed))
        self._send_for(index + (SLOTS - 1) * self.direction)

    def _send_for(self, index: int) -> None:
        index %= len(self.layers)
        slot = self.slots[self.turn % SLOTS]
        self.turn += 1
        if self.copies is None:
            slot.fetch(self.layers[index])
        else:
            # What runs now was enqueued after the slot's last layer, so the slot is free when that is done.
            self.copies.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.copies):
                slot.fetch(self.layers[index])
                slot.ready.record()
        self.arriving.append((index, slot))

    def _wait(self) -> None:
        if self.copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.copies)
        self.arriving.clear()


def parameters_at(index: int, *lists: nn.ModuleList) -> list[nn.Parameter]:
    """The frozen parameters of the modules at `index` of those lists that are long enough."""
    modules: Iterable[nn.Module] = (modules[index] for modules in lists if index < len(modules))
    return [p for module in modules for p in module.parameters() if not p.requires_grad]
