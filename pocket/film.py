"""Clips as mp4 files with sound."""

from pathlib import Path

import av

from pocket.clip import FRAME_RATE, SAMPLE_RATE, Clip

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
