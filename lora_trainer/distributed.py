"""The processes of one training (`accelerate launch`): sums over all of them, and layers shared among them.

Every process runs its own micro-batches; gradients are averaged over all of them before the step. The model
is never wrapped, since the tower that runs changes from step to step.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import UnshardHandle, fully_shard

from mova.errors import UserError
from mova.models.dit import VideoDiT
from mova.models.dual_tower import DualTower

GATHERED = 2  # layers that are whole at once: one runs, one arrives
WAIT = timedelta(hours=6)  # the others wait while the first validates and samples


class Workers:
    """This process among `count`; `rank` 0 is the one that writes."""

    def __init__(self, device: torch.device) -> None:
        state = PartialState(cpu=device.type == "cpu", timeout=WAIT)
        self.rank, self.count = state.process_index, state.num_processes
        self.device = state.device if self.count > 1 else device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def check_several(self) -> None:
        """Raise UserError where this process is alone: layers cannot be shared."""
        if self.count == 1:
            raise UserError(
                "run.offload shards needs several processes; start with `accelerate launch -m lora_trainer "
                "train ...`, or set run.offload to experts or layers"
            )

    def any(self, flags: Iterable[bool]) -> list[bool]:
        """For each of `flags`, true if it is in any process."""
        flags = list(flags)
        if self.count == 1:
            return flags
        values = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return [bool(value) for value in values]

    def add(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes."""
        if self.count > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def first(self, value: float) -> float:
        """The first process's value, so that all follow one clock."""
        return self.add(torch.tensor(value if self.is_first else 0.0, dtype=torch.float64)).item()

    def add_gradients_of(self, groups: Iterable[list[nn.Parameter]]) -> None:
        """`add_gradients` of each of `groups` that has some in any process."""
        groups = list(groups)
        ran = self.any(any(weight.grad is not None for weight in weights) for weights in groups)
        for weights, has_run in zip(groups, ran, strict=True):
            if has_run:
                self.add_gradients(weights)

    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes; one that has none counts as zero."""
        if self.count == 1:
            return
        weights = list(weights)
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        everything = torch.cat([weight.grad.flatten() for weight in weights])  # one message, not hundreds
        dist.all_reduce(everything)
        sums = everything.split([weight.numel() for weight in weights])
        for weight, total in zip(weights, sums, strict=True):
            weight.grad.copy_(total.view_as(weight))

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


class Part(nn.Module):
    """Modules that are gathered with one message. It is never called, so no hook ever runs."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)


class LayerShards:
    """Feeds `DualTower.forward` with layers gathered from all processes, the next one while one runs.

    A layer has two parts: its video block, and what both experts share (audio block and bridge). Forward the
    layers come first to last, inside `backward()` last to first.
    """

    def __init__(self, tower: DualTower, experts: Mapping[str, VideoDiT], device: torch.device) -> None:
        """Moves the layers to `device`, one by one, and keeps this process's part of each there."""
        self.tower = tower
        self.mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        bridge = tower.dual_tower_bridge
        shared = (tower.audio_dit.blocks, bridge.audio_to_video_conditioners)
        shared += (bridge.video_to_audio_conditioners,)
        self.count = tower.num_layers
        self.shared = [self._shard(modules_at(index, *shared)) for index in range(self.count)]
        self.video = {
            name: [self._shard(modules_at(index, expert.blocks)) for index in range(self.count)]
            for name, expert in experts.items()
        }
        self.active: str | None = None
        self.due: deque[int] = deque()
        self.whole: int | None = None
        self.arriving: tuple[int, list[UnshardHandle]] | None = None

    def start(self, expert: str) -> None:
        """Begin to feed the layers of `expert`; nothing happens if it is fed already."""
        if self.active != expert:
            self.stop()
            self.active = expert
            self.tower.before_layer = self._arrive

    def stop(self) -> None:
        """Keep only this process's own part of each layer."""
        self.tower.before_layer = None
        self.due.clear()
        self._drop_arriving()
        self._release()
        self.active = None

    @contextmanager
    def backward(self) -> Iterator[None]:
        """A backward pass, or what others do in the meantime: all processes pass all layers."""
        self.due = deque(reversed(range(self.count)))
        yield
        while self.due:
            self._advance()

    def _arrive(self, index: int) -> None:
        """Layer `index` is about to run; those before it that did not run here are passed over."""
        if index not in self.due:  # a forward pass begins
            self.due = deque(range(self.count))
        while index in self.due:
            self._advance()

    def _advance(self) -> None:
        """The next layer becomes whole, the one before it is given up, and the one after it is sent for."""
        index = self.due.popleft()
        if index != self.whole:
            self._release()
            if self.arriving is None or self.arriving[0] != index:
                self._drop_arriving()
                self._send_for(index)
            for handle in self.arriving[1]:
                handle.wait()
            self.arriving, self.whole = None, index
        if self.due and self.arriving is None:
            self._send_for(self.due[0])

    def _send_for(self, index: int) -> None:
        self.arriving = index, [part.unshard(async_op=True) for part in self._parts(index)]

    def _drop_arriving(self) -> None:
        if self.arriving is not None:
            index, handles = self.arriving
            for part, handle in zip(self._parts(index), handles, strict=True):
                handle.wait()
                part.reshard()
        self.arriving = None

    def _release(self) -> None:
        if self.whole is not None:
            for part in self._parts(self.whole):
                part.reshard()
        self.whole = None

    def _parts(self, index: int) -> list[nn.Module]:
        return [part for part in (self.video[self.active][index], self.shared[index]) if part is not None]

    def _shard(self, modules: list[nn.Module]) -> nn.Module | None:
        if not modules:
            return None
        part = Part(modules)
        learnt = {parameter for parameter in part.parameters() if parameter.requires_grad}
        return fully_shard(part, mesh=self.mesh, ignored_params=learnt)


def modules_at(index: int, *lists: nn.ModuleList) -> list[nn.Module]:
    """The modules at `index` of those lists that are long enough."""
    return [modules[index] for modules in lists if index < len(modules)]
