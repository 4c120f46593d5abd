"""What a plan is made from: the card, and what is known of model and data without weights."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_trainer.config import EXPERTS, Config, Data
from lora_trainer.jobs.hub import Hardware
from lora_trainer.latent_cache import INDEX, CacheEntry, read_index
from lora_trainer.manifest import DatasetItem
from lora_trainer.objective import expert_range, training_sigmas
from lora_trainer.plan import memory
from lora_trainer.regularization import shape_of, wishes_of
from mova.adapters.strengths import TOWERS
from mova.catalog import find_model
from mova.checkpoint import MODULES, build, load_tokenizer, read_boundary_ratio, read_config, resolve
from mova.inspection import CONFIGS, Checkpoint
from mova.machine import (
    CPU_TFLOPS_PER_CORE,
    GIB,
    UNKNOWN_GPU_LINK,
    Machine,
    find_gpu,
    known_gpu,
    sustained_tflops,
)
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape, parse_size
from mova.text import clean_prompt

FLOAT32_RATE = 0.1  # of 16-bit arithmetic, what a GPU does in float32: about that of its matrix units


@dataclass(frozen=True)
class Card:
    """Where it would run: memory in bytes (`ram` of None: not known), TFLOP/s, and GB/s from host memory.

    `processes` take part, each on a card of its own like this one.
    """

    name: str
    vram: int
    ram: int | None
    tflops: float
    link: float
    is_gpu: bool
    dtype: str
    processes: int = 1


@dataclass(frozen=True)
class Outline:
    """What is known of model and data without weights and without decoding."""

    towers: Mapping[str, nn.Module]
    configs: Mapping[str, Mapping[str, Any]]
    high_share: float  # of the schedule
    text_parameters: int
    windows: Mapping[ClipShape, int]
    clips: int  # to learn
    cached: bool
    text_tokens: int  # of all captions and prompts
    texts: int
    download: int  # bytes of weights that are not on this machine
    kept_windows: int = 0
    unmade: int = 0  # of those, clips that the run makes first, each one window


def find_card(config: Config, gpu: str | None, processes: int = 1) -> Card:
    """The named GPU with all its memory free, or this machine as it is. Raises UserError."""
    wanted = None if config.run.dtype == "auto" else config.run.dtype
    if gpu is not None:
        found = find_gpu(gpu)
        dtype = wanted or "bfloat16"
        rate = found.tflops * (FLOAT32_RATE if dtype == "float32" else 1)
        return Card(found.name, int(found.gib * GIB), None, rate, found.link, True, dtype, processes)
    machine = Machine.probe(config.run.device)
    dtype, known = wanted or machine.dtype, known_gpu(machine.name)
    rate = sustained_tflops(machine.name if machine.is_gpu else "CPU", machine.cores)
    rate *= FLOAT32_RATE if machine.is_gpu and dtype == "float32" else 1
    link = known.link if known else UNKNOWN_GPU_LINK
    return Card(machine.name, machine.vram, machine.ram, rate, link, machine.is_gpu, dtype, processes)


def rented_card(config: Config, hardware: Hardware) -> Card:
    """A machine of the Hub's jobs. Of its virtual cores two share one."""
    if hardware.gpu:
        return replace(find_card(config, hardware.gpu), name=hardware.name, ram=hardware.ram or None)
    rate, dtype = CPU_TFLOPS_PER_CORE * hardware.cores / 2, "float32"
    return Card(hardware.name, hardware.ram, hardware.ram, rate, UNKNOWN_GPU_LINK, False, dtype)


def outline(config: Config, items: list[DatasetItem] | None = None) -> Outline:
    """Model and data from configs, the cache's index or the clips' headers. Raises UserError.

    `items` stand for the data set of `config`.
    """
    source = find_model(config.model).source
    folder = resolve(source, CONFIGS)
    towers = memory.build_towers(folder)
    configs = {name: read_config(name, folder / name) for name in MODULES}
    with torch.device("meta"):
        coders = {name: build(name, folder / name) for name in MODULES if name not in TOWERS}
    scheduler = build("scheduler", folder / "scheduler")
    sigmas = training_sigmas(scheduler)
    high = len(expert_range(scheduler, read_boundary_ratio(folder), EXPERTS[0])) / len(sigmas)
    sizes = {name: memory.size_of(part) for name, part in (towers | coders).items()}
    checkpoint = Checkpoint(configs, {})
    windows, clips, captions, cached, kept = read_windows(config, checkpoint, items)
    unmade = 0 if cached else max(0, config.data.keep_count - kept)
    if unmade:
        windows[checkpoint.clip_shape(**shape_of(config))] += unmade
        captions += [wish.prompt for wish in wishes_of(config)[: config.data.keep_count]]
    texts = list(dict.fromkeys([*captions, *config.texts]))
    is_local = Path(source).expanduser().is_dir()
    return Outline(
        towers,
        configs,
        high,
        sizes["text_encoder"],
        windows,
        clips,
        cached,
        count_tokens(folder, texts),
        len(texts),
        0 if is_local else 2 * sum(sizes.values()),
        kept + unmade,
        unmade,
    )


def read_windows(
    config: Config, checkpoint: Checkpoint, items: list[DatasetItem] | None = None
) -> tuple[Counter[ClipShape], int, list[str], bool, int]:
    """Windows by shape, clips to learn, captions, whether all is in the cache, and windows to keep.

    Clips that are yet to be made are not among them.
    """
    held = read_index(config.cache).entries if (config.cache / INDEX).is_file() else ()
    wants_kept, holds_kept = config.data.keeps, any(entry.kept for entry in held)
    wanted = held and holds_kept == wants_kept and all(is_wanted(entry, config.data) for entry in held)
    if items is None and wanted:
        found, cached = held, True
        captions = [entry.caption for entry in found]
        clips, kept = {entry.clip for entry in found if not entry.kept}, sum(entry.kept for entry in found)
    else:
        from lora_trainer.windows import caption_of, plan_windows

        found, cached = plan_windows(config, items), False
        captions = [caption_of(window.item, config.data) for window in found]
        clips = {window.item.name for window in found if not window.item.kept}
        kept = sum(window.item.kept for window in found)
    shapes = [checkpoint.clip_shape(w.height, w.width, w.num_frames, w.frame_rate) for w in found]
    return Counter(shapes), len(clips), captions, cached, kept


def is_wanted(entry: CacheEntry, data: Data) -> bool:
    """Whether a cached window is one that these settings would make again."""
    size = parse_size(data.size) if data.size and not data.buckets else (entry.height, entry.width)
    lengths = data.num_frames or (entry.num_frames,)
    same_size = (entry.height, entry.width) == size
    return same_size and entry.frame_rate == data.frame_rate and entry.num_frames in lengths


def count_tokens(folder: Path, texts: list[str]) -> int:
    """Tokens of the texts as they are cached; where the tokenizer is not at hand, the most they can be."""
    if not (folder / "tokenizer").is_dir():
        return MAX_PROMPT_TOKENS * len(texts)
    tokenizer = load_tokenizer(folder / "tokenizer")
    lengths = (len(tokenizer(clean_prompt(text), verbose=False).input_ids) for text in texts)
    return sum(min(length, MAX_PROMPT_TOKENS) for length in lengths)
