import pytest

from mova.guidance import UNGUIDED, Guidance

SCALES = [0.0, 0.5, 1.0, 2.0, 3.5, 5.0]
NOTHING, HEARD, PROMPTED = 3.0, -1.25, 7.5
VALUES = {(False, False): NOTHING, (False, True): HEARD, (True, True): PROMPTED}


def equation_6(text, bridge):
    return NOTHING + bridge * (HEARD - NOTHING) + text * (PROMPTED - HEARD)


def combine(guidance):
    """The weighted sums over forwards for video and audio."""
    forwards = [(VALUES[each.use_prompt, each.use_bridge], each) for each in guidance.branches(0.5)]
    video = sum(value * each.weight for value, each in forwards)
    return video, sum(value * each.audio_weight for value, each in forwards)


@pytest.mark.parametrize("text", SCALES)
@pytest.mark.parametrize("bridge", SCALES)
def test_the_sum_is_equation_6_of_the_paper(text, bridge):
    expected = pytest.approx(equation_6(text, bridge))
    assert combine(Guidance(text, bridge)) == (expected, expected)


@pytest.mark.parametrize("text", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("bridge", [1.0, 2.0])
def test_each_track_has_the_sum_of_its_own_scales(text, bridge):
    expected = pytest.approx(equation_6(5.0, 3.5)), pytest.approx(equation_6(text, bridge))
    assert combine(Guidance(5.0, 3.5, audio_scale=text, audio_bridge_scale=bridge)) == expected


def test_scale_one_is_the_prompt_alone_in_one_forward():
    assert Guidance(1.0, 1.0).branches(0.5) == UNGUIDED
    assert not Guidance(1.0, 1.0).needs_negative


def test_bridge_scale_one_is_text_guidance_in_two_forwards_with_the_bridge():
    forwards = Guidance(5.0).branches(0.5)
    assert [(each.use_prompt, each.use_bridge, each.weight) for each in forwards] == [
        (False, True, -4.0),
        (True, True, 5.0),
    ]


def test_equal_scales_need_two_forwards_and_others_three():
    assert len(Guidance(4.0, 4.0).branches(0.5)) == 2
    assert len(Guidance(5.0, 3.5).branches(0.5)) == 3


def test_a_forward_runs_if_either_track_needs_it():
    assert len(Guidance(1.0, 1.0, audio_scale=3.0).branches(0.5)) == 2
    assert len(Guidance(3.0, 1.0, audio_scale=1.0).branches(0.5)) == 2
    assert len(Guidance(4.0, 4.0, audio_bridge_scale=1.0).branches(0.5)) == 3


def test_outside_the_interval_a_step_is_one_forward_with_the_prompt():
    guidance = Guidance(5.0, 3.5, audio_scale=2.0, interval=(0.3, 0.9))
    counts = [len(guidance.branches(sigma)) for sigma in (1.0, 0.91, 0.9, 0.5, 0.3, 0.29, 0.0)]
    assert counts == [1, 1, 3, 3, 3, 1, 1]
    assert guidance.branches(1.0) == UNGUIDED
    assert guidance.needs_negative
