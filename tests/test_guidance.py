import pytest

from mova.errors import UserError
from mova.guidance import branches

SCALES = [0.0, 0.5, 1.0, 2.0, 3.5, 5.0]


def combine(guidance_scale, bridge_guidance_scale, values):
    """The weighted sum over forwards, `values` by (use_prompt, use_bridge)."""
    forwards = branches(guidance_scale, bridge_guidance_scale)
    return sum(branch.weight * values[branch.use_prompt, branch.use_bridge] for branch in forwards)


@pytest.mark.parametrize("text", SCALES)
@pytest.mark.parametrize("bridge", SCALES)
def test_the_sum_is_equation_6_of_the_paper(text, bridge):
    nothing, heard, prompted = 3.0, -1.25, 7.5
    values = {(False, False): nothing, (False, True): heard, (True, True): prompted}
    expected = nothing + bridge * (heard - nothing) + text * (prompted - heard)
    assert combine(text, bridge, values) == pytest.approx(expected)


def test_scale_one_is_the_prompt_alone_in_one_forward():
    (only,) = branches(1.0, 1.0)
    assert (only.use_prompt, only.use_bridge, only.weight) == (True, True, 1.0)


def test_bridge_scale_one_is_text_guidance_in_two_forwards_with_the_bridge():
    forwards = branches(5.0, 1.0)
    assert [(f.use_prompt, f.use_bridge, f.weight) for f in forwards] == [
        (False, True, -4.0),
        (True, True, 5.0),
    ]


def test_equal_scales_need_two_forwards_and_others_three():
    assert len(branches(4.0, 4.0)) == 2
    assert len(branches(5.0, 3.5)) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 31.0])
def test_impossible_scales_are_refused_by_name(bad):
    with pytest.raises(UserError, match=r"^guidance_scale"):
        branches(bad)
    with pytest.raises(UserError, match="bridge_guidance_scale"):
        branches(5.0, bad)
