import re
from pathlib import Path

import gradio
import pytest
import yaml

from demo.settings import VARIABLES, Settings, choose_model, describe_model, offered_models
from mova import catalog, machine
from mova.backends.remote import check_supported
from mova.errors import UserError
from mova.machine import GIB, Machine
from mova.request import GenerationRequest

SMALLEST = catalog.SMALL_MODEL
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def test_an_empty_environment_gives_the_defaults_and_a_space_is_public():
    assert Settings.read({}) == Settings(keep_hours=720)
    space = Settings.read({"SPACE_ID": "me/mova", "SPACES_ZERO_GPU": "1"})
    assert (space.is_public, space.is_zero_gpu, space.keep_hours) == (True, True, 24)
    assert Settings.read({"SPACES_ZERO_GPU": "true"}).is_zero_gpu
    assert not Settings.read({"SPACES_ZERO_GPU": "0"}).is_zero_gpu


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MOVA_SIZE", "big", "MOVA_SIZE: size 'big' is not WIDTHxHEIGHT"),
        ("MOVA_QUEUE", "many", "MOVA_QUEUE='many' is not a whole number"),
        ("MOVA_QUEUE", "-1", "must be from 0 to 1000"),
        ("MOVA_KEEP_HOURS", "nan", "must be from"),
        ("MOVA_BACKEND", "cloud", "give local or remote"),
        ("MOVA_BACKEND", "remote", "needs the server's address in MOVA_REMOTE_URL"),
        ("MOVA_FP8", "maybe", "neither on nor off"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(name, value, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        Settings.read({name: value})


def test_a_released_model_runs_on_all_gpus_or_on_those_named_and_pocket_on_one():
    pocket, released = (catalog.MODELS[name].source for name in (SMALLEST, "360p"))
    assert Settings().gpus_for(released, 4) == 4
    assert Settings().gpus_for(released, 0) == 1
    assert Settings.read({"MOVA_GPUS": "2"}).gpus_for(released, 4) == 2
    assert Settings(gpus=2).gpus_for(pocket, 4) == 1
    assert Settings(device="cuda:1").gpus_for(released, 4) == 1
    assert Settings(is_zero_gpu=True).gpus_for(released, 4) == 1


def test_the_readme_lists_every_variable():
    text = (ROOT / "docs" / "page.md").read_text(encoding="utf-8")
    assert [v.name for v in VARIABLES if v.name.startswith("MOVA_") and f"`{v.name}`" not in text] == []


def test_the_space_is_described_as_the_platform_takes_it():
    front = yaml.safe_load(README.read_text(encoding="utf-8").split("---")[1])
    assert front["sdk_version"] == gradio.__version__
    assert len(front["short_description"]) <= 60
    assert (README.parent / front["app_file"]).is_file()
    assert (README.parent / front["thumbnail"]).is_file()
    assert front["python_version"] == "3.12"
    assert (README.parent / "packages.txt").read_text().split() == ["ffmpeg"]


def test_a_key_is_not_shown():
    environment = {"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "http://gpu:3000", "HF_TOKEN": "secret"}
    keys = {
        "MOVA_REMOTE_API_KEY": "secret",
        "MOVA_LLM_BASE_URL": "http://llm/v1",
        "MOVA_LLM_API_KEY": "secret",
        "MOVA_IMAGE_BASE_URL": "http://image/v1",
        "MOVA_IMAGE_API_KEY": "secret",
    }
    assert "secret" not in repr(Settings.read(environment | keys))


def test_an_engine_is_offered_presets_that_it_can_follow():
    settings = Settings.read({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "http://gpu:3000"})
    model = describe_model("360p", settings)
    for preset in model.presets:
        request = GenerationRequest("a bell", **model.defaults(preset))
        check_supported(request)
        assert request.num_inference_steps == catalog.MODELS["360p"].preset(preset.name).num_inference_steps


def test_a_checkpoint_by_path_has_the_size_it_is_said_to_have(golden):
    path = str(golden / "checkpoint")
    model = describe_model(path, Settings(size=(32, 64), seconds=0.71))
    assert (model.height, model.width, model.num_frames) == (32, 64, 17)
    assert describe_model("360p", Settings(size=(32, 64))) == catalog.MODELS["360p"]


@pytest.mark.parametrize(
    ("gpu", "expected", "sentence"),
    [
        (("cpu", "CPU", 16 * GIB), SMALLEST, "there is no NVIDIA GPU"),
        (("cuda", "RTX 4090", 24 * GIB), "360p", "MOVA-360p on RTX 4090 (24 GiB)"),
        (("cuda", "GTX 1050", 4 * GIB), SMALLEST, "needs an NVIDIA GPU with 12 GB"),
    ],
)
def test_the_machine_decides_the_model_and_says_why(monkeypatch, gpu, expected, sentence):
    monkeypatch.setattr(Machine, "installed", lambda: Machine(*gpu, 128 * GIB, 8, has_bfloat16=True))
    monkeypatch.setattr(machine, "RELEASED_RAM", 0)
    name, why = choose_model(Settings())
    assert name == expected
    assert sentence in why
    assert choose_model(Settings(model="720p"))[0] == "720p"


def test_a_public_page_offers_one_model_and_a_gpu_the_released_ones():
    assert offered_models("360p", Settings(is_public=True)) == ["360p"]
    assert offered_models("360p", Settings())[:2] == ["360p", "720p"]
    assert offered_models("/a/path", Settings()) == ["/a/path"]
