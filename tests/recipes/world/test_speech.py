import numpy as np
import pytest

from recipes.pocket.world.clip import SAMPLE_RATE
from recipes.pocket.world.face import GLIDES, SHAPES
from recipes.pocket.world.speech import PEOPLE, VARIANTS, VOICES, WORDS, load_bank


def _pitch(waveform: np.ndarray) -> float:
    """Median fundamental (Hz) of the voiced 40 ms blocks, by autocorrelation."""
    size, found = 640, []
    for start in range(0, len(waveform) - size, size // 2):
        block = waveform[start : start + size]
        spectrum = np.fft.rfft(block * np.hanning(size), 2 * size)
        power = np.fft.irfft(np.abs(spectrum) ** 2)[:size]
        lags = power[36:213] / (power[0] + 1e-9)  # 444 to 75 Hz
        if lags.max() > 0.45:
            found.append(SAMPLE_RATE / (36 + int(lags.argmax())))
    return float(np.median(found))


def test_every_word_is_there_in_every_voice_and_variant(speech):
    bank = load_bank(speech)
    for text in WORDS:
        for person in PEOPLE:
            for variant in range(VARIANTS):
                word = bank.word(text, person, variant)
                assert 0.2 < word.seconds < 0.72
                assert np.abs(word.waveform).max() < 0.9
                assert {name for _, name in word.phonemes} <= set(SHAPES) | set(GLIDES)
                assert word.phonemes[0][0] < 0.03 * SAMPLE_RATE
    assert all(len(v.pitches) * len(v.words_per_minute) == VARIANTS for v in VOICES.values())


def test_man_woman_and_child_speak_at_their_own_pitch(speech):
    bank = load_bank(speech)
    pitch = {
        person: np.median(
            [_pitch(bank.word(text, person, 2).waveform) for text in ("mama", "moon", "wow", "no")]
        )
        for person in PEOPLE
    }
    assert 85 < pitch["man"] < 150
    assert 165 < pitch["woman"] < 250
    assert 260 < pitch["child"] < 360


def test_voices_are_equally_loud(speech):
    bank = load_bank(speech)
    levels = [
        np.sqrt(np.mean(bank.word(text, person, 0).waveform ** 2)) for text in WORDS for person in PEOPLE
    ]
    assert max(levels) / min(levels) < 2.5


def test_a_missing_bank_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m recipes\.pocket speech"):
        load_bank(tmp_path)
