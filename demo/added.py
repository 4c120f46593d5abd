"""What a visitor added, a sound, a silent video or a clip: its kind, and what of it is kept and made."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av

from mova import catalog
from mova.errors import UserError
from mova.media.clips import write_wav
from mova.media.formats import AUDIO_FORMATS, VIDEO_FORMATS
from mova.media.given import VideoFacts, probe_audio, probe_video, read_audio
from mova.media.streams import opened
from mova.request import GenerationRequest
from mova.shapes import TEMPORAL_STRIDE
from mova.tracks import Regenerate, Span, Window, frames_for_sound, overlap_frames, plan_extension

SOUND, SILENT, CLIP = "sound", "silent video", "clip"
EXTEND, REDO_SOUND, REDO_PICTURE, RETAKE = "extend", "sound", "picture", "retake"
ACTS = (EXTEND, REDO_SOUND, REDO_PICTURE, RETAKE)
GIVEN = "given"  # name of the added file in a clip's folder


@dataclass(frozen=True)
class Added:
    """An added file: `seconds` of its picture, else of its sound; `video` is None for a sound."""

    kind: str
    seconds: float
    video: VideoFacts | None = None

    def num_frames(self, frame_rate: float) -> int:
        """Frames (4k+1) of a clip that follows it. Raises UserError if it is too long."""
        if self.video is None:
            return frames_for_sound(self.seconds, frame_rate)
        return (self.video.num_frames(frame_rate) - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1

    def act(self, chosen: str) -> str:
        """What is done with it: the visitor chooses for a clip alone."""
        return {SOUND: REDO_PICTURE, SILENT: REDO_SOUND}.get(self.kind, chosen)


def is_track(path: Path) -> bool:
    """True for the name of a sound or a video, False for that of a picture or of anything else."""
    return path.suffix.lower() in VIDEO_FORMATS | AUDIO_FORMATS


def probe(path: Path) -> Added:
    """Kind, length and size of a sound, a silent video or a clip.

    Raises:
        UserError: it is none, or damaged.
    """
    if not is_track(path):
        raise UserError(f"{path.name} is no sound or video; give an mp4, mov, webm, wav, mp3 or flac")
    try:
        return _probe(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{path.name} is no longer here; add it again") from None


@lru_cache(maxsize=64)
def _probe(path: Path, changed: int) -> Added:
    del changed  # another file of that name
    with opened(path) as container:
        is_sound = path.suffix.lower() in AUDIO_FORMATS or container.streams.best("video") is None
    if is_sound:  # what looks like a video in it is a cover
        return Added(SOUND, probe_audio(path).seconds)
    video = probe_video(path)
    return Added(CLIP if video.has_sound else SILENT, video.seconds, video)


def keep_added(source: Path, folder: Path) -> Path:
    """Write the sound or the video into a clip's folder, without what else is in the file; the new path.

    A sound is decoded, a video keeps its packets: what is kept of it goes into the clip as it came.

    Raises:
        UserError: it cannot be read.
    """
    if probe(source).video:
        copy_streams(source, target := folder / f"{GIVEN}{source.suffix.lower()}")
        return target
    target = folder / f"{GIVEN}.wav"
    facts = probe_audio(source)
    write_wav(target, read_audio(source, facts, facts.start, facts.seconds), facts.sample_rate)
    return target


def copy_streams(source: Path, target: Path) -> None:
    """Copy the picture, and the sound if there is one, of `source`, and nothing else that is in the file.

    Raises:
        UserError: `source` is damaged.
    """
    with opened(source) as container:
        best = (container.streams.best("video"), container.streams.best("audio"))
        chosen = [stream for stream in best if stream]
        with av.open(f"file:{target}", "w", format=VIDEO_FORMATS[source.suffix.lower()]) as output:
            copies = {stream.index: output.add_stream_from_template(stream) for stream in chosen}
            for packet in container.demux(*chosen):
                if packet.dts is not None:  # the last one of a stream is empty
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)


def overlap_seconds(model: catalog.ModelSpec) -> float:
    """Seconds of the clip so far that a continuation holds."""
    return min(model.overlap_seconds, model.num_frames / model.frame_rate / 2)


def next_window(num_frames: int, model: catalog.ModelSpec) -> Window:
    """The one window that continues a clip of `num_frames`, as long as the model was trained at."""
    rate, overlap = model.frame_rate, overlap_seconds(model)
    seconds = (model.num_frames - overlap_frames(overlap, rate)) / rate
    (window,) = plan_extension(num_frames, seconds, rate, overlap, model.num_frames)
    return window


def added_frames(request: GenerationRequest) -> int:
    """Frames by which the request makes its video longer; 0 if it does not."""
    if not request.video:
        return 0
    return max(0, request.num_frames - probe(request.video).num_frames(request.frame_rate))


def one_window(request: GenerationRequest, model: catalog.ModelSpec) -> GenerationRequest:
    """What the model runs for a request, which decides the cost: of a longer clip, only the window."""
    if not added_frames(request):
        return request
    return request.replace(num_frames=min(request.num_frames, model.num_frames))


@dataclass(frozen=True)
class Making:
    """Which seconds of a clip's picture and sound are made; the rest is kept."""

    seconds: float
    picture: tuple[Span, ...]
    sound: tuple[Span, ...]

    def words(self) -> tuple[str, str]:
        """What happens to the picture, and to the sound."""
        return self._words(self.picture), self._words(self.sound)

    def _words(self, spans: tuple[Span, ...]) -> str:
        if not spans:
            return "kept as it is"
        if spans == ((0.0, self.seconds),):
            return "made"
        parts = " and ".join(f"{start:.2f} to {end:.2f} s" for start, end in spans)
        return f"made from {parts}, the rest is kept"


def making(request: GenerationRequest) -> Making:
    """What the request makes of both tracks. Raises UserError as `probe`."""
    seconds = request.num_frames / request.frame_rate
    video = None
    if request.video:
        held = (request.num_frames - added_frames(request)) / request.frame_rate
        video = ((held, seconds),) if held < seconds else request.regenerate_video
    audio = request.regenerate_audio if request.audio else None
    return Making(seconds, _made(video, seconds), _made(audio, seconds))


def _made(regenerate: Regenerate | None, seconds: float) -> tuple[Span, ...]:
    if regenerate is None or regenerate is True:
        return ((0.0, seconds),)
    return tuple(regenerate or ())
