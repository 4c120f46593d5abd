import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mova.errors import BackendError
from mova.prompting.first_frame import (
    MAX_CHARACTERS,
    first_frame_for,
    first_frame_prompt,
    paint_first_frame,
    paint_locally,
    painter_from_environment,
    size_for,
    write_first_frame_prompt,
)
from mova.prompting.pocket import read_idea
from tests.prompting.chat_server import Handler, error
from tests.prompting.tiny_models import make_painting_model

IDEAS = json.loads(Path(__file__).with_name("pocket_ideas.json").read_text(encoding="utf-8"))["by hand"]


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


def test_pocket_gets_a_drawn_frame_of_an_idea_and_of_its_whole_prompt():
    idea = 'a man with a grey beard in a green hoodie says "hi"'
    drawn = first_frame_for(idea, "pocket")
    assert drawn.image.size == (224, 128)
    assert drawn.differs == ()
    assert "short grey hair and a beard wearing a green hoodie" in drawn.said
    whole = first_frame_for(read_idea(idea).prompt, "pocket")
    assert whole.said == drawn.said
    assert np.array_equal(np.asarray(whole.image), np.asarray(drawn.image))


@pytest.mark.parametrize("idea", [idea["text"] for idea in IDEAS if idea["family"] != "outside"][::7])
def test_a_prompt_that_the_word_lists_wrote_draws_what_its_idea_draws(idea):
    reading = read_idea(idea)
    again = read_idea(first_frame_prompt(reading.prompt))
    assert (again.family, again.scene) == (reading.family, reading.scene)
    assert again.not_kept == ()


def test_an_idea_outside_pockets_world_gets_no_frame_and_the_reason():
    found = first_frame_for("a dog runs on the beach", "pocket")
    assert found.image is None
    assert "outside pocket's world" in found.said
    assert found.differs == ("dog runs on the beach: not in pocket's world",)


def test_another_model_gets_a_frame_from_the_painter_alone():
    asked = []

    def painter(*arguments):
        asked.append(arguments)
        return Image.new("RGB", (64, 36))

    assert first_frame_for("a dog runs", "360p").image is None
    assert "MOVA_IMAGE_BASE_URL" in first_frame_for("a dog runs", "360p").said
    prompt = "A dog stands on a beach.\n\nIt runs.\n\nThe audio shows waves. This video has no subtitles."
    found = first_frame_for(prompt, "360p", painter=painter, height=352, width=640)
    assert found.image.size == (64, 36)
    assert asked[0][:3] == ("A dog stands on a beach.", 352, 640)


def test_only_what_is_configured_paints(scripted):
    others = {"OPENAI_API_KEY": "sk-1", "OPENAI_MODEL": "gpt", "MOVA_LLM_BASE_URL": "http://localhost:1/v1"}
    assert painter_from_environment({}) is None
    assert painter_from_environment(others) is None
    scripted.always = paint
    painter = painter_from_environment({"MOVA_IMAGE_BASE_URL": scripted.endpoint().base_url})
    assert first_frame_for("a dog", "360p", painter=painter).image.size == (64, 36)
    assert scripted.requests[0][2]["prompt"] == "a dog"


@pytest.mark.slow
def test_a_text_to_image_model_of_this_machine_paints(tmp_path):
    painter = painter_from_environment({"MOVA_IMAGE_MODEL": str(make_painting_model(tmp_path))})
    images = [first_frame_for("a dog.", "360p", painter=painter, height=64, width=96).image for _ in range(2)]
    assert images[0].size == (96, 64)
    assert images[0].tobytes() == images[1].tobytes()


def test_a_folder_that_paints_nothing_is_a_sentence(tmp_path):
    with pytest.raises(BackendError, match="could not be loaded as a text-to-image model"):
        paint_locally(str(tmp_path), "a dog", 64, 96)
