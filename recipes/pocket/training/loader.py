"""Clips for training as fast as the processor can draw them.

Worker processes render straight into shared arrays; the trainer reads whole batches from them. Clip k of a
stream has seed first_seed + k, whatever the number of workers, so a stream can be resumed or repeated.
"""

import json
import multiprocessing
import os
import queue
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from multiprocessing.context import SpawnContext
from pathlib import Path

import numpy as np

from recipes.pocket.captions import CaptionMix
from recipes.pocket.world.clip import FAMILIES, HEIGHT, NUM_FRAMES, NUM_SAMPLES, WIDTH
from recipes.pocket.world.render import DEFAULT_MIX, choose_family, render
from recipes.pocket.world.speech import DEFAULT_FOLDER, WORLD

FRAMES_SHAPE = (NUM_FRAMES, HEIGHT, WIDTH, 3)
PATIENCE = 5.0  # seconds between checks that the workers are alive


@dataclass(frozen=True)
class Batch:
    frames: np.ndarray  # uint8 [B, F, H, W, 3]
    waveforms: np.ndarray  # float32 [B, S]
    captions: list[str]
    families: list[str]
    first_seed: int


@dataclass(frozen=True)
class Source:
    """Settings with which a worker turns a seed into a clip."""

    families: tuple[str, ...]
    split: str
    speech: Path
    mix: CaptionMix


def stream(
    batch: int,
    first_seed: int = 0,
    workers: int | None = None,
    families: tuple[str, ...] = FAMILIES,
    split: str = "train",
    speech: Path = DEFAULT_FOLDER,
    mix: CaptionMix = DEFAULT_MIX,
    slots: int = 3,
) -> Iterator[Batch]:
    """Batches without end. Arrays are valid until the next batch is requested; copy what must live longer.

    `slots` batches are in memory, 4.3 MB a clip: one with the caller, the others filling. By default there is
    one worker a core. Close the generator, or drop it, to stop them.
    """
    if "face" in families and not (Path(speech) / WORLD.bank).exists():
        raise FileNotFoundError(
            f"no word bank in {speech}; make it with: python -m recipes.pocket speech --out {speech}"
        )
    context = multiprocessing.get_context("spawn")  # the caller may hold a GPU, which a fork would break
    frames, waveforms = _shared_arrays(context, slots, batch)
    tasks, results = context.Queue(), context.Queue()
    source = Source(families, split, Path(speech), mix)
    arguments = (frames, waveforms, slots, batch, tasks, results, source)
    processes = [
        context.Process(target=_work, args=arguments, daemon=True)
        for _ in range(workers or os.cpu_count() or 1)
    ]
    for process in processes:
        process.start()
    frames, waveforms = _as_arrays(frames, waveforms, slots, batch)
    try:
        done: dict[int, dict[int, tuple[str, str]]] = {}
        for index in range(slots - 1):
            _request(tasks, index, slots, batch, first_seed)
        for index in count():
            _request(tasks, index + slots - 1, slots, batch, first_seed)
            while len(done.get(index, ())) < batch:
                finished, row, caption, family = _next_result(results, processes)
                done.setdefault(finished, {})[row] = (caption, family)
            rows = done.pop(index)
            captions, drawn = zip(*(rows[row] for row in range(batch)), strict=True)
            slot = index % slots
            yield Batch(
                frames[slot], waveforms[slot], list(captions), list(drawn), first_seed + index * batch
            )
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def write_shards(
    folder: Path,
    clips: int,
    per_shard: int,
    first_seed: int = 0,
    workers: int | None = None,
    families: tuple[str, ...] = FAMILIES,
    split: str = "train",
    speech: Path = DEFAULT_FOLDER,
    mix: CaptionMix = DEFAULT_MIX,
) -> list[Path]:
    """Render `clips` (a multiple of per_shard) into folders that `read_shard` maps; 4.3 MB a clip."""
    if clips % per_shard:
        raise ValueError(f"clips={clips} must be a multiple of per_shard={per_shard}")
    batch = min(per_shard, 16)
    if per_shard % batch:
        raise ValueError(f"per_shard={per_shard} must be below 16 or a multiple of it")
    paths = []
    with closing(stream(batch, first_seed, workers, families, split, speech, mix)) as batches:
        for index in range(clips // per_shard):
            path = Path(folder) / f"{index:05d}"
            _write_shard(path, per_shard, islice(batches, per_shard // batch))
            paths.append(path)
    return paths


def _write_shard(path: Path, clips: int, batches: Iterator[Batch]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    frames = np.lib.format.open_memmap(path / "frames.npy", "w+", np.uint8, (clips, *FRAMES_SHAPE))
    waveforms = np.empty((clips, NUM_SAMPLES), np.float32)
    captions: list[str] = []
    families: list[str] = []
    seeds: list[int] = []
    for batch in batches:
        rows = slice(len(captions), len(captions) + len(batch.captions))
        frames[rows], waveforms[rows] = batch.frames, batch.waveforms
        captions += batch.captions
        families += batch.families
        seeds.append(batch.first_seed)
    frames.flush()
    np.save(path / "waveforms.npy", waveforms)
    text = {"captions": captions, "families": families, "first_seed": seeds[0]}
    (path / "clips.json").write_text(json.dumps(text))


def read_shard(path: Path) -> Batch:
    """A whole shard; its frames stay on the disk until they are used."""
    text = json.loads((Path(path) / "clips.json").read_text())
    frames = np.load(Path(path) / "frames.npy", mmap_mode="r")
    return Batch(
        frames, np.load(Path(path) / "waveforms.npy"), text["captions"], text["families"], text["first_seed"]
    )


def _shared_arrays(context: SpawnContext, slots: int, batch: int) -> tuple:
    frames = context.RawArray("B", slots * batch * int(np.prod(FRAMES_SHAPE)))
    return frames, context.RawArray("f", slots * batch * NUM_SAMPLES)


def _as_arrays(frames: object, waveforms: object, slots: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.frombuffer(frames, np.uint8).reshape(slots, batch, *FRAMES_SHAPE),
        np.frombuffer(waveforms, np.float32).reshape(slots, batch, NUM_SAMPLES),
    )


def _request(tasks: multiprocessing.Queue, index: int, slots: int, batch: int, first_seed: int) -> None:
    for row in range(batch):
        tasks.put((index, index % slots, row, first_seed + index * batch + row))


def _next_result(results: multiprocessing.Queue, processes: list) -> tuple[int, int, str, str]:
    while True:
        try:
            return results.get(timeout=PATIENCE)
        except queue.Empty:
            dead = [process.exitcode for process in processes if not process.is_alive()]
            if dead:
                raise RuntimeError(
                    f"{len(dead)} render workers ended with exit codes {dead}; see their output"
                ) from None


def _work(
    frames: object,
    waveforms: object,
    slots: int,
    batch: int,
    tasks: multiprocessing.Queue,
    results: multiprocessing.Queue,
    source: Source,
) -> None:
    frames, waveforms = _as_arrays(frames, waveforms, slots, batch)
    while True:
        try:
            index, slot, row, seed = tasks.get(timeout=PATIENCE)
        except queue.Empty:
            if not multiprocessing.parent_process().is_alive():
                return  # a killed trainer cannot stop its workers
            continue
        family = choose_family(seed, source.families)
        clip = render(seed, family, source.split, source.speech, source.mix)
        frames[slot, row] = clip.frames
        waveforms[slot, row] = clip.waveform
        results.put((index, row, clip.caption, clip.family))
