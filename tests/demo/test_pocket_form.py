"""What the page says and fills in where pocket makes the clips. Nothing is loaded."""

import pytest

from demo.costs import Costs
from demo.examples import read_examples
from demo.form import Form
from demo.html import sentence
from demo.restore import form_of
from demo.service import DemoService
from demo.settings import Settings, model_note
from mova import catalog
from mova.request import GenerationRequest

POCKET = catalog.MODELS["pocket"]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = DemoService(Settings(model="pocket", device="cpu", outputs=tmp_path_factory.mktemp("service")))
    service.costs.device_name, service.costs.cores = "CPU", 2
    yield service
    service.close()


@pytest.mark.parametrize(("preset", "seconds"), [("quick", 6), ("standard", 11.5), ("full", 17)])
def test_the_estimate_holds_the_seconds_of_a_clip_on_two_idle_cores(preset, seconds):
    """One slow core took 0.68 s a forward, two a step, and 18.5 for coding with a VAE 2.8 times as slow."""
    costs = Costs(Settings())
    costs.device_name, costs.cores = "CPU", 2
    request = GenerationRequest("-", **POCKET.defaults(POCKET.preset(preset)))
    assert costs.seconds(request, POCKET.source) == pytest.approx(seconds, rel=0.1)


def test_what_pocket_never_saw_is_doubted_and_what_it_saw_is_not(service):
    fresh = Form(
        prompt="-",
        model="pocket",
        seconds=2.04,
        num_inference_steps=12,
        guidance_scale=3,
        bridge_guidance_scale=3,
    )
    assert service.describe(fresh)[2] == ""
    for wish in ({"shape": "tall"}, {"seconds": 4.0}, {"exact_size": "256x144"}):
        caution = service.describe(Form(**vars(fresh) | wish))[2]
        assert caution == "Works best at 224×128, 2 s."
    assert service.describe(Form(**vars(fresh) | {"model": "360p", "shape": "tall", "seconds": 8}))[2] == ""


def test_a_clip_brings_back_its_preset_where_it_has_one(service):
    for preset in POCKET.presets:
        made = POCKET.defaults(preset) | {"prompt": "a ball"}
        form = form_of(service, made, None, "pocket")
        assert form.preset == preset.name
        request = form.request(Settings())
        assert {name: getattr(request, name) for name in made} == made
        assert form_of(service, made | {"num_inference_steps": 5}, None, "pocket").preset is None
        assert form_of(service, made | {"num_frames": 25}, None, "pocket").preset is None


def test_a_clip_brings_back_what_the_form_does_not_show(service):
    changes = {"solver": "unipc", "guidance_interval": (0.2, 0.9), "audio_guidance_scale": 1.5}
    form = form_of(service, {"prompt": "a ball", "seed": 1} | changes, None, "pocket")
    assert form.preset is None
    request = form.request(Settings())
    assert {name: getattr(request, name) for name in changes} == changes


def test_only_the_small_model_is_excused():
    assert "words are wrong" in model_note("pocket")
    assert model_note("360p") == ""


def test_every_example_that_comes_along_has_a_clip_and_one_lacks_a_picture():
    examples = read_examples(Settings().examples)
    assert {example.family for example in examples} == {"Speech", "Sound effects", "Music"}
    for example in examples:
        assert example.clip.is_file()
        assert example.image is None or example.image.is_file()
    assert any(example.image is None for example in examples)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the prompt is empty", "The prompt is empty"),
        ("holiday.png is damaged", "holiday.png is damaged"),
        ("seed=-5 must be from 0", "seed=-5 must be from 0"),
        ("MOVA needs a GPU", "MOVA needs a GPU"),
    ],
)
def test_an_error_begins_like_a_sentence_unless_with_a_name(text, shown):
    assert sentence(text) == shown
