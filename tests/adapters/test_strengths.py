import pytest

from mova.adapters.strengths import PARTS, TOWERS, by_tower, is_repo, parse_adapter
from mova.errors import UserError


@pytest.mark.parametrize(
    ("text", "adapter"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.8", ("a.safetensors", 0.8)),
        ("a.safetensors:-1", ("a.safetensors", -1.0)),
        ("C:\\loras\\a.safetensors", ("C:\\loras\\a.safetensors", 1.0)),
        ("C:\\loras\\a.safetensors:0", ("C:\\loras\\a.safetensors", 0.0)),
        ("org/name/a.safetensors:2", ("org/name/a.safetensors", 2.0)),
        ("a.safetensors:video=0.8,audio=1", ("a.safetensors", {"video": 0.8, "audio": 1.0})),
        ("a.safetensors: low = .5 ", ("a.safetensors", {"low": 0.5})),
        ("rank=16/a.safetensors", ("rank=16/a.safetensors", 1.0)),
    ],
)
def test_an_adapter_and_its_strength_are_told_apart(text, adapter):
    assert parse_adapter(text) == adapter


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a:sound=1", "'sound' is not a part of the model; choose from video, high, low, audio"),
        ("a:audio=loud", "'audio=loud' in a:audio=loud is not a strength; write it as audio=0.8"),
        ("a:audio=", "write it as audio=0.8"),
        ("a:audio=1,", "'' is not a part"),
    ],
)
def test_a_strength_that_is_none_says_how_to_write_it(text, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_adapter(text)


def test_one_number_is_for_all_towers():
    assert by_tower(0.5) == dict.fromkeys(TOWERS, 0.5)


def test_towers_that_are_not_named_have_strength_1_and_one_tower_wins_over_several():
    expected = {"video_dit": 0.5, "video_dit_2": 0.2, "audio_dit": 1.0, "dual_tower_bridge": 0.0}
    assert by_tower({"low": 0.2, "video": 0.5, "bridge": 0}) == expected
    assert by_tower({"video": 0.5, "video_dit_2": 0.2, "dual_tower_bridge": 0}) == expected


def test_every_tower_has_its_own_name_among_the_parts():
    assert all(PARTS[tower] == (tower,) for tower in TOWERS)


@pytest.mark.parametrize(
    "strength", [11, float("nan"), "1", {"audio": 11}, {"audio": float("nan")}, {"x": 1}]
)
def test_strengths_out_of_reason_are_refused(strength):
    with pytest.raises(UserError, match=r"the strength of style|not a part of the model"):
        by_tower(strength, "style")


@pytest.mark.parametrize(
    "source", ["org/name", "org/name/a.safetensors", "o-r.g/n_a.me/deep/er/a.safetensors"]
)
def test_repo_ids_and_their_files_are_known(source):
    assert is_repo(source)


@pytest.mark.parametrize(
    "source",
    ["name", "folder/a.safetensors", "folder/lora_weights.pt", "/org/name", "../name", "a/b/c", "a b/c"],
)
def test_paths_are_no_repos(source):
    assert not is_repo(source)
