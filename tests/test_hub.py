import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mova import checkpoint
from mova.errors import UserError
from mova.pipeline import MOVAPipeline
from tests.hub_server import running_hub
from tests.ports import closed_address

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub(checkpoint_copy):
    with running_hub(checkpoint_copy) as server:
        yield server


@pytest.fixture
def options(hub, tmp_path):
    return {"endpoint": hub.url, "cache_dir": tmp_path / "cache"}


def run(code, endpoint, tmp_path):
    """Run Python code with this Hub and an empty cache: (exit code, output, messages)."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_repo_id_is_downloaded_once_and_loads_as_its_folder(hub, options, golden):
    pipeline = MOVAPipeline.from_pretrained("org/tiny", **options)
    expected = load_file(golden / "checkpoint" / "audio_dit" / "diffusion_pytorch_model.safetensors")
    loaded = pipeline.audio_dit.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())
    served = dict(hub.served)
    MOVAPipeline.from_pretrained("org/tiny", **options)
    assert hub.served == served


def test_components_that_are_given_are_not_downloaded(hub, options):
    MOVAPipeline.from_pretrained("org/tiny", text_encoder=None, tokenizer=None, **options)
    assert not any(name.startswith(("text_encoder/", "tokenizer/")) for name in hub.served)


def test_a_download_that_broke_off_goes_on_and_says_so_offline(options, tmp_path):
    patterns = ["model_index.json", "*/*.json"]
    checkpoint.resolve("org/tiny", patterns, **options)
    with pytest.raises(
        UserError, match=r"org/tiny is not complete on this machine and the Hub cannot be reached"
    ):
        MOVAPipeline.from_pretrained("org/tiny", local_files_only=True, **options)
    MOVAPipeline.from_pretrained("org/tiny", **options)
    offline = options | {"endpoint": closed_address()}
    assert MOVAPipeline.from_pretrained("org/tiny", **offline).config.boundary_ratio == 0.9
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_repo_that_lacks_a_component_says_which(hub, options):
    shutil.rmtree(hub.folder / "audio_vae")
    with pytest.raises(UserError, match="no folder audio_vae/"):
        MOVAPipeline.from_pretrained("org/tiny", **options)


@pytest.mark.parametrize(
    ("repo", "options", "sentence"),
    [
        ("org/missing", {}, r"no folder org/missing here, nor a repo of that name .*`hf auth login`"),
        ("org/gated", {}, r"org/gated is gated; ask for access"),
        (
            "org/tiny",
            {"revision": "nowhere", "endpoint": "down"},
            r"the Hub cannot be reached \(.*refused.*\)",
        ),
        ("some//thing", {}, r"neither a folder nor a repo id"),
    ],
)
def test_a_repo_that_cannot_be_had_is_one_sentence(hub, tmp_path, repo, options, sentence):
    endpoint = closed_address() if options.pop("endpoint", None) else hub.url
    with pytest.raises(UserError, match=sentence) as caught:
        MOVAPipeline.from_pretrained(repo, endpoint=endpoint, cache_dir=tmp_path / "cache", **options)
    assert "\n" not in str(caught.value)


def test_inspect_fetches_configs_and_headers_and_leaves_the_weights(hub, tmp_path):
    large = hub.folder / "video_dit" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(large) | {"filler": torch.zeros(2_000_000)}
    save_file(tensors, large, metadata={"header": "in two requests" * 10_000})
    code = """
        from mova.cli.main import main
        assert main(["inspect", "org/tiny"]) == 0
        assert main(["inspect", "org/missing"]) == 2
    """
    code, output, messages = run(code, hub.url, tmp_path)
    assert code == 0, messages
    assert "video_dit           2,151,728" in output
    assert messages.splitlines()[-1].startswith("error: there is no folder org/missing here")
    assert hub.served[f"video_dit/{large.name}"] < 300_000 < large.stat().st_size
    assert not list(tmp_path.glob("home/**/*.safetensors"))


def test_the_default_hub_is_the_one_of_the_environment_and_a_full_disk_is_a_sentence(hub, tmp_path):
    code = """
        import resource
        from mova.pipeline import MOVAPipeline
        from mova.errors import BackendError
        print(MOVAPipeline.from_pretrained("org/tiny").config.boundary_ratio)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # as a disk with that much left
        try:
            MOVAPipeline.from_pretrained("org/tiny", cache_dir="full")
        except BackendError as error:
            print(error)
    """
    code, output, messages = run(code, hub.url, tmp_path)
    assert code == 0, messages
    loaded, sentence = output.splitlines()
    assert loaded == "0.9"
    assert sentence.startswith("the disk is full, org/tiny cannot be stored (File too large)")
    assert "set HF_HOME" in sentence


def test_a_hub_that_is_down_costs_seconds_and_one_sentence(tmp_path):
    began = time.monotonic()
    code, output, messages = run(
        "import sys; from mova.cli.main import main; sys.exit(main(['inspect', 'org/tiny']))",
        closed_address(),
        tmp_path,
    )
    assert (code, output) == (2, "")
    assert messages.count("\n") == 1
    assert "error: org/tiny is not complete on this machine and the Hub cannot be reached" in messages
    assert time.monotonic() - began < 60
