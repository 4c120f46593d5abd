"""Move weights while a pipeline runs: never, by component, or layer by layer.

Nothing is ever copied back: weights do not change at inference, so leaving the device means pointing the
parameters at their host tensors again, which for a freshly loaded checkpoint are views of its files.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from mova.adapters.strengths import EXPERTS, TOWERS
from mova.models.dit import VideoDiT
from mova.models.dual_tower import DualTower

logger = logging.getLogger(__name__)

SLOTS = 3  # layers on the device at once: one runs, two arrive
ALIGNMENT = 256  # bytes
AUDIO_PART = 2  # of a layer: what runs without the picture too


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

    def fetch(self, layer: list[PackedLayer], first: int) -> None:
        """Copy the parts of `layer` from the `first` on."""
        for buffer, packed in zip(self.buffers[first:], layer[first:], strict=True):
            buffer[: len(packed.buffer)].copy_(packed.buffer, non_blocking=True)


class LayerStreamer:
    """Feeds `DualTower.forward` with the layers of the active expert, the audio tower and the bridge.

    A layer has three parts: its video block, the audio-to-video bridge, and what the sound alone needs (audio
    block, video-to-audio bridge); the last two serve both experts. With `hold_both` the video blocks of both
    experts stay packed, else those of the active one. Without CUDA the copies are plain and in order.
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
        to_video, to_audio = bridge.audio_to_video_conditioners, bridge.video_to_audio_conditioners
        self.shared_parts = [
            (parameters_at(i, to_video), parameters_at(i, tower.audio_dit.blocks, to_audio))
            for i in range(tower.num_layers)
        ]
        self.video_parts = {
            name: [parameters_at(i, expert.blocks) for i in range(tower.num_layers)]
            for name, expert in experts.items()
        }
        every = [
            *chain.from_iterable(self.shared_parts),
            *(part for parts in self.video_parts.values() for part in parts),
        ]
        self.streamed = frozenset(id(parameter) for part in every for parameter in part)
        self.shared: list[list[PackedLayer]] = []
        self.video: dict[str, list[PackedLayer]] = {}
        self.layers: list[list[PackedLayer]] = []
        self.slots: list[Slot] = []
        self.active: str | None = None
        self.arriving: deque[tuple[int, int, Slot]] = deque()
        self.turn = 0
        self.last, self.direction = 0, 1

    def start(self, expert: str) -> None:
        """Begin to feed the layers of `expert`; nothing happens if it is fed already."""
        if self.active == expert:
            return
        self.stop()
        began = time.perf_counter()
        if not self.shared:
            self.shared = [[PackedLayer(part, self.pin) for part in parts] for parts in self.shared_parts]
        if expert not in self.video:
            buffers = [None] * len(self.shared)
            if not self.hold_both and self.video:
                _, packed = self.video.popitem()
                buffers = [layer.unpack() for layer in packed]
            parts = zip(self.video_parts[expert], buffers, strict=True)
            self.video[expert] = [PackedLayer(part, self.pin, not self.hold_both, b) for part, b in parts]
            logger.info("packed the layers of %s in %.1f s", expert, time.perf_counter() - began)
        self.layers = [
            [video, *shared] for video, shared in zip(self.video[expert], self.shared, strict=True)
        ]
        sizes = [max(len(layer[part].buffer) for layer in self.layers) for part in range(3)]
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

    def _arrive(self, index: int, audio_only: bool = False) -> None:
        """Layer `index` is about to run: wait for it, use it, and send for the one two further on."""
        first = AUDIO_PART if audio_only else 0
        if not self.arriving or self.arriving[0][0] != index or self.arriving[0][1] > first:
            # A pass begins, or the last one broke off.
            self._wait()
            self.direction = -1 if index and self.last in (index, index + 1) else 1
            for ahead in range(SLOTS - 1):
                self._send_for(index + ahead * self.direction, first)
        self.last = index
        _, _, slot = self.arriving.popleft()
        if slot.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
        for part, packed in enumerate(self.layers[index][first:], first):
            packed.point_at(slot.views(part, packed))
        self._send_for(index + (SLOTS - 1) * self.direction, first)

    def _send_for(self, index: int, first: int) -> None:
        """Send for the parts of layer `index` from the `first` on."""
        index %= len(self.layers)
        slot = self.slots[self.turn % SLOTS]
        self.turn += 1
        if self.copies is None:
            slot.fetch(self.layers[index], first)
        else:
            # What runs now was enqueued after the slot's last layer, so the slot is free when that is done.
            self.copies.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.copies):
                slot.fetch(self.layers[index], first)
                slot.ready.record()
        self.arriving.append((index, first, slot))

    def _wait(self) -> None:
        if self.copies is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.copies)
        self.arriving.clear()


def parameters_at(index: int, *lists: nn.ModuleList) -> list[nn.Parameter]:
    """The frozen parameters of the modules at `index` of those lists that are long enough."""
    modules: Iterable[nn.Module] = (modules[index] for modules in lists if index < len(modules))
    return [p for module in modules for p in module.parameters() if not p.requires_grad]


class Offloader:
    """Leaves every component where its owner put it (`pipe.to("cuda")`).

    `components` are a pipeline's, by name; a view such as `vars(pipe)` follows those that are replaced later.
    `dual_tower` is what runs the towers among them.
    """

    weights_may_change = True  # between runs, by replacing a parameter's data

    def __init__(self, components: Mapping[str, Any], dual_tower: DualTower) -> None:
        self.modules = components
        self.dual_tower = dual_tower

    @property
    def device(self) -> torch.device:
        return next(self.modules["audio_dit"].parameters()).device

    @contextmanager
    def use(self, name: str) -> Iterator[None]:  # noqa: ARG002 - it is there already
        """The component `name` is on the device inside the context."""
        yield

    @contextmanager
    def use_towers(self) -> Iterator[None]:
        """The audio tower, the bridge and the expert that `activate` names are on the device."""
        yield

    def has_room(self, size: int) -> bool:
        """True if the device can hold `size` bytes more."""
        if self.device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return size <= free + unused

    def activate(self, expert: str) -> None:
        """Make `expert` ("video_dit" or "video_dit_2") the one that runs."""
        self.dual_tower.video_dit = self.modules[expert]


class ComponentOffloader(Offloader):
    """Keeps the `resident` components on the device; the others come when they are used and leave after.

    Those in `on_host` never come: they run on the CPU.
    """

    def __init__(
        self,
        components: Mapping[str, Any],
        dual_tower: DualTower,
        device: torch.device,
        resident: Iterable[str],
        on_host: Iterable[str] = (),
    ) -> None:
        super().__init__(components, dual_tower)
        self._device = device
        self.resident = frozenset(resident)
        self.on_host = frozenset(on_host)
        self.swaps = {
            name: WeightSwap([part]) for name, part in components.items() if isinstance(part, nn.Module)
        }
        for name in self.resident & self.swaps.keys():
            self.swaps[name].load(device)

    @property
    def device(self) -> torch.device:
        return self._device

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        try:
            if name not in self.on_host:
                self.swaps[name].load(self._device)
            yield
        finally:
            if name not in self.resident:
                self.swaps[name].evict()

    @contextmanager
    def use_towers(self) -> Iterator[None]:
        try:
            with self.use("audio_dit"), self.use("dual_tower_bridge"):
                yield
        finally:
            self._evict_experts()

    def activate(self, expert: str) -> None:
        super().activate(expert)
        self._evict_experts(but=expert)
        self.swaps[expert].load(self._device)

    def _evict_experts(self, but: str | None = None) -> None:
        for name in EXPERTS:
            if name != but and name not in self.resident:
                self.swaps[name].evict()


class LayerOffloader(ComponentOffloader):
    """Streams the layers of towers and bridge; what is not a layer comes and goes by component.

    With `hold_both` the layers of both experts are kept in pinned host memory, else those of the active one,
    and the other's are read from their files at the switch.
    """

    weights_may_change = False

    def __init__(
        self,
        components: Mapping[str, Any],
        dual_tower: DualTower,
        device: torch.device,
        hold_both: bool,
        on_host: Iterable[str] = (),
    ) -> None:
        super().__init__(components, dual_tower, device, resident=(), on_host=on_host)
        experts = {name: self.modules[name] for name in EXPERTS}
        self.streamer = LayerStreamer(dual_tower, experts, device, hold_both)

    @contextmanager
    def use_towers(self) -> Iterator[None]:
        rest = WeightSwap([self.modules[name] for name in TOWERS], skip=self.streamer.streamed)
        try:
            rest.load(self._device)
            yield
        finally:
            self.streamer.stop()
            rest.evict()

    def has_room(self, size: int) -> bool:  # noqa: ARG002 - what the device has left is for larger clips
        return False

    def activate(self, expert: str) -> None:
        Offloader.activate(self, expert)
        self.streamer.start(expert)


class WeightSwap:
    """Moves tensors of modules to a device, and back by reassigning their data; `skip` holds ids left out."""

    def __init__(self, modules: list[nn.Module], skip: Iterable[int] = ()) -> None:
        self.modules = modules
        self.skip = frozenset(skip)
        self.host: list[tuple[Tensor, Tensor]] = []

    def load(self, device: torch.device) -> None:
        device = torch.empty(0, device=device).device  # "cuda" is "cuda:0" once something lies there
        tensors = chain.from_iterable(chain(module.parameters(), module.buffers()) for module in self.modules)
        moving = [(t, t.data) for t in tensors if t.device != device and id(t) not in self.skip]
        self.host += moving
        for tensor, data in moving:
            tensor.data = data.to(device, non_blocking=True)

    def evict(self) -> None:
        for tensor, data in self.host:
            tensor.data = data
        self.host = []
