"""Inputs of a plan: the card, and what is known of model and data without weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_trainer.config import EXPERTS, Config, Data, RunConfig
from lora_trainer.jobs.hub import Offer
from lora_trainer.latent_cache import read_index
from lora_trainer.manifest import DatasetItem
from lora_trainer.objective import expert_range, training_sigmas
from lora_trainer.plan import memory
from lora_trainer.regularization import prompts_of, shape_of
from lora_trainer.windows import Window, plan_windows
from mova.adapters.strengths import TOWERS
from mova.catalog import find_model
from mova.checkpoint import MODULES, build, load_tokenizer, read_boundary_ratio, read_config, resolve
from mova.errors import UserError
from mova.inspection import CONFIGS, Checkpoint
from mova.machine import GIB, UNKNOWN_GPU_LINK, Machine, find_gpu, known_gpu, sustained_tflops
from mova.shapes import MAX_PROMPT_TOKENS, ClipShape, parse_size
from mova.text import clean_prompt

FLOAT32_RATE = 0.1  # of 16-bit arithmetic, what a GPU does in float32: about that of its matrix units


@dataclass(frozen=True)
class Card:
    """The machine of a plan: memory in bytes (`ram` of None: not known), TFLOP/s, and GB/s from host memory.

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
class PlanInputs:
    """Model and data, as known without weights and without decoding."""

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
    regularization_windows: int = 0
    ungenerated: int = 0  # of those, clips that the run generates first, each one window


def find_card(config: RunConfig, gpu: str | None, processes: int = 1) -> Card:
    """The named GPU with all its memory free, or this machine as it is. Raises UserError."""
    if gpu is None:
        return card_of(Machine.probe(config.run.device), config.run.dtype, processes)
    named = find_gpu(gpu)
    machine = Machine("cuda", named.name, int(named.gib * GIB), ram=0, cores=0, has_bfloat16=True)
    return replace(card_of(machine, config.run.dtype, processes), ram=None)


def card_of(machine: Machine, dtype: str = "auto", processes: int = 1) -> Card:
    """The card of a machine, with the rates of the table; `dtype` is as `run.dtype`."""
    dtype, known = machine.dtype if dtype == "auto" else dtype, known_gpu(machine.name)
    rate = sustained_tflops(machine.name if machine.is_gpu else "CPU", machine.cores)
    rate *= FLOAT32_RATE if machine.is_gpu and dtype == "float32" else 1
    link = known.link if known else UNKNOWN_GPU_LINK
    return Card(machine.name, machine.vram, machine.ram, rate, link, machine.is_gpu, dtype, processes)


def rented_card(config: Config, offer: Offer) -> Card:
    """A machine of the Hub's jobs. Of its virtual cores two share one."""
    if offer.gpu:
        return replace(find_card(config, offer.gpu.name), name=offer.name, ram=offer.ram or None)
    cores = max(1, offer.cores // 2)
    return card_of(Machine("cpu", offer.name, offer.ram, offer.ram, cores, has_bfloat16=False), "float32")


def plan_inputs(config: Config, items: list[DatasetItem] | None = None) -> PlanInputs:
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
    windows, cached = read_windows(config, items)
    shapes = [checkpoint.clip_shape(w.height, w.width, w.num_frames, w.frame_rate) for w in windows]
    captions = [window.caption for window in windows]
    regularization = sum(window.is_regularization for window in windows)
    count = config.data.regularization_count
    ungenerated = 0 if cached else max(0, count - regularization)
    if ungenerated:
        shapes += [checkpoint.clip_shape(**shape_of(config))] * ungenerated
        captions += [spec.prompt for spec in prompts_of(config)[:count]]
    texts = list(dict.fromkeys([*captions, *config.texts]))
    is_local = Path(source).expanduser().is_dir()
    return PlanInputs(
        towers=towers,
        configs=configs,
        high_share=high,
        text_parameters=sizes["text_encoder"],
        windows=Counter(shapes),
        clips=len({window.clip for window in windows if not window.is_regularization}),
        cached=cached,
        text_tokens=count_tokens(folder, texts),
        texts=len(texts),
        download=0 if is_local else 2 * sum(sizes.values()),
        regularization_windows=regularization + ungenerated,
        ungenerated=ungenerated,
    )


def read_windows(config: Config, items: list[DatasetItem] | None) -> tuple[Sequence[Window], bool]:
    """The windows, and True where all are in the cache. Clips that are yet to be generated are left out."""
    if items is None:
        try:
            windows = read_index(config).windows
        except UserError:  # nothing is encoded yet
            windows = ()
        holds_regularization = any(window.is_regularization for window in windows)
        same_kinds = holds_regularization == config.data.is_regularized
        is_complete = all((config.cache / window.file).is_file() for window in windows)
        if windows and is_complete and same_kinds and all(is_wanted(w, config.data) for w in windows):
            return windows, True
    return plan_windows(config, items), False


def is_wanted(window: Window, data: Data) -> bool:
    """True if a cached window is one that these settings would give again."""
    size = parse_size(data.size) if data.size and not data.buckets else (window.height, window.width)
    lengths = data.num_frames or (window.num_frames,)
    same_size = (window.height, window.width) == size
    return same_size and window.frame_rate == data.frame_rate and window.num_frames in lengths


def count_tokens(folder: Path, texts: list[str]) -> int:
    """Tokens of the texts as they are cached; where the tokenizer is not at hand, the most they can be."""
    if not (folder / "tokenizer").is_dir():
        return MAX_PROMPT_TOKENS * len(texts)
    tokenizer = load_tokenizer(folder / "tokenizer")
    lengths = (len(tokenizer(clean_prompt(text), verbose=False).input_ids) for text in texts)
    return sum(min(length, MAX_PROMPT_TOKENS) for length in lengths)
