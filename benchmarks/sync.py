"""Accuracy of `mova.metrics` on offsets and onsets whose truth is known.

    python -m benchmarks.sync [--count 28] [--speech outputs/pocket]

Clips of the procedural world get their sound shifted by a known time, replaced by noise, and replaced by that
of another clip of the same family. Then `ClipHealth.synchrony` has to choose the picture's own sound among
those of two other clips, and over itself with another clip's second half.
Faces need the word bank: `python -m recipes.pocket speech --out outputs/pocket`.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from mova.metrics import measure
from mova.metrics.onsets import find_onsets
from mova.metrics.sync import Sync, measure_sync, thumbnails
from recipes.pocket.world.clip import FAMILIES, FRAME_RATE, SAMPLE_RATE, Scene
from recipes.pocket.world.render import make_scene
from recipes.pocket.world.speech import DEFAULT_FOLDER

SHIFTS_MS = (-200, -100, 0, 100, 200, 300)
FIRST_SEED = 9000  # apart from the seeds that the thresholds were chosen on
FRAME_MS = 1000 / FRAME_RATE
MATCH_SECONDS = 0.05
KINDS = ("click", "soft tone", "bell", "drum")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=28, help="clips of each family")
    parser.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word bank")
    options = parser.parse_args()
    began = time.monotonic()
    lines = ["| clips | sound | within a frame | median error | reported as clear | of these wrong |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    seeds = range(FIRST_SEED, FIRST_SEED + options.count)
    scenes = {name: [make_scene(seed, name, "train", options.speech) for seed in seeds] for name in FAMILIES}
    for family in FAMILIES:
        lines += sync_rows(family, scenes[family])
    lines += ["", "| clips | own sound, best of three | better than half of it |", "| --- | --- | --- |"]
    lines += [choice_row(family, scenes[family]) for family in FAMILIES]
    lines += ["", "| onsets | missed | extra | bias | spread |", "| --- | --- | --- | --- | --- |"]
    lines += [onset_row(kind, noise_db) for kind in KINDS for noise_db in (-70, -30)]
    sys.stdout.write("\n".join(lines) + f"\n\n{time.monotonic() - began:.0f} s\n")
    return 0


def sync_rows(family: str, scenes: list[Scene]) -> list[str]:
    lumas = [thumbnails(scene.frames) for scene in scenes]
    sounds = [scene.waveform for scene in scenes]
    rows = []
    for ms in SHIFTS_MS:
        found = [_sync(luma, shifted(sound, ms)) for luma, sound in zip(lumas, sounds, strict=True)]
        rows.append(row(family, f"{ms:+d} ms", found, ms))
    others = sounds[1:] + sounds[:1]
    rng = np.random.default_rng(0)
    noise = [0.1 * rng.standard_normal(len(sound)).astype(np.float32) for sound in sounds]
    for name, replaced in (("another clip's", others), ("noise", noise)):
        found = [_sync(luma, sound) for luma, sound in zip(lumas, replaced, strict=True)]
        rows.append(row(family, name, found, None))
    return rows


def choice_row(family: str, scenes: list[Scene]) -> str:
    """How often synchrony chooses the picture's own sound."""
    of_three, of_halves = 0, 0
    for scene, second, third in zip(scenes, scenes[1:] + scenes[:1], scenes[2:] + scenes[:2], strict=True):
        middle = len(scene.waveform) // 2
        half = np.concatenate((scene.waveform[:middle], second.waveform[middle:]))
        sounds = (scene.waveform, second.waveform, third.waveform, half)
        own, *others, halved = (
            measure(scene.frames, sound, SAMPLE_RATE, FRAME_RATE).synchrony for sound in sounds
        )
        of_three += own > max(others)
        of_halves += own > halved
    return f"| {family} | {of_three}/{len(scenes)} | {of_halves}/{len(scenes)} |"


def row(family: str, name: str, found: list[Sync], ms: float | None) -> str:
    """A line of the table; `ms` is the true offset, or None where any clear offset is wrong."""
    count, clear = len(found), [sync for sync in found if sync.is_clear]
    if ms is None:
        return f"| {family} | {name} | | | {len(clear)}/{count} | {len(clear)} |"
    errors = np.array([np.inf if s.offset_ms is None else abs(s.offset_ms - ms) for s in found])
    wrong = sum(abs(sync.offset_ms - ms) > FRAME_MS for sync in clear)
    near = f"{(errors <= FRAME_MS).sum()}/{count}"
    return f"| {family} | {name} | {near} | {np.median(errors):.0f} ms | {len(clear)}/{count} | {wrong} |"


def shifted(waveform: np.ndarray, ms: float) -> np.ndarray:
    """The sound `ms` later, of the same length, silent where nothing is left."""
    samples = round(ms * SAMPLE_RATE / 1000)
    moved = np.zeros_like(waveform)
    if samples >= 0:
        moved[samples:] = waveform[: len(waveform) - samples]
    else:
        moved[:samples] = waveform[-samples:]
    return moved


def onset_row(kind: str, noise_db: float) -> str:
    """Hits of random loudness (12 dB), 0.18 to 0.5 s apart, over the tails of those before."""
    rng = np.random.default_rng(0)
    missed, extra, errors = 0, 0, []
    for clip in range(30):
        sample_rate = (16000, 44100, 48000)[clip % 3]
        seconds = np.cumsum(rng.uniform(0.18, 0.5, 12))
        seconds = seconds[seconds < 2.7]
        waveform = np.zeros(3 * sample_rate)
        for place in seconds:
            start = round(place * sample_rate)
            waveform[start:] += rng.uniform(0.25, 1) * hit(kind, sample_rate, rng)[: len(waveform) - start]
        waveform *= 0.8 / np.abs(waveform).max()
        waveform += 10 ** (noise_db / 20) * rng.standard_normal(len(waveform))
        error = find_onsets(waveform.astype(np.float32), sample_rate).seconds[None] - seconds[:, None]
        nearest = np.abs(error).argmin(1)
        near = np.abs(error).min(1) < MATCH_SECONDS
        missed += int((~near).sum())
        extra += int((np.abs(error).min(0) >= MATCH_SECONDS).sum())
        errors += list(1000 * error[np.arange(len(seconds)), nearest][near])
    total = missed + len(errors)
    figures = f"{missed}/{total} | {extra} | {np.mean(errors):+.1f} ms | {np.std(errors):.1f} ms"
    return f"| {kind}, noise at {noise_db} dB | {figures} |"


def hit(kind: str, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One stroke, 3 s long."""
    t = np.arange(3 * sample_rate) / sample_rate
    match kind:
        case "click":
            return rng.standard_normal(len(t)) * np.exp(-t / 0.004)
        case "soft tone":
            tone = np.sin(2 * np.pi * rng.uniform(200, 700) * t)
            return np.minimum(t / 0.010, 1) * np.exp(-t / 0.15) * tone
        case "bell":
            modes = ((523, 1.2), (1400, 0.9), (2730, 0.7), (4460, 0.5))
            return sum(np.exp(-t / decay) * np.sin(2 * np.pi * pitch * t) for pitch, decay in modes) / 2
        case _:
            glide = 60 * t + 2 * (1 - np.exp(-t / 0.05))
            return np.minimum(t / 0.002, 1) * np.exp(-t / 0.15) * np.sin(2 * np.pi * glide)


def _sync(luma: np.ndarray, waveform: np.ndarray) -> Sync:
    return measure_sync(luma, waveform, SAMPLE_RATE, FRAME_RATE)


if __name__ == "__main__":
    sys.exit(main())
