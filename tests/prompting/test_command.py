"""`python -m mova enhance`, as a person runs it."""

import json
import os
import subprocess
import sys

from PIL import Image

from mova.__main__ import main
from tests.prompting.chat_server import GOOD_ANSWER, IDEA, KEY, error


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MOVA_", "OPENAI_"))}
    command = [sys.executable, "-m", "mova", "enhance", *arguments]
    return subprocess.run(
        command,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        input="from stdin",
    )


def test_the_template_needs_nothing():
    done = run(IDEA, "--template")
    assert done.returncode == 0
    assert '"Here it comes."' in done.stdout
    assert done.stderr.startswith("template, seed ")
    assert run("-", "--template").stdout.startswith("from stdin.")
    assert "no subtitles" not in run(IDEA, "--template", "--subtitles").stdout


def test_the_small_model_writes_for_pocket_and_for_no_other():
    done = run("red ball falls", "--for", "pocket", "--seed", "1")
    assert done.returncode == 0
    assert "red ball of rubber" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("answer by ")
    assert run("red ball falls", "--for", "360p", "--seed", "1").stderr.startswith("template, seed 1")


def test_an_idea_beyond_the_small_model_is_no_failure(capsys):
    assert main(["enhance", "a dragon flies", "--pocket"]) == 0
    output = capsys.readouterr()
    assert "a dragon flies" in output.out
    assert "note: the idea lies outside" in output.err


def test_a_server_writes_candidates_as_json(scripted, tmp_path):
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
    done = run(IDEA, *options, "--image", str(image), "--seed", "4", MY_KEY=KEY)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(result["route"], result["seed"]) for result in results] == [("answer", 4), ("answer", 5)]
    assert results[0]["plan"]["dialogue"][0]["text"] == "Here it comes."
    assert scripted.requests[0][1]["authorization"] == f"Bearer {KEY}"
    assert KEY not in done.stdout + done.stderr


def test_the_environment_configures_a_server(scripted):
    done = run(IDEA, MOVA_LLM_BASE_URL=scripted.url, MOVA_LLM_MODEL="m", MOVA_LLM_API_KEY=KEY)
    assert done.returncode == 0
    assert "answer by scripted" in done.stderr
    assert scripted.requests[0][2]["model"] == "m"


def test_a_server_that_fails_is_told_and_a_prompt_comes_all_the_same(scripted):
    scripted.always = error(401, f"bad key {KEY}")
    done = run(IDEA, "--base-url", scripted.url, "--model", "m", "--api-key-env", "MY_KEY", MY_KEY=KEY)
    assert done.returncode == 1
    assert "refused the key" in done.stderr
    assert '"Here it comes."' in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_mistakes_are_sentences(tmp_path, capsys):
    for arguments, sentence in (
        (("", "--template"), "the idea is empty"),
        ((IDEA, "--candidates", "99"), "give 1 to 16"),
        ((IDEA, "--base-url", "localhost:8000"), "no server address"),
        ((IDEA, "--base-url", "http://localhost/v1", "--api-key-env", "NOT_SET"), "NOT_SET is empty"),
        ((IDEA, "--local", str(tmp_path)), "no model that can be loaded"),
        ((IDEA, "--template", "--tokenizer", str(tmp_path)), "holds no tokenizer.json"),
    ):
        assert main(["enhance", *arguments]) == 2
        assert sentence in capsys.readouterr().err
