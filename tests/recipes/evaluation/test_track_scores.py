"""Figures of held and retaken tracks: true clips reach every bar, and each fault misses its own."""

from pathlib import Path

import numpy as np
import pytest

from mova.errors import UserError
from recipes.pocket.evaluation import seams
from recipes.pocket.evaluation.evaluate import CAPTIONS, FIRST_SEED
from recipes.pocket.evaluation.generate import Settings
from recipes.pocket.evaluation.measure import ClipSpec, Expectation
from recipes.pocket.evaluation.track_runs import RETAKE, RUNS, TrackCase, make
from recipes.pocket.evaluation.track_scores import measure_run, score_run, speaker_distances
from recipes.pocket.evaluation.tracks import CLAIMS, evaluate_tracks, tracks_table
from recipes.pocket.world.clip import FAMILIES, FRAME_RATE, NUM_FRAMES, NUM_SAMPLES, SAMPLE_RATE, Clip, Events

SECONDS = np.arange(NUM_SAMPLES) / SAMPLE_RATE
TONE = (0.3 * np.sin(2 * np.pi * 440 * SECONDS)).astype(np.float32)
SEAM = RETAKE[0][0]


@pytest.fixture(scope="module")
def cases(speech):
    """A true clip of each family."""
    found = {}
    for family in FAMILIES:
        clip = ClipSpec(FIRST_SEED, family, "train", speech, CAPTIONS["full"]).render()
        found[family] = [TrackCase(clip, Expectation.of(clip, speech), 0)]
    return found


def scores_of(cases, name, change=lambda frames, sound: (frames, sound)):
    """Scores of a run whose clips are the true ones with a change."""
    return {
        family: score_run(
            family,
            [
                measure_run(RUNS[name], case, change(case.clip.frames.copy(), case.clip.waveform.copy()))
                for case in chosen
            ],
        )
        for family, chosen in cases.items()
    }


def missed(scores, name):
    return {
        (claim.family, claim.key)
        for claim in CLAIMS
        if claim.run == name and claim.is_missed(scores[claim.family][claim.key], {name: scores})
    }


def test_each_run_gives_the_pipeline_what_it_says_and_makes_the_rest(tiny_pipeline):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (NUM_FRAMES, 32, 64, 3), np.uint8)
    clip = Clip(frames, TONE, "a tone", "ball", Events(), {}, {})
    case = TrackCase(clip, Expectation.of(clip, Path()), 0)
    settings = Settings(steps=1, guidance_scale=1.0, bridge_guidance_scale=1.0)
    for name, run in RUNS.items():
        [(made, sound)] = make(tiny_pipeline, [case], run, settings, batch=1)
        given = 25 if name.startswith("continue") else NUM_FRAMES
        assert len(made) == (NUM_FRAMES + 3 * 40 if name == "extend" else NUM_FRAMES), name
        assert len(sound) == round(len(made) / FRAME_RATE * SAMPLE_RATE - 0.5), name
        is_kept = ~seams.made_frames(run.regenerate_video, NUM_FRAMES)[:given] & run.video
        assert ((made[:given] == frames[:given]).all((1, 2, 3)) == is_kept)[1:].all(), name
        assert (seams.sound_change(TONE[: given * 666], sound, run.regenerate_audio) < 1e-6) == run.audio, (
            name
        )


@pytest.mark.parametrize("name", ["sound held", "picture held", "retake"])
def test_true_clips_reach_every_bar(cases, name):
    assert missed(scores_of(cases, name), name) == set()


def test_a_spike_in_the_sound_at_a_seam_is_a_click(cases):
    def spike(frames, sound):
        sound[round(SEAM * SAMPLE_RATE)] += 0.5
        return frames, sound

    faults = missed(scores_of(cases, "retake", spike), "retake")
    assert {(family, "clicks") for family in FAMILIES} <= faults
    assert not [fault for fault in faults if fault[1] in ("picture_change", "sound_change")]


def test_a_flash_at_the_seam_is_a_step_of_the_picture(cases):
    def flash(frames, sound):
        first = seams.picture_seams(RETAKE, NUM_FRAMES)[0]
        frames[first : first + 3] = np.minimum(frames[first : first + 3].astype(int) + 30, 255)
        return frames, sound

    faults = missed(scores_of(cases, "retake", flash), "retake")
    assert {(family, "picture_step_ratio") for family in FAMILIES} <= faults


def test_a_change_outside_the_span_is_found_in_either_track(cases):
    def change(frames, sound):
        frames[0, 0, 0, 0] ^= 1
        sound[-1] += 0.001
        return frames, sound

    faults = missed(scores_of(cases, "retake", change), "retake")
    assert faults == {(family, key) for family in FAMILIES for key in ("picture_change", "sound_change")}


def test_a_silent_sound_to_a_held_picture_misses_what_should_be_heard(cases):
    faults = missed(
        scores_of(cases, "picture held", lambda frames, sound: (frames, 0 * sound)), "picture held"
    )
    assert faults == {
        ("face", "words"),
        ("face", "correlation"),
        ("ball", "synced"),
        ("piano", "lit_is_heard"),
    }


def test_each_window_of_an_extended_clip_has_its_synchrony(cases):
    def extend(frames, sound):
        return np.concatenate((frames, *[frames[9:]] * 3)), np.concatenate((sound, *[sound[6000:]] * 3))

    def delay(frames, sound):
        frames, sound = extend(frames, sound)
        window = slice(*(round(frame / FRAME_RATE * SAMPLE_RATE) for frame in (49 + 40, 49 + 80)))
        sound[window] = np.roll(sound[window], SAMPLE_RATE // 3)
        return frames, sound

    true, late = (scores_of(cases, "extend", change) for change in (extend, delay))
    for family in FAMILIES:
        for kept in ("window_1", "window_2", "window_4"):
            assert late[family][kept] == pytest.approx(true[family][kept], abs=0.1)
        assert late[family]["window_3"] == late[family]["worst_window"] < true[family]["worst_window"] - 0.2
        assert "window_5" not in true[family]


def test_a_joint_clip_is_cut_into_parts_as_long_as_an_added_window(cases):
    def mute_the_last_impact(frames, sound):
        sound[round(40 / FRAME_RATE * SAMPLE_RATE) :] = 0
        return frames, sound

    cases = {"ball": cases["ball"]}
    true, muted = (scores_of(cases, "joint", *change)["ball"] for change in ((), (mute_the_last_impact,)))
    assert muted["window_1"] == true["window_1"]
    assert muted["window_2"] == muted["worst_window"] < true["window_2"] - 0.2


def test_clips_of_one_speaker_sound_more_alike_than_those_of_two(speech):
    distances = speaker_distances(speech)
    assert distances["one_speaker"] < 0.8 * distances["two_speakers"]


def test_a_click_stands_out_from_a_tone_but_not_from_noise():
    noise = 0.1 * np.random.default_rng(0).standard_normal(NUM_SAMPLES).astype(np.float32)
    for sound, is_heard in ((TONE, True), (noise, False)):
        assert not seams.is_click(sound, SEAM)
        stepped = sound.copy()
        stepped[round(SEAM * SAMPLE_RATE) :] += 0.05
        assert seams.is_click(stepped, SEAM) == is_heard
    step = np.zeros(NUM_SAMPLES, np.float32)
    step[round(SEAM * SAMPLE_RATE) :] = 0.1
    assert seams.level_step(step, SEAM) == pytest.approx(-20, abs=0.01)


def test_a_span_grows_to_the_latents_that_it_touches():
    frames = np.flatnonzero(seams.made_frames(((7 / FRAME_RATE, 10 / FRAME_RATE),), NUM_FRAMES))
    assert frames.tolist() == list(range(5, 13))
    assert seams.picture_seams(((7 / FRAME_RATE, 10 / FRAME_RATE),), NUM_FRAMES) == [5, 13]
    assert seams.picture_seams(((0, 1),), NUM_FRAMES) == [25]


def test_colour_drift_is_counted_a_window():
    frames = np.full((40, 4, 4, 3), 100, np.uint8)
    frames[10:20] += 3
    frames[20:] += 4
    assert seams.colour_drift(frames, [(0, 10), (10, 20), (20, 40)]) == [3, 2]


def test_an_onset_at_a_seam_is_extra_unless_an_event_explains_it():
    assert seams.extra_onsets([0.1, 0.72, 1.5], [], [0.7, 1.4]) == 1
    assert seams.extra_onsets([0.1, 0.72, 1.5], [0.75], [0.7, 1.4]) == 0


def test_an_unknown_run_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(UserError, match="no such runs: \\['dub'\\]; choose from \\['joint'"):
        evaluate_tracks("nothing", speech=tmp_path, names=["dub"])


def test_the_table_names_what_is_missed(cases):
    scores = {name: scores_of(cases, "sound held") for name in RUNS}
    scores["sound held"]["ball"]["synced"] = 0.5
    lines = tracks_table({"scores": scores}).splitlines()
    assert len(lines) == 2 + len(CLAIMS)
    assert "| sound held | ball | impacts synced | >= 95.0 % | 50.0 % (missed) |" in lines
