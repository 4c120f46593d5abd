"""Contact sheets: frames above waveform and spectrogram, to look at a clip and its sound at a glance."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pocket.clip import NUM_FRAMES, Clip

SHEET_FRAMES = 8
WAVE_HEIGHT, SPECTROGRAM_HEIGHT = 56, 160
WINDOW = 512
FLOOR_DB, CEILING_DB = -75.0, 5.0
COLOURS = np.array(
    ((4, 4, 18), (60, 15, 110), (150, 40, 120), (230, 80, 80), (252, 170, 90), (252, 252, 200)), np.float32
)


def contact_sheet(clip: Clip) -> Image.Image:
    """Eight frames, each with its left edge at its time on the sound below, and the caption."""
    chosen = (np.arange(SHEET_FRAMES) * NUM_FRAMES / SHEET_FRAMES).round().astype(int)
    strip = np.concatenate([clip.frames[frame] for frame in chosen], 1)
    width = strip.shape[1]
    lines = [line for part in clip.caption.split("\n\n") for line in _wrap(part, width // 7)]
    rows = [strip, _wave(clip.waveform, width), _spectrogram_picture(clip.waveform, width)]
    rows.append(np.full((16 + 15 * max(len(lines), 1), width, 3), 255, np.uint8))
    sheet = Image.fromarray(np.concatenate(rows))
    draw = ImageDraw.Draw(sheet)
    top = strip.shape[0] + WAVE_HEIGHT + SPECTROGRAM_HEIGHT + 6
    for index, line in enumerate(lines):
        draw.text((8, top + 15 * index), line, fill=(20, 20, 20), font=ImageFont.load_default(13))
    return sheet


def spectrogram(waveform: np.ndarray, hop: int) -> np.ndarray:
    """Decibels [bins, columns], bins from 0 Hz up; a full-scale sine is near 0 dB."""
    padded = np.pad(waveform, WINDOW // 2)
    starts = np.arange(0, len(waveform), hop)
    blocks = padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    return 20 * np.log10(np.abs(np.fft.rfft(blocks)).T * 4 / WINDOW + 1e-6)


def _wave(waveform: np.ndarray, width: int) -> np.ndarray:
    columns = np.array_split(waveform, width)
    low = np.array([column.min() for column in columns])
    high = np.array([column.max() for column in columns])
    level = np.linspace(1, -1, WAVE_HEIGHT)[:, None]
    half = 1 / WAVE_HEIGHT
    inside = (level >= low - half) & (level <= high + half)
    return np.where(inside[..., None], (60, 90, 190), (246, 246, 250)).astype(np.uint8)


def _spectrogram_picture(waveform: np.ndarray, width: int) -> np.ndarray:
    decibels = spectrogram(waveform, hop=64)[::-1]
    share = np.clip((decibels - FLOOR_DB) / (CEILING_DB - FLOOR_DB), 0, 1)
    place = share * (len(COLOURS) - 1)
    below = np.minimum(place.astype(int), len(COLOURS) - 2)
    part = (place - below)[..., None]
    picture = COLOURS[below] * (1 - part) + COLOURS[below + 1] * part
    return np.asarray(Image.fromarray(picture.astype(np.uint8)).resize((width, SPECTROGRAM_HEIGHT)))


def _wrap(text: str, length: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) >= length:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, line]
