import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_trainer.__main__ import main
from mova.adapters.files import Adapter, AdapterMetadata, LoraUpdate, write_adapter
from mova.adapters.sources import read_adapter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def source(golden):
    return golden / "lora_upstream_accelerate"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `adapter ...` in an empty folder: (exit code, output, messages)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["adapter", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def updates(source):
    return {key: lora.scale * lora.up @ lora.down for key, lora in read_adapter(source).layers.items()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in ours)


def test_info_says_what_a_file_is_for(run, source):
    code, output, _ = run("info", source)
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines] == [
        "video_dit",
        "video_dit_2",
        "audio_dit",
        "dual_tower_bridge",
    ]
    assert "32 layers, rank 4, scale 2" in lines[0]


def test_info_as_json_has_words_base_and_recipe(run):
    layers = {"audio_dit.blocks.0.ffn.0": LoraUpdate(torch.ones(2, 4), torch.ones(8, 2), 1.0)}
    write_adapter(Path("a.safetensors"), Adapter(layers, AdapterMetadata("360p", ("zorp",), {"steps": 3})))
    described = json.loads(run("info", "a.safetensors", "--json")[1])
    assert described == {
        "towers": {
            "audio_dit": {
                "layers": 1,
                "ranks": [2],
                "scales": [0.5],
                "norm": pytest.approx(32**0.5),
                "dtype": "float32",
                "bytes": 96,
            }
        },
        "base_model": "360p",
        "trigger_words": ["zorp"],
        "recipe": {"steps": 3},
        "turbo": None,
    }
    text = run("info", "a.safetensors")[1]
    assert 'trained on 360p\ntrigger words: zorp\nrecipe: {"steps": 3}\n' in text


def test_upstreams_folder_becomes_one_file_and_goes_to_kohya_and_back(run, source):
    assert run("convert", source, "--out", "ours.safetensors")[0] == 0
    code, output, _ = run("convert", "ours.safetensors", "--to", "kohya", "--out", "k/style.safetensors")
    names = [f"k/style-{part}.safetensors" for part in ("high", "low", "audio", "bridge")]
    assert (code, output.split()) == (0, names)
    assert "lora_unet_blocks_0_self_attn_q.lora_down.weight" in load_file(names[0])
    assert run("convert", "k", "--out", "back.safetensors")[0] == 0
    assert_same(updates("back.safetensors"), updates(source))


def test_a_wan_lora_is_told_its_expert_and_alpha(run, source):
    state = load_file(write_ours(run, source))
    video = {key.removeprefix("video_dit."): t for key, t in state.items() if key.startswith("video_dit.")}
    save_file(video, "wan.safetensors")
    code, _, messages = run("convert", "wan.safetensors", "--out", "a.safetensors")
    assert (code, "--expert high|low|video|audio" in messages) == (2, True)
    options = ("--expert", "video", "--alpha", "8", "--out", "a.safetensors")
    assert run("convert", "wan.safetensors", *options)[0] == 0
    found, expected = updates("a.safetensors"), updates(source)
    assert all(
        torch.equal(found[f"{tower}.{key}"], expected[f"video_dit.{key}"])
        for tower in ("video_dit", "video_dit_2")
        for key in {name.rpartition(".lora_")[0] for name in video}
    )


def write_ours(run, source):
    run("convert", source, "--out", "ours.safetensors", "--overwrite")
    return "ours.safetensors"


def test_strip_scale_and_merge_undo_each_other(run, source):
    whole = updates(source)
    assert run("strip", source, "--without", "audio, bridge", "--out", "look.safetensors")[0] == 0
    assert run("strip", source, "--without", "video", "--out", "sound.safetensors")[0] == 0
    assert (
        run("scale", "sound.safetensors", "--by", "audio=0.5,bridge=4", "--out", "half.safetensors")[0] == 0
    )
    merged = (
        "merge",
        "look.safetensors",
        "half.safetensors:audio=2,bridge=0.25",
        "--out",
        "both.safetensors",
    )
    assert run(*merged)[0] == 0
    assert_same(updates("both.safetensors"), whole)


def test_merging_to_a_rank_cuts_it(run, source):
    ours = write_ours(run, source)
    assert run("merge", ours, f"{ours}:0.5", "--rank", "4", "--out", "m.safetensors")[0] == 0
    adapter = read_adapter("m.safetensors")
    assert {lora.rank for lora in adapter.layers.values()} == {4}
    expected = updates(source)
    for key, delta in updates("m.safetensors").items():  # twice the same directions: nothing is lost
        assert torch.allclose(delta, 1.5 * expected[key], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["info", "gone.safetensors"], "cannot be read"),
        (["scale", "SOURCE", "--by", "loud", "--out", "a.safetensors"], "--by loud is not a strength"),
        (["scale", "SOURCE", "--by", "0", "--out", "a.safetensors"], "use strip"),
        (["strip", "SOURCE", "--without", "sound", "--out", "a.safetensors"], "'sound' is not a part"),
        (["merge", "SOURCE", "--rank", "0", "--out", "a.safetensors"], "--rank 0 must be 1 or more"),
        (["convert", "SOURCE", "--out", "a.pt"], "must end in .safetensors"),
        (["convert", "SOURCE", "--out", "taken.safetensors"], "exists; choose another name"),
        (["convert", "SOURCE", "--to", "kohya", "--out", "k.safetensors"], "k-audio.safetensors exists"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(run, source, arguments, sentence):
    for name in ("taken", "k-audio"):
        Path(f"{name}.safetensors").write_text("mine")
    code, output, messages = run(*(source if each == "SOURCE" else each for each in arguments))
    assert (code, output) == (2, "")
    assert messages.startswith("error: ")
    assert sentence in messages
    assert sorted(path.name for path in Path().iterdir()) == ["k-audio.safetensors", "taken.safetensors"]


def test_the_command_runs_as_a_module(tmp_path, source):
    shutil.copytree(source, tmp_path / "a")
    done = subprocess.run(
        [sys.executable, "-m", "lora_trainer", "adapter", "info", tmp_path / "a"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "audio_dit" in done.stdout
