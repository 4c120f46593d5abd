"""Contact sheets: frames above waveform and spectrogram, to review a clip and its sound at a glance."""

from PIL import Image, ImageDraw, ImageFont

from mova.media.plots import contact_sheet
from recipes.pocket.world.clip import SAMPLE_RATE, Clip

SHEET_FRAMES = 8


def captioned_sheet(clip: Clip) -> Image.Image:
    """Eight frames, each with its left edge at its time on the sound below, and the caption."""
    sheet = contact_sheet(clip.frames, clip.waveform, SAMPLE_RATE, SHEET_FRAMES, dark=True)
    lines = [line for part in clip.caption.split("\n\n") for line in _wrap(part, sheet.width // 7)]
    captioned = Image.new("RGB", (sheet.width, sheet.height + 16 + 15 * max(len(lines), 1)), "white")
    captioned.paste(sheet)
    draw = ImageDraw.Draw(captioned)
    for index, line in enumerate(lines):
        place = (8, sheet.height + 6 + 15 * index)
        draw.text(place, line, fill=(20, 20, 20), font=ImageFont.load_default(13))
    return captioned


def _wrap(text: str, length: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        if len(line) + len(word) >= length:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [*lines, line]
