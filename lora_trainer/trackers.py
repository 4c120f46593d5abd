"""The run's figures in tensorboard or trackio, for those who watch there."""

from typing import Any

from lora_trainer.checkpoint import flat
from lora_trainer.config import Config
from lora_trainer.optimizers import library


class Tracker:
    """Logs numbers by step; does nothing if none is configured.

    Raises:
        UserError: its library is missing.
    """

    def __init__(self, config: Config, active: bool) -> None:
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
