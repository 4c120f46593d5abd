import random

import pytest

from mova import shapes
from mova.errors import UserError
from mova.shapes import ClipShape


def released_shape(num_frames, height=352, width=640):
    return ClipShape(height, width, num_frames, 24.0, 48000, 960)


@pytest.mark.parametrize(
    ("num_frames", "latent_frames", "audio_latents"),
    [
        (33, 9, 69),
        (49, 13, 103),
        (81, 21, 169),
        (97, 25, 203),
        (121, 31, 253),
        (145, 37, 303),
        (169, 43, 353),
        (193, 49, 403),
        (241, 61, 503),
    ],
)
def test_latents_of_a_clip_are_those_of_the_release(num_frames, latent_frames, audio_latents):
    shape = released_shape(num_frames)
    assert (shape.latent_frames, shape.audio_latents) == (latent_frames, audio_latents)


def test_tokens_and_samples_of_the_trained_length_are_those_of_the_release():
    assert released_shape(193).video_tokens == 43_120
    assert released_shape(193, 720, 1280).video_tokens == 176_400
    assert released_shape(193).num_samples == 386_000
    assert released_shape(193).seconds == pytest.approx(8.0417, abs=1e-4)
    assert (released_shape(193).latent_height, released_shape(193).latent_width) == (44, 80)


def test_decoded_sound_is_never_shorter_than_the_video():
    rng = random.Random(0)
    for _ in range(300):
        shape = ClipShape(32, 32, 4 * rng.randrange(240) + 1, rng.uniform(1, 120), 48000, 960)
        extra = shape.audio_latents * shape.hop_length - shape.num_samples
        assert 0 <= extra < shape.hop_length


def test_the_nearest_side_is_valid_and_no_valid_one_is_nearer():
    valid = range(shapes.MIN_SIDE, shapes.MAX_SIDE + 1, 16)
    for pixels in (-5, 0, 1, 31, 32, 39, 41, 100, 359, 360, 361, 1079, 2047, 2049, 10**400):
        nearest = shapes.nearest_side(pixels)
        assert nearest in valid
        assert abs(nearest - pixels) == min(abs(side - pixels) for side in valid)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("640x352", (352, 640)),
        ("640X352", (352, 640)),
        ("640\u00d7352", (352, 640)),
        (" 64 x 32 ", (32, 64)),
    ],
)
def test_a_size_is_read_as_width_by_height(text, size):
    assert shapes.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x352", "640x352x3", "axb", "640,352", "1e2x32", "6.4x32"]
)
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(UserError, match="is not WIDTHxHEIGHT; for example 640x352"):
        shapes.parse_size(text)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("640x360", "640x352"), ("100x100", "96x96"), ("16x9999", "32x2048"), ("-64x0", "32x32")],
)
def test_a_size_the_towers_cannot_run_at_names_the_nearest(text, nearest):
    with pytest.raises(UserError, match=rf"multiple of 16 from 32 to 2048; nearest: {nearest}$"):
        shapes.parse_size(text)


@pytest.mark.parametrize("num_frames", [1, 5, 97, 193, 961])
def test_valid_frame_counts_pass(num_frames):
    shapes.check_num_frames(num_frames)


@pytest.mark.parametrize(
    ("num_frames", "words"),
    [
        (0, "from 1 to 961"),
        (-3, "from 1 to 961"),
        (10_000, "from 1 to 961"),
        (962, "from 1 to 961"),
        (100, "must be 4k.1; nearest: 97, 101"),
        (960, "nearest: 957, 961"),
        (2, "nearest: 1, 5"),
    ],
)
def test_other_frame_counts_are_refused_with_the_neighbours(num_frames, words):
    with pytest.raises(UserError, match=words):
        shapes.check_num_frames(num_frames)


def test_seconds_become_the_valid_count_nearest_to_them():
    for frame_rate in (1, 12, 23.976, 24, 25, 30, 120):
        for seconds in (1 / frame_rate, 0.5, 1, 2.04, 8, 961 / frame_rate):
            if not 1 / frame_rate <= seconds <= 961 / frame_rate:
                continue
            frames = shapes.frames_for_seconds(seconds, frame_rate)
            shapes.check_num_frames(frames)
            assert abs(frames - seconds * frame_rate) <= 2 + 1e-9
    assert shapes.frames_for_seconds(8, 24) == 193
    assert shapes.frames_for_seconds(4, 24) == 97


@pytest.mark.parametrize("seconds", [0, -1, 41, 1e9, float("nan"), float("inf")])
def test_a_length_that_no_clip_can_have_is_refused_not_cut(seconds):
    with pytest.raises(UserError, match=r"seconds=.*give one from 0.0416667 to 40.0417"):
        shapes.frames_for_seconds(seconds, 24)


@pytest.mark.parametrize("frame_rate", [0, 0.5, -24, 121, float("nan")])
def test_a_frame_rate_out_of_range_is_refused(frame_rate):
    with pytest.raises(UserError, match="frame_rate"):
        shapes.frames_for_seconds(1, frame_rate)


@pytest.mark.parametrize("aspect", [0.1, 9 / 16, 1, 16 / 9, 2.39, 10])
def test_a_size_for_an_aspect_is_valid_and_close_to_it(aspect):
    height, width = shapes.size_for_aspect(aspect, 352 * 640)
    shapes.check_size(height, width)
    assert abs(width / height - aspect) < 0.2 * aspect
    assert 0.8 < height * width / (352 * 640) < 1.2
