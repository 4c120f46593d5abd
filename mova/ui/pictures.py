"""What is drawn of a finished clip: a poster for the list, and its frames over its sound on one time axis."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mova.images import crop_box, fit_image, open_image
from mova.media import Clip, read_clip, write_wav
from mova.outputs import new_output
from mova.ui.history import CLIP, POSTER, SOUND, STRIP

STRIP_WIDTH, STRIP_FRAMES, GAP = 960, 8, 2
WAVE_HEIGHT, SPECTROGRAM_HEIGHT = 72, 96
POSTER_SIDE, CROP_SIDE = 320, 480


def describe_clip(folder: Path) -> tuple[str, ...]:
    """Write sound, poster and strip beside the clip; what was measured, in sentences."""
    clip = read_clip(folder / CLIP)
    write_wav(folder / SOUND, clip.waveform, clip.sample_rate)
    poster = Image.fromarray(clip.frames[len(clip.frames) // 3])
    poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
    _save(poster, folder / POSTER, "WEBP")
    _save(Image.fromarray(draw_strip(clip)), folder / STRIP, "PNG")
    return ()


def draw_strip(clip: Clip) -> np.ndarray:
    """uint8 [H, W, 3]: some frames in a row at their moments."""
    return draw_frames(clip.frames)


def draw_frames(frames: np.ndarray) -> np.ndarray:
    """STRIP_FRAMES frames of uint8 [F, H, W, 3] side by side, each from the middle of its span of time."""
    count = min(STRIP_FRAMES, len(frames))
    middles = ((np.arange(count) + 0.5) * len(frames) / count).astype(int)
    width = (STRIP_WIDTH - GAP * (count - 1)) // count
    height = max(1, round(width * frames.shape[1] / frames.shape[2]))
    strip = np.full((height, STRIP_WIDTH, 3), 255, np.uint8)
    for place, index in enumerate(middles):
        left = place * (width + GAP)
        small = Image.fromarray(frames[index]).resize((width, height), Image.Resampling.BICUBIC)
        strip[:, left : left + width] = np.asarray(small)
    return strip


def draw_crop(path: Path, height: int, width: int, fit: str) -> bytes:
    """A WebP of the first frame: with "crop" what falls outside is dimmed, with "pad" as it will be.

    Raises:
        UserError: as `mova.images.open_image`.
    """
    image = open_image(path)
    if fit == "pad":
        image = fit_image(image, height, width, fit)
    image.thumbnail((CROP_SIDE, CROP_SIDE))
    if fit == "crop":
        box = crop_box(image.size, height, width)
        dimmed = Image.blend(image, Image.new("RGB", image.size, "#808890"), 0.72)
        dimmed.paste(image.crop(box), box[:2])
        image = dimmed
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def save_last_frame(clip: Path) -> Path:
    """The clip's last frame as a PNG beside it."""
    return save_frame(clip, -1)


def save_frame(clip: Path, index: int) -> Path:
    """A frame of the clip as a PNG beside it. Raises UserError as `read_clip`."""
    path = clip.with_name(f"{clip.stem}-{'last' if index < 0 else 'first'}.png")
    _save(Image.fromarray(read_clip(clip).frames[index]), path, "PNG")
    return path


def _save(image: Image.Image, path: Path, kind: str) -> None:
    with new_output(path, overwrite=True) as temporary:
        image.save(temporary, kind)
