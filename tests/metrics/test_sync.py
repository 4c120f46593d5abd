"""Offsets of clips whose truth is known: the procedural world, and flashes with clicks."""

import numpy as np
import pytest

from benchmarks.sync import shifted
from mova.metrics.sync import measure_sync, motion_change, thumbnails
from recipes.pocket.world.render import make_scene

FRAME_MS = 1000 / 24
SEEDS = range(9000, 9004)


@pytest.fixture(scope="module")
def balls():
    return [make_scene(seed, "ball") for seed in SEEDS]


def offsets(scenes, ms):
    return [measure_sync(thumbnails(s.frames), shifted(s.waveform, ms), 16000, 24) for s in scenes]


@pytest.mark.parametrize("ms", [-200, 0, 300])
def test_the_shift_of_bouncing_balls_is_found_within_a_frame(balls, ms):
    found = offsets(balls, ms)
    assert all(sync.evidence == "events" for sync in found)
    assert max(abs(sync.offset_ms - ms) for sync in found) <= FRAME_MS
    assert sum(sync.is_clear for sync in found) >= 2


@pytest.mark.parametrize("ms", [-100, 0, 200])
def test_the_shift_of_a_toy_piano_is_found_within_a_frame(ms):
    found = offsets([make_scene(seed, "piano") for seed in SEEDS], ms)
    assert sum(abs(sync.offset_ms - ms) <= FRAME_MS and sync.is_clear for sync in found) >= 3


def test_motion_changes_most_where_the_ball_hits():
    scene = make_scene(9001, "ball")
    curve = motion_change(thumbnails(scene.frames))
    hits = [impact.frame for impact in scene.events.impacts]
    assert abs(int(curve.argmax()) - hits[0]) <= 1


def test_noise_over_a_moving_picture_is_not_called_synchronous(balls):
    noise = 0.1 * np.random.default_rng(0).standard_normal(32666).astype(np.float32)
    found = [measure_sync(thumbnails(scene.frames), noise, 16000, 24) for scene in balls]
    assert sum(sync.is_clear for sync in found) <= 1
    assert all(sync.sound_events == 0 for sync in found)


@pytest.mark.parametrize("frame_rate", [12, 24, 60])
def test_lamps_that_fade_and_clicks_have_the_offset_they_were_given(frame_rate):
    sample_rate, rng = 48000, np.random.default_rng(0)
    seconds = np.array([0.42, 1.03, 1.35, 2.2, 2.9, 3.33])
    luma = np.full((4 * frame_rate, 32, 56), 60, np.float32)
    waveform = np.zeros(4 * sample_rate, np.float32)
    for place in seconds:
        for index, frame in enumerate(range(int(place * frame_rate), len(luma))):
            luma[frame, 10:20, 20:30] = 60 + 160 * np.exp(-index / (0.15 * frame_rate))
        start = round((place + 0.15) * sample_rate)
        waveform[start : start + 960] = 0.3 * rng.standard_normal(960) * np.linspace(1, 0, 960) ** 2
    sync = measure_sync(luma, waveform, sample_rate, frame_rate)
    assert (sync.evidence, sync.is_clear, sync.sound_events) == ("events", True, 6)
    assert abs(sync.offset_ms - 150) <= 500 / frame_rate


def test_a_regular_beat_names_the_other_offset_that_fits():
    luma, waveform = np.full((96, 32, 56), 60, np.float32), np.zeros(64000, np.float32)
    for beat in range(1, 12):
        luma[beat * 8 : beat * 8 + 2, 10:20, 20:30] = 220
        start = round((beat / 3 + 0.02) * 16000)
        waveform[start : start + 320] = 0.5 * np.exp(-np.arange(320) / 50)
    sync = measure_sync(luma, waveform, 16000, 24)
    assert sync.is_clear
    assert abs(abs(sync.rival_ms - sync.offset_ms) - 1000 / 3) < FRAME_MS


@pytest.mark.parametrize(("frames", "sound"), [(48, 0.0), (2, 0.1), (1, 0.1)])
def test_without_sound_or_motion_there_is_no_offset(frames, sound):
    rng = np.random.default_rng(0)
    luma = rng.uniform(0, 255, (frames, 32, 56)).astype(np.float32)
    waveform = (sound * rng.standard_normal(32000)).astype(np.float32)
    sync = measure_sync(luma, waveform, 16000, 24)
    assert (sync.evidence, sync.offset_ms, sync.is_clear) == ("none", None, False)


def test_a_still_picture_has_no_offset(balls):
    still = np.repeat(thumbnails(balls[0].frames[:1]), 49, axis=0)
    assert measure_sync(still, balls[0].waveform, 16000, 24).offset_ms is None
