"""Picture and sound of a window come from the same seconds, whatever the clip's frame rate and streams."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lora_trainer.decode import nearest, probe, read_frames, read_sound
from lora_trainer.manifest import DatasetItem
from mova.errors import UserError
from tests.lora_trainer.clips import SAMPLE_RATE, beep_times, flash_times, make_clip, picture, wave

RATE = 24.0


def item(path, **changes):
    return DatasetItem(path.name, path, "a caption", **changes)


def read(clip, start, count, sample_rate=16000):
    frames = read_frames(clip, start + np.arange(count) / RATE, 32, 64)
    return frames, read_sound(clip, start, int(sample_rate * count / RATE), sample_rate)


@pytest.mark.parametrize("frame_rate", [12, 23.976, 25, 30, 50, 60])
def test_a_clip_of_any_frame_rate_stays_in_sync(tmp_path, frame_rate):
    flashes = (0.5, 1.5, 2.5)
    clip = item(make_clip(tmp_path / "a.mp4", 3.0, frame_rate, flashes))
    frames, sound = read(clip, 0.0, 69)
    # The flash is drawn on the clip's own frame grid, so it may come up to one of its frames late.
    for seen, expected in zip(flash_times(frames, RATE), flashes, strict=True):
        assert -0.5 / RATE <= seen - expected <= 1 / frame_rate + 0.5 / RATE
    assert beep_times(sound, 16000) == pytest.approx(flashes, abs=0.003)


def test_a_later_window_is_those_seconds_of_both_streams(tmp_path):
    clip = item(make_clip(tmp_path / "a.mp4", 6.0, 30, (0.5, 3.0, 4.5)))
    frames, sound = read(clip, 2.5, 49)
    assert flash_times(frames, RATE) == pytest.approx([0.5, 2.0], abs=1 / RATE)
    assert beep_times(sound, 16000) == pytest.approx([0.5, 2.0], abs=0.003)


def write_streams(path, video_start, audio_start, frame_rate=25, seconds=2.0, flash=1.0, codec="pcm_s16le"):
    """A Matroska clip whose streams start at given seconds; the flash and its beep are at the same time."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=frame_rate)
        video.width, video.height, video.pix_fmt = 80, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        for index, image in enumerate(picture(seconds, frame_rate, (flash - video_start,))):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = round((video_start + index / frame_rate) * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = (wave(seconds, (flash - audio_start,)) * 32767).astype(np.int16)
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], "s16", "mono")
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = start + round(audio_start * SAMPLE_RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


@pytest.mark.parametrize(("video_start", "audio_start"), [(0.0, 0.4), (0.4, 0.0), (0.2, 0.2)])
def test_streams_that_start_apart_stay_in_sync(tmp_path, video_start, audio_start):
    clip = item(write_streams(tmp_path / "a.mkv", video_start, audio_start))
    assert probe(clip).sound_start == pytest.approx(audio_start - video_start, abs=0.005)
    frames, sound = read(clip, 0.0, 33)
    assert flash_times(frames, RATE) == pytest.approx([1.0 - video_start], abs=1 / RATE)
    assert beep_times(sound, 16000) == pytest.approx([1.0 - video_start], abs=0.005)


def test_frames_are_chosen_by_their_times_not_by_their_index():
    class Shown:
        duration, time_base = None, Fraction(1, 1000)

        def __init__(self, time):
            self.time = time

    frames = [Shown(time) for time in (0.0, 0.1, 0.5, 0.55, 1.0)]  # a varying frame rate
    chosen = [
        f.time
        for f, count in nearest(iter(frames), np.array([0.0, 0.2, 0.4, 0.53, 0.9]))
        for _ in range(count)
    ]
    assert chosen == [0.0, 0.1, 0.5, 0.55, 1.0]


def test_a_sound_file_of_the_same_name_starts_with_the_first_frame(tmp_path):
    from mova.media.clips import write_wav

    path = make_clip(tmp_path / "a.mp4", 2.0, 25, (0.5,))
    write_wav(tmp_path / "a.wav", wave(2.0, (1.25,), 44100), 44100)
    clip = item(path, audio=tmp_path / "a.wav")
    assert beep_times(read(clip, 0.0, 41)[1], 16000) == pytest.approx([1.25], abs=0.003)
    assert probe(clip).sample_rate == 44100


def test_sound_past_its_end_is_silence_of_the_right_length(tmp_path):
    path = write_streams(tmp_path / "a.mkv", 0.0, -0.0, seconds=2.0)
    sound = read_sound(item(path), 1.5, 16000, 16000)
    assert len(sound) == 16000
    assert not sound[8100:].any()


def test_a_clip_cut_short_is_an_error_with_its_name(tmp_path):
    clip = item(make_clip(tmp_path / "short.mp4", 1.0, 25))
    with pytest.raises(UserError, match=r"short\.mp4 ends before 1\.96 s"):
        read_frames(clip, np.arange(48) / RATE, 32, 64)


def test_damage_is_an_error_with_the_clips_name(tmp_path):
    path = make_clip(tmp_path / "bad.mp4", 1.0, 25)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match=r"bad\.mp4"):
        probe(item(path))


def test_a_playlist_named_as_a_clip_reads_no_other_file(tmp_path):
    make_clip(tmp_path / "private.mp4")
    path = tmp_path / "a.mp4"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'private.mp4'}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read"):
        probe(item(path))
