import numpy as np
import pytest

from recipes.pocket.world.clip import (
    FAMILIES,
    FRAME_RATE,
    HEIGHT,
    NUM_FRAMES,
    NUM_SAMPLES,
    SAMPLE_RATE,
    WIDTH,
)
from recipes.pocket.world.render import choose_family, make_scene, render


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_seed_gives_the_same_clip_again(speech, family, split):
    first, again = (render(7, family, split, speech) for _ in range(2))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.waveform, again.waveform)
    assert first.caption == again.caption
    other = render(8, family, split, speech)
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_have_the_promised_shapes_and_ranges(speech, family):
    for seed in range(6):
        clip = render(seed, family, speech=speech)
        assert clip.frames.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3) == (49, 128, 224, 3)
        assert clip.frames.dtype == np.uint8
        assert clip.waveform.shape == (NUM_SAMPLES,) == (int(SAMPLE_RATE * NUM_FRAMES / FRAME_RATE),)
        assert clip.waveform.dtype == np.float32
        assert 0.1 < np.abs(clip.waveform).max() < 1
        assert clip.family == family


def test_seeds_spread_over_the_families():
    drawn = [choose_family(seed) for seed in range(600)]
    assert all(drawn.count(family) > 150 for family in FAMILIES)


def test_unknown_names_are_refused(speech):
    with pytest.raises(ValueError, match="expected one of"):
        render(0, "drum", speech=speech)
    with pytest.raises(ValueError, match="expected one of"):
        render(0, "ball", "test", speech=speech)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_without_its_pictures_says_and_plays_the_same(speech, family):
    whole, sound = (make_scene(5, family, "train", speech, pictures) for pictures in (True, False))
    assert whole.frames.shape[0] == NUM_FRAMES and not len(sound.frames)
    assert sound.attributes == whole.attributes
    for name in ("impacts", "notes", "words", "phonemes"):
        assert getattr(sound.events, name) == getattr(whole.events, name)
    alike = loudness if family == "ball" else np.asarray  # a ball's strikes are tuned differently
    assert np.corrcoef(alike(whole.waveform), alike(sound.waveform))[0, 1] > 0.99


def loudness(waveform: np.ndarray) -> np.ndarray:
    """Of every 20 ms."""
    return np.sqrt((waveform[: len(waveform) // 320 * 320].reshape(-1, 320) ** 2).mean(axis=1))
