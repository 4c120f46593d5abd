"""Where weights are while a pipeline runs: on the device throughout, by component, or layer by layer.

Nothing is ever copied back: weights do not change at inference, so leaving the device means pointing the
parameters at their host tensors again, which for a freshly loaded checkpoint are views of its files.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mova.streaming import LayerStreamer

if TYPE_CHECKING:
    from mova.pipeline import MOVAPipeline

EXPERTS = ("video_dit", "video_dit_2")


class Residency:
    """Leaves every component where its owner put it (`pipe.to("cuda")`)."""

    weights_may_change = True  # between runs, by replacing a parameter's data

    def __init__(self, pipeline: "MOVAPipeline") -> None:
        self.pipeline = pipeline

    @property
    def device(self) -> torch.device:
        return next(self.pipeline.audio_dit.parameters()).device

    @contextmanager
    def use(self, name: str) -> Iterator[None]:  # noqa: ARG002 - it is there already
        """The component `name` is on the device inside the context."""
        yield

    @contextmanager
    def use_towers(self) -> Iterator[None]:
        """The audio tower, the bridge and the expert that `activate` names are on the device."""
        yield

    def activate(self, expert: str) -> None:
        """Make `expert` ("video_dit" or "video_dit_2") the one that runs."""
        self.pipeline.dual_tower.video_dit = getattr(self.pipeline, expert)


class ComponentResidency(Residency):
    """Keeps the `resident` components on the device; the others come when they are used and leave after.

    Those in `on_host` never come: they run on the CPU.
    """

    def __init__(
        self,
        pipeline: "MOVAPipeline",
        device: torch.device,
        resident: Iterable[str],
        on_host: Iterable[str] = (),
    ) -> None:
        super().__init__(pipeline)
        self._device = device
        self.resident = frozenset(resident)
        self.on_host = frozenset(on_host)
        modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        self.swaps = {name: WeightSwap([module]) for name, module in modules.items()}
        for name in self.resident & modules.keys():
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


class LayerResidency(ComponentResidency):
    """Streams the layers of towers and bridge; what is not a layer comes and goes by component.

    With `hold_both` the layers of both experts are kept in pinned host memory, else those of the active one,
    and the other's are read from their files at the switch.
    """

    weights_may_change = False

    def __init__(
        self, pipeline: "MOVAPipeline", device: torch.device, on_host: Iterable[str], hold_both: bool
    ) -> None:
        super().__init__(pipeline, device, resident=(), on_host=on_host)
        experts = {name: getattr(pipeline, name) for name in EXPERTS}
        self.streamer = LayerStreamer(pipeline.dual_tower, experts, device, hold_both)

    @contextmanager
    def use_towers(self) -> Iterator[None]:
        towers = [getattr(self.pipeline, name) for name in ("audio_dit", "dual_tower_bridge", *EXPERTS)]
        rest = WeightSwap(towers, skip=self.streamer.streamed)
        try:
            rest.load(self._device)
            yield
        finally:
            self.streamer.stop()
            rest.evict()

    def activate(self, expert: str) -> None:
        Residency.activate(self, expert)
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
