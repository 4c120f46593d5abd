"""The loop around a learner, with its journal, checkpoints, samples, and the ways it can end.

Ctrl-C and SIGTERM end it after the current micro-batch and save that, gradients and all; a resumed run
continues with the next one, bit for bit.
"""

import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lora_trainer.checkpoint import check_same_run, checkpoints, flat, load_state, save_state
from lora_trainer.config import RunConfig
from lora_trainer.journal import ADAPTER, CHECKPOINTS, JOURNAL, Journal
from lora_trainer.learner import Learner
from lora_trainer.lora import save_adapter
from lora_trainer.optimizers import check_library, library
from lora_trainer.quantised import check_base
from mova.adapters.files import AdapterMetadata
from mova.cli.exits import STOPS
from mova.errors import BackendError, Cancelled, UserError
from mova.files import writable_parent

logger = logging.getLogger(__name__)

OnStep = Callable[[dict[str, Any]], None]


def check_usable(config: RunConfig, cache_key: str, cache: Path) -> None:
    """Raise UserError unless this installation has the libraries of a run, and its folders can be written.

    `cache_key` is the setting that names the folder `cache`.
    """
    check_base(config.run.base)
    check_library(config.optimizer.name)
    if config.run.tracker != "none":
        library(config.run.tracker)
    for key, folder in (("output", config.output), (cache_key, cache)):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{key}: {folder} is a file; give the name of a folder")
        writable_parent(folder / ADAPTER)


def saved_state(config: RunConfig, resume: bool, is_first: bool) -> dict[str, Any] | None:
    """The checkpoint to resume from, or None where the run starts from the beginning.

    Raises:
        UserError: there is a run already, or it cannot be resumed with these settings.
    """
    folder = config.output / CHECKPOINTS
    if not resume:
        if checkpoints(folder):
            raise UserError(
                f"{config.output} holds a run; continue it with --resume, or choose another output"
            )
        return None
    state = load_state(folder, set_aside=is_first)
    if state is None:
        logger.warning(
            "%s holds no checkpoint to resume from; the run starts from the beginning, with the settings and "
            "clips as they are now",
            config.output,
        )
    else:
        check_same_run(state["config"], config.model_dump(mode="json"))
    return state


class Loop(ABC):
    """Runs `engine` to the last step of `config`, from the checkpoint `state` if there is one."""

    sample_every = 0  # optimizer steps; 0: only before the first and after the last
    shorter: tuple[str, ...] = ()  # settings that make samples smaller, for people

    def __init__(self, config: RunConfig, engine: Learner, state: dict[str, Any] | None) -> None:
        self.config, self.engine, self.state = config, engine, state
        self.workers = engine.workers
        self.journal = Journal(config.output / JOURNAL, self.workers.is_first)
        self.tracker = Tracker(config, self.workers.is_first)
        self.checkpoints = config.output / CHECKPOINTS
        self.base: dict[str, dict[str, dict[str, float]]] = {}
        self.stopping = False

    def run(self, on_step: OnStep = lambda _: None) -> Path:
        """Train to the last step and write the adapter; its path.

        Raises:
            Cancelled: stopped on request; everything is saved.
            BackendError: out of memory, disk full, or the numbers broke down; the last checkpoint is whole.
            UserError: the run cannot be resumed with these settings or clips.
        """
        self._open()
        with self._stop_signals(), self.tracker:
            if not self.base:
                self._begin()
            while not self._is_finished:
                record = self._optimizer_step()
                self.journal.write("step", **record)
                self.tracker.log(record, record["step"])
                on_step(record)
                self._after_step()
        path = self.config.output / ADAPTER
        if self.workers.is_first:
            self._save_adapter(path)
        self.journal.write("done", step=self.engine.step, adapter=path.name)
        return path

    def _open(self) -> None:
        """Restore the state, or start a new journal: a run that was killed before it saved starts again."""
        if self.state is None:
            self.journal.cut(0)
            return
        self.engine.restore(self.state)
        self.base = self.state["base"]
        self.journal.cut(self.state["journal"])
        self.journal.write("resumed", step=self.engine.step, micro=self.engine.micro)
        self.state = None  # its tensors are as large as the optimizer's

    @property
    def _is_finished(self) -> bool:
        return self.engine.position >= self.config.run.steps

    @abstractmethod
    def _card(self) -> AdapterMetadata:
        """What the adapter says of itself."""

    @abstractmethod
    def _setup(self) -> dict[str, Any]:
        """What the journal records of the samples and of how they are learnt."""

    def _begin(self) -> None:
        """Before the first step: record the settings, and the base model's figures and samples."""
        engine = self.engine
        self.journal.write(
            "run",
            config=self.config.model_dump(mode="json"),
            parameters={name: sum(w.numel() for w in weights) for name, weights in engine.towers.items()},
            **self._setup(),
        )
        self.base = engine.measure()
        self.journal.write("base", **self.base)
        self._sample()

    def _optimizer_step(self) -> dict[str, Any]:
        """Run all micro-batches of a step and the update; the record for the journal."""
        began, engine = time.perf_counter(), self.engine
        accumulation = self.config.run.accumulation
        try:
            while engine.micro < accumulation:
                engine.micro_batch()
                # With several processes only whole steps are saved: each holds other gradients until then.
                if self.workers.count == 1 and engine.micro < accumulation:
                    self._stop_if_asked()
            record = engine.update()
        except torch.OutOfMemoryError as error:
            if self.workers.count == 1:  # of several, the others are elsewhere and cannot save with this one
                self._save()
            raise BackendError(self._out_of_memory()) from error
        except BackendError as error:
            raise BackendError(f"{error}; {self._last_good()}") from error
        for sentence in engine.watch.alarms(record["gradient_norms"], record["update_norms"]):
            self._alarm(sentence)
        seconds = time.perf_counter() - began
        engine.elapsed += seconds
        return {**record, "seconds": round(seconds, 3)}

    def _after_step(self) -> None:
        """Measure, sample, save and stop where it is time."""
        run, step = self.config.run, self.engine.step
        last = self._is_finished
        if last or (run.validate_every and step % run.validate_every == 0):
            figures = self.engine.measure()
            self.journal.write("validation", step=step, **figures)
            self.tracker.log({"loss": figures, "base": self.base}, step)
        if last or (self.sample_every and step % self.sample_every == 0):
            self._sample()
        if last or step % run.checkpoint_every == 0:
            self._save()
        if not last:
            self._stop_if_asked()

    def _save(self) -> None:
        if self.workers.is_first:
            name = f"step-{self.engine.step:06d}" + (f"-{self.engine.micro:03d}" if self.engine.micro else "")
            state = {**self.engine.state(), "base": self.base, "journal": self.journal.size}
            keep = self.config.run.keep_checkpoints
            path = save_state(
                self.checkpoints, name, state, keep, lambda to: self._save_adapter(to / ADAPTER)
            )
            logger.info("saved %s", path)
        self.workers.wait()

    def _save_adapter(self, path: Path) -> None:
        dtype = next(iter(self.engine.lora.layer_weights.values())).dtype
        with self.engine.saved_weights() as weights:
            save_adapter(path, weights, self.config, dtype, self._card())

    @abstractmethod
    def _sample(self) -> None:
        """Make clips with the weights as they are now."""

    def _alarm(self, sentence: str) -> None:
        logger.warning("%s", sentence)
        self.journal.write("alarm", step=self.engine.step, message=sentence)

    def _stop_if_asked(self) -> None:
        if any(self.workers.any([self.stopping])):
            self._save()
            self.journal.write("stopped", step=self.engine.step, micro=self.engine.micro)
            raise Cancelled(f"stopped at step {self.engine.step}, all is saved; continue with --resume")

    @contextmanager
    def _stop_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP ask to stop; a second one does it at once. What is ignored stays so."""
        handlers = {number: signal.getsignal(number) for number in STOPS}
        previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}

        def ask(number: int, _: object) -> None:
            self.stopping = True
            signal.signal(number, previous[number])

        for number in previous:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _last_good(self) -> str:
        return f"{self._saved()}; lower optimizer.learning_rate, or use run.dtype float32"

    def _saved(self) -> str:
        saved = checkpoints(self.checkpoints)
        return f"the last good state is {saved[0]}" if saved else "nothing was saved yet"

    def _out_of_memory(self) -> str:
        run = self.config.run
        advice = {
            "run.gradient_checkpointing true": not run.gradient_checkpointing,
            "run.offload experts": run.offload == "none",
            "run.offload layers": run.offload != "layers" and run.base != "fp8",
            "run.offload shards": run.offload != "shards" and run.base != "fp8" and self.workers.count > 1,
            "run.batch_size 1": run.batch_size > 1,
            **dict.fromkeys(self.shorter, True),
            "run.base int8": run.base in ("plain", "fp8"),
            "run.base nf4": run.base != "nf4",
        }
        steps = ", ".join(step for step, applies in advice.items() if applies)
        kept = "all is saved" if self.workers.count == 1 else self._saved()
        return f"the device is out of memory; {kept}. Change one of: {steps}; then train again"


class Tracker:
    """Logs numbers by step to `run.tracker`. Raises UserError: its library is missing."""

    def __init__(self, config: RunConfig, active: bool) -> None:
        self.kind = config.run.tracker if active else "none"
        if self.kind == "tensorboard":
            library("tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(config.output / "tensorboard"))
        elif self.kind == "trackio":
            self.writer = library("trackio")
            record = config.model_dump(mode="json")
            self.writer.init(project="mova-lora", name=config.output.name, config=record, resume="allow")

    def log(self, values: dict[str, Any], step: int) -> None:
        numbers = {
            key.replace(".", "/"): value
            for key, value in flat(values).items()
            if isinstance(value, int | float)
        }
        if self.kind == "tensorboard":
            for key, value in numbers.items():
                self.writer.add_scalar(key, value, step)
        elif self.kind == "trackio":
            self.writer.log(numbers, step=step)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.kind == "tensorboard":
            self.writer.close()
        elif self.kind == "trackio":
            self.writer.finish()
