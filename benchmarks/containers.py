"""Sync of picture and sound as the trainer and `evaluate` read them, in the containers people bring.

    python -m benchmarks.containers [--only NAME]

ffmpeg writes one scene into each: eight seconds whose frames carry their number, with a flash and a beep at
once every now and then. Every window that training would read is read, and every frame's number and every
flash's distance from its beep is checked. Prints a table; exit code 1 if a frame is not the one shown at its
time or a beep is over half a frame from its flash.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lora_trainer.decode import probe, read_frames, read_sound
from lora_trainer.manifest import DatasetItem
from mova.errors import UserError
from mova.media.clips import read_clip

RATE, SAMPLE_RATE, HEARD_RATE = 24, 48000, 16000
SECONDS, HEIGHT, WIDTH = 8, 144, 176  # H.263 takes few sizes
EVENTS = (9, 31, 55, 71, 100, 118, 149, 171)  # frames at which a flash and its beep begin
LASTS = 3  # frames
WINDOW = 25  # frames
H264 = "-c:v libx264 -preset veryfast"
LONG_GOP = "-g 100 -bf 3 -b_strategy 0 -sc_threshold 0"
WRITTEN = {
    "H.264, AAC .mp4": f"{H264} -c:a aac",
    "H.264 open GOP, AAC .mp4": f"{H264} {LONG_GOP} -x264-params open-gop=1 -c:a aac",
    "H.264 fragments, AAC .mp4": f"{H264} -c:a aac -movflags frag_keyframe+empty_moov",
    "HEVC, AAC .mp4": "-c:v libx265 -preset ultrafast -x265-params log-level=0 -c:a aac",
    "AV1, Opus .mp4": "-c:v libsvtav1 -preset 10 -c:a libopus",
    "MPEG-4, MP3 .mp4": "-c:v mpeg4 -bf 2 -c:a libmp3lame",
    "H.264, AC-3 .m4v": f"{H264} -c:a ac3 -f mp4",
    "ProRes, PCM .mov": "-c:v prores_ks -c:a pcm_s16le",
    "H.264, ALAC .mov": f"{H264} -c:a alac",
    "H.263, AAC .3gp": "-c:v h263 -r 24000/1001 -c:a aac",
    "H.264 long GOP, FLAC .mkv": f"{H264} {LONG_GOP} -c:a flac",
    "FFV1, PCM .mkv": "-c:v ffv1 -c:a pcm_s16le",
    "VP9, Opus .mkv": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus",
    "VP8, Vorbis .webm": "-c:v libvpx -deadline realtime -b:v 1M -c:a libvorbis",
    "AV1, Opus .webm": "-c:v libsvtav1 -preset 10 -c:a libopus",
    "MPEG-4, MP3 .avi": "-c:v mpeg4 -bf 2 -c:a libmp3lame",
    "MJPEG, PCM .avi": "-c:v mjpeg -q:v 3 -c:a pcm_s16le",
    "H.264, MP3 .avi": f"{H264} -bf 2 -c:a libmp3lame",
    "WMV2, WMA .wmv": "-c:v wmv2 -b:v 1M -c:a wmav2",
    "H.264 long GOP, AAC .ts": f"{H264} {LONG_GOP} -c:a aac",
    "MPEG-2, MP2 .ts": "-c:v mpeg2video -b:v 3M -bf 2 -c:a mp2",
    "HEVC, AC-3 .ts": "-c:v libx265 -preset ultrafast -x265-params log-level=0 -c:a ac3",
    "H.264, AC-3 .m2ts": f"{H264} -c:a ac3 -mpegts_m2ts_mode 1",
    "H.264, AC-3 .mts": f"{H264} -c:a ac3 -f mpegts",
    "MPEG-2, MP2 .mpg": "-c:v mpeg2video -b:v 3M -bf 2 -c:a mp2",
    "MPEG-1, MP2 .mpeg": "-c:v mpeg1video -b:v 3M -c:a mp2",
    "MPEG-2, AC-3 .vob": "-c:v mpeg2video -b:v 3M -bf 2 -c:a ac3",
    "H.264, AAC .flv": f"{H264} -c:a aac",
    "Sorenson, MP3 .flv": "-c:v flv -b:v 1M -c:a libmp3lame -ar 44100",
    "Theora, Vorbis .ogv": "-c:v libtheora -q:v 8 -c:a libvorbis",
    "H.264, frames left out .mp4": f"{H264} -vf select='not(between(mod(n\\,24)\\,12\\,22)*mod(n\\,2))' "
    "-vsync vfr -c:a aac",
    "H.264, sound from 0.2 s .mkv": f"{H264} -af atrim=start=0.2 -c:a pcm_s16le",
    "H.264, a hole in the sound .mkv": f"{H264} -af aselect='not(between(t\\,2.5\\,2.9))' -c:a pcm_s16le",
}


@dataclass(frozen=True)
class Reading:
    """Frames that were not those shown at their times, lost beeps, and a beep's largest distance in ms."""

    wrong_frames: int
    lost: int
    furthest: float

    @property
    def is_right(self) -> bool:
        return not self.wrong_frames and not self.lost and self.furthest <= 500 / RATE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="those whose name holds this")
    only = parser.parse_args().only
    sys.stdout.write(
        "| codecs and container | windows | trainer: wrong frames, lost beeps, furthest beep "
        "| evaluate: the same |\n"
        "| --- | --- | --- | --- |\n"
    )
    code = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(folder)
        for title, options in WRITTEN.items():
            if only not in title:
                continue
            path = write_clip(folder, title, options)
            # The nearest is half a frame off at most, and a frame where the file lacks that very one.
            windows, readings = read_both(path, 1.01 if "left out" in title else 0.51)
            cells = [
                reading
                if isinstance(reading, str)
                else f"{reading.wrong_frames}, {reading.lost}, {reading.furthest:.1f} ms"
                for reading in readings
            ]
            code |= not all(isinstance(reading, Reading) and reading.is_right for reading in readings)
            sys.stdout.write(f"| {title} | {windows} | {' | '.join(cells)} |\n")
            sys.stdout.flush()
    return int(code)


def write_scene(folder: Path) -> None:
    """Raw pictures and a wave file."""
    with (folder / "scene.rgb").open("wb") as file:
        for number in range(SECONDS * RATE):
            file.write(numbered(number).tobytes())
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    sound = np.zeros(len(time))
    for event in EVENTS:
        since = time - event / RATE
        sound += np.where((since >= 0) & (since < LASTS / RATE), 0.5 * np.sin(2 * np.pi * 880 * since), 0)
    with wave.open(str(folder / "scene.wav"), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((sound * 32767).astype("<i2").tobytes())


def numbered(number: int) -> np.ndarray:
    """uint8 [H, W, 3]: above, white in a flash; below, the number's bits as eight bright or dark fields."""
    image = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    if any(event <= number < event + LASTS for event in EVENTS):
        image[: HEIGHT // 2] = 220
    for bit in range(8):
        image[HEIGHT // 2 :, bit * WIDTH // 8 : (bit + 1) * WIDTH // 8] = 200 if number >> bit & 1 else 40
    return image


def numbers_of(frames: np.ndarray) -> np.ndarray:
    """The numbers that frames [F, H, W, 3] carry."""
    height, width = frames.shape[1:3]
    fields = frames[:, height * 3 // 4, width // 16 :: width // 8][:, :8].mean(axis=-1) > 120
    return (fields << np.arange(8)).sum(axis=1)


def write_clip(folder: Path, title: str, options: str) -> Path:
    path = folder / f"clip{title.rpartition(' ')[2]}"
    raw = (
        f"-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r {RATE} -i scene.rgb -i scene.wav -pix_fmt yuv420p"
    )
    command = [
        shutil.which("ffmpeg") or "ffmpeg",
        "-v",
        "error",
        "-y",
        *raw.split(),
        *options.split(),
        path.name,
    ]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL)
    return path


def read_both(path: Path, slack: float) -> tuple[int, list[Reading | str]]:
    """The number of windows, and what the trainer and `evaluate` read of a clip, or why they did not.

    A frame may be `slack` frames from the one shown at its time.
    """
    item, windows = DatasetItem(path.name, path, "a scene"), []
    readings: list[Reading | str] = []
    try:
        seconds = probe(item).seconds
        for start in np.arange(0, seconds - WINDOW / RATE, WINDOW / RATE):
            frames = read_frames(item, start + np.arange(WINDOW) / RATE, HEIGHT, WIDTH)
            windows.append((start, frames, read_sound(item, start, HEARD_RATE * WINDOW // RATE, HEARD_RATE)))
        readings.append(judge(windows, RATE, HEARD_RATE, slack))
    except UserError as error:
        readings.append(str(error))
    try:
        clip = read_clip(path)
        window = 0.0, clip.frames, clip.waveform.mean(0)
        readings.append(judge([window], clip.frame_rate, clip.sample_rate, slack))
    except UserError as error:
        readings.append(str(error))
    return len(windows), readings


def judge(
    windows: list[tuple[float, np.ndarray, np.ndarray]], frame_rate: float, sample_rate: int, slack: float
) -> Reading:
    """Compare windows of (start in seconds, frames, mono sound) with the scene."""
    wrong = lost = 0
    furthest = 0.0
    for start, frames, sound in windows:
        expected = (start + np.arange(len(frames)) / frame_rate) * RATE
        wrong += int((np.abs(numbers_of(frames) - expected) > slack).sum())
        loud = np.flatnonzero(np.abs(sound) > 0.1) / sample_rate
        beeps = loud[np.diff(loud, prepend=-1) > 0.1] + start
        for event in EVENTS:
            second = event / RATE
            if start + 0.1 < second < start + len(frames) / frame_rate - 0.1:
                distance = np.abs(beeps - second).min() * 1000 if len(beeps) else np.inf
                lost += distance > 100
                furthest = max(furthest, distance if distance <= 100 else 0.0)
    return Reading(wrong, int(lost), furthest)


if __name__ == "__main__":
    sys.exit(main())
