import os
from fractions import Fraction

import av
import numpy as np
import pytest

from mova.errors import BackendError, UserError
from mova.media.clips import copy_with_settings, measure_clip, read_clip, read_settings, write_mp4
from tests.disk import files_of_at_most

H, W = 32, 64


def moving(num_frames):
    return np.random.default_rng(0).integers(0, 256, (num_frames, H, W, 3), np.uint8)


def noise(samples, channels=1):
    return np.random.default_rng(1).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


def write_foreign(path, num_frames=9, rate=24, sample_rate=44100, sound_samples=16537, with_sound=True):
    """An mp4 as other programs write it: coarse time scale, data at the end, stereo, metadata of its own."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["title"] = "theirs"
        video = container.add_stream("libx264", rate=rate, options={"bf": "2"})
        video.height, video.width, video.pix_fmt = H, W, "yuv420p"
        if with_sound:
            audio = container.add_stream("aac", rate=sample_rate, layout="stereo")
        for image in moving(num_frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(video.encode())
        if with_sound:
            frame = av.AudioFrame.from_ndarray(noise(sound_samples, 2), format="fltp", layout="stereo")
            frame.sample_rate = sample_rate
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def packets(path):
    """The encoded picture and sound, each as a list of packets."""
    found = {"video": [], "audio": []}
    with av.open(str(path)) as container:
        for packet in container.demux():
            found[packet.stream.type].append(bytes(packet))
    return found


@pytest.fixture(params=[48000, 44100, "foreign"])
def clip(request, tmp_path):
    path = tmp_path / "theirs.mp4"
    if request.param == "foreign":
        return write_foreign(path)
    write_mp4(path, moving(9), noise(request.param), 24, request.param, {"prompt": "old"})
    return path


def test_a_copy_plays_the_same_and_carries_the_new_settings(clip, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy_with_settings(clip, copy, {"prompt": 'a "bell" \u94c3', "seed": 7})
    theirs, ours = read_clip(clip), read_clip(copy)
    assert np.array_equal(theirs.frames, ours.frames)
    assert np.array_equal(theirs.waveform, ours.waveform)
    assert np.abs(theirs.waveform).max() > 0.1
    assert (theirs.frame_rate, theirs.sample_rate) == (ours.frame_rate, ours.sample_rate)
    assert packets(clip) == packets(copy)
    assert read_settings(copy) == {"prompt": 'a "bell" \u94c3', "seed": 7}
    data = copy.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_copy_of_our_own_clip_has_its_length_to_the_sample(tmp_path):
    write_mp4(tmp_path / "ours.mp4", moving(9), noise(44100), 24, 44100, {})
    copy_with_settings(tmp_path / "ours.mp4", tmp_path / "copy.mp4", {})
    for name in ("ours.mp4", "copy.mp4"):
        with av.open(str(tmp_path / name)) as container:
            (sound,) = container.streams.audio
            assert sound.duration * sound.time_base == Fraction(44100 * 9 // 24, 44100)


def test_a_clip_is_measured_to_its_end(clip):
    facts = measure_clip(clip)
    assert (facts.num_frames, facts.height, facts.width, facts.frame_rate) == (9, H, W, 24)
    assert facts.sound_seconds == pytest.approx(9 / 24, abs=0.05)


def test_a_clip_cut_short_has_fewer_frames_or_is_refused(tmp_path):
    write_mp4(tmp_path / "whole.mp4", moving(33), noise(96000), 24, 48000, {})
    data = (tmp_path / "whole.mp4").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * share)])
        try:
            num_frames = measure_clip(tmp_path / "cut.mp4").num_frames
        except UserError:
            num_frames = 0
        assert num_frames < 33


def test_what_is_no_clip_is_not_copied(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"<html></html>")
    with pytest.raises(UserError, match="damaged or not an mp4"):
        copy_with_settings(tmp_path / "clip.mp4", tmp_path / "out.mp4", {})
    assert not (tmp_path / "out.mp4").exists()


def test_a_full_disk_is_told_as_such_and_leaves_nothing(tmp_path):
    clip = write_foreign(tmp_path / "theirs.mp4", num_frames=33)
    with (
        files_of_at_most(4096),
        pytest.raises(BackendError, match=r"out\.mp4 cannot be written \(File too large\)"),
    ):
        copy_with_settings(clip, tmp_path / "out.mp4", {})
    assert os.listdir(tmp_path) == ["theirs.mp4"]  # noqa: PTH208 - names
