from itertools import pairwise, product

import numpy as np
import pytest

from recipes.pocket.world.ball import BALL_COLOURS, HELD_OUT_BALLS, MATERIALS, choose_ball, make_ball
from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE, Impact, Scene
from recipes.pocket.world.sound import impact_sound


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_ball(np.random.default_rng(seed), "train") for seed in range(18)]


def test_ball_is_lowest_in_the_frames_of_its_impacts(scenes):
    for scene in scenes:
        height = scene.events.ball_path[:, 1]
        for impact in scene.events.impacts:
            near = height[max(impact.frame - 2, 0) : impact.frame + 3]
            assert height[impact.frame] == pytest.approx(near.max(), abs=4)  # squashed rubber may sit lower
            assert height[impact.frame] >= height[: impact.frame].max() - 4
            assert impact.frame == int(impact.seconds * FRAME_RATE)


def test_moving_pixels_lie_where_the_path_says(scenes):
    for scene in scenes[:8]:
        frames = scene.frames.astype(np.int16)
        background = np.median(frames, 0)
        for frame in (0, scene.events.impacts[0].frame // 2):
            moving = np.abs(frames[frame] - background).sum(-1) > 60
            x, y = scene.events.ball_path[frame]
            rows, columns = np.nonzero(moving[: int(y + 10)])
            assert abs(columns.mean() + 0.5 - x) < 4
            assert abs(rows.mean() + 0.5 - y) < 6


@pytest.mark.parametrize("start", ["dropped", "tossed"])
def test_a_ball_hangs_for_a_while_so_that_nothing_but_the_picture_tells_when_it_hits(start):
    balls = [make_ball(np.random.default_rng(seed), "train", pictures=False) for seed in range(160)]
    balls = [ball for ball in balls if ball.attributes["start"] == start]
    paths = np.stack([ball.events.ball_path for ball in balls])
    still = (paths == paths[:, :1]).all(axis=2).sum(axis=1)
    assert still.min() <= 2 and still.max() >= 14  # frames
    first = np.array([ball.events.impacts[0].seconds for ball in balls])
    alike = np.abs(first[:, None] - first) < 2.5 / FRAME_RATE
    assert 0.15 < alike.mean() < 0.35  # as good as the sound of another ball of this kind would fit


def test_each_impact_sounds_within_a_frame_and_nothing_sounds_before_the_first(scenes):
    for scene in scenes:
        frame = SAMPLE_RATE // FRAME_RATE
        first = round(scene.events.impacts[0].seconds * SAMPLE_RATE)
        assert not scene.waveform[:first].any()
        for impact in scene.events.impacts:
            start = round(impact.seconds * SAMPLE_RATE)
            sharp = np.abs(np.diff(scene.waveform, 2))  # a click stands out of the ring of the hit before
            before = sharp[start - frame // 2 : start - frame // 8].max()
            assert sharp[start - 1 : start + frame // 4].max() > 1.2 * before
            assert np.abs(scene.waveform[start : start + frame // 4]).max() > 0.02


def test_faster_impacts_are_louder(scenes):
    for scene in scenes:
        impacts = scene.events.impacts
        if len(impacts) < 2:
            continue
        peaks = [
            np.abs(scene.waveform[(start := round(impact.seconds * SAMPLE_RATE)) : start + 320]).max()
            for impact in (impacts[0], impacts[-1])
        ]
        assert impacts[0].speed > impacts[-1].speed
        assert peaks[0] > peaks[1]


def test_loudest_frequency_of_a_hit_tells_the_four_materials_apart():
    """Over all sizes of balls and speeds of hits, the ranges do not meet."""
    rng = np.random.default_rng(0)
    ranges = []
    for material in ("rubber", "wood", "metal", "glass"):
        found = []
        for radius, speed in product((11.5, 13, 16), (80, 200, 330)):
            waveform = impact_sound(rng, material, (Impact(0.1, speed, 2),), radius)
            spectrum = np.abs(np.fft.rfft(waveform[1600 : 1600 + 2048] * np.hanning(2048)))
            found.append(spectrum.argmax() * SAMPLE_RATE / 2048)
        ranges.append((min(found), max(found)))
    assert all(high < low for (_, high), (low, _) in pairwise(ranges))


def test_first_frame_shows_the_ball_above_the_floor(scenes):
    for scene in scenes:
        x, y = scene.events.ball_path[0]
        assert (x, y) == pytest.approx((scene.layout["x"], scene.layout["y"]), abs=1)
        assert 8 < x < 216
        assert y < scene.events.ball_path[:, 1].max() - 20


def test_materials_of_one_colour_look_different():
    looks = {}
    for seed in range(120):
        scene = make_ball(np.random.default_rng(seed), "train") if len(looks) < 4 else None
        if scene is None:
            break
        if scene.attributes["colour"] == "red":
            x, y = scene.events.ball_path[0].astype(int)
            looks.setdefault(
                scene.attributes["material"], scene.frames[0, y - 8 : y + 8, x - 8 : x + 8].astype(int)
            )
    assert len(looks) == 4
    names = list(looks)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            assert np.abs(looks[name] - looks[other]).mean() > 8


def test_held_out_pairs_never_occur_in_train_and_alone_occur_in_heldout():
    rng = np.random.default_rng(0)
    train = {choose_ball(rng, "train") for _ in range(2000)}
    heldout = {choose_ball(rng, "heldout") for _ in range(200)}
    assert heldout == set(HELD_OUT_BALLS)
    assert not train & heldout
    assert len(train) == len(BALL_COLOURS) * len(MATERIALS) - len(HELD_OUT_BALLS)
    assert {colour for colour, _ in train} == set(BALL_COLOURS)
    assert {material for _, material in train} == set(MATERIALS)
