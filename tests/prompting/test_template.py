import re
from pathlib import Path

import pytest

from mova.catalog import PROMPTS
from mova.errors import UserError
from mova.prompting import prompt_files
from mova.prompting.prompt_files import load_template, load_words
from mova.text import count_words

NAMES = [path.stem for path in sorted(PROMPTS.glob("*.md"))]


@pytest.mark.parametrize("name", NAMES)
def test_prompt_files_are_whole_and_short(name):
    template = load_template(name)
    system, user = template.fill(**dict.fromkeys(template.variables, "x"))
    assert "{{" not in system + user
    assert count_words(system + user) < 800  # English has about 1.35 tokens a word: under 1,200 tokens
    assert template.version >= 1


def test_all_of_the_files_are_there():
    wanted = {
        "rewrite_with_image",
        "rewrite_without_image",
        "describe_first_frame",
        "first_frame",
        "ask_again",
        "caption_clip",
    }
    assert set(NAMES) == wanted


def test_missing_and_unknown_variables_are_errors():
    template = load_template("ask_again")
    with pytest.raises(UserError, match=r"missing \['problems'\]"):
        template.fill()
    with pytest.raises(UserError, match=r"unknown \['colour'\]"):
        template.fill(problems="x", colour="red")


def test_what_is_filled_in_is_not_searched_for_variables():
    _, user = load_template("ask_again").fill(problems="{{problems}} {{idea}}")
    assert "{{problems}} {{idea}}" in user


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prompt_files, "PROMPTS", tmp_path)
    return tmp_path


def test_digests_change_with_every_character(folder):
    head = "---\nversion: {}\nvariables: idea\n---\nTell.\n=== user ===\n{{{{idea}}}}{}\n"
    digests = set()
    for version, end in ((1, ""), (2, ""), (1, "!")):
        (folder / "a.md").write_text(head.format(version, end))
        digests.add(load_template("a").digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("no head", "malformed"),
        ("---\nversion: 1\nvariables: idea\n---\nTell.\n=== user ===\nnothing\n", "names the variables"),
        ("---\nversion: 1\nvariables:\n---\nTell {{idea}}.\n=== user ===\nnothing\n", "but uses"),
    ],
)
def test_bad_files_are_named(folder, text, sentence):
    (folder / "a.md").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_template("a")
    with pytest.raises(UserError, match="cannot be read"):
        load_template("b")


def test_word_lists_hold_words():
    assert "static ->" in load_words("stillness")
    assert "pan" in load_words("camera")
    assert all(
        re.search(r"\w", line) for name in ("stillness", "camera", "sounds") for line in load_words(name)
    )
