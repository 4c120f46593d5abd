"""Draws the page's icon and its card for social media: `python assets/draw.py`."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
SEA, DEEP, INK, PALE = "#15838a", "#0b3236", "#101317", "#eefafa"
BARS = (0.18, 0.42, 0.7, 1.0, 0.62, 0.86, 0.48, 0.24)
OVER = 4  # drawn larger and made smaller, for smooth edges


def draw_icon(side: int = 128) -> Image.Image:
    """A frame that sounds: a rounded square with a waveform."""
    size = side * OVER
    icon = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(icon)
    pen.rounded_rectangle((0, 0, size - 1, size - 1), size // 5, fill=SEA)
    draw_wave(pen, BARS[1:7], (size * 0.16, size * 0.2, size * 0.84, size * 0.8), PALE)
    return icon.resize((side, side), Image.Resampling.LANCZOS)


def draw_card(width: int = 1200, height: int = 630) -> Image.Image:
    """Title, and a strip of frames over the sound that belongs to them."""
    card = Image.new("RGB", (width, height), INK)
    pen = ImageDraw.Draw(card)
    for y in range(height):
        share = y / height
        pen.line((0, y, width, y), fill=(int(16 - 5 * share), int(19 + 31 * share), int(23 + 31 * share)))
    pen.text((80, 84), "Video with sound", font=font(84), fill="white")
    pen.text((80, 196), "from a picture and a sentence, in one go", font=font(38), fill="#a9e2e3")
    left, top, frame, gap = 80, 310, 164, 11
    for index in range(6):
        x = left + index * (frame + gap)
        draw_frame(card, (x, top, x + frame, top + 94), index / 5)
    span = (left, top + 112, left + 6 * frame + 5 * gap, top + 250)
    draw_wave(pen, [0.1 + 0.9 * envelope(i / 95) for i in range(96)], span, "#3fb0b5")
    return card


def draw_frame(card: Image.Image, box: tuple[int, int, int, int], moment: float) -> None:
    """A ball at a moment of its bounce."""
    width, height = box[2] - box[0], box[3] - box[1]
    frame = Image.new("RGB", (width * OVER, height * OVER), "#14474c")
    pen = ImageDraw.Draw(frame)
    pen.rectangle((0, height * OVER * 0.82, width * OVER, height * OVER), fill=DEEP)
    radius = height * OVER * 0.16
    x = width * OVER * (0.15 + 0.7 * moment)
    y = height * OVER * 0.82 - radius - height * OVER * 0.5 * abs(math.cos(math.pi * 2.5 * moment))
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#ffb454")
    card.paste(frame.resize((width, height), Image.Resampling.LANCZOS), box[:2])


def draw_wave(
    pen: ImageDraw.ImageDraw, bars: list[float] | tuple[float, ...], box: tuple[float, ...], fill: str
) -> None:
    """Rounded bars about the middle line of the box; heights from 0 to 1."""
    left, top, right, bottom = box
    step = (right - left) / len(bars)
    for index, share in enumerate(bars):
        half = max(step * 0.3, share * (bottom - top) / 2)
        x, middle = left + (index + 0.2) * step, (top + bottom) / 2
        pen.rounded_rectangle((x, middle - half, x + 0.6 * step, middle + half), step * 0.3, fill=fill)


def envelope(moment: float) -> float:
    """Loudness of a ball that hits the floor at 0.2, 0.6 and 1.0."""
    return min(1.0, sum(math.exp(-12 * (moment - hit)) for hit in (0.2, 0.6, 1.0) if moment >= hit))


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    draw_icon().save(HERE / "favicon.png", optimize=True)
    draw_card().save(HERE / "card.png", optimize=True)
