import av
import numpy as np
import pytest
from av.filter import Graph

from mova.metrics.health import audio_health, loudness, video_health
from mova.metrics.sync import thumbnails


def sine(hertz, level_db, sample_rate, seconds=3.0, channels=1):
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    return np.tile(10 ** (level_db / 20) * np.sin(2 * np.pi * hertz * t), (channels, 1))


@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_loudness_has_the_values_of_the_standard(sample_rate):
    assert abs(loudness(sine(997, 0, sample_rate), sample_rate) + 3.01) < 0.05  # BS.1770
    assert abs(loudness(sine(1000, -23, sample_rate, channels=2), sample_rate) + 23) < 0.1  # EBU Tech 3341, 1
    assert abs(loudness(sine(1000, -33, sample_rate, channels=2), sample_rate) + 33) < 0.1  # case 2


def test_loudness_leaves_quiet_passages_out():
    parts = [sine(1000, level, 48000, seconds, 2) for level, seconds in ((-36, 5), (-23, 20), (-36, 5))]
    assert abs(loudness(np.concatenate(parts, axis=1), 48000) + 23) < 0.1


def test_loudness_agrees_with_ffmpeg_on_coloured_noise():
    rng = np.random.default_rng(0)
    noise = np.cumsum(rng.standard_normal(48000 * 4)) * np.hanning(48000 * 4)
    noise = (0.3 * noise / np.abs(noise).max() + 0.02 * rng.standard_normal(len(noise)))[None]
    assert abs(loudness(noise, 48000) - ffmpeg_loudness(noise)) < 0.1


def ffmpeg_loudness(waveform):
    graph = Graph()
    graph.link_nodes(
        graph.add_abuffer(format="flt", sample_rate=48000, layout="mono"),
        graph.add("ebur128", "metadata=1"),
        graph.add("abuffersink"),
    ).configure()
    frame = av.AudioFrame.from_ndarray(waveform.astype(np.float32), format="flt", layout="mono")
    frame.sample_rate = 48000
    graph.push(frame)
    graph.push(None)
    last = None
    while True:
        try:
            last = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return float(last.metadata["lavfi.r128.I"])


def test_silence_has_no_loudness_and_no_peak():
    health = audio_health(np.zeros((1, 32000), np.float32), 16000)
    assert (health.peak_db, health.loudness_lufs, health.silence_ratio) == (None, None, 1.0)
    assert (health.bandwidth_hz, health.clipped_ratio) == (0.0, 0.0)


def test_half_a_second_of_silence_in_two_is_a_quarter():
    waveform = sine(440, -12, 16000, 2.0)
    waveform[:, 8000:16000] = 0
    assert audio_health(waveform, 16000).silence_ratio == pytest.approx(0.25, abs=0.03)


def test_clipping_is_counted_by_runs_not_by_single_peaks():
    loud = sine(100, 0, 16000)
    assert audio_health(loud * 0.99, 16000).clipped_ratio == 0
    cut = np.clip(1.5 * loud, -1, 1)
    expected = (np.abs(1.5 * loud) >= 0.999).mean()
    assert audio_health(cut, 16000).clipped_ratio == pytest.approx(expected, abs=0.002)
    peaks = np.zeros((1, 16000))
    peaks[:, ::100] = 1.0
    assert audio_health(peaks, 16000).clipped_ratio == 0


@pytest.mark.parametrize("cutoff", [900, 3000, 7000])
def test_bandwidth_is_where_the_spectrum_ends(cutoff):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(96000))
    spectrum[np.fft.rfftfreq(96000, 1 / 48000) > cutoff] = 0
    waveform = np.fft.irfft(spectrum)[None]
    assert audio_health(waveform / 10, 48000).bandwidth_hz == pytest.approx(cutoff, abs=120)


def test_a_constant_offset_is_measured():
    assert audio_health(sine(100, -12, 16000) + 0.05, 16000).dc_offset == pytest.approx(0.05, abs=1e-3)


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    scene = np.repeat(np.repeat(rng.integers(0, 200, (16, 28, 3)), 8, axis=0), 8, axis=1)
    return np.repeat(scene[None], 24, axis=0).astype(np.uint8)  # [24, 128, 224, 3]


def figures(frames, first=None):
    return video_health(frames, thumbnails(frames), first)


def test_a_still_is_frozen_and_a_pan_is_not(frames):
    assert figures(frames).frozen_ratio == 1.0
    assert figures(frames).motion_levels == 0.0
    pan = np.stack([np.roll(frame, 3 * index, axis=1) for index, frame in enumerate(frames)])
    assert figures(pan).frozen_ratio == 0.0
    assert figures(pan).motion_levels > 1
    half = np.concatenate((frames[:12], pan[12:]))
    assert figures(half).frozen_ratio == pytest.approx(11 / 23)


def test_flicker_is_alternating_brightness_not_a_fade_nor_one_flash(frames):
    flicker = frames.copy()
    flicker[::2] += 20
    assert figures(flicker).flicker_levels == pytest.approx(20, abs=1)
    fade = frames + np.arange(24, dtype=np.uint8)[:, None, None, None]
    flash = frames.copy()
    flash[10] += 50
    assert figures(fade).flicker_levels < 1
    assert figures(flash).flicker_levels < 1


def test_frames_of_one_colour_are_plain_and_others_not(frames):
    assert figures(frames).plain_ratio == 0.0
    half = frames.copy()
    half[12:] = (200, 40, 90)
    assert figures(half).plain_ratio == 0.5


def test_the_first_frame_is_compared_by_psnr(frames):
    assert figures(frames).first_frame_psnr_db is None
    assert figures(frames, frames[0]).first_frame_psnr_db == 99
    assert figures(frames, frames[0] + 10).first_frame_psnr_db == pytest.approx(28.13, abs=0.01)
