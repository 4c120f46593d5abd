"""A run on clips, from their folder to the adapter: what is checked and encoded first, samples on the way."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from lora_trainer.base_model import choose_device, load_model
from lora_trainer.config import EXPERTS, Config
from lora_trainer.distributed import Workers
from lora_trainer.engine import Engine, windows_of_state
from lora_trainer.journal import Report
from lora_trainer.latent_cache import Cache, build_cache, checkpoint_folder, read_index, resume_cache
from lora_trainer.loop import Loop, check_usable, saved_state
from lora_trainer.output_lock import own_output
from lora_trainer.validation import check_sample, make_samples, swapped_experts
from lora_trainer.windows import check_held_out, plan_windows
from mova.adapters.files import AdapterMetadata
from mova.errors import UserError
from mova.pipeline import MOVAPipeline


@contextmanager
def open_trainer(config: Config, resume: bool, report: Report = lambda *_: None) -> Iterator["Trainer"]:
    """A trainer that owns its output folder, with clips encoded and the model loaded.

    Raises:
        UserError: the settings cannot be used, before anything is encoded; another process owns the output;
            or as `Trainer.run`. BackendError.
    """
    device, dtype = choose_device(config)
    workers = Workers(device)
    check_settings(config, workers)
    with own_output(config.output, "train") if workers.is_first else nullcontext():
        state = saved_state(config, resume, workers.is_first)
        if workers.is_first and state is not None:
            resume_cache(config, windows_of_state(state), workers.device, dtype, report)
        elif workers.is_first:
            windows = plan_windows(config)
            check_held_out(windows, config.data.held_out)
            build_cache(config, workers.device, dtype, report, windows)
        workers.wait()
        report("model", 0, 1)
        pipeline = load_model(checkpoint_folder(config), workers.device, dtype, config.run.offload)
        yield Trainer(config, read_index(config), pipeline, workers, state)


def check_settings(config: Config, workers: Workers) -> None:
    """Raise UserError for settings that cannot be used here: libraries, pictures, folders, processes."""
    check_usable(config, "data.cache", config.cache)
    if config.run.offload == "shards":
        workers.check_several()
    for number, sample in enumerate(config.samples.clips):
        try:
            check_sample(sample)
        except UserError as error:
            raise UserError(f"samples.clips.{number}.{error}") from error


class Trainer(Loop):
    """Trains on the clips of `cache` to the last step of `config`, from the checkpoint `state`, if any."""

    shorter = ("shorter windows (data.num_frames)", "a smaller data.size")

    def __init__(
        self,
        config: Config,
        cache: Cache,
        pipeline: MOVAPipeline,
        workers: Workers | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.cache, self.pipeline = cache, pipeline
        self.sample_every = config.samples.every
        super().__init__(config, Engine(config, cache, pipeline, workers), state)

    def _setup(self) -> dict[str, Any]:
        measured = self.engine.measured.items()
        return {
            "windows": {name: len({m.window.name for m in each}) for name, each in measured},
            "high_share": self.engine.high_share,
        }

    def _begin(self) -> None:
        super()._begin()
        engine = self.engine
        if all(engine.rows.values()) and swapped_experts(self.pipeline, engine.load, engine.learnt[0]):
            self._alarm(f"at {' and '.join(EXPERTS)} the wrong one predicts better; are they swapped?")

    def _card(self) -> AdapterMetadata:
        return adapter_card(self.config)

    def _sample(self) -> None:
        writes = self.workers.is_first
        if self.config.samples.clips and (writes or self.config.run.offload == "shards"):
            with self.engine.shown():
                for path in make_samples(self.config, self.cache, self.pipeline, self.engine.step, writes):
                    name = str(path.relative_to(self.config.output))
                    self.journal.write("sample", step=self.engine.step, path=name)
        self.workers.wait()


def adapter_card(config: Config) -> AdapterMetadata:
    """What an adapter of this run says of itself."""
    recipe = config.recipe_record()
    trigger = config.data.caption_prefix.strip(" ,.:;")
    return AdapterMetadata(recipe["model"], (trigger,) if trigger else (), recipe)
