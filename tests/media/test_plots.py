import numpy as np
import pytest

from mova.media.plots import BACKGROUND, CLIPPED, contact_sheet, draw_spectrogram, draw_waveform, mel_levels

SIZE = (80, 300)


def tone(hertz, level=0.5, sample_rate=16000):
    return level * np.sin(2 * np.pi * hertz * np.arange(2 * sample_rate) / sample_rate)


def brightness(picture, dark):
    return np.abs(picture.astype(int) - BACKGROUND[dark]).sum(-1)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("samples", [1, 100, 300, 96000])
def test_pictures_have_the_size_asked_for(dark, samples):
    waveform = np.random.default_rng(0).uniform(-1, 1, samples)
    assert draw_waveform(waveform, SIZE, dark).shape == (*SIZE, 3)
    spectrogram = draw_spectrogram(waveform, 48000, SIZE, dark)
    assert (spectrogram.shape, spectrogram.dtype) == ((*SIZE, 3), np.uint8)


def test_a_waveform_reaches_as_high_as_the_sound():
    drawn = brightness(draw_waveform(tone(200), (101, 300)), False) > 100
    rows = np.flatnonzero(drawn.any(1))
    assert rows[0] == pytest.approx(25, abs=1)
    assert rows[-1] == pytest.approx(75, abs=1)


def test_a_waveform_is_one_unbroken_line():
    slow = draw_waveform(tone(3), (101, 300))
    assert (brightness(slow, False) > 100).any(0).all()


def test_columns_at_full_scale_are_red():
    waveform = np.zeros(300)
    waveform[100] = 1.0
    columns = np.flatnonzero((draw_waveform(waveform, SIZE) == CLIPPED).all(-1).any(0))
    assert list(columns) in ([100], [100, 101])


@pytest.mark.parametrize("sample_rate", [16000, 48000])
def test_a_tone_lies_at_its_pitch_and_level(sample_rate):
    levels = mel_levels(tone(1000, 1.0, sample_rate), sample_rate, bands=100, columns=50)
    mel = 2595 * np.log10(1 + np.array([40, 1000, min(12000, sample_rate / 2)]) / 700)
    expected = 100 * (mel[1] - mel[0]) / (mel[2] - mel[0])
    assert levels[:, 25].argmax() == pytest.approx(expected, abs=1.5)
    assert abs(levels[:, 25].max()) < 1.5


@pytest.mark.parametrize("dark", [False, True])
def test_a_click_lies_at_its_time_and_high_tones_lie_above_low_ones(dark):
    waveform = np.zeros(32000)
    waveform[8000] = 1.0
    click = brightness(draw_spectrogram(waveform, 16000, SIZE, dark), dark).sum(0)
    assert np.average(np.arange(300), weights=click) == pytest.approx(75, abs=2)
    low, high = (
        brightness(draw_spectrogram(tone(hertz), 16000, SIZE, dark), dark)[:, 150].argmax()
        for hertz in (300, 3000)
    )
    assert high < low


@pytest.mark.parametrize("dark", [False, True])
def test_louder_is_always_further_from_the_background(dark):
    ramp = np.concatenate([tone(1000, level) for level in (0, 0.001, 0.01, 0.1, 1)])
    drawn = draw_spectrogram(ramp, 16000, SIZE, dark)
    row = brightness(drawn, dark)[:, 270].argmax()
    steps = brightness(drawn, dark)[row, 30::60]
    assert steps[0] == 0
    assert (np.diff(steps) > 0).all()


def test_a_sheet_shows_frames_over_the_sound_of_their_time():
    frames = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 32, 40, 3), np.uint8)
    sheet = np.asarray(contact_sheet(frames, tone(400), 16000, count=8))
    assert sheet.shape == (32 + 56 + 160, 320, 3)
    assert list(sheet[0, ::40, 0]) == list(range(0, 16, 2))
