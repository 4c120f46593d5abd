"""What is drawn of a finished clip: a poster for the list, and its frames over its sound on one time axis."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mova.images import crop_box, fit_image, open_image
from mova.media import read_clip, write_wav
from mova.metrics.report import measure
from mova.outputs import new_output
from mova.pictures import contact_sheet
from mova.ui.history import CLIP, POSTER, SOUND, STRIP

STRIP_WIDTH, STRIP_FRAMES = 960, 8
POSTER_SIDE, CROP_SIDE = 320, 480


def describe_clip(folder: Path) -> tuple[str, ...]:
    """Write sound, poster and strip beside the clip; what was measured, in sentences."""
    clip = read_clip(folder / CLIP)
    write_wav(folder / SOUND, clip.waveform, clip.sample_rate)
    poster = Image.fromarray(clip.frames[len(clip.frames) // 3])
    poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
    _save(poster, folder / POSTER, "WEBP")
    strip = contact_sheet(small_frames(clip.frames), clip.waveform, clip.sample_rate, STRIP_FRAMES, dark=True)
    _save(strip, folder / STRIP, "PNG")
    return measure(clip.frames, clip.waveform, clip.sample_rate, clip.frame_rate).sentences()


def small_frames(frames: np.ndarray) -> np.ndarray:
    """The frames that go onto a strip, uint8 [STRIP_FRAMES, h, w, 3], each at its moment."""
    width = STRIP_WIDTH // STRIP_FRAMES
    height = max(1, round(width * frames.shape[1] / frames.shape[2]))
    chosen = (np.arange(STRIP_FRAMES) * len(frames) / STRIP_FRAMES).astype(int)
    resized = [Image.fromarray(frames[i]).resize((width, height), Image.Resampling.BICUBIC) for i in chosen]
    return np.stack([np.asarray(image) for image in resized])


def draw_crop(path: Path, height: int, width: int, fit: str, position: float = 0.5) -> tuple[bytes, str]:
    """A WebP of the first frame, and the side of it that is cut: "width", "height", or "" for none.

    With "crop" what falls outside is dimmed, with "pad" the picture is as it will be.

    Raises:
        UserError: as `mova.images.open_image`.
    """
    image = open_image(path)
    cut = ""
    if fit == "pad":
        image = fit_image(image, height, width, fit)
    else:
        left, top, right, bottom = crop_box(image.size, height, width)
        cut = "width" if right - left < image.width else "height" if bottom - top < image.height else ""
    image.thumbnail((CROP_SIDE, CROP_SIDE))
    if fit == "crop":
        box = crop_box(image.size, height, width, position)
        dimmed = Image.blend(image, Image.new("RGB", image.size, "#808890"), 0.72)
        dimmed.paste(image.crop(box), box[:2])
        image = dimmed
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue(), cut


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
