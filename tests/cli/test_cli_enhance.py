"""`python -m mova enhance`, as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mova.cli.main import main
from tests.prompting.chat_server import GOOD_ANSWER, IDEA, KEY, error

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(capsys, monkeypatch):
    """The command in this process, with nothing but `environment` set: (exit code, output, messages)."""

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        for name in os.environ:
            if name.startswith(("MOVA_", "OPENAI_")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return main(["enhance", *arguments]), *capsys.readouterr()

    return run


def test_the_template_needs_nothing():
    """In a process of its own, as a person runs it."""
    command = [sys.executable, "-m", "mova", "enhance", "-", "--template"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120, input="from stdin"
    )
    assert done.stdout.startswith("From stdin.")
    assert done.stderr.startswith("template, seed ")


def test_the_template_keeps_quotes_and_may_have_subtitles(run):
    code, output, messages = run(IDEA, "--template")
    assert code == 0
    assert '"Here it comes."' in output
    assert messages.startswith("template, seed ")
    _, output, _ = run(IDEA, "--template", "--subtitles")
    assert "no subtitles" not in output


def test_the_word_lists_write_for_pocket_and_for_no_other(run):
    code, output, messages = run("red ball falls", "--for", "pocket", "--seed", "1")
    assert code == 0
    assert "red rubber ball" in output
    assert messages.splitlines()[-1].startswith("answer by ")
    _, _, messages = run("red ball falls", "--for", "360p", "--seed", "1")
    assert messages.startswith("template, seed 1")


def test_an_idea_beyond_the_word_lists_is_no_failure(run):
    code, output, messages = run("a dragon flies", "--pocket")
    assert code == 0
    assert "A dragon flies" in output
    assert "note: the idea lies outside" in messages


def test_a_server_writes_candidates_as_json(run, scripted, tmp_path):
    image = tmp_path / "frame.png"
    Image.new("RGB", (64, 36), (200, 30, 30)).save(image)
    answers = [GOOD_ANSWER, GOOD_ANSWER.replace("grey", "pale")]
    scripted.steps.extend([lambda h, t=text: h.answer(t) for text in answers])
    options = (
        "--base-url",
        scripted.url,
        "--model",
        "m",
        "--api-key-env",
        "MY_KEY",
        "--candidates",
        "2",
        "--json",
    )
    code, output, messages = run(IDEA, *options, "--image", str(image), "--seed", "4", MY_KEY=KEY)
    assert code == 0, messages
    results = [json.loads(line) for line in output.splitlines()]
    assert [(result["route"], result["seed"]) for result in results] == [("answer", 4), ("answer", 5)]
    assert results[0]["plan"]["dialogue"][0]["text"] == "Here it comes."
    assert scripted.requests[0][1]["authorization"] == f"Bearer {KEY}"
    assert KEY not in output + messages


def test_the_environment_configures_a_server(run, scripted):
    code, _, messages = run(IDEA, MOVA_LLM_BASE_URL=scripted.url, MOVA_LLM_MODEL="m", MOVA_LLM_API_KEY=KEY)
    assert code == 0
    assert "answer by scripted" in messages
    assert scripted.requests[0][2]["model"] == "m"


def test_a_server_that_fails_is_told_and_a_prompt_comes_all_the_same(run, scripted):
    scripted.always = error(401, f"bad key {KEY}")
    code, output, messages = run(
        IDEA, "--base-url", scripted.url, "--model", "m", "--api-key-env", "MY_KEY", MY_KEY=KEY
    )
    assert code == 1
    assert "refused the key" in messages
    assert '"Here it comes."' in output
    assert KEY not in output + messages


def test_mistakes_are_sentences(run, tmp_path):
    for arguments, sentence in (
        (("", "--template"), "the idea is empty"),
        ((IDEA, "--candidates", "99"), "give 1 to 16"),
        ((IDEA, "--base-url", "localhost:8000"), "not a server address"),
        ((IDEA, "--base-url", "http://localhost/v1", "--api-key-env", "NOT_SET"), "NOT_SET is empty"),
        ((IDEA, "--local", str(tmp_path)), "cannot be loaded as a model"),
        ((IDEA, "--template", "--tokenizer", str(tmp_path)), "holds no tokenizer.json"),
    ):
        code, _, messages = run(*arguments)
        assert code == 2
        assert sentence in messages
