"""Clips are read by their time stamps, and nothing else that a file says of itself is taken on trust."""

from fractions import Fraction

import av
import numpy as np
import pytest

from lora_trainer.decode import probe, read_frames, read_sound
from lora_trainer.manifest import DatasetItem
from mova.errors import UserError
from mova.media.clips import read_clip
from mova.media.colours import to_rgb

RATE, SAMPLE_RATE = 24, 48000
HEIGHT, WIDTH = 32, 64
SECONDS = 5


def numbered(number):
    """A picture that carries its number: eight bright or dark fields."""
    fields = np.where(number >> np.arange(8) & 1, 210, 40).astype(np.uint8)
    return np.broadcast_to(np.repeat(fields, WIDTH // 8)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def numbers_of(frames):
    fields = frames[:, HEIGHT // 2, WIDTH // 16 :: WIDTH // 8].mean(axis=-1) > 120
    return (fields << np.arange(8)).sum(axis=1)


def beeps(seconds=SECONDS, at=(0.5, 1.5, 2.5, 3.5, 4.5)):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = np.zeros(len(time), np.float32)
    for second in at:
        on = (time >= second) & (time < second + 0.08)
        sound[on] = 0.5 * np.sin(2 * np.pi * 880 * (time[on] - second))
    return sound


def starts_of(sound, sample_rate):
    loud = np.flatnonzero(np.abs(sound) > 0.1)
    return loud[np.diff(loud, prepend=-sample_rate) > 0.1 * sample_rate] / sample_rate


def write(
    path,
    times=None,
    images=None,
    sound=None,
    codecs=("libx264", "aac"),
    layouts=None,
    sound_at=lambda second: second,
    begins=0.0,
    options=None,
):
    """Frames shown at `times`; sound whose samples are stamped by `sound_at`. Both are moved by `begins`."""
    times = np.arange(SECONDS * RATE) / RATE if times is None else times
    images = [numbered(index) for index in range(len(times))] if images is None else images
    sound = beeps() if sound is None else sound
    is_counted = codecs[0].startswith("mpeg") or path.suffix == ".avi"
    base = Fraction(1, RATE) if is_counted else Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codecs[0], rate=RATE, options={"threads": "1", **(options or {})})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt, video.codec_context.time_base = "yuv420p", base
        audio = container.add_stream(codecs[1], rate=SAMPLE_RATE, layout=layouts or "mono")
        for time, image in zip(times, images, strict=True):
            frame = av.VideoFrame.from_ndarray(image).reformat(format="yuv420p")
            frame.pts, frame.time_base = round((time + begins) / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        size = audio.codec_context.frame_size or 1024
        to_format = av.AudioResampler(audio.codec_context.format.name, layouts or "mono", SAMPLE_RATE)
        for start in range(0, len(sound), size):
            piece = np.repeat(sound[None, start : start + size], 2 if layouts == "stereo" else 1, axis=0)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), "fltp", layouts or "mono")
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = round((sound_at(start / SAMPLE_RATE) + begins) * SAMPLE_RATE)
            for each in to_format.resample(frame):
                container.mux(audio.encode(each))
        container.mux(audio.encode())
    return DatasetItem(path.name, path, "a caption")


LONG_GOP = {"g": "60", "bf": "3", "b-adapt": "0", "sc_threshold": "0"}
WRITTEN = {
    "a.mp4": (("libx264", "aac"), LONG_GOP),
    "a.mkv": (("libx264", "flac"), LONG_GOP),
    "a.ts": (("libx264", "aac"), LONG_GOP),
    "a.m2ts": (("libx264", "ac3"), LONG_GOP),
    "b.ts": (("mpeg2video", "mp2"), {"g": "30", "bf": "2", "b": "4M"}),
    "a.mpg": (("mpeg2video", "mp2"), {"g": "12", "b": "4M"}),
    "a.vob": (("mpeg2video", "ac3"), {"g": "12", "bf": "2", "b": "4M"}),
    "a.avi": (("libx264", "mp3"), {"bf": "2"}),
    "a.flv": (("libx264", "aac"), LONG_GOP),
    "a.webm": (("libvpx", "libopus"), {"deadline": "realtime", "b": "2M"}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_window_of_every_container_has_its_own_frames_and_sound(tmp_path, name):
    codecs, options = WRITTEN[name]
    item = write(tmp_path / name, codecs=codecs, options=options)
    assert probe(item).seconds == pytest.approx(SECONDS, abs=0.06)
    for first in (0, 11, 24, 37, 55, 73, 95):
        start = first / RATE
        frames = read_frames(item, start + np.arange(25) / RATE, HEIGHT, WIDTH)
        np.testing.assert_array_equal(numbers_of(frames), first + np.arange(25))
        heard = starts_of(read_sound(item, start, 16000, 16000), 16000) + start
        expected = [second for second in (0.5, 1.5, 2.5, 3.5, 4.5) if start + 0.1 < second < start + 0.9]
        assert heard[(heard > start + 0.1) & (heard < start + 0.9)] == pytest.approx(expected, abs=0.5 / RATE)


@pytest.mark.parametrize("name", WRITTEN)
def test_evaluate_reads_the_same_clip_from_every_container(tmp_path, name):
    codecs, options = WRITTEN[name]
    write(tmp_path / name, codecs=codecs, options=options)
    clip = read_clip(tmp_path / name)
    assert clip.frame_rate == pytest.approx(RATE, abs=0.01)
    np.testing.assert_array_equal(numbers_of(clip.frames), np.arange(SECONDS * RATE))
    heard = starts_of(clip.waveform.mean(axis=0), clip.sample_rate)
    assert heard == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5], abs=0.5 / RATE)


def test_a_varying_frame_rate_is_laid_out_by_time_in_both_readers(tmp_path):
    times = np.concatenate([np.arange(30) / 12, 2.5 + np.arange(120) / 48])
    images = [numbered(round(time * 48)) for time in times]
    item = write(tmp_path / "a.mp4", times, images)
    clip = read_clip(item.video)
    shown = numbers_of(clip.frames) / 48 - np.arange(len(clip.frames)) / clip.frame_rate
    assert np.abs(shown).max() <= 0.5 / 12 + 1e-3
    assert len(clip.frames) / clip.frame_rate == pytest.approx(5.0, abs=0.1)
    frames = read_frames(item, np.arange(97) / RATE, HEIGHT, WIDTH)
    assert np.abs(numbers_of(frames) / 48 - np.arange(97) / RATE).max() <= 0.5 / 12 + 1e-3
    assert starts_of(clip.waveform[0], SAMPLE_RATE) == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5], abs=0.003)


def test_sound_after_a_hole_keeps_its_time_in_both_readers(tmp_path):
    def late(second):
        return second if second < 2.0 else second + 0.7

    item = write(tmp_path / "a.mkv", sound=beeps(4.3), codecs=("libx264", "pcm_s16le"), sound_at=late)
    expected = [0.5, 1.5, 2.5 + 0.7, 3.5 + 0.7]
    clip = read_clip(item.video)
    assert starts_of(clip.waveform[0], SAMPLE_RATE) == pytest.approx(expected, abs=0.03)
    assert starts_of(read_sound(item, 3.0, 32000, 16000), 16000) + 3.0 == pytest.approx(
        expected[2:], abs=0.03
    )


def joined(tmp_path, name, second):
    """Two halves of a transport stream; `second` are options of the latter, moved to its place."""
    at, images, sound = np.arange(60) / RATE, [numbered(index) for index in range(120)], beeps()
    half = round(2.5 * SAMPLE_RATE)
    write(tmp_path / "one.ts", at, images[:60], sound[:half], options={"bf": "0"})
    write(
        tmp_path / "two.ts",
        at,
        sound=sound[half:],
        **{"images": images[60:], "options": {"bf": "0"}} | second,
    )
    path = tmp_path / name
    path.write_bytes((tmp_path / "one.ts").read_bytes() + (tmp_path / "two.ts").read_bytes())
    return DatasetItem(name, path, "a caption")


def test_sound_that_turns_from_mono_to_stereo_is_as_loud_and_in_time(tmp_path):
    item = joined(tmp_path, "changes.ts", {"layouts": "stereo", "begins": 2.5})
    sound = read_sound(item, 0.0, 5 * 16000, 16000)
    assert starts_of(sound, 16000) == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5], abs=0.03)
    loud = [np.abs(sound[round(second * 16000) :][:1280]).max() for second in (1.5, 3.5)]
    assert loud[1] == pytest.approx(loud[0], rel=0.1)
    assert read_clip(item.video).waveform.shape[0] == 2


def test_a_picture_that_changes_its_size_is_read_and_one_that_changes_its_shape_refused(tmp_path):
    larger = [image.repeat(2, axis=0).repeat(2, axis=1) for image in map(numbered, range(60, 120))]
    item = joined(tmp_path, "larger.ts", {"images": larger, "begins": 2.5})
    frames = read_frames(item, np.arange(119) / RATE, HEIGHT, WIDTH)
    # The muxer moves each half by what its AAC begins early, half a frame.
    np.testing.assert_allclose(numbers_of(frames), np.arange(119), atol=1)
    np.testing.assert_allclose(numbers_of(read_clip(item.video).frames), np.arange(120), atol=1)
    wider = [image.repeat(2, axis=1) for image in map(numbered, range(60, 120))]
    item = joined(tmp_path, "wider.ts", {"images": wider, "begins": 2.5})
    for read in (
        lambda: read_frames(item, np.arange(119) / RATE, HEIGHT, WIDTH),
        lambda: read_clip(item.video),
    ):
        with pytest.raises(UserError, match=r"wider\.ts changes from 64x32 to 128x32 at .* s; cut it there"):
            read()


def test_recordings_joined_without_new_time_stamps_are_refused_by_name(tmp_path):
    item = joined(tmp_path, "joined.ts", {})
    for read in (lambda: probe(item), lambda: read_clip(item.video)):
        with pytest.raises(UserError, match=r"joined\.ts has time stamps that jump from"):
            read()


def test_second_0_is_the_first_frame_that_can_be_decoded(tmp_path):
    item = write(tmp_path / "whole.ts", options={"g": "24", "bf": "0", "sc_threshold": "0"})
    content = item.video.read_bytes()
    path = tmp_path / "begun.ts"
    path.write_bytes(content[len(content) // 10 // 188 * 188 :])  # as when a recorder is switched on midway
    begun = DatasetItem(path.name, path, "a caption")
    frames = read_frames(begun, np.arange(49) / RATE, HEIGHT, WIDTH)
    first = int(numbers_of(frames)[0])
    assert first > 0 and first % 24 == 0
    np.testing.assert_array_equal(numbers_of(frames), first + np.arange(49))
    later = [second - first / RATE for second in (1.5, 2.5) if second > first / RATE]
    heard = starts_of(read_sound(begun, 0.0, 2 * 16000, 16000), 16000)
    assert heard == pytest.approx([second for second in later if second < 2], abs=0.03)
    assert int(numbers_of(read_clip(path).frames)[0]) == first


def coloured(rgb, transfer, primaries, matrix, full=False):
    """A decoded frame of one colour: R'G'B' in 0..1 as the transfer has it."""
    weights = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[matrix]
    red, blue = weights
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    chroma = (rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)
    scale = (0, 1023, 1023) if full else (64, 876, 896)
    values = (scale[0] + scale[1] * luma, *(512 + scale[2] * each for each in chroma))
    frame = av.VideoFrame(32, 32, "yuv420p10le")
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // 2, round(value), "<u2").tobytes())
    frame.color_trc, frame.color_primaries, frame.colorspace = transfer, primaries, matrix
    frame.color_range = 2 if full else 1
    return frame


TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def srgb_light(levels):
    signal = np.array(levels) / 255
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def hlg(light):
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    light = light * 0.265
    return np.where(light <= 1 / 12, np.sqrt(3 * light), a * np.log(np.maximum(12 * light - b, 1e-9)) + c)


def pq(light):
    power = (light * 203 / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@pytest.mark.parametrize(("transfer", "curve"), [(18, hlg), (16, pq)])
def test_hdr_has_the_colours_of_the_scene(transfer, curve):
    def seen(levels, times=1.0):
        light = TO_2020 @ srgb_light(levels) * times
        return to_rgb(coloured(curve(light), transfer, 9, 9), "a.mov")[8, 8].astype(int)

    for levels in ((192, 32, 32), (40, 120, 60), (20, 20, 20), (150, 150, 150)):
        np.testing.assert_allclose(seen(levels), levels, atol=4)
    white, brighter = seen((255, 255, 255)), seen((255, 255, 255), 3.0)
    assert 223 <= white.min() < brighter.min() <= 255  # highlights are rolled off, not cut


def test_wide_primaries_are_brought_to_bt709():
    light = TO_2020 @ srgb_light((60, 180, 90))
    signal = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(to_rgb(coloured(signal, 1, 9, 9), "a.mov")[8, 8], (60, 180, 90), atol=4)


@pytest.mark.parametrize("matrix", [1, 5, 9])
@pytest.mark.parametrize("full", [False, True])
def test_matrix_and_range_are_those_the_file_names(matrix, full):
    frame = coloured(np.array((200, 90, 40)) / 255, 1, 1, matrix, full)
    np.testing.assert_allclose(to_rgb(frame, "a.mp4")[8, 8], (200, 90, 40), atol=4)


def test_colours_that_cannot_be_told_are_refused_by_name():
    frame = coloured((0.5, 0.5, 0.5), 16, 9, 9)
    frame.colorspace = 14
    with pytest.raises(UserError, match=r"a\.mov has colours of H\.273 matrix 14"):
        to_rgb(frame, "a.mov")
