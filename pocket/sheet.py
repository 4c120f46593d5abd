"""Looking at clips: mp4 files with sound, and contact sheets of frames above waveform and spectrogram."""

from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from mova.pictures import contact_sheet
from pocket.clip import FRAME_RATE, SAMPLE_RATE, Clip

SHEET_FRAMES = 8
CRF = "14"


def write_mp4(path: Path, clip: Clip) -> None:
    """H.264 and AAC in one file."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": CRF})
        video.height, video.width = clip.frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for picture in clip.frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(clip.waveform[None], format="fltp", layout="mono")
        sound.sample_rate = SAMPLE_RATE
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


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
