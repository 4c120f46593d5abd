from itertools import pairwise

import numpy as np
import pytest

from recipes.pocket.world.clip import FRAME_RATE, NUM_FRAMES, SAMPLE_RATE, Phoneme, Scene, frame_of
from recipes.pocket.world.face import (
    CLOSED,
    GLIDES,
    HELD_OUT_PAIRS,
    SHAPES,
    choose_words,
    make_face,
    mouth_shapes,
)
from recipes.pocket.world.speech import PEOPLE, WORDS


@pytest.fixture(scope="module")
def scenes(speech) -> list[Scene]:
    return [make_face(np.random.default_rng(seed), "train", speech) for seed in range(16)]


def _loudness(waveform: np.ndarray) -> np.ndarray:
    """RMS of each frame's interval, [F]."""
    edges = (np.arange(NUM_FRAMES + 1) * SAMPLE_RATE / FRAME_RATE).astype(int)
    return np.array([np.sqrt(np.mean(waveform[a:b] ** 2)) if b > a else 0 for a, b in pairwise(edges)])


def test_mouth_opening_follows_loudness_within_one_frame(scenes):
    correlations, lags = [], []
    for scene in scenes:
        loud, opening = _loudness(scene.waveform), scene.events.mouth_opening
        shifted = [np.corrcoef(loud[6:-6], np.roll(opening, lag)[6:-6])[0, 1] for lag in range(-5, 6)]
        correlations.append(shifted[5])
        lags.append(int(np.argmax(shifted)) - 5)
    assert np.median(correlations) > 0.75
    assert abs(np.median(lags)) <= 1


def test_picture_of_the_mouth_follows_the_true_opening(scenes):
    """Change of the pixels around the mouth since the first frame, which shows it closed."""
    correlations = []
    for scene in scenes:
        at = scene.layout
        x, y, reach = round(at["x"]), round(at["mouth_y"]), round(0.3 * at["half_head"])
        mouth = scene.frames[:, y - reach // 2 : y + reach, x - reach : x + reach].astype(float)
        change = np.abs(mouth - mouth[0]).mean((1, 2, 3))
        correlations.append(np.corrcoef(change, scene.events.mouth_opening)[0, 1])
    assert np.median(correlations) > 0.85


def test_mouth_is_closed_in_the_first_and_last_frame(scenes):
    for scene in scenes:
        assert scene.events.mouth_opening[0] < 0.02
        assert scene.events.mouth_opening[-1] < 0.02


def test_lips_close_on_m_b_and_p(scenes):
    closures = 0
    for scene in scenes:
        for phoneme in scene.events.phonemes:
            if phoneme.name in CLOSED:
                closures += 1
                assert scene.events.mouth_opening[frame_of((phoneme.start + phoneme.end) / 2)] == 0
    assert closures > 10


def test_words_sound_where_they_are_said_and_nowhere_else(scenes):
    for scene in scenes:
        silent = np.ones(len(scene.waveform), bool)
        for word in scene.events.words:
            span = slice(round(word.start * SAMPLE_RATE), round(word.end * SAMPLE_RATE))
            silent[span] = False
            assert np.sqrt(np.mean(scene.waveform[span] ** 2)) > 0.03
        assert not scene.waveform[silent].any()
        assert tuple(word.text for word in scene.events.words) == scene.attributes["words"]


def test_words_do_not_overlap_and_end_before_the_clip(scenes):
    for scene in scenes:
        edges = [edge for word in scene.events.words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert edges[0] > 0.07
        assert edges[-1] < 2.02


def test_phonemes_fill_their_words_in_order(scenes):
    for scene in scenes:
        for word in scene.events.words:
            inside = [p for p in scene.events.phonemes if word.start - 1e-6 <= p.start < word.end]
            assert inside[-1].end == pytest.approx(word.end)
            assert all(a.end == pytest.approx(b.start) for a, b in pairwise(inside))


def test_longest_three_word_clips_fit(speech):
    longest = max(
        make_face(np.random.default_rng(seed), "heldout", speech).events.words[-1].end for seed in range(12)
    )
    assert longest < 2.02


def test_open_vowels_open_wider_than_close_ones_and_rounded_ones_are_narrow():
    vowel = {name: mouth_shapes((Phoneme(0.5, 0.9, name),))[16] for name in ("ɑː", "iː", "uː")}  # noqa: RUF001
    wide, spread, round_ = vowel.values()
    assert wide[0] > spread[0] > 0.2
    assert spread[1] > wide[1] > round_[1]
    assert round_[2] > 0.9


def test_every_diphthong_moves_between_known_shapes():
    assert {shape for glide in GLIDES.values() for shape in glide} <= set(SHAPES)


def test_held_out_word_pairs_never_occur_in_train_and_always_in_heldout():
    rng = np.random.default_rng(0)
    for _ in range(1500):
        assert not set(pairwise(choose_words(rng, "train"))) & set(HELD_OUT_PAIRS)
    for _ in range(200):
        assert set(pairwise(choose_words(rng, "heldout"))) & set(HELD_OUT_PAIRS)
    assert 15 <= len(HELD_OUT_PAIRS) <= 45
    assert {first for first, _ in HELD_OUT_PAIRS} != set(WORDS)


def test_all_people_and_words_appear():
    rng = np.random.default_rng(1)
    said = {word for _ in range(300) for word in choose_words(rng, "train")}
    assert said == set(WORDS)
    assert len(WORDS) >= 12
    assert len(PEOPLE) == 3
