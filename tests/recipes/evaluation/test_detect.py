import numpy as np
import pytest

from mova.metrics.health import psnr
from recipes.pocket.evaluation.aggregate import event_offsets, score
from recipes.pocket.evaluation.degrade import DEGRADATIONS
from recipes.pocket.evaluation.detect import (
    _presence,
    detect_ball,
    detect_hits,
    detect_keys,
    detect_material,
    detect_notes,
    hit_frames,
    lag_correlations,
    loudness,
    mouth_opening,
)
from recipes.pocket.evaluation.evaluate import CAPTIONS
from recipes.pocket.evaluation.measure import ClipSpec, measure_true_clip
from recipes.pocket.evaluation.recognise import Recogniser, errors, onsets, recogniser
from recipes.pocket.world.clip import NUM_SAMPLES, SAMPLE_RATE
from recipes.pocket.world.render import render
from recipes.pocket.world.speech import load_bank

SEEDS = range(1_000_000, 1_000_005)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_balls_path_hits_colour_and_material_are_found(seed):
    clip = render(seed, "ball")
    seen = detect_ball(clip.frames, clip.layout)
    assert np.abs(seen.path - clip.events.ball_path).max() < 3
    assert seen.impact_frames.tolist() == [impact.frame for impact in clip.events.impacts]
    assert seen.colour == clip.attributes["colour"]
    assert detect_material(clip.waveform) == clip.attributes["material"]
    true = [impact.seconds for impact in clip.events.impacts]
    assert np.allclose(detect_hits(clip.waveform), true, atol=0.01)


def test_a_ball_hits_after_a_flight_and_not_where_it_trembles_or_is_still_falling():
    flights, trembling = [60.0, 70, 85, 95, 90, 88, 89, 95], [94.0, 95.2, 94.1, 95.1, 94.2]
    assert hit_frames(np.array(flights + trembling)).tolist() == [3, 7]
    assert hit_frames(np.array([60.0, 70, 80, 90])).tolist() == []


def test_a_shadow_under_a_ball_is_not_the_ball():
    room = np.full((40, 40, 3), (200.0, 150.0, 100.0), np.float32)
    picture = room.copy()
    picture[30:, 10:30] *= 0.5
    picture[10:30, 10:30] = (200, 40, 40)
    presence = _presence(picture[None], room)[0]
    assert presence[10:30, 10:30].all()
    presence[10:30, 10:30] = 0
    assert not presence.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_lit_keys_and_heard_notes_are_those_played(seed):
    clip = render(seed, "piano")
    keys = [note.key for note in clip.events.notes]
    lit, heard = detect_keys(clip.frames, clip.layout), detect_notes(clip.waveform)
    assert lit.keys.tolist() == heard.keys.tolist() == keys
    assert np.allclose(lit.seconds, [note.seconds for note in clip.events.notes])
    assert np.allclose(heard.seconds, lit.seconds, atol=0.01)
    assert np.abs(heard.cents).max() < 5


@pytest.mark.parametrize("seed", SEEDS)
def test_mouth_opening_follows_the_true_one_and_the_voice(speech, seed):
    clip = render(seed, "face", speech=speech)
    opening = mouth_opening(clip.frames, clip.layout)
    assert np.corrcoef(opening, clip.events.mouth_opening)[0, 1] > 0.7
    curve = lag_correlations(opening, loudness(clip.waveform, len(clip.frames)))
    assert abs(int(curve.argmax()) - 6) <= 2


def test_a_late_voice_is_heard_as_late():
    rng = np.random.default_rng(0)
    opening = np.convolve(rng.random(60), np.ones(3), "same")
    curve = lag_correlations(opening[6:55], opening[2:51])  # the sound shows what the mouth did 4 frames ago
    assert curve.argmax() - 6 == 4
    assert not lag_correlations(np.zeros(49), opening[:49]).any()


def test_words_are_recognised_also_without_the_voice_that_said_them(speech):
    every = recogniser(speech)
    for seed in SEEDS:
        clip = render(seed, "face", "heldout", speech)
        a = clip.attributes
        voice = ("low", "middle", "high").index(a["pitch"]) * 2 + ("calm", "brisk").index(a["pace"])
        others = Recogniser(speech, without=(a["person"], voice))
        for each in (every, others):
            assert tuple(word.text for word in each.recognise(clip.waveform)) == a["words"]


def test_word_order_is_heard(speech):
    bank = load_bank(speech)
    pause = np.zeros(1500, np.float32)
    for texts in (["hello", "tiger"], ["tiger", "hello"], ["moon", "no", "moon"]):
        parts = [part for text in texts for part in (pause, bank.word(text, "woman", 3).waveform)]
        assert [word.text for word in recogniser(speech).recognise(np.concatenate(parts))] == texts


def test_silence_holds_nothing(speech):
    silence = np.zeros(NUM_SAMPLES, np.float32)
    assert len(onsets(silence)) == 0
    assert detect_material(silence) is None
    assert len(detect_notes(silence).keys) == 0
    assert recogniser(speech).recognise(silence) == []


def test_clicks_are_found_where_they_are():
    waveform = 1e-4 * np.random.default_rng(0).standard_normal(NUM_SAMPLES).astype(np.float32)
    for seconds in (0.3, 0.75, 1.4):
        waveform[int(seconds * SAMPLE_RATE) :][:400] += np.hanning(800)[400:] * np.sin(np.arange(400) * 0.8)
    assert np.allclose(onsets(waveform), [0.3, 0.75, 1.4], atol=0.008)


def test_edit_distance_counts_each_kind_of_error():
    assert errors("abc", list("abc")) == 0
    assert errors("abc", list("axc")) == errors("abc", list("ac")) == errors("abc", list("abbc")) == 1
    assert errors("abc", []) == 3


@pytest.mark.parametrize("family", ["ball", "piano", "face"])
def test_scores_of_true_clips_are_full_and_of_shuffled_ones_are_not(speech, family):
    tasks = [ClipSpec(seed, family, "train", speech, CAPTIONS["full"]) for seed in SEEDS]
    rows = [measure_true_clip(task, degraded=False)[2]["true"] for task in tasks]
    scores = score(family, rows)
    assert scores["first_frame_psnr"] == 99
    if family == "face":
        assert scores["words"] == 1
        assert scores["correlation"] > scores["correlation_shuffled"] + 0.2
    else:
        assert scores["synced"] == 1
        assert scores["offset"] < 0.6
        assert scores["synced_shuffled"] < 0.8
        assert np.abs(event_offsets(rows, 1)).mean() > 1
    wrong = [row | {"expected": rows[index - 1]["expected"]} for index, row in enumerate(rows)]
    key = {"face": "words", "ball": "material", "piano": "notes_heard"}[family]
    assert score(family, wrong)[key] < 0.8 <= scores[key]


def test_soft_clips_are_judged_as_true_ones(speech):
    for family, key in (("ball", "colour"), ("piano", "notes_lit"), ("face", "words")):
        rows = measure_true_clip(
            ClipSpec(SEEDS[0], family, "train", speech, CAPTIONS["full"]), degraded=True
        )[2]
        assert set(rows) == {"true", *(degradation.name for degradation in DEGRADATIONS)}
        assert score(family, [rows["soft"]])[key] == 1


def test_a_ball_that_lies_still_is_not_in_sync():
    still = {"seen_seconds": [], "heard_seconds": [0.5]}
    assert event_offsets([still], 0).tolist() == [1e3]


def test_psnr_is_that_of_a_known_error():
    assert psnr(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)) == pytest.approx(0)
