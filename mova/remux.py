"""Clips that others made: measure one to its end, and give it our settings without encoding it again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from mova.media import checked_streams, open_mp4, settings_comment
from mova.outputs import new_output
from mova.shapes import MAX_FRAMES
from mova.types import UserError


@dataclass(frozen=True)
class ClipFacts:
    """What decoding a clip to its end found."""

    num_frames: int
    height: int
    width: int
    frame_rate: float
    sound_seconds: float


def measure_clip(path: Path, max_frames: int = MAX_FRAMES) -> ClipFacts:
    """Decode the mp4 at `path` to its end, holding one frame at a time.

    Raises:
        UserError: no clip is there, or it is damaged, lacks picture or sound, or has over `max_frames`.
    """
    num_frames, samples = 0, 0
    with open_mp4(path) as container:
        video, audio = checked_streams(path, container)
        for frame in container.decode(video, audio):
            if isinstance(frame, av.VideoFrame):
                num_frames += 1
                if num_frames > max_frames:
                    raise UserError(f"{path.name} has over {max_frames} frames; cut it to that length")
            else:
                samples += frame.samples
        frame_rate = float(video.average_rate)
        return ClipFacts(num_frames, video.height, video.width, frame_rate, samples / audio.rate)


def copy_with_settings(source: Path, path: Path, settings: dict[str, Any], overwrite: bool = False) -> None:
    """Write the picture and sound of the mp4 `source`, bit for bit, to `path` with `settings` in it.

    Raises:
        UserError: as `mova.media.read_clip`, and as `mova.outputs.check_output` for `path`.
        BackendError: the disk is full.
    """
    comment = settings_comment(settings)
    # The source is opened first: what fails in the writing is then explained as such, not as its damage.
    with open_mp4(source) as container:
        chosen = checked_streams(source, container)
        options = {"movflags": "+faststart", "movie_timescale": str(chosen[1].rate)}
        with (
            new_output(path, overwrite) as temporary,
            av.open(f"file:{temporary}", "w", format="mp4", options=options) as output,
        ):
            output.metadata["comment"] = comment
            copies = {stream.index: output.add_stream_from_template(stream) for stream in chosen}
            for packet in container.demux(*chosen):
                if packet.dts is not None:  # the last one of a stream is empty
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)
