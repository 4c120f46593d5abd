"""The video and sound that a request brings to a run here, and the clip that holds them as they came."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mova.media.clips import (
    AUDIO_BIT_RATE,
    HELD_AUDIO_BIT_RATE,
    can_copy_sound,
    obstacle_to_copying,
    write_mp4,
    write_mp4_with_picture_of,
    write_mp4_with_sound_of,
)
from mova.media.given import AudioFacts, VideoFacts, probe_audio, probe_video, read_audio, read_video
from mova.media.images import crop_box
from mova.media.sound import resample
from mova.request import GenerationRequest
from mova.seams import put_back_sound
from mova.shapes import TEMPORAL_STRIDE
from mova.tracks import Span, spans_to_make

SLACK_SECONDS = 0.001  # of difference in length that is not worth a note
CROPPED = 0.1  # of a side that the model need not see of a picture which is kept whole


@dataclass(frozen=True)
class GivenTracks:
    """The files of `request`, read: frames uint8 [F, H, W, 3], sound float32 [channels, S] at its own rate.

    The frames have the request's size and rate. The sound reaches to the end of the clip or, where it is
    longer, of the video.
    """

    request: GenerationRequest
    video: VideoFacts | None = None
    frames: np.ndarray | None = None
    audio: AudioFacts | None = None
    sound: np.ndarray | None = None

    @classmethod
    def read(cls, request: GenerationRequest) -> "GivenTracks":
        """Read the files. Raises UserError as the readers of `mova.media.given`."""
        video = frames = audio = sound = None
        if request.video is not None:
            video = probe_video(request.video)
            frames = read_video(
                request.video,
                video,
                height=request.height,
                width=request.width,
                num_frames=request.num_frames,
                frame_rate=request.frame_rate,
                fit=request.fit,
                position=request.crop_position,
            )
        if request.audio is not None:
            audio = probe_audio(request.audio)
            start = video.start if video and request.audio == request.video else audio.start
            seconds = request.num_frames / request.frame_rate
            sound = read_audio(request.audio, audio, start, max(seconds, video.seconds if video else 0))
        return cls(request, video, frames, audio, sound)

    @property
    def seconds(self) -> float:
        """The length of what the model makes and sees."""
        return self.request.num_frames / self.request.frame_rate

    @property
    def video_spans(self) -> tuple[Span, ...]:
        return spans_to_make("regenerate_video", self.request.regenerate_video, self.seconds)

    @property
    def audio_spans(self) -> tuple[Span, ...]:
        return spans_to_make("regenerate_audio", self.request.regenerate_audio, self.seconds)

    @property
    def holds_picture(self) -> bool:
        """Nothing of the picture is made."""
        is_whole = self.frames is not None and len(self.frames) > self.request.num_frames - TEMPORAL_STRIDE
        return is_whole and not self.video_spans

    def arguments(self) -> dict[str, Any]:
        """The pipeline's arguments for what is given."""
        request, sound = self.request, self.sound
        if sound is not None:
            sound = torch.from_numpy(sound[:, : max(1, round(self.audio.sample_rate * self.seconds))])
        return {
            "video": self.frames,
            "audio": sound,
            "audio_sample_rate": self.audio.sample_rate if self.audio else None,
            "regenerate_video": request.regenerate_video,
            "regenerate_audio": request.regenerate_audio,
            "strength": request.strength,
        }

    def write(
        self,
        path: Path,
        frames: np.ndarray,
        made: np.ndarray,
        made_rate: int,
        settings: dict[str, Any],
        overwrite: bool,
    ) -> tuple[str, ...]:
        """Write the clip of a run that made `frames` and the sound `made` [1, S]; return notes.

        A sound that is held is the given one, at its own rate. A picture that is held whole is the given
        stream, packet by packet, or encoded again where that cannot be. The notes, a sentence each, say what
        was changed of what was given.

        Raises:
            UserError, BackendError: as `mova.media.clips.write_mp4`.
        """
        sound, rate = self.mixed_sound(made, made_rate)
        bit_rate = AUDIO_BIT_RATE if sound is made else HELD_AUDIO_BIT_RATE
        notes = self.notes_on_length()
        obstacle = self.obstacle() if self.holds_picture else ""
        if self.holds_picture and not obstacle:
            length = int(rate * self.video.seconds)
            sound = padded(sound[:, :length], length)
            write_mp4_with_picture_of(
                self.request.video, path, sound, rate, settings, overwrite, audio_bit_rate=bit_rate
            )
            return notes + self.notes_on_sight()
        if self.copies_sound():
            write_mp4_with_sound_of(
                self.request.audio, path, frames, self.request.frame_rate, settings, overwrite
            )
        else:
            sound = padded(sound, int(rate * self.seconds) + 1)
            write_mp4(
                path,
                frames,
                sound,
                self.request.frame_rate,
                rate,
                settings,
                overwrite,
                audio_bit_rate=bit_rate,
            )
        if obstacle:
            notes += (f"the picture was encoded again: {obstacle}",)
        return notes + self.notes_on_size()

    def obstacle(self) -> str:
        """The reason why the held picture cannot be copied as it is; empty if it can."""
        if self.video.num_frames(self.request.frame_rate) >= self.request.num_frames + TEMPORAL_STRIDE:
            return "it was cut"
        if self.request.fit != "crop" or self.cropped_share() > CROPPED:
            return "its shape was changed"
        return obstacle_to_copying(self.request.video)

    def copies_sound(self) -> bool:
        """The sound is held whole, and its stream can go into the clip as it is."""
        if self.sound is None or self.audio_spans or self.audio.start != 0:
            return False
        if self.audio.seconds > self.seconds + SLACK_SECONDS or self.audio.channels > 2:
            return False
        return (self.video is None or self.video.start == 0) and can_copy_sound(self.request.audio)

    def cropped_share(self) -> float:
        """The share of a side of the video that the model does not see."""
        size = self.video.width, self.video.height
        left, top, right, bottom = crop_box(size, self.request.height, self.request.width)
        return 1 - min((right - left) / size[0], (bottom - top) / size[1])

    def mixed_sound(self, made: np.ndarray, made_rate: int) -> tuple[np.ndarray, int]:
        """The clip's sound, float32 [channels, S], and its rate: what is held as it came, `made` elsewhere.

        One that is held in part has the higher rate of the two.
        """
        if self.sound is None or self.request.regenerate_audio is True:
            return made, made_rate
        sound, rate = self.sound, self.audio.sample_rate
        if not self.audio_spans:
            return sound, rate
        if rate < made_rate:
            sound, rate = np.stack([resample(channel, rate, made_rate) for channel in sound]), made_rate
        again = made if rate == made_rate else resample(made[0], made_rate, rate)[None]
        rest = np.repeat(again[:, sound.shape[1] :], len(sound), axis=0)
        sound = np.concatenate((sound, rest), axis=1)
        again = padded(again, sound.shape[1])
        mixed = put_back_sound(
            torch.from_numpy(sound)[None], torch.from_numpy(again)[None], self.audio_spans, rate
        )
        return mixed[0].numpy(), rate

    def notes_on_length(self) -> tuple[str, ...]:
        notes = []
        end = f"its end after {self.seconds:.2f} s was cut"
        if self.video and self.video.seconds > self.seconds + TEMPORAL_STRIDE / self.request.frame_rate:
            notes.append(f"the video lasts {self.video.seconds:.2f} s; {end}")
        heard = self.sound.shape[1] / self.audio.sample_rate if self.audio else 0
        if self.audio and self.audio.seconds > max(heard, self.seconds) + SLACK_SECONDS:
            notes.append(f"the sound lasts {self.audio.seconds:.2f} s; {end}")
        if self.audio and self.audio.channels > 2:
            notes.append(f"the {self.audio.channels} channels of the sound were mixed down to two")
        return tuple(notes)

    def notes_on_sight(self) -> tuple[str, ...]:
        """How the model saw a picture that was copied."""
        request, video = self.request, self.video
        if (video.height, video.width) == (request.height, request.width):
            return ()
        return (
            f"the picture is the video's own, {video.width}x{video.height}; the model saw it at "
            f"{request.width}x{request.height}",
        )

    def notes_on_size(self) -> tuple[str, ...]:
        request, video = self.request, self.video
        if video is None or (video.height, video.width) == (request.height, request.width):
            return ()
        how = "cropped and resized" if request.fit == "crop" else "resized, with black bars,"
        return (f"the video was {how} from {video.width}x{video.height} to {request.width}x{request.height}",)


def padded(sound: np.ndarray, length: int) -> np.ndarray:
    """`sound` [channels, S] followed by silence up to `length` samples."""
    return np.pad(sound, ((0, 0), (0, max(0, length - sound.shape[1]))))
