"""Clips for tests: a grey picture and silence, but for flashes that beep."""

from pathlib import Path

import numpy as np

from mova.media.clips import write_mp4

SAMPLE_RATE = 48000
BEEP = 0.08  # seconds


def wave(seconds, flashes=(), sample_rate=SAMPLE_RATE, level=0.5, noise=0.0):
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    sound = np.random.default_rng(0).normal(0, noise, len(time)) if noise else np.zeros(len(time))
    for flash in flashes:
        on = (time >= flash) & (time < flash + BEEP)
        sound[on] += level * np.sin(2 * np.pi * 880 * (time[on] - flash))
    return sound.astype(np.float32)


def picture(seconds, frame_rate, flashes=(), height=48, width=80):
    """Frames [F, H, W, 3]: dark with a moving bar, white while a flash lasts."""
    count = round(seconds * frame_rate)
    frames = np.full((count, height, width, 3), 60, np.uint8)
    for index in range(count):
        time = index / frame_rate
        left = int(time * 20) % (width - 8)
        frames[index, :, left : left + 8] = (90, 60, 30)
        if any(flash <= time + 1e-6 < flash + BEEP for flash in flashes):
            frames[index] = 255
    return frames


def make_clip(
    path, seconds=1.0, frame_rate=24, flashes=(0.5,), caption="A lamp blinks. A beep is heard.", **kind
):
    """Write a clip and its caption, and return the path."""
    level, noise = kind.pop("level", 0.5), kind.pop("noise", 0.002)
    frames = picture(seconds, frame_rate, flashes, **kind)
    sound = wave(len(frames) / frame_rate, flashes, level=level, noise=noise)
    path = Path(path)
    write_mp4(path, frames, sound, frame_rate, SAMPLE_RATE, {})
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def flash_times(frames, frame_rate):
    """Seconds at which the picture turns white."""
    white = frames.reshape(len(frames), -1).mean(axis=1) > 180
    return np.flatnonzero(white & ~np.concatenate([[False], white[:-1]])) / frame_rate


def beep_times(sound, sample_rate):
    """Seconds at which the sound gets loud after a quiet 0.1 s."""
    loud = np.flatnonzero(np.abs(sound) > 0.1)
    gaps = np.diff(loud, prepend=-sample_rate)
    return loud[gaps > 0.1 * sample_rate] / sample_rate
