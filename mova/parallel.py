"""Several processes, a GPU each, that make one clip: the first leads, the others run forwards for it.

The leader is an ordinary program. Its followers do what it tells them: load the model, attach adapters, run
their part of a step. So requests, progress, previews, stops, decoding and files are the leader's alone.

The forwards of a guided step run side by side, and where processes are left over, several share a forward
(`mova.layout`). Every velocity is sent to all, so that they are summed as by one process.

A second, silent connection joins each follower to the leader. A follower that fails sends its reason there; a
process that dies closes it. Either way the other end knows at once, also while it waits for a message.
"""

import atexit
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from mova.errors import BackendError, UserError
from mova.layout import launched_processes
from mova.models.dual_tower import DualTower
from mova.models.sharding import TokenShards

logger = logging.getLogger(__name__)

STARTING = timedelta(minutes=5)
WAITING = timedelta(days=365)  # a page may be idle for long; a process that dies is noticed by the listeners
REASON_BYTES = 1000
REASON_SECONDS = 5.0  # between a closed connection and its reason, which come by different ways
UNBLOCKING_SECONDS = 30.0
GONE = "its process ended; see its messages above"


class Call(NamedTuple):
    """One forward of a step: with the prompt or the negative prompt, with or without the bridge.

    One that `remembers` keeps what the sound reads of the picture, for the one with the same prompt that is
    `audio_only` later.
    """

    use_prompt: bool
    use_bridge: bool
    audio_only: bool = False
    remembers: bool = False


class Step(NamedTuple):
    """What the leader says of a step, besides the latents."""

    expert: str
    calls: tuple[Call, ...]
    places: tuple[range, ...]  # the processes that run each call
    timesteps: Tensor


Velocities = tuple[Tensor | None, Tensor]  # of the video, unless the forward was of the audio only, and audio
Forward = Callable[[Call, Tensor, Tensor], Velocities]


class Team:
    """This process among those that make a clip together. `failure` says why it can no longer be used."""

    def __init__(self, rank: int, count: int, local_rank: int, store: dist.Store | None = None) -> None:
        """Join the others at `store`, torchrun's if None; returns when all are there."""
        self.rank, self.count, self.local_rank = rank, count, local_rank
        self.mode = "auto"  # of Layout.choose; the leader's counts
        self.failure = ""
        self.pipeline: Any = None  # a follower's
        self.processes: list[subprocess.Popen] = []
        self._is_busy = self._is_closing = False
        self._groups: dict[range, dist.ProcessGroup] = {}
        self._shards: dict[range, TokenShards] = {}
        self._on_gpu = torch.cuda.device_count() >= count
        if self._on_gpu:
            torch.cuda.set_device(local_rank)
            # What becomes of a broken group is decided here: NCCL's own answer is to end the process.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
        backend = "cpu:gloo,cuda:nccl" if self._on_gpu else "gloo"
        dist.init_process_group(backend, timeout=STARTING, store=store, rank=rank, world_size=count)
        self._all = self._group(range(count))
        self._messages, self._silent = (dist.new_group(backend="gloo", timeout=WAITING) for _ in range(2))
        self._listeners = {
            other: threading.Thread(target=self._listen, args=(other,), daemon=True)
            for other in ([0] if rank else range(1, count))
        }
        for listener in self._listeners.values():
            listener.start()

    def device(self, device: str) -> str:
        """This process's own device of the kind of `device`."""
        return f"cuda:{self.local_rank}" if torch.device(device).type == "cuda" else device

    def tell(self, function: Callable[..., Any], *arguments: object) -> None:
        """Have every follower call `function(team, *arguments)`, a function of a module.

        Raises:
            BackendError: a follower has failed, in this or in what it was told before.
        """
        self.send((function, arguments))

    def send(self, message: object) -> None:
        with self._together():
            dist.broadcast_object_list([message], src=0, group=self._messages)

    def receive(self) -> Any:  # noqa: ANN401
        """The leader's next message."""
        message = [None]
        dist.broadcast_object_list(message, src=0, group=self._messages)
        return message[0]

    def follow(self, pipeline: Any = None) -> NoReturn:  # noqa: ANN401
        """Do what the leader tells, and end with it. `pipeline` is this process's own, if it has one."""
        self.pipeline = pipeline
        try:
            while True:
                function, arguments = self.receive()
                function(self, *arguments)
        except Exception as error:  # whatever it is, the leader has to know
            logger.exception("process %d of %d failed", self.rank + 1, self.count)
            self.failure = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        self._say(0, self.failure)
        self._break_off()
        # A launcher would end the leader at once, before it can say why.
        self._listeners[0].join(UNBLOCKING_SECONDS)
        os._exit(1)

    def step(
        self, forward: Forward, tower: DualTower, step: Step, latents: Sequence[Tensor]
    ) -> list[Velocities]:
        """The velocities of the step's calls, in order, the same in every process.

        All processes call this together, with `latents` (video, audio) of the same sizes; the leader's count.
        """
        if self.rank:
            return self._step(forward, tower, step, latents)
        with self._together():
            velocities = self._step(forward, tower, step, latents)
            if self._on_gpu:
                torch.cuda.synchronize()  # a failure in it must not become a picture
        return velocities

    def _step(
        self, forward: Forward, tower: DualTower, step: Step, latents: Sequence[Tensor]
    ) -> list[Velocities]:
        for tensor in latents:
            dist.broadcast(tensor, src=0, group=self._all)
        groups = {place: self._group(place) for place in step.places if len(place) > 1}
        velocities = []
        for call, place in zip(step.calls, step.places, strict=True):
            if self.rank not in place:
                pair = [torch.empty_like(tensor) for tensor in latents]
                velocities.append([None, pair[1]] if call.audio_only else pair)
                continue
            if place in groups:
                tower.share_tokens(self._shards.setdefault(place, TokenShards(groups[place])))
            try:
                pair = forward(call, *latents)
            finally:
                tower.share_tokens(None)
            velocities.append([part if part is None else part.contiguous() for part in pair])
        for pair, place in zip(velocities, step.places, strict=True):
            for velocity in pair:
                if velocity is not None:
                    dist.broadcast(velocity, src=place[0], group=self._all)
        return velocities

    def close(self) -> None:
        """End the followers and this team, in whatever state it is."""
        global _team
        self._is_closing = True
        for other in self._listeners:
            self._say(other, "")
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(REASON_SECONDS)
            process.kill()
            process.wait()
        for listener in self._listeners.values():
            listener.join(UNBLOCKING_SECONDS)
        if self.failure:
            # The public end waits for those that failed.
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
        self._groups, self._shards, _team = {}, {}, None

    def _group(self, ranks: range) -> dist.ProcessGroup:
        """The group of these processes. It is made by all of them, which come here in the same order."""
        if ranks not in self._groups:
            self._groups[ranks] = dist.new_group(list(ranks), timeout=WAITING)
        return self._groups[ranks]

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What the leader does with its followers. Whatever fails in it ends the team.

        Raises:
            BackendError: a follower failed; the message has its reason.
        """
        if self.failure:
            raise BackendError(self.failure)
        self._is_busy = True
        try:
            yield
        except BaseException as error:
            waited = 0.0
            is_message = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
            while is_message and not self.failure and waited < REASON_SECONDS:
                time.sleep(0.05)
                waited += 0.05
            if self.failure:
                raise BackendError(self.failure) from error
            self.failure = "the first of the processes broke off"
            raise
        finally:
            self._is_busy = False
        if self.failure:
            raise BackendError(self.failure)

    def _listen(self, other: int) -> None:
        """Wait, in a thread, for the last word of process `other`."""
        text = torch.zeros(REASON_BYTES, dtype=torch.uint8)
        try:
            dist.recv(text, src=other, group=self._silent)
            reason = bytes(text.tolist()).rstrip(b"\0").decode(errors="replace")
        except RuntimeError:  # the connection is closed
            reason = GONE
        if self.rank:
            os._exit(1 if reason or self.failure else 0)
        if self._is_closing:
            return
        self.failure = self.failure or f"process {other + 1} of {self.count} failed: {reason}"
        self._break_off()
        deadline = time.monotonic() + UNBLOCKING_SECONDS
        while self._is_busy and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._is_busy:  # it waits for a message that will not come, where nothing reaches it
            sys.stderr.write(f"failed: {self.failure}\n")
            os._exit(1)

    def _say(self, other: int, text: str) -> None:
        padded = text.encode()[:REASON_BYTES].ljust(REASON_BYTES, b"\0")
        with contextlib.suppress(RuntimeError):  # it is gone
            dist.send(torch.frombuffer(bytearray(padded), dtype=torch.uint8), other, group=self._silent)

    def _break_off(self) -> None:
        """Free all who wait for a message of this process, and this process from waiting."""
        groups = list(self._groups.values())
        if self._on_gpu:
            for group in groups:
                group.abort()
        if self.rank:  # gloo has no abort; the leader's way out is a connection that is closed
            for group in [self._messages] if self._on_gpu else [self._messages, *groups]:
                dist.destroy_process_group(group)
            self._messages = self._all = None
            self._groups, self._shards = {}, {}


_team: Team | None = None


def join() -> Team:
    """The team of this process: the one it has, or that of the processes that torchrun started.

    Raises:
        UserError: there are no others.
    """
    global _team
    if _team is None:
        rank, count = launched_processes()
        if count == 1:
            raise UserError("several GPUs need several processes; start with torchrun --nproc-per-node N")
        _team = Team(rank, count, int(os.environ["LOCAL_RANK"]))
        if rank == 0:
            atexit.register(_close_team)
    return _team


def gather(count: int, device: str) -> Team:
    """The team of this process, of `count`: the one it has, torchrun's, or one whose followers are started.

    Raises:
        UserError: torchrun started another number of processes, or there are not as many GPUs.
        BackendError: a follower ended at its start.
    """
    found, launched = torch.cuda.device_count(), launched_processes()[1]
    if torch.device(device).type == "cuda" and found < count:
        raise UserError(f"{count} GPUs are asked for, and there are {found}; choose --gpus {found}")
    if _team is not None and (_team.count != count or _team.failure) and launched == 1:
        _team.close()
    if launched == 1:
        return _team or start(count)
    if launched != count:
        raise UserError(
            f"torchrun started {launched} processes, and {count} GPUs are asked for; leave that out"
        )
    return join()


def start(count: int) -> Team:
    """A team of this process and `count` - 1 followers, which are started.

    Raises:
        BackendError: one of them ended at once.
    """
    global _team
    if sys.platform == "linux":  # all of them are on this machine
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        *("127.0.0.1", port, None, True, STARTING),
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
        use_libuv=False,
    )
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from mova import parallel; parallel.main()",
                *map(str, (rank, count, port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__.fileno(),  # stdout is the leader's
            env=os.environ | {"PYTHONPATH": paths},
        )
        for rank in range(1, count)
    ]
    while not store.check([f"here/{rank}" for rank in range(1, count)]):
        if any(process.poll() is not None for process in processes):
            for process in processes:
                process.kill()
            raise BackendError("a process for another GPU ended at its start; see its messages above")
        time.sleep(0.05)
    _team = Team(0, count, 0, store)
    _team.processes = processes
    atexit.register(_close_team)
    return _team


def _close_team() -> None:
    """At the end of the process: threads that still listen would make it abort."""
    if _team is not None:
        _team.close()


def main() -> NoReturn:
    """A follower that `start` has started."""
    global _team
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the leader, which then takes us with it
    logging.basicConfig(format="%(levelname)s: follower: %(message)s", level=logging.WARNING)
    rank, count, port = map(int, sys.argv[1:])
    store = dist.TCPStore("127.0.0.1", port, None, False, STARTING, use_libuv=False)
    store.set(f"here/{rank}", "")
    _team = Team(rank, count, rank, store)
    _team.follow()
