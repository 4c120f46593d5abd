"""A distillation from prompts to the adapter: encode, make the teacher's trajectories, train the student."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from lora_trainer.base_model import choose_device, load_model
from lora_trainer.distillation.config import DistillConfig
from lora_trainer.distillation.matching import make_student
from lora_trainer.distillation.prompts import read_items
from lora_trainer.distillation.student import Student
from lora_trainer.distillation.trajectories import (
    Row,
    Trajectories,
    encode_prompts,
    make_trajectories,
    plan_groups,
)
from lora_trainer.distributed import Workers
from lora_trainer.journal import Report
from lora_trainer.latent_cache import checkpoint_folder
from lora_trainer.loop import Loop, check_usable, saved_state
from lora_trainer.output_lock import own_output
from mova.adapters.files import AdapterMetadata
from mova.adapters.turbo import Turbo
from mova.media.clips import write_mp4


@contextmanager
def open_distillation(
    config: DistillConfig, resume: bool, report: Report = lambda *_: None
) -> Iterator["Distillation"]:
    """A distillation that owns its output folder, with the trajectories made and the model loaded.

    Raises:
        UserError: the settings or prompts cannot be used; another process owns the output; or as `Loop.run`.
        BackendError.
    """
    device, dtype = choose_device(config)
    workers = Workers(device)
    check_usable(config, "prompts.cache", config.cache)
    items = read_items(config.prompts)
    with own_output(config.output, "distill") if workers.is_first else nullcontext():
        workers.wait()
        state = saved_state(config, resume, workers.is_first)
        groups = plan_groups(config, items, dtype)
        encode_prompts(config, groups[workers.rank :: workers.count], workers.device, dtype, report)
        workers.wait()
        report("model", 0, 1)
        pipeline = load_model(checkpoint_folder(config), workers.device, dtype, config.run.offload)
        student = make_student(config, pipeline, workers)
        with student.lora.without(*student.towers):
            make_trajectories(config, groups, pipeline, workers, report)
        workers.wait()
        student.follow(Trajectories(groups, workers.device))
        yield Distillation(config, student, state)


class Distillation(Loop):
    """Trains a student to the last step of `config`, from the checkpoint `state`, if any."""

    shorter = ("fewer frames (prompts.num_frames)", "a smaller prompts.size")
    engine: Student

    def __init__(self, config: DistillConfig, student: Student, state: dict[str, Any] | None) -> None:
        self.sample_every = config.samples.every
        super().__init__(config, student, state)

    def _setup(self) -> dict[str, Any]:
        student = self.engine
        return {
            "trajectories": len(student.trajectories.rows),
            "sigmas": {kind or "made": sigmas.tolist() for kind, sigmas in student.sigmas.items()},
            "experts": {kind or "made": experts for kind, experts in student.experts.items()},
            "high_share": student.high_share,
        }

    def _card(self) -> AdapterMetadata:
        config, shift = self.config, self.engine.pipeline.scheduler.config.shift
        turbo = Turbo(
            steps=config.steps,
            video_shift=shift if config.video_shift is None else config.video_shift,
            audio_shift=shift if config.audio_shift is None else config.audio_shift,
        )
        return AdapterMetadata(config.model_name, (), config.recipe_record(), turbo)

    def _sample(self) -> None:
        if self.workers.is_first:
            with self.engine.shown():
                for index, row in enumerate(self.engine.measured["held_out"][: self.config.samples.count]):
                    self._write_clip(index, row)
        self.workers.wait()

    @torch.no_grad()
    def _write_clip(self, index: int, row: Row) -> None:
        """The student's clip of a held-out prompt; before the first step also the teacher's."""
        student, step = self.engine, self.engine.step
        text, condition = student.trajectories.prompts([row])
        last = torch.tensor([self.config.steps])
        noise = student.trajectories.states([row], torch.zeros_like(last))
        own = student.own_states(noise, row.bucket, last, text, condition)
        made = {f"step-{step:06d}-{index}": own}
        if step == 0:
            made = {f"teacher-{index}": student.trajectories.states([row], last)} | made
        for name, (video, audio) in made.items():
            path = self.config.output / "samples" / f"{name}.mp4"
            self._write(path, video, audio, row.group.items[row.index].prompt)
            self.journal.write("sample", step=step, path=str(path.relative_to(self.config.output)))

    def _write(self, path: Path, video: torch.Tensor, audio: torch.Tensor, prompt: str) -> None:
        pipeline, settings = self.engine.pipeline, self.config.prompts
        height, width, num_frames = self.config.size
        shape = pipeline.clip_shape(height, width, num_frames, settings.frame_rate)
        frames = pipeline.video_processor.postprocess_video(pipeline.decode_video(video), "np")[0]
        sound = pipeline.decode_audio(audio)[0, 0, : shape.num_samples].numpy()
        record = {"prompt": prompt, "step": self.engine.step}
        frames = (frames * 255).round().astype("uint8")
        write_mp4(path, frames, sound, settings.frame_rate, shape.sample_rate, record, overwrite=True)
