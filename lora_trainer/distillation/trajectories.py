"""The teacher's trajectories on the disk: texts and first frames, then its states at the student's sigmas.

Two files for each group of prompts, `prompts-*` and `states-*`, named after a fingerprint of everything that
decided them. They are written whole or not at all, so a run that was killed makes only what is missing.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import psutil
import torch
from safetensors import safe_open
from torch import Tensor

from lora_trainer.distillation.config import DistillConfig
from lora_trainer.distillation.prompts import Item
from lora_trainer.distributed import Workers
from lora_trainer.journal import Report
from lora_trainer.latent_cache import (
    PART_AGE,
    Encoders,
    checkpoint_folder,
    encoder_print,
    fingerprint,
    is_whole,
    read_tensors,
    write_tensors,
)
from lora_trainer.objective import sample_generator
from lora_trainer.output_lock import remove_part_files
from mova.adapters.strengths import TOWERS
from mova.encoders import draw_noise, to_pixels
from mova.errors import UserError
from mova.files import sha256_of
from mova.guidance import Guidance
from mova.media.images import load_first_frame
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler
from mova.shapes import MAX_PROMPT_TOKENS
from mova.text import clean_prompt
from mova.tracks import Track

FORMAT = 1
KEPT = torch.float16  # of latents: with a step of 2^-11 it is finer than any sigma difference shows
RESIDENT_SHARE = 0.4  # of the free memory: smaller trajectories are read once and stay there
READERS = 8
Held = Literal["video", "audio"] | None


@dataclass(frozen=True)
class Group:
    """Trajectories that are made at once: their prompts, the track that is held, and their two files."""

    items: tuple[Item, ...]
    held: Held
    prompts: Path
    states: Path


@dataclass(frozen=True)
class Row:
    """One trajectory of a group. `bucket` is shared by those that can be in one micro-batch."""

    group: Group = field(repr=False)
    index: int
    number: int  # among all trajectories

    @property
    def held(self) -> Held:
        return self.group.held

    @property
    def bucket(self) -> str:
        return self.held or ""

    @property
    def name(self) -> str:
        return f"prompt {self.group.items[self.index].number + 1}"


def student_sigmas(scheduler: PairScheduler, config: DistillConfig, held: Held = None) -> Tensor:
    """Sigmas [steps + 1, 2] of the student's path: every so many of the teacher's; 0 for a held track."""
    sigmas = scheduler.sigmas(config.steps, config.video_shift, config.audio_shift)
    return scheduler.starting_at(sigmas, (float(held != "video"), float(held != "audio")))


def plan_groups(config: DistillConfig, items: Sequence[Item], dtype: torch.dtype) -> list[Group]:
    """The groups of a run, with the names of their files. Raises UserError if an image is missing."""
    folder = checkpoint_folder(config)
    prints = {name: encoder_print(folder / name) for name in ("text_encoder", "tokenizer", "video_vae")}
    towers = {name: encoder_print(folder / name) for name in (*TOWERS, "scheduler")}
    texts = {
        "format": FORMAT,
        "size": [*config.size, config.prompts.frame_rate],
        "dtype": str(dtype),
        **prints,
    }
    texts["negative_prompt"] = config.negative_prompt
    teacher = {
        "steps": [config.teacher_steps, config.steps],
        "scales": config.scales,
        "shifts": [config.video_shift, config.audio_shift],
        "seed": config.run.seed,
        "base": config.run.base,
        **towers,
    }
    size, groups = config.teacher.batch_size, []
    shares = {"video": config.prompts.hold_video, "audio": config.prompts.hold_audio}
    count = -(-len(items) // size)
    images = {item.image for item in items if item.image is not None}
    with ThreadPoolExecutor(READERS) as pool:
        digests = dict(zip(images, pool.map(sha256_of, images), strict=True))
    for number in range(count):
        part = tuple(items[number * size : (number + 1) * size])
        record = [(clean_prompt(each.prompt), digests.get(each.image), each.number) for each in part]
        held = held_in_group(number, shares)
        said = fingerprint(texts | {"items": [each[:2] for each in record]})
        made = fingerprint(texts | teacher | {"items": record, "held": held})
        paths = (
            config.cache / f"{kind}-{name}.safetensors"
            for kind, name in (("prompts", said), ("states", made))
        )
        groups.append(Group(part, held, *paths))
    return groups


def held_in_group(number: int, shares: dict[str, float]) -> Held:
    """The track that group `number` holds: each track's share of the groups, evenly spread."""
    for track, share in shares.items():
        offset = 0.5 if track == "audio" else 0.0  # so that the two meet only where they must
        if int((number + 1) * share + offset) > int(number * share + offset):
            return track
    return None


def encode_prompts(
    config: DistillConfig, groups: Sequence[Group], device: torch.device, dtype: torch.dtype, report: Report
) -> None:
    """Texts and first frames of the groups that lack them; the encoders are freed at the end.

    Raises:
        UserError: a prompt is too long, or an image cannot be read.
    """
    remove_part_files(config.cache, PART_AGE)
    missing = [group for group in groups if not is_whole(group.prompts)]
    if not missing:
        return
    height, width, num_frames = config.size
    encoders = Encoders(checkpoint_folder(config), ("text_encoder", "tokenizer", "video_vae"), device, dtype)

    def picture(item: Item) -> Tensor:
        image = None if item.image is None else load_first_frame(item.image, height, width)
        return to_pixels(image, height, width)

    negative = encoders.encode_prompt(config.negative_prompt)
    with ThreadPoolExecutor(READERS) as pool:
        for done, group in enumerate(missing):
            report("prompts", done, len(missing))
            for item in group.items:
                if cut := encoders.truncated_text(item.prompt):
                    raise UserError(
                        f"prompt {item.number + 1} has over {MAX_PROMPT_TOKENS} tokens; shorten it before "
                        f"{cut[:60]!r}"
                    )
            images = torch.stack(list(pool.map(picture, group.items)))
            text = encoders.encode_prompt([item.prompt for item in group.items])
            tensors = {
                "text": trimmed(text),
                "negative": trimmed(negative),
                "condition": encoders.encode_first_frame(images, num_frames).to(KEPT),
            }
            write_tensors(group.prompts, tensors, {"prompts": len(group.items)})
    report("prompts", len(missing), len(missing))


def trimmed(text: Tensor) -> Tensor:
    """Embeddings [B, 512, D] up to the longest prompt's end."""
    used = text.abs().sum(dim=(0, 2)).nonzero()
    return text[:, : int(used.max()) + 1 if len(used) else 1].contiguous()


def padded(text: Tensor) -> Tensor:
    """Embeddings [B, L, D] as the towers read them, [B, 512, D]."""
    return torch.nn.functional.pad(text, (0, 0, 0, MAX_PROMPT_TOKENS - text.shape[1]))


def make_trajectories(
    config: DistillConfig, groups: Sequence[Group], pipeline: MOVAPipeline, workers: Workers, report: Report
) -> None:
    """The teacher's states of the groups that lack them, each process making its share."""
    mine = [group for group in groups[workers.rank :: workers.count] if not is_whole(group.states)]
    with ThreadPoolExecutor(1) as writer:  # one is written while the next is made
        writing: Future[None] | None = None
        for done, group in enumerate(mine):
            report("trajectories", done, len(mine))
            prompts = {name: each.to(workers.device) for name, each in read_tensors(group.prompts).items()}
            states = teacher_states(config, group, prompts, pipeline)
            tensors = {name: each.to(KEPT).cpu() for name, each in states.items()}
            if writing is not None:
                writing.result()
            writing = writer.submit(write_tensors, group.states, tensors, {})
        if writing is not None:
            writing.result()
    report("trajectories", len(mine), len(mine))


@torch.no_grad()
def teacher_states(
    config: DistillConfig, group: Group, prompts: dict[str, Tensor], pipeline: MOVAPipeline
) -> dict[str, Tensor]:
    """`video` [B, steps + 1, 16, T, h, w] and `audio` [B, steps + 1, C, L], from noise to the end.

    What a held track is given is the end of a trajectory on which both tracks were made.
    """
    height, width, num_frames = config.size
    scheduler = pipeline.scheduler
    shape = pipeline.clip_shape(height, width, num_frames, config.prompts.frame_rate)
    sizes = (
        (pipeline.video_dit.config.out_dim, shape.latent_frames, shape.latent_height, shape.latent_width),
        (pipeline.audio_dit.config.out_dim, shape.audio_latents),
    )
    generators = [sample_generator(config.run.seed, item.number) for item in group.items]
    noise = draw_noise(len(group.items), sizes, generators, (None, None))
    texts = padded(prompts["text"]), padded(prompts["negative"]).expand(len(group.items), -1, -1)
    stride = config.teacher_steps // config.steps

    def run(tracks: tuple[Track, Track]) -> dict[str, list[Tensor]]:
        pairs = zip(noise, tracks, strict=True)
        video, audio = (drawn if track.given is None else track.given for drawn, track in pairs)
        device = pipeline.residency.device
        kept = {"video": [video.to(device)], "audio": [audio.to(device)]}

        def on_step(step: int, _: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            if (step + 1) % stride == 0:
                kept["video"].append(tensors["latents"])
                kept["audio"].append(tensors["audio_latents"])
            return tensors

        pipeline.denoise(
            *noise,
            prompts["condition"].float(),
            texts,
            scheduler.sigmas(config.teacher_steps, config.video_shift, config.audio_shift),
            Guidance(*config.scales).branches,
            config.prompts.frame_rate,
            on_step,
            lambda: False,
            tracks,
        )
        return kept

    states = run((Track(), Track()))
    if group.held is not None:
        given = states[group.held][-1]
        track = Track(given, torch.ones(given.shape[2]))
        states = run((track, Track()) if group.held == "video" else (Track(), track))
    return {name: torch.stack(each, dim=1) for name, each in states.items()}


class Trajectories:
    """Rows of all groups, on the device where they fit there, else read from the disk as they are used."""

    def __init__(self, groups: Sequence[Group], device: torch.device) -> None:
        self.device = device
        places = ((group, index) for group in groups for index in range(len(group.items)))
        self.rows = [Row(group, index, number) for number, (group, index) in enumerate(places)]
        size = sum(path.stat().st_size for group in groups for path in (group.prompts, group.states))
        self.held = read_all(groups, device) if size < RESIDENT_SHARE * free_memory(device) else None

    @cached_property
    def negative(self) -> Tensor:
        """The negative prompt's text [1, 512, D], the same for all rows."""
        with safe_open(self.rows[0].group.prompts, framework="pt") as file:
            return padded(file.get_tensor("negative").to(self.device))

    def prompts(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Text [B, 512, D] and first-frame condition [B, 20, T, h, w]."""
        if self.held is not None:
            numbers = self._numbers(rows)
            return padded(self.held["text"][numbers]), self.held["condition"][numbers].float()
        text = [padded(self._read(row.group.prompts, "text", row.index)[None])[0] for row in rows]
        condition = [self._read(row.group.prompts, "condition", row.index) for row in rows]
        return torch.stack(text), torch.stack(condition).float()

    def states(self, rows: Sequence[Row], steps: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's latents before each row's step, [B, 16, T, h, w] and [B, C, L], float32."""
        if self.held is not None:
            place = self._numbers(rows), steps.to(self.device)
            return self.held["video"][place].float(), self.held["audio"][place].float()
        pairs = zip(rows, steps.tolist(), strict=True)
        places = [(row.group.states, (row.index, step)) for row, step in pairs]
        video, audio = (
            torch.stack([self._read(path, name, place) for path, place in places]).float()
            for name in ("video", "audio")
        )
        return video, audio

    def _numbers(self, rows: Sequence[Row]) -> Tensor:
        return torch.tensor([row.number for row in rows], device=self.device)

    def _read(self, path: Path, name: str, place: int | tuple[int, int]) -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_slice(name)[place].to(self.device)


def free_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def read_all(groups: Sequence[Group], device: torch.device) -> dict[str, Tensor]:
    """All tensors of all groups, stacked; texts are padded to the longest."""
    stacked: dict[str, Tensor] = {}
    count, first = sum(len(group.items) for group in groups), 0
    longest = max(text_length(group.prompts) for group in groups)
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(lambda group: read_tensors(group.prompts) | read_tensors(group.states), groups)
        for group, part in zip(groups, parts, strict=True):
            for name in ("text", "condition", "video", "audio"):
                tensor = part[name]
                shape = (longest, *tensor.shape[2:]) if name == "text" else tensor.shape[1:]
                if name not in stacked:
                    stacked[name] = torch.zeros(count, *shape, dtype=tensor.dtype, device=device)
                end = first + len(group.items)
                if name == "text":
                    stacked[name][first:end, : tensor.shape[1]] = tensor.to(device)
                else:
                    stacked[name][first:end] = tensor.to(device)
            first += len(group.items)
    return stacked


def text_length(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return file.get_slice("text").get_shape()[1]
