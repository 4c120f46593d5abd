"""A first frame painted from the words: when it is offered, how it comes, and what the form does with it."""

from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from demo.form import Form
from demo.generate_form import GenerateForm
from demo.service import DemoService
from demo.settings import Settings
from mova.errors import UserError
from mova.prompting.first_frame import LocalPainter, ServerPainter
from tests.prompting.chat_server import error
from tests.prompting.test_first_frame import paint
from tests.prompting.tiny_models import make_painting_model

WORDS = "A green wall.\n\nIt fades.\n\nThe audio shows a hum. This video has no subtitles."


@pytest.fixture
def build(golden, tmp_path):
    """Makes the form of a page with a painter."""
    services = []

    def build(painter, **settings):
        tiny = {"model": str(golden / "checkpoint"), "size": (32, 64), "seconds": 0.71}
        services.append(DemoService(Settings(**tiny, outputs=tmp_path, painter=painter, **settings)))
        with gr.Blocks():
            return GenerateForm(services[-1])

    yield build
    for service in services:
        service.close()


@pytest.fixture
def page(build, scripted):
    scripted.always = paint
    return build(ServerPainter(scripted.endpoint()))


@pytest.fixture
def form(golden):
    return Form(prompt=WORDS, model=str(golden / "checkpoint"))


def click(page, form):
    """The updates that a click on Paint ends with, after it was seen to have begun."""
    begun, ended = page.paint(page.fill(form), None)
    assert begun[page.words.paint]["interactive"] is False
    assert ended[page.words.paint]["interactive"] is True
    return ended


def is_offered(page, form):
    shown = page.words.show(form, ())
    is_shown = shown[page.words.box]["visible"]
    return is_shown and shown[page.words.paint]["visible"]


def test_it_is_offered_where_a_painter_is_configured_and_the_clip_has_no_picture(build, page, form):
    assert is_offered(page, form)
    for other in (
        {"prompt": " "},
        {"image": "a.png"},
        {"added": "a.mp4"},
        {"model": "pocket", "prompt": "a red ball falls"},
    ):
        assert not is_offered(page, replace(form, **other))
    assert not is_offered(build(None), form)


def test_a_painted_picture_becomes_the_forms_own(page, form, scripted):
    painted = click(page, form)[page.painted]
    assert scripted.requests[0][2]["prompt"] == "A green wall."
    taken = page.take_painted(page.fill(form) | {page.painted: painted})
    assert taken[page.painted] is None
    with_picture = replace(form, image=taken[page.image], crop_position=taken[page.crop_position])
    assert Image.open(with_picture.image).getpixel((5, 5)) == (10, 200, 30)
    assert with_picture.request(page.service.settings).image == Path(taken[page.image])
    assert not is_offered(page, with_picture)
    shown = page.picture.show(with_picture)
    assert "Painted from your words." in shown[page.picture.note]
    assert shown[page.picture.another]["visible"]
    again = click(page, with_picture)[page.painted]
    another = page.take_painted(page.fill(with_picture) | {page.painted: again})
    assert another[page.image] != with_picture.image


def test_only_a_painted_picture_can_be_exchanged_for_another(page, form, golden):
    own = replace(form, image=str(golden / "image.png"))
    assert not page.picture.show(own)[page.picture.another]["visible"]


def test_what_was_put_in_meanwhile_stays(page, form, golden):
    painted = click(page, form)[page.painted]
    for own in ({"image": str(golden / "image.png")}, {"added": "a.mp4"}, {"model": "pocket"}):
        values = page.fill(replace(form, **own)) | {page.painted: painted}
        assert page.take_painted(values) == {page.painted: None}


def test_faults_are_sentences_and_leave_the_form_as_it_is(page, form, scripted):
    scripted.always = error(401, "no")
    ended = click(page, form)
    assert "refused the key" in ended[page.note]
    assert ended[page.painted] is None
    assert "prompt is empty" in click(page, replace(form, prompt=""))[page.note]
    assert len(scripted.requests) == 1


def test_strangers_paint_no_more_often_than_they_have_prompts_written(build, form, scripted):
    scripted.always = paint
    page = build(ServerPainter(scripted.endpoint()), is_public=True)
    notes = [click(page, form)[page.note] for _ in range(7)]
    assert notes[:6] == [""] * 6
    assert "6 times a minute is the limit" in notes[6]
    assert len(scripted.requests) == 6


@pytest.mark.slow
def test_a_model_of_this_machine_paints_another_picture_each_time_in_a_process_of_its_own(
    build, form, tmp_path
):
    page = build(LocalPainter(str(make_painting_model(tmp_path))))
    pictures = [Image.open(click(page, form)[page.painted][1]) for _ in range(2)]
    assert [picture.size for picture in pictures] == [(64, 32)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert page.service.text_worker.pid


def test_zerogpu_has_no_gpu_for_a_painter():
    painters = {"MOVA_IMAGE_MODEL": "someone/painter"}
    assert Settings.read(painters).painter == LocalPainter("someone/painter")
    with pytest.raises(UserError, match="set MOVA_IMAGE_BASE_URL too"):
        Settings.read(painters | {"SPACES_ZERO_GPU": "1"})
    served = painters | {"MOVA_IMAGE_BASE_URL": "http://localhost:1/v1"}
    assert isinstance(Settings.read(served | {"SPACES_ZERO_GPU": "1"}).painter, ServerPainter)
