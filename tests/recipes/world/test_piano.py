from itertools import pairwise

import numpy as np
import pytest

from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE, Scene
from recipes.pocket.world.piano import KEYS, TUNES, choose_melody, make_piano, melody_is_held_out
from recipes.pocket.world.sound import FIFTH_OCTAVE


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_piano(np.random.default_rng(seed), "train") for seed in range(10)]


def test_loudest_pitch_after_each_onset_is_the_named_note(scenes):
    for scene in scenes:
        for note in scene.events.notes:
            start = round(note.seconds * SAMPLE_RATE) + 64
            block = scene.waveform[start : start + 2400]
            spectrum = np.abs(np.fft.rfft(block * np.hanning(len(block)), 32768))
            pitch = spectrum.argmax() * SAMPLE_RATE / 32768
            nearest = min(FIFTH_OCTAVE, key=lambda name: abs(FIFTH_OCTAVE[name] - pitch))
            assert nearest == note.name
            assert pitch == pytest.approx(FIFTH_OCTAVE[note.name], rel=0.01)


def test_sound_rises_at_the_frame_boundary_of_each_onset(scenes):
    for scene in scenes:
        for note in scene.events.notes:
            start = round(note.seconds * SAMPLE_RATE)
            before = np.abs(scene.waveform[max(start - 300, 0) : start]).max()
            after = np.abs(scene.waveform[start : start + 300]).max()
            assert note.seconds * FRAME_RATE == pytest.approx(note.frame)
            assert after > 1.5 * before


def _key_change(scene: Scene, frame: int) -> np.ndarray:
    """Difference of the front half of each key from the first frame, [keys]."""
    at = scene.layout
    rows = slice(int(at["keys_top"] + 22), int(at["keys_top"] + at["key_length"] - 2))
    change = np.abs(scene.frames[frame, rows].astype(int) - scene.frames[0, rows]).sum(-1).mean(0)
    edges = (at["keys_left"] + np.arange(len(KEYS) + 1) * at["key_width"]).astype(int)
    return np.array([change[a + 4 : b - 4].mean() for a, b in pairwise(edges)])


def test_the_key_of_each_note_lights_in_its_frame_and_not_before(scenes):
    for scene in scenes:
        for note in scene.events.notes:
            lit, before = _key_change(scene, note.frame), _key_change(scene, note.frame - 1)
            assert lit.argmax() == note.key
            assert lit[note.key] > before[note.key] + 40


def test_keys_are_up_and_unlit_in_the_first_frame(scenes):
    for scene in scenes:
        assert not scene.events.key_depth[0].any()
        assert scene.events.notes[0].frame > 2


def test_key_depth_follows_the_notes(scenes):
    for scene in scenes:
        for note in scene.events.notes:
            assert scene.events.key_depth[note.frame, note.key] == 1
            assert scene.events.key_depth[note.frame - 1, note.key] < 1


def test_melodies_are_disjoint_between_splits():
    rng = np.random.default_rng(0)
    train = {choose_melody(rng, "train") for _ in range(1500)}
    heldout = {choose_melody(rng, "heldout") for _ in range(300)}
    assert not train & heldout
    assert all(melody_is_held_out(melody) for melody in heldout)
    assert train & set(TUNES.values())
    assert {len(melody) for melody in train} == {3, 4, 5, 6}
