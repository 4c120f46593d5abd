import numpy as np
import pytest

from benchmarks.sync import hit
from mova.metrics.onsets import find_onsets, is_struck

SECONDS = np.array([0.3, 0.62, 0.85, 1.4, 1.62])


def hits(kind, sample_rate, loud=(1, 0.5, 0.8, 0.3, 1), noise_db=-70):
    rng = np.random.default_rng(0)
    waveform = 10 ** (noise_db / 20) * rng.standard_normal(2 * sample_rate)
    for seconds, level in zip(SECONDS, loud, strict=True):
        start = round(seconds * sample_rate)
        waveform[start:] += 0.4 * level * hit(kind, sample_rate, rng)[: len(waveform) - start]
    return waveform.astype(np.float32)


@pytest.mark.parametrize("sample_rate", [16000, 44100, 48000])
@pytest.mark.parametrize(("kind", "error"), [("click", 0.001), ("drum", 0.003), ("bell", 0.012)])
def test_hits_over_ringing_tails_are_found_where_they_are_and_nothing_else(kind, error, sample_rate):
    found = find_onsets(hits(kind, sample_rate), sample_rate).seconds
    assert len(found) == len(SECONDS)
    assert np.abs(found - SECONDS).max() < error


def test_an_onset_of_ten_milliseconds_is_placed_inside_its_rise():
    found = find_onsets(hits("soft tone", 48000, loud=(1, 1, 1, 1, 1)), 48000).seconds
    assert len(found) == len(SECONDS)
    assert ((found - SECONDS > 0) & (found - SECONDS < 0.010)).all()


def test_a_louder_copy_has_the_same_onsets_and_a_later_one_later():
    waveform = hits("bell", 16000)
    before = find_onsets(waveform, 16000)
    louder = find_onsets(2 * waveform, 16000)
    assert np.array_equal(before.seconds, louder.seconds)
    later = find_onsets(np.pad(waveform, (1600, 0), mode="reflect"), 16000)
    assert np.allclose(later.seconds[-5:] - before.seconds, 0.1, atol=0.003)


@pytest.mark.parametrize("sample_rate", [16000, 48000])
def test_silence_a_tone_vibrato_and_steady_noise_have_no_onsets(sample_rate):
    t = np.arange(2 * sample_rate) / sample_rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * t)
    vibrato = 0.3 * np.sin(2 * np.pi * 440 * t + 6 * np.sin(2 * np.pi * 5 * t))
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(t))
    for waveform in (np.zeros(len(t)), tone, vibrato, noise, np.zeros(10)):
        assert len(find_onsets(waveform.astype(np.float32), sample_rate).seconds) == 0


def test_strokes_are_told_from_swelling_sound():
    t = np.arange(32000) / 16000
    speech_like = np.abs(np.sin(2 * np.pi * 2 * t)) * np.random.default_rng(0).standard_normal(32000)
    assert is_struck(hits("drum", 16000), 16000)
    assert is_struck(hits("bell", 16000), 16000)
    assert not is_struck(speech_like.astype(np.float32), 16000)
    assert not is_struck(np.zeros(32000, np.float32), 16000)
