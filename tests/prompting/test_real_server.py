"""Against a real server: `transformers serve` with tiny models, or MOVA_TEST_LLM_BASE_URL."""

import json
import os
import subprocess
import sys
import threading

import pytest
from PIL import Image

from mova.errors import BackendError, Cancelled
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import Enhancer, EnhanceRequest, read_image
from mova.prompting.quotes import locate, mask_quotes
from mova.prompting.writers import WriterRequest
from tests.prompting.chat_server import GOOD_PROMPT, IDEA, RealServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("picture") / "red.png"
    Image.new("RGB", (1600, 900), (200, 20, 20)).save(path)
    return path


def test_an_idea_becomes_a_prompt_with_its_words(real_server: RealServer):
    drafts: list[str] = []
    enhancer = Enhancer(EndpointWriter(real_server.endpoint()))
    result = enhancer.enhance(EnhanceRequest(IDEA, seed=1, temperature=0.0), drafts.append)
    assert not result.failure
    assert None not in locate(result.text, mask_quotes(IDEA).quotes)
    assert len(drafts) > 3
    assert drafts[-1].startswith(drafts[1])
    if real_server.is_ours:
        assert result.route == "answer"
        assert result.text == GOOD_PROMPT
        assert result.plan.dialogue[0].speaker == "The fisherman"
        assert [v for v in result.violations if v.severity == "error"] == []


def test_the_answer_is_the_same_whole_as_streamed(real_server: RealServer):
    ask = WriterRequest((("system", "Write."), ("user", "a boat")), temperature=0.0, max_tokens=200)
    streamed, whole = EndpointWriter(real_server.endpoint()), EndpointWriter(real_server.endpoint())
    whole._left_out = frozenset({"stream", "chat_template_kwargs"})
    assert streamed.write(ask).text == whole.write(ask).text


def test_the_picture_reaches_a_model_that_sees(real_server: RealServer, picture, tmp_path):
    blue = tmp_path / "blue.png"
    Image.new("RGB", (1600, 900), (20, 20, 200)).save(blue)
    writer = EndpointWriter(real_server.endpoint(model=real_server.seeing_model))
    question = (("user", "Describe this picture."),)
    red, other, none = (
        writer.write(WriterRequest(question, image=image, max_tokens=24, temperature=0.0))
        for image in (read_image(picture), read_image(blue), None)
    )
    assert len({red.text, other.text, none.text}) == 3
    assert red.notes == ()


def test_nonsense_about_a_picture_still_gives_a_prompt(real_server: RealServer, picture):
    writer = EndpointWriter(real_server.endpoint(model=real_server.seeing_model))
    request = EnhanceRequest('a cat says "meow"', image=picture, max_tokens=48, seed=3)
    result = Enhancer(writer).enhance(request)
    assert '"meow"' in result.text
    assert result.plan.audio
    if real_server.is_ours:
        assert result.route == "template"
        assert "could not be used" in result.failure


def test_a_cut_off_answer_is_not_used(real_server: RealServer):
    result = Enhancer(EndpointWriter(real_server.endpoint())).enhance(EnhanceRequest(IDEA, max_tokens=12))
    assert result.route == "template"
    assert "cut off at 12 tokens" in result.failure
    assert '"Here it comes."' in result.text


def test_cancelling_stops_it(real_server: RealServer):
    stop = threading.Event()
    writer = EndpointWriter(real_server.endpoint())
    with pytest.raises(Cancelled):
        writer.write(WriterRequest((("user", "go on"),), max_tokens=1000), lambda _: stop.set(), stop.is_set)


def test_a_model_that_is_not_there_is_named(real_server: RealServer):
    writer = EndpointWriter(real_server.endpoint(model="/no/such/model"))
    with pytest.raises(BackendError, match=r"failed|does not serve|did not accept"):
        writer.write(WriterRequest((("user", "hello"),), max_tokens=8))


def test_the_probe_answers(real_server: RealServer):
    assert EndpointWriter(real_server.endpoint()).probe().model


def test_the_command_line_speaks_to_it(real_server: RealServer):
    environment = {
        **os.environ,
        "MOVA_LLM_BASE_URL": real_server.base_url,
        "MOVA_LLM_MODEL": real_server.text_model,
        "MOVA_LLM_API_KEY": real_server.api_key,
    }
    command = [
        sys.executable,
        "-m",
        "mova",
        "enhance",
        IDEA,
        "--json",
        "--candidates",
        "2",
        "--temperature",
        "0",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert all('"Here it comes."' in result["text"] for result in results)
    if real_server.is_ours:
        assert len(results) == 1  # the second is the same and is not shown
