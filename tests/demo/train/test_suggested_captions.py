"""Captions by a model behind a real HTTP server, scripted."""

import base64
import io

import pytest
from PIL import Image

from demo.train.service import suggest_caption
from mova.errors import BackendError
from tests.lora_trainer.clips import make_clip
from tests.prompting.chat_server import error

CAPTION = "A grey room. A bar moves to the right and the screen flashes. The audio shows a beep."


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("suggested") / "clip.mp4", 1.0, flashes=(0.99,))


@pytest.fixture
def server(scripted):
    scripted.text = CAPTION
    return scripted


def test_the_model_is_shown_frames_in_their_order_and_told_what_is_known(server, clip):
    assert suggest_caption(server.writer(), clip, 'He says, "Now." and goes.') == (
        f'{CAPTION} Somebody says, "Now."'
    )
    ((_, _, body),) = server.requests
    user = next(message["content"] for message in body["messages"] if message["role"] == "user")
    assert '"Now."' in user[0]["text"]
    picture = Image.open(io.BytesIO(base64.b64decode(user[1]["image_url"]["url"].partition(",")[2])))
    assert picture.size == (4 * 80, 48)
    # The bar of the test clip is brownish, and further right in each quarter.
    places = []
    for quarter in range(4):
        frame = picture.crop((80 * quarter, 0, 80 * quarter + 80, 48)).convert("RGB")
        columns = [sum(frame.getpixel((x, 24))[i] * w for i, w in ((0, 1), (2, -1))) for x in range(80)]
        places.append(columns.index(max(columns)))
    assert places == sorted(places)
    assert places[0] < places[-1]


def test_words_that_the_model_kept_are_not_said_twice(server, clip):
    server.text = 'A man says, "Now." The audio shows his voice.'
    assert suggest_caption(server.writer(), clip, 'Somebody says "Now."') == server.text


def test_a_model_that_sees_nothing_makes_nothing_up(server, clip):
    server.steps.extend([error(400, "image input is not supported"), None])
    with pytest.raises(BackendError, match="takes no pictures; choose a model that does"):
        suggest_caption(server.writer(), clip)


def test_reasoning_and_marks_are_no_caption(server, clip):
    server.text = f"<think>what is it?</think>\n\n**{CAPTION}**"
    assert suggest_caption(server.writer(), clip) == CAPTION
    server.text = "<think>hm</think>"
    with pytest.raises(BackendError, match="wrote nothing"):
        suggest_caption(server.writer(), clip)
