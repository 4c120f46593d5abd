"""The form against people, and against programs that send what no form would."""

import io
import math
import struct
import zipfile
import zlib
from dataclasses import replace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from demo.drafts import Drafts
from demo.form import AdapterChoice, Form, describe_size, prepare_image
from demo.generate_form import GenerateForm
from demo.service import DemoService
from demo.settings import Settings
from mova.errors import UserError


@pytest.fixture(scope="module")
def settings(golden):
    return Settings(model=str(golden / "checkpoint"), size=(32, 64), seconds=0.71)


@pytest.fixture
def form(settings):
    return Form(prompt="a bell rings", model=settings.model, seconds=0.7)


def with_values(form, **values):
    return Form(**{**vars(form), **values})


def test_what_a_preset_decides_is_in_the_request_with_the_visitors_own_adapters(form, settings):
    preset, own = ("/toolkit/turbo.safetensors", 1.0), AdapterChoice(name="org/a")
    further = {"solver": "unipc", "guidance_interval": (0.5, 1.0), "adapters": (preset,)}
    request = with_values(form, further=further, adapters=(own,)).request(settings)
    assert (request.solver, request.guidance_interval) == ("unipc", (0.5, 1.0))
    assert request.adapters == (preset, ("org/a", 1.0))
    with pytest.raises(UserError, match="ends before it starts") as caught:
        with_values(form, further={"guidance_interval": (1.0, 0.5)}).request(settings)
    assert caught.value.field == "guidance_interval"


def test_wishes_become_valid_values(form, settings):
    request = form.request(settings)
    assert (request.height, request.width, request.num_frames) == (32, 64, 17)
    assert describe_size(request) == "64×32 pixels (2:1), 0.7 s (17 frames)"
    tall = with_values(form, shape="tall").request(settings)
    assert (tall.height, tall.width) == (64, 32)
    square = with_values(form, shape="square").request(settings)
    assert square.height == square.width == 48
    exact = with_values(form, exact_size=" 96x48 ").request(settings)
    assert (exact.height, exact.width) == (48, 96)


def test_a_seed_is_drawn_or_kept(form, settings):
    assert with_values(form, random_seed=False, seed=7).request(settings).seed == 7
    assert form.request(settings).seed != form.request(settings).seed


def test_the_shape_of_the_picture_is_taken_within_reason(form, settings, tmp_path):
    Image.new("RGB", (1000, 10)).save(tmp_path / "wide.png")
    request = with_values(form, shape="image", image=str(tmp_path / "wide.png")).request(settings)
    assert request.width / request.height <= 4


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("prompt", "", "the prompt is empty"),
        ("negative_prompt", "n" * 30_000, "the negative prompt has 30000 characters"),
        ("model", "../../etc/passwd", "there is no model"),
        ("model", "/etc", "is not one of this page"),
        ("shape", "../x", "is not known"),
        ("fit", "stretch", "is not known"),
        ("seconds", math.nan, "is not a number"),
        ("seconds", 1e9, "from 0.2 to 20"),
        ("seconds", "long", "is not a number"),
        ("seconds", None, "is not a number"),
        ("seed", -1, "seed=-1"),
        ("seed", math.nan, "is not a number"),
        ("seed", 1.5, "whole number"),
        ("seed", 2.0**60, "out of range"),
        ("num_inference_steps", 0, "from 1 to 100"),
        ("num_inference_steps", math.inf, "from 1 to 100"),
        ("guidance_scale", math.nan, "is not a number"),
        ("bridge_guidance_scale", 1e9, "from 0 to 30"),
        ("video_shift", -3, "from 0.01 to 100"),
        ("exact_size", "100x100", "nearest: 96x96"),
        ("exact_size", "2048x2048", "over four times"),
        ("crop_position", 1.5, "from 0 to 1"),
        ("crop_position", math.nan, "is not a number"),
    ],
)
def test_what_cannot_be_is_laid_on_its_field(form, settings, field, value, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        with_values(form, **{field: value, "random_seed": field != "seed"}).request(settings)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("part", "choice", "sentence"),
    [
        ("name", {"name": "/etc/passwd"}, "not a repo of the Hub"),
        ("name", {"name": "mova/media"}, "not a repo of the Hub"),
        ("name", {"name": "../.."}, "not a repo of the Hub"),
        ("name", {"name": "trained:../mine"}, "not a repo of the Hub"),
        ("audio", {"name": "org/name", "audio": 50}, "from -2 to 2"),
        ("bridge", {"name": "org/name", "bridge": math.nan}, "is not a number"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_laid_on_its_own_place(form, settings, part, choice, sentence):
    adapters = (AdapterChoice(), AdapterChoice(**choice))
    with pytest.raises(UserError, match=sentence) as caught:
        with_values(form, adapters=adapters).request(settings)
    assert caught.value.field == f"adapter_1_{part}"


def test_the_form_that_fills_the_page_is_read_back_from_it(form, settings, tmp_path):
    """What the browser sends is the value that each component was given."""
    adapters = (AdapterChoice(name="org/a", audio=0.0), AdapterChoice(file="/tmp/b.safetensors"))
    filled = with_values(form, random_seed=False, seed=1, crop_position=0.25, adapters=adapters)
    with gr.Blocks():
        page = GenerateForm(DemoService(replace(settings, outputs=tmp_path)))
    updates = page.fill(filled)
    assert set(updates) == set(page.filled)
    read = page.read(updates)
    assert read.request(settings) == filled.request(settings)
    assert read.crop_position == 0.25
    assert read.request(settings).adapters == (
        ("org/a", {"video": 1.0, "audio": 0.0, "bridge": 1.0}),
        ("/tmp/b.safetensors", 1.0),
    )
    assert page.component("adapter_1_audio") is page.adapters[1].audio
    assert {page.component(name) for name in vars(filled) if name != "adapters"} == set(page.own.values())


def test_a_draft_is_completed_bit_by_bit_and_leaves_out_files_that_are_gone(tmp_path):
    drafts = Drafts()
    assert drafts.form("me") is None
    drafts.keep("me", {"prompt": "a bell", "model": "360p", "image": str(tmp_path / "gone.png")})
    drafts.keep("me", {"prompt": "a drum"})
    assert drafts.form("me") == Form(prompt="a drum", model="360p")
    assert drafts.form("you") is None


def test_a_prompt_that_came_with_a_clip_is_kept_and_another_is_completed_for_pocket():
    idea = "a red toy piano plays C E G"
    pocket = Form(prompt=idea, model="pocket", seconds=2.04, random_seed=False, seed=8, guidance_scale=2)
    settings = Settings(model="pocket")
    assert pocket.request(settings).prompt.startswith("A red toy piano with a smiling face")
    loaded = replace(pocket, as_written=idea).request(settings)
    assert (loaded.prompt, loaded.seed) == (idea, 8)
    edited = replace(pocket, as_written=idea, prompt=f"{idea} E C")
    assert len({edited.request(settings).seed for _ in range(3)}) == 3  # its seed was for the other prompt
    outside = replace(pocket, prompt="a dog runs on the beach")
    assert outside.request(settings).prompt == outside.prompt
    assert replace(pocket, model="360p").request(Settings(model="360p")).prompt == idea


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20_000 * 2501), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def polyglot() -> bytes:
    """A GIF that is a zip as well."""
    picture, archive = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(picture, "GIF")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.py", "print(1)")
    return picture.getvalue() + archive.getvalue()


def test_a_hostile_picture_is_a_sentence_and_is_not_kept(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    with pytest.raises(UserError, match="too many pixels"):
        prepare_image(tmp_path / "bomb.png", tmp_path / "first.png")
    assert not (tmp_path / "first.png").exists()


def test_of_a_polyglot_only_the_picture_is_kept(tmp_path):
    (tmp_path / "both.gif").write_bytes(polyglot())
    assert prepare_image(tmp_path / "both.gif", tmp_path / "first.png") == ""
    assert not zipfile.is_zipfile(tmp_path / "first.png")
    assert Image.open(tmp_path / "first.png").size == (40, 30)


def test_a_large_picture_is_scaled_and_that_is_said_and_its_metadata_goes(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = "where I live"
    Image.fromarray(np.zeros((1500, 3000, 3), np.uint8)).save(tmp_path / "large.jpg", exif=exif)
    note = prepare_image(tmp_path / "large.jpg", tmp_path / "first.png")
    assert note == "the image was 3000x1500 and is used at 2048x1024"
    assert b"where I live" not in (tmp_path / "first.png").read_bytes()
