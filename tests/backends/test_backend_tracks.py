"""What a person brings goes into the clip as it came; what was changed is said."""

import hashlib
from fractions import Fraction

import av
import numpy as np
import pytest

from mova.backends.local import LocalBackend
from mova.errors import Cancelled, UserError
from mova.media.clips import read_clip, read_settings, write_mp4, write_wav
from mova.media.given import frames_to_follow, probe_audio, probe_video, read_video
from mova.request import GenerationRequest
from mova.scheduler import PairScheduler

H, W, RATE = 32, 64, 24
REQUEST = GenerationRequest("", height=H, width=W, num_frames=9, num_inference_steps=4, seed=7)


@pytest.fixture(scope="module")
def backend(golden):
    return LocalBackend(str(golden / "checkpoint"), want_preview=True, device="cpu", dtype="float32")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "clip.mp4"


def picture(num_frames, height=H, width=W):
    """A bright bar that moves by two pixels a frame over a slope."""
    frames = np.zeros((num_frames, height, width, 3), np.uint8)
    frames[:] = np.linspace(0, 120, width, dtype=np.uint8)[:, None]
    for index in range(num_frames):
        frames[index, :, (4 + 2 * index) % width : (4 + 2 * index) % width + 6] = 230
    return frames


def voice(seconds, rate, channels=1):
    """Vowels: harmonics of a gliding tone, louder and softer."""
    t = np.arange(round(seconds * rate)) / rate
    glide = 2 * np.pi * (140 * t + 20 * np.sin(5 * t))
    tone = sum(np.sin(k * glide) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    return np.stack([0.25 * tone * (1 - 0.5 * c) for c in range(channels)]).astype(np.float32)


@pytest.fixture
def clip(tmp_path):
    """Nine frames with stereo sound at 44.1 kHz."""
    write_mp4(tmp_path / "given.mp4", picture(9), voice(1, 44100, 2), RATE, 44100, {})
    return tmp_path / "given.mp4"


def packets(path, kind="video"):
    with av.open(str(path)) as container:
        return [
            (bytes(packet), packet.pts * packet.time_base)
            for packet in container.demux(getattr(container.streams, kind)[0])
            if packet.size
        ]


def offset_and_correlation(given, heard):
    """Samples by which `heard` comes later than `given`, and how alike they are there."""
    length = min(len(given), len(heard))
    given, heard = given[:length], heard[:length]
    spectra = np.fft.rfft(heard, 2 * length) * np.fft.rfft(given, 2 * length).conj()
    offset = int(np.argmax(np.fft.irfft(spectra)))  # those before 0 wrap to the end
    return offset, np.corrcoef(given, heard)[0, 1]


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 22050])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_held_sound_comes_out_as_it_went_in(backend, tmp_path, out, rate, channels):
    sound = voice(2.0, rate, channels)
    write_wav(tmp_path / "voice.wav", sound, rate)
    num_frames = frames_to_follow(None, tmp_path / "voice.wav", RATE)
    assert num_frames == 49
    result = backend.generate(REQUEST.replace(audio=tmp_path / "voice.wav", num_frames=num_frames), out)
    made = read_clip(out)
    assert (made.sample_rate, made.waveform.shape[0]) == (rate, channels)
    assert len(made.frames) == 49
    for given, heard in zip(sound, made.waveform, strict=True):
        offset, correlation = offset_and_correlation(given, heard)
        assert offset == 0
        assert correlation > 0.999
    assert made.waveform.shape[1] == int(rate * 49 / RATE)
    assert result.warnings == ("the audio lasts 2.00 s; the clip's end after it is silent",)


def test_a_held_sound_of_an_mp4_is_copied_packet_by_packet(backend, clip, out):
    request = REQUEST.replace(video=clip, audio=clip, regenerate_video=True, strength=0.5)
    backend.generate(request, out)
    assert packets(out, "audio") == packets(clip, "audio")
    given, made = read_clip(clip), read_clip(out)
    assert np.array_equal(given.waveform, made.waveform)
    assert not np.array_equal(given.frames, made.frames)


def test_a_held_picture_is_copied_packet_by_packet(backend, clip, out):
    result = backend.generate(REQUEST.replace(video=clip), out)
    assert packets(out) == packets(clip)
    given, made = read_clip(clip), read_clip(out)
    assert np.array_equal(given.frames, made.frames)
    assert np.abs(made.waveform).max() > 0
    assert result.warnings == ()
    data = out.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(out)) as container:
        (sound,) = container.streams.audio
        assert sound.duration * sound.time_base == Fraction(9, RATE)


def test_a_clip_names_its_sources_by_digest(backend, clip, out):
    request = REQUEST.replace(video=clip, audio=clip, regenerate_audio=((0.1, 0.2),))
    settings = (backend.generate(request, out), read_settings(out))[1]
    digest = hashlib.sha256(clip.read_bytes()).hexdigest()
    assert (settings["video"], settings["audio"]) == ("given.mp4", "given.mp4")
    assert settings["video_sha256"] == settings["audio_sha256"] == digest
    assert settings["image_sha256"] is None
    again = GenerationRequest.from_settings(settings).with_files_in(out.parent)
    assert again == request


def test_a_retaken_sound_is_the_given_one_outside_the_span(backend, clip, out):
    span = (0.125, 0.25)
    backend.generate(REQUEST.replace(video=clip, audio=clip, regenerate_audio=(span,)), out)
    assert packets(out) == packets(clip)
    given, made = read_clip(clip), read_clip(out)
    assert (made.sample_rate, made.waveform.shape) == (44100, given.waveform.shape)
    start, end = (round(second * 44100) for second in span)
    for piece in (slice(0, start - 1024), slice(end + 1024, None)):  # AAC looks a window of 1024 around
        for channel in (0, 1):
            assert np.corrcoef(given.waveform[channel, piece], made.waveform[channel, piece])[0, 1] > 0.998
    assert np.corrcoef(given.waveform[0, start:end], made.waveform[0, start:end])[0, 1] < 0.9


def test_a_retaken_picture_is_the_given_one_outside_the_span(backend, clip, out):
    backend.generate(REQUEST.replace(video=clip, audio=clip, regenerate_video=((0.25, 0.375),)), out)
    given, made = (read_clip(path).frames.astype(int) for path in (clip, out))
    difference = np.abs(given - made).mean(axis=(1, 2, 3))
    assert difference[:5].max() < 2 < difference[5:].min()
    assert packets(out, "audio") == packets(clip, "audio")


@pytest.mark.parametrize("frames", [9, 10, 12])
def test_frames_past_the_last_whole_latent_stay_and_are_silent(backend, tmp_path, out, frames):
    write_mp4(tmp_path / "given.mp4", picture(frames), voice(1, 16000), RATE, 16000, {})
    request = REQUEST.replace(
        video=tmp_path / "given.mp4", num_frames=frames_to_follow(tmp_path / "given.mp4", None, RATE)
    )
    backend.generate(request, out)
    assert request.num_frames == 9
    assert packets(out) == packets(tmp_path / "given.mp4")
    made = read_clip(out)
    assert made.waveform.shape[1] == int(made.sample_rate * frames / RATE)


@pytest.mark.parametrize(
    ("change", "source", "sentence"),
    [
        ({"num_frames": 5}, {}, "the picture was encoded again: it was cut"),
        ({"height": 64, "width": 32}, {}, "the picture was encoded again: its shape was changed"),
        ({}, {"pix_fmt": "yuv444p"}, "it is h264 yuv444p, which not every browser plays"),
        ({}, {"codec": "mpeg4"}, "it is mpeg4 yuv420p, which not every browser plays"),
        ({}, {"suffix": ".ts"}, "its packets are those of another container"),
    ],
)
def test_a_picture_that_cannot_be_copied_is_encoded_again_and_that_is_said(
    backend, tmp_path, out, change, source, sentence
):
    path = write_foreign(tmp_path / f"given{source.pop('suffix', '.mp4')}", **source)
    request = REQUEST.replace(video=path, **change)
    result = backend.generate(request, out)
    assert any(sentence in warning for warning in result.warnings)
    made = read_clip(out)
    assert made.frames.shape == (request.num_frames, request.height, request.width, 3)
    if not change:
        assert np.abs(made.frames.astype(int) - picture(9).astype(int)).mean() < 6


def write_foreign(path, num_frames=9, rate=RATE, pix_fmt="yuv420p", codec="libx264", times=None, size=(H, W)):
    """A silent clip as other programs write it; with `times`, in milliseconds, of a varying rate."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=rate)
        video.height, video.width, video.pix_fmt = *size, pix_fmt
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        for index, image in enumerate(picture(num_frames, *size)):
            frame = av.VideoFrame.from_ndarray(image)
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def test_a_larger_picture_is_copied_at_its_own_size_and_that_is_said(backend, tmp_path, out):
    path = write_foreign(tmp_path / "large.mp4", size=(2 * H, 2 * W))
    result = backend.generate(REQUEST.replace(video=path), out)
    assert packets(out) == packets(path)
    assert result.warnings == ("the picture is the video's own, 128x64; the model saw it at 64x32",)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_varying_rate_is_read_by_time_stamps_and_copied(backend, tmp_path, out, suffix):
    """Frame 4 stays for a fifth of a second, and half of the ticks in it are nearer to frame 5."""
    times = [0, 42, 83, 125, 167, 375, 417]
    path = write_foreign(tmp_path / f"phone{suffix}", num_frames=7, times=times)
    frames = read_video(path, probe_video(path), H, W, num_frames=99, frame_rate=RATE)
    shown = [int(np.abs(frame - picture(7).astype(int)).mean(axis=(1, 2, 3)).argmin()) for frame in frames]
    assert shown == [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 6]
    num_frames = frames_to_follow(path, None, RATE)
    assert num_frames == 9
    result = backend.generate(REQUEST.replace(video=path, num_frames=num_frames), out)
    if suffix == ".mp4":
        assert packets(out) == packets(path)
    else:
        assert result.warnings == ("the picture was encoded again: its packets lack time stamps",)


def test_a_strength_below_one_takes_fewer_steps_and_still_reports_each_stage(backend, clip, out):
    request = REQUEST.replace(
        video=clip, audio=clip, regenerate_audio=True, strength=0.5, num_inference_steps=8, audio_shift=1.0
    )
    reports = []
    backend.generate(request, out, reports.append)
    assert [(report.stage, report.step, report.steps) for report in reports] == [
        ("load", 0, 0),
        ("encode", 0, 8),
        *(("denoise", step, 4) for step in (1, 2, 3, 4)),
        ("decode", 4, 4),
        ("write", 4, 4),
    ]
    assert all(report.preview.shape == (3, 4, 8, 3) for report in reports if report.stage == "denoise")


def test_the_steps_of_further_passes_are_reported_as_one_run_and_can_be_stopped(backend, clip, out):
    parts = {"regenerate_video": ((0.1, 0.2),), "regenerate_audio": ((0.1, 0.2),)}
    request = REQUEST.replace(video=clip, audio=clip, refine=2, **parts)
    reports = []
    with pytest.raises(Cancelled, match="in step 2 of 4"):
        backend.generate(
            request, out, reports.append, lambda: reports[-1].stage == "denoise" and reports[-1].step == 5
        )
    assert not out.exists()
    del reports[:]
    result = backend.generate(request, out, reports.append)
    denoised = [report for report in reports if report.stage == "denoise"]
    assert [(report.step, report.steps) for report in denoised] == [(step, 12) for step in range(1, 13)]
    assert reports[-1].steps == 12
    previews = [report.preview for report in denoised]
    assert all(np.array_equal(previews[3], each) for each in previews[4:8])  # held in the pass of the sound
    assert not np.array_equal(previews[3], previews[11])
    assert read_settings(out)["refine"] == 2 == result.request.refine


@pytest.mark.parametrize("steps", [4, 12, 25])
@pytest.mark.parametrize("shifts", [(None, None), (5.0, 1.0), (1.0, 3.0)])
@pytest.mark.parametrize(
    "tracks",
    [
        {"video": "a", "regenerate_video": True, "audio": "a", "strength": 0.5},
        {"video": "a", "audio": "a", "regenerate_audio": ((0, 1),), "strength": 0.8},
        {"video": "a", "regenerate_video": True, "strength": 0.3},
        {"video": "a"},
    ],
)
def test_the_estimate_counts_the_steps_that_are_run(backend, clip, steps, shifts, tracks):
    request = GenerationRequest("", num_inference_steps=steps, video_shift=shifts[0], audio_shift=shifts[1])
    request = request.replace(**{key: clip if value == "a" else value for key, value in tracks.items()})
    scheduler = PairScheduler(1000, 5.0)
    run = scheduler.starting_at(scheduler.sigmas(steps, *shifts), request.starts)
    track = int(request.starts[0] == 0)
    assert request.guided_sigmas(5.0, request.starts).tolist() == run[:-1, track].tolist()
    whole = backend.plan(request.replace(strength=1.0)).seconds
    assert backend.plan(request).seconds == pytest.approx(whole * (len(run) - 1) / steps)


BAD = [
    ({"video": "gone.mp4"}, "video", "gone.mp4 is not a file"),
    ({"audio": "gone.wav"}, "audio", "gone.wav is not a file"),
    ({"audio": "text.wav"}, "audio", "text.wav cannot be read"),
    ({"audio": "empty.wav"}, "audio", "empty.wav has no samples"),
    ({"audio": "silent.mp4"}, "audio", "silent.mp4 has no sound"),
    ({"video": "voice.wav"}, "video", "voice.wav has no picture"),
    ({"audio": "long.wav"}, "audio", "long.wav lasts 300 min; give at most 10 min"),
    ({"audio": "given.mp4", "video": "given.mp4"}, "regenerate_audio", "nothing is left to make"),
    ({"regenerate_audio": True}, "regenerate_audio", "regenerate_audio needs audio"),
    ({"regenerate_video": ((0, 0.1),)}, "regenerate_video", "regenerate_video needs video"),
    ({"audio": "voice.wav", "regenerate_audio": ((0.1, 9),)}, "regenerate_audio", "out of range"),
    ({"audio": "voice.wav", "regenerate_audio": ((0.2, 0.1),)}, "regenerate_audio", "ends before it starts"),
    ({"audio": "voice.wav", "regenerate_audio": ((0, 0.2), (0.1, 0.3))}, "regenerate_audio", "overlap"),
    ({"strength": 0.5, "video": "given.mp4"}, "strength", "nothing to start from"),
    ({"strength": 1.5}, "strength", "from 0 to 1"),
    ({"strength": 0, "video": "given.mp4", "regenerate_video": True}, "strength", "makes nothing"),
    ({"prompt": ""}, "prompt", "the prompt is empty"),
]


@pytest.mark.parametrize(("fields", "field", "sentence"), BAD)
def test_what_cannot_be_done_is_refused_in_a_sentence_before_anything_is_loaded(
    golden, clip, tmp_path, out, fields, field, sentence
):
    write_wav(tmp_path / "voice.wav", voice(0.3, 16000), 16000)
    write_wav(tmp_path / "empty.wav", voice(0.3, 16000)[:, :1], 16000)
    (tmp_path / "empty.wav").write_bytes((tmp_path / "empty.wav").read_bytes()[:44])
    (tmp_path / "text.wav").write_text("no sound")
    write_foreign(tmp_path / "silent.mp4")
    with (tmp_path / "long.wav").open("wb") as file:  # five hours at 8 kHz, 8 bits; all hole
        samples = 5 * 3600 * 8000
        head = b"fmt " + bytes.fromhex("10000000 0100 0100 401f0000 401f0000 0100 0800")
        file.write(b"RIFF" + (36 + samples).to_bytes(4, "little") + b"WAVE" + head)
        file.write(b"data" + samples.to_bytes(4, "little"))
        file.truncate(44 + samples)
    fields = {key: tmp_path / value if key in ("video", "audio") else value for key, value in fields.items()}
    backend, stages = LocalBackend(str(golden / "checkpoint"), "cpu"), []
    with pytest.raises(UserError, match=sentence) as caught:
        backend.generate(REQUEST.replace(**{"prompt": "rain"} | fields), out, stages.append)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert stages == []
    assert not out.exists()


def test_a_sound_too_long_to_follow_is_refused_and_one_of_a_given_length_is_cut(backend, tmp_path, out):
    write_wav(tmp_path / "song.wav", voice(60, 8000), 8000)
    with pytest.raises(UserError, match=r"the sound lasts 60\.0 s; a clip has up to 961 frames"):
        frames_to_follow(None, tmp_path / "song.wav", RATE)
    result = backend.generate(REQUEST.replace(audio=tmp_path / "song.wav"), out)
    assert result.warnings == ("the sound lasts 60.00 s; its end after 0.38 s was cut",)


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp3", "mp3"), (".flac", "flac"), (".m4a", "aac"), (".ogg", "libopus")]
)
def test_the_length_of_a_sound_is_that_of_its_samples(tmp_path, suffix, codec):
    path = tmp_path / f"voice{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(voice(1, 48000), "fltp", "mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(
            stream.codec_context.format, "mono", 48000, stream.codec_context.frame_size or None
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    assert probe_audio(path).seconds == pytest.approx(1.0, abs=0.03)
