import errno
import itertools
import json
import os
import subprocess
import sys
import tempfile
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mova.errors import BackendError, UserError
from mova.files import check_output, new_output
from mova.media import clips
from mova.request import GenerationRequest

H, W = 32, 48
ROOT = Path(__file__).parents[2]


def num_samples(num_frames, frame_rate, sample_rate):
    return int(sample_rate * num_frames / frame_rate)


def grey(num_frames):
    return np.full((num_frames, H, W, 3), 90, np.uint8)


def hum(num_frames, frame_rate=24, sample_rate=48000, channels=1):
    """A quiet tone, as long as the frames."""
    seconds = np.arange(num_samples(num_frames, frame_rate, sample_rate)) / sample_rate
    return np.tile(0.1 * np.sin(2 * np.pi * 440 * seconds), (channels, 1)).astype(np.float32)


def write_small(path, num_frames=5, settings=None, **options):
    clips.write_mp4(path, grey(num_frames), hum(num_frames), 24, 48000, settings or {}, **options)


def names(folder):
    return sorted(item.name for item in folder.iterdir())


def streams(path):
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        return {
            "codecs": (video.codec_context.name, video.codec_context.pix_fmt, audio.codec_context.name),
            "starts": (video.start_time, audio.start_time),
            "frames": video.frames,
            "rate": video.average_rate,
            "samples": audio.duration,
            "color": [
                int(getattr(video.codec_context, name))
                for name in ("color_range", "colorspace", "color_primaries", "color_trc")
            ],
        }


RATES = [
    (24, Fraction(24), 48000, 1),
    (24, Fraction(24), 44100, 2),
    (23.976, Fraction(2997, 125), 48000, 1),
    (30000 / 1001, Fraction(30000, 1001), 48000, 1),
    (12.5, Fraction(25, 2), 16000, 1),
    (60, Fraction(60), 96000, 2),
]


@pytest.mark.parametrize("num_frames", [1, 25])
@pytest.mark.parametrize(("frame_rate", "exact_rate", "sample_rate", "channels"), RATES)
def test_a_clip_comes_back_with_its_frames_rate_and_every_sample(
    tmp_path, num_frames, frame_rate, exact_rate, sample_rate, channels
):
    sound = hum(num_frames, frame_rate, sample_rate, channels)
    clips.write_mp4(tmp_path / "clip.mp4", grey(num_frames), sound, frame_rate, sample_rate, {})
    found = streams(tmp_path / "clip.mp4")
    clip = clips.read_clip(tmp_path / "clip.mp4")
    assert (found["rate"], found["frames"], found["starts"]) == (exact_rate, num_frames, (0, 0))
    assert found["samples"] == sound.shape[1]
    assert (clip.frame_rate, clip.sample_rate) == (float(exact_rate), sample_rate)
    assert clip.frames.shape == (num_frames, H, W, 3) and clip.frames.dtype == np.uint8
    assert clip.waveform.shape == sound.shape and clip.waveform.dtype == np.float32
    assert np.abs(clip.waveform - sound).max() < 0.05


@pytest.mark.parametrize(
    ("frame_rate", "sample_rate"), [(24, 48000), (30000 / 1001, 44100), (12.5, 16000), (24, 3200)]
)
def test_a_flash_and_its_click_stay_together(tmp_path, frame_rate, sample_rate):
    frames, sound = grey(25), np.zeros((1, num_samples(25, frame_rate, sample_rate)), np.float32)
    frames[12] = 255
    sound[0, round(12 / frame_rate * sample_rate)] = 0.9
    clips.write_mp4(tmp_path / "clip.mp4", frames, sound, frame_rate, sample_rate, {})
    clip = clips.read_clip(tmp_path / "clip.mp4")
    assert np.flatnonzero(clip.frames.mean((1, 2, 3)) > 200).tolist() == [12]
    click = np.abs(clip.waveform[0]).argmax() / clip.sample_rate
    assert abs(click - 12 / frame_rate) < 1e-3


def test_a_rate_that_aac_lacks_is_resampled_to_the_next_above(tmp_path):
    sound = hum(49, sample_rate=3200)
    clips.write_mp4(tmp_path / "clip.mp4", grey(49), sound, 24, 3200, {})
    clip = clips.read_clip(tmp_path / "clip.mp4")
    expected = hum(49, sample_rate=8000)
    assert clip.sample_rate == 8000 and clip.waveform.shape == expected.shape
    assert np.abs(clip.waveform - expected)[:, 200:-200].max() < 0.02


def test_the_file_is_what_browsers_play(tmp_path):
    write_small(tmp_path / "clip.mp4")
    found = streams(tmp_path / "clip.mp4")
    content = (tmp_path / "clip.mp4").read_bytes()
    assert found["codecs"] == ("h264", "yuv420p", "aac")
    assert found["color"] == [1, 1, 1, 1]  # limited range, BT.709 thrice
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    "color",
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (0, 0, 0), (255, 255, 255), (200, 120, 40)],
)
def test_a_colour_survives_within_3_levels(tmp_path, color):
    frames = np.full((5, H, W, 3), color, np.uint8)
    clips.write_mp4(tmp_path / "clip.mp4", frames, hum(5), 24, 48000, {})
    difference = clips.read_clip(tmp_path / "clip.mp4").frames.astype(int) - frames
    assert np.abs(difference).max() <= 3


def test_colour_neither_fades_nor_moves_from_clip_to_clip(tmp_path):
    y, x = np.mgrid[0:96, 0:96]
    first = np.stack([2 * x, 200 - 2 * x, 2 * y], axis=-1).clip(0, 255).astype(np.uint8)
    frame = first
    for _ in range(4):
        clips.write_mp4(tmp_path / "clip.mp4", frame[None], hum(1), 24, 48000, {}, overwrite=True)
        frame = clips.read_clip(tmp_path / "clip.mp4").frames[-1]
    difference = frame.astype(int)[16:80, 16:80] - first[16:80, 16:80]
    assert np.abs(difference.mean((0, 1))).max() < 1  # 5 with swscale's defaults


def test_chunks_make_the_same_file_as_one_array(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (9, H, W, 3), dtype=np.uint8)
    clips.write_mp4(tmp_path / "array.mp4", frames, hum(9), 24, 48000, {})
    clips.write_mp4(
        tmp_path / "chunks.mp4", iter([frames[:4], frames[4:5], frames[5:]]), hum(9)[0], 24, 48000, {}
    )
    assert (tmp_path / "array.mp4").read_bytes() == (tmp_path / "chunks.mp4").read_bytes()


def test_the_same_frames_make_the_same_file_each_time(tmp_path):
    """With x264's defaults processors with AVX-512 encoded them in another way each time."""
    blocks = np.random.default_rng(0).integers(0, 255, (49, 16, 28, 3), np.uint8)
    frames, silence = blocks.repeat(8, 1).repeat(8, 2), np.zeros(66_000, np.float32)
    files, heap = [], []
    for index in range(6):
        heap.append(np.ones(1000 + 777 * index))
        clips.write_mp4(tmp_path / f"{index}.mp4", frames, silence, 24, 32_000, {"seed": index})
        files.append(clips.read_clip(tmp_path / f"{index}.mp4").frames)
    assert all(np.array_equal(files[0], each) for each in files)


def test_sound_past_the_video_is_cut_and_loud_sound_clipped(tmp_path):
    loud = np.sign(hum(50)) * 40
    clips.write_mp4(tmp_path / "clip.mp4", grey(5), loud, 24, 48000, {})
    clip = clips.read_clip(tmp_path / "clip.mp4")
    assert clip.waveform.shape == (1, 10000)
    assert np.median(np.abs(clip.waveform)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "红色的球落在木地板上。" * 2000,
        'quotes " and \\ \n\t\0 and </script>',
        "bytes \udcff\udc80",
        "🥁" * 500,
    ],
    ids=["empty", "66 kB Chinese", "control characters", "lone surrogates", "emoji"],
)
def test_settings_survive_in_the_file(tmp_path, prompt):
    settings = GenerationRequest(prompt, seed=2**63 - 1, adapters=(("a.safetensors", 0.5),)).to_settings()
    write_small(tmp_path / "clip.mp4", settings=settings)
    assert clips.read_settings(tmp_path / "clip.mp4") == settings


def test_settings_are_in_the_comment_tag_other_tools_show(tmp_path):
    write_small(tmp_path / "clip.mp4", settings={"seed": 7})
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert json.loads(container.metadata["comment"]) == {"seed": 7}


def interrupted():
    yield grey(2)
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("frames", "sound", "settings", "error"),
    [
        (grey(5), hum(5)[:, :-1], {}, ValueError),
        (grey(5), np.full((1, 10000), np.nan), {}, BackendError),
        (grey(5), np.full((1, 10000), np.inf), {}, BackendError),
        (grey(5), np.zeros((3, 10000)), {}, ValueError),
        (grey(5), np.zeros(0), {}, ValueError),
        (grey(0), hum(5), {}, ValueError),
        (iter([]), hum(5), {}, ValueError),
        (grey(5).astype(np.float32), hum(5), {}, ValueError),
        (grey(5)[0], hum(5), {}, ValueError),
        (iter([grey(2), grey(2)[:, :16]]), hum(5), {}, ValueError),
        (grey(5), hum(5), {"seed": float("nan")}, ValueError),
        (grey(5), hum(5), {"image": Path("a.png")}, TypeError),
        (grey(5), hum(5), {"prompt": "x" * clips.MAX_SETTINGS_BYTES}, UserError),
        (interrupted(), hum(5), {}, KeyboardInterrupt),
    ],
    ids=lambda value: getattr(value, "__name__", "") if isinstance(value, type) else "",
)
def test_a_write_that_fails_leaves_nothing(tmp_path, frames, sound, settings, error):
    with pytest.raises(error):
        clips.write_mp4(tmp_path / "clip.mp4", frames, sound, 24, 48000, settings)
    assert names(tmp_path) == []


@pytest.mark.parametrize("frame_rate", [0, -24, float("nan"), float("inf"), 1000])
def test_an_impossible_frame_rate_is_refused(tmp_path, frame_rate):
    with pytest.raises(UserError, match="frame_rate"):
        clips.write_mp4(tmp_path / "clip.mp4", grey(1), hum(1), frame_rate, 48000, {})


WRITERS = {
    "clip.mp4": lambda path, **options: write_small(path, num_frames=9, **options),
    "sound.wav": lambda path, **options: clips.write_wav(path, hum(9), 48000, **options),
    "frames": lambda path, **options: clips.write_png_sequence(path, noise(), **options),
}


def noise():
    return np.random.default_rng(0).integers(0, 256, (3, H, W, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", WRITERS)
def test_output_is_replaced_only_on_request(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    before = path.stat().st_ino
    with pytest.raises(UserError, match="--overwrite"):
        WRITERS[name](path)
    assert path.stat().st_ino == before
    WRITERS[name](path, overwrite=True)
    assert path.stat().st_ino != before
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_bare_names_work_and_missing_folders_are_made(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    WRITERS[name](Path(name))
    WRITERS[name](Path("some/new/folder") / name)
    assert names(tmp_path) == sorted([name, "some"])
    assert names(tmp_path / "some/new/folder") == [name]


def test_a_file_that_appears_during_the_write_is_kept(tmp_path):
    def frames():
        yield grey(4)
        (tmp_path / "clip.mp4").write_text("somebody else's")
        yield grey(1)

    with pytest.raises(UserError, match="exists"):
        clips.write_mp4(tmp_path / "clip.mp4", frames(), hum(5), 24, 48000, {})
    assert (tmp_path / "clip.mp4").read_text() == "somebody else's"
    assert names(tmp_path) == ["clip.mp4"]


def test_an_interrupted_overwrite_keeps_the_old_clip(tmp_path):
    write_small(tmp_path / "clip.mp4", settings={"take": 1})
    with pytest.raises(KeyboardInterrupt):
        clips.write_mp4(tmp_path / "clip.mp4", interrupted(), hum(5), 24, 48000, {}, overwrite=True)
    assert clips.read_settings(tmp_path / "clip.mp4") == {"take": 1}
    assert names(tmp_path) == ["clip.mp4"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_path_that_cannot_be_written_is_the_users_error(tmp_path, name):
    (tmp_path / "file").write_text("")
    for folder in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        Path("/proc/none"),
        tmp_path / ("n" * 300),
    ):
        with pytest.raises(UserError, match="cannot be written"):
            WRITERS[name](folder / name)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["clip.mp4", "sound.wav"])
def test_a_folders_name_is_no_name_for_a_file(tmp_path, name):
    with pytest.raises(UserError, match="is a folder"):
        WRITERS[name](tmp_path, overwrite=True)


def run_python(code, *arguments):
    """Run `code` after the imports of this test in a fresh process, which may give up rights and limits."""
    head = "import os, resource, sys\nfrom pathlib import Path\nfrom tests.media.test_clips import *\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, name):
    # A limit on file size fails a write in its middle, as a full disk does, and needs no disk to fill.
    run_python(
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
with pytest.raises(BackendError, match="free some space"):
    WRITERS[sys.argv[1]](Path(sys.argv[2]) / sys.argv[1])
""",
        name,
        tmp_path,
    )
    assert names(tmp_path) == []


def test_read_only_folders_and_files_are_the_users_error():
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old.mp4")
        old.write_text("protected")
        old.chmod(0o444)
        Path(folder, "locked").mkdir(mode=0o555)
        Path(folder).chmod(0o777)
        run_python(
            """
if os.getuid() == 0:
    os.setuid(65534)  # root may write anywhere
folder = Path(sys.argv[1])
with pytest.raises(UserError, match="locked is read-only"):
    write_small(folder / "locked" / "clip.mp4")
with pytest.raises(UserError, match="old.mp4 is read-only"):
    write_small(folder / "old.mp4", overwrite=True)
""",
            folder,
        )
        assert old.read_text() == "protected"


def test_check_output_counts_the_free_bytes_of_a_folder_to_be_made(tmp_path):
    check_output(tmp_path / "new" / "clip.mp4", needed_bytes=1)
    with pytest.raises(BackendError, match="MiB"):
        check_output(tmp_path / "new" / "clip.mp4", needed_bytes=2**60)
    assert names(tmp_path) == []


def test_other_errors_of_the_block_pass_through_new_output(tmp_path):
    with pytest.raises(ZeroDivisionError), new_output(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    with pytest.raises(BackendError, match="No space left"), new_output(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_wav_holds_the_samples_to_16_bits(tmp_path):
    stereo = np.array([[0, 0.5, -0.5, 1, -1, 7], [0, 0.1, 0.2, 0.3, 0.4, 0.5]])
    clips.write_wav(tmp_path / "sound.wav", stereo, 48000)
    with wave.open(str(tmp_path / "sound.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 48000)
        samples = np.frombuffer(file.readframes(99), "<i2").reshape(-1, 2).T
    np.testing.assert_allclose(samples / 32767, stereo.clip(-1, 1), atol=0.5 / 32767)


def test_png_sequence_is_exact_and_replaced_as_a_whole(tmp_path):
    (tmp_path / "frames").mkdir()
    clips.write_png_sequence(tmp_path / "frames", noise())
    clips.write_png_sequence(tmp_path / "frames", iter([noise()[:1], noise()[2:]]), overwrite=True)
    assert names(tmp_path / "frames") == ["frame_00000.png", "frame_00001.png"]
    np.testing.assert_array_equal(Image.open(tmp_path / "frames/frame_00001.png"), noise()[2])


def test_png_sequence_takes_no_folder_that_holds_anything_else(tmp_path):
    (tmp_path / "diary.txt").write_text("kept")
    with pytest.raises(UserError, match=r"diary\.txt"):
        clips.write_png_sequence(tmp_path, noise(), overwrite=True)
    assert names(tmp_path) == ["diary.txt"]


def test_an_interrupted_png_sequence_keeps_the_old_one(tmp_path):
    clips.write_png_sequence(tmp_path / "frames", noise())
    with pytest.raises(KeyboardInterrupt):
        clips.write_png_sequence(tmp_path / "frames", interrupted(), overwrite=True)
    assert len(names(tmp_path / "frames")) == 3 and names(tmp_path) == ["frames"]


def mux(path, kind="mp4", comment=None, sound=True, late_seconds=0):
    """A clip as another program may write it: 25 frames in 1 s, a tone that may start late."""
    with av.open(str(path), "w", format=kind) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = H, W, "yuv420p"
        audio = container.add_stream("aac", rate=48000, layout="mono") if sound else None
        for image in grey(25):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        if audio:
            frame = av.AudioFrame.from_ndarray(hum(12), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, round(late_seconds * 48000)
            frame.time_base = Fraction(1, 48000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())


@pytest.mark.parametrize("comment", [None, "", "made with love", "[1, 2]", "[" * 100_000, '{"a": '])
def test_a_clip_of_another_program_carries_no_settings(tmp_path, comment):
    mux(tmp_path / "clip.mp4", comment=comment)
    with pytest.raises(UserError, match="carries no settings"):
        clips.read_settings(tmp_path / "clip.mp4")


def test_settings_over_the_limit_are_not_parsed(tmp_path):
    mux(tmp_path / "clip.mp4", comment=json.dumps({"prompt": "x" * clips.MAX_SETTINGS_BYTES}))
    with pytest.raises(UserError, match="carries no settings"):
        clips.read_settings(tmp_path / "clip.mp4")


def test_sound_that_starts_late_or_ends_early_is_put_on_the_clips_timeline(tmp_path):
    mux(tmp_path / "clip.mp4", late_seconds=0.25)
    clip = clips.read_clip(tmp_path / "clip.mp4")
    loudness = np.abs(clip.waveform[0])
    assert clip.waveform.shape == (1, 48000)
    assert loudness[: int(0.24 * 48000)].max() < 0.01 and loudness[int(0.78 * 48000) :].max() < 0.01
    assert loudness[int(0.26 * 48000) : int(0.74 * 48000)].reshape(20, -1).max(axis=1).min() > 0.09


@pytest.mark.parametrize("read", [clips.read_settings, clips.read_clip, clips.measure_clip])
def test_what_is_no_mp4_is_refused(tmp_path, read):
    write_small(tmp_path / "clip.mp4")
    mux(tmp_path / "matroska.mp4", kind="matroska", comment="{}")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a clip\n" * 99)
    (tmp_path / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/clip.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/clip.mp4'\n")
    for name in set(names(tmp_path)) - {"clip.mp4"}:
        with pytest.raises(UserError, match="damaged or not an mp4"):
            read(tmp_path / name)
    for path in (
        tmp_path,
        tmp_path / "missing.mp4",
        Path(f"concat:{tmp_path}/clip.mp4"),
        Path("https://a.b/c.mp4"),
    ):
        with pytest.raises(UserError, match="is not a file"):
            read(path)
    with pytest.raises(UserError, match="not an mp4 clip"):
        read(Path("n" * 300))


def test_a_file_over_the_size_limit_is_refused_unread(tmp_path):
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(clips.MAX_CLIP_BYTES + 1)
    with pytest.raises(UserError, match="over 1 GiB"):
        clips.read_clip(tmp_path / "large.mp4")


def test_a_clip_that_was_cut_short_is_refused(tmp_path):
    clips.write_mp4(tmp_path / "clip.mp4", np.tile(noise(), (8, 1, 1, 1)), hum(24), 24, 48000, {})
    whole = (tmp_path / "clip.mp4").read_bytes()
    for part in (0.3, 0.6, 0.9):
        (tmp_path / "clip.mp4").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(UserError, match=r"ends at frame \d+ of 24|damaged"):
            clips.read_clip(tmp_path / "clip.mp4")


@pytest.mark.parametrize("read", [clips.read_clip, clips.measure_clip])
def test_a_clip_without_sound_or_with_more_frames_than_allowed_is_refused(tmp_path, read):
    mux(tmp_path / "silent.mp4", sound=False)
    with pytest.raises(UserError, match="lacks a picture or sound"):
        read(tmp_path / "silent.mp4")
    write_small(tmp_path / "clip.mp4", num_frames=5)
    read(tmp_path / "clip.mp4", max_frames=5)
    with pytest.raises(UserError, match="over 4 frames"):
        read(tmp_path / "clip.mp4", max_frames=4)


def test_damaged_bytes_are_the_users_error_or_do_no_harm(tmp_path):
    write_small(tmp_path / "clip.mp4")
    whole = (tmp_path / "clip.mp4").read_bytes()
    rng = np.random.default_rng(0)
    for read, _ in itertools.product((clips.read_settings, clips.read_clip), range(40)):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 5):
            damaged[position] = rng.integers(256)
        (tmp_path / "clip.mp4").write_bytes(damaged)
        try:
            read(tmp_path / "clip.mp4")
        except UserError as error:
            assert "clip.mp4" in str(error)
