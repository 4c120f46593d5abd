import base64
from io import BytesIO

import pytest
from PIL import Image

from mova.errors import BackendError
from mova.prompting.first_frame import MAX_CHARACTERS, paint_first_frame, size_for, write_first_frame_prompt
from tests.prompting.chat_server import Handler, error


def picture(width: int = 64, height: int = 36) -> str:
    buffer = BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def paint(handler: Handler) -> None:
    handler.json(200, {"created": 1, "data": [{"b64_json": picture()}]})


def test_words_become_a_picture(scripted):
    scripted.always = paint
    image = paint_first_frame(scripted.endpoint(), "a green wall", 352, 640)
    assert (image.mode, image.size, image.getpixel((5, 5))) == ("RGB", (64, 36), (10, 200, 30))
    path, _, body = scripted.requests[0]
    assert path == "/v1/images/generations"
    assert (body["prompt"], body["size"]) == ("a green wall", "1280x720")


@pytest.mark.parametrize(
    ("height", "width", "size"), [(352, 640, "1280x720"), (640, 352, "720x1280"), (512, 512, "1024x1024")]
)
def test_the_nearest_shape_is_asked_for(height, width, size):
    assert size_for(height, width) == size


def test_fields_a_server_does_not_know_are_left_out(scripted):
    scripted.steps.extend(
        [error(400, "Unknown parameter: response_format"), error(400, "size: invalid"), paint]
    )
    paint_first_frame(scripted.endpoint(), "a wall", 352, 640)
    bodies = [body for _, _, body in scripted.requests]
    assert "response_format" not in bodies[1]
    assert bodies[2]["size"] == "1024x1024"


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (error(401, "no"), "refused the key"),
        (error(404, "no such path"), "does not serve"),
        (error(400, "no"), "did not accept"),
        (lambda h: h.json(200, {"data": [{"url": "http://127.0.0.1/x.png"}]}), "sent no picture"),
        (lambda h: h.json(200, {"data": [{"b64_json": "AAAA"}]}), "data that are not a picture"),
        (lambda h: h.json(200, {"data": [{"b64_json": "§§"}]}), "data that are not a picture"),
        (lambda h: h.json(200, {"data": [{"b64_json": picture(9000, 5000)}]}), "data that are not a picture"),
        (lambda h: h.json(200, {"error": "model is loading"}), "answered with an error: model is loading"),
        (lambda h: h.json(200, {"data": 3}), "did not answer like an OpenAI-compatible server"),
    ],
)
def test_faults_are_sentences(scripted, step, sentence):
    scripted.always = step
    with pytest.raises(BackendError, match=sentence):
        paint_first_frame(scripted.endpoint(timeout=60.0), "a wall", 352, 640)


def test_the_picture_is_described_before_it_is_painted(scripted):
    scripted.text = "**A wide shot** at eye level: a shop with a sign <Q1>, a man with closed lips. " * 20
    text = write_first_frame_prompt(scripted.writer(), 'a man under a sign "OPEN" says hello')
    assert text.startswith('A wide shot at eye level: a shop with a sign "OPEN", a man')
    assert len(text) <= MAX_CHARACTERS
    assert "OPEN" not in str(scripted.requests[0][2])


def test_no_words_for_a_picture_is_a_sentence(scripted):
    scripted.text = "<think>hm</think>"
    with pytest.raises(BackendError, match="wrote no picture"):
        write_first_frame_prompt(scripted.writer(), "a man")
