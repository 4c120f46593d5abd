import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from mova import conversion
from mova.checkpoint import MODULES
from mova.conversion import convert
from mova.errors import BackendError, UserError
from mova.inspection import inspect_checkpoint
from mova.machine import GIB, Machine
from mova.models.fp8 import LAYERS, Fp8Linear
from mova.pipeline import MOVAPipeline
from mova.placement import Placement, place
from tests.test_checkpoint import shard
from tests.tiny import SHORT_RUN


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    """The golden checkpoint in fp8, and the lines reported."""
    folder, lines = tmp_path_factory.mktemp("converted") / "small", []
    convert(str(golden / "checkpoint"), folder, lines.append)
    return folder, lines


def parameters(pipeline):
    for component in MODULES:
        named = getattr(pipeline, component).named_parameters()
        yield from ((f"{component}.{name}", parameter) for name, parameter in named)


def assert_same_bits(ours, theirs):
    ours, theirs = dict(parameters(ours)), dict(parameters(theirs))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert tensor.dtype == theirs[key].dtype, key
        assert torch.equal(tensor.float(), theirs[key].float()), key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_converted_checkpoint_is_what_fp8_makes_of_the_original_bit_for_bit(converted, fresh, dtype):
    folder, _ = converted
    name = str(dtype).removeprefix("torch.")
    loaded = MOVAPipeline.from_pretrained(folder, torch_dtype=dtype)
    placed = fresh(dtype)
    for pipeline in (loaded, placed):
        place(pipeline, Placement("cpu", name, fp8=True))
        pipeline.set_progress_bar_config(disable=True)
    assert_same_bits(loaded, placed)
    # On a CPU the last bit of a product also depends on where in its file, mapped, a weight begins.
    for parameter in (p for each in (loaded, placed) for _, p in parameters(each)):
        parameter.data = parameter.data.clone()
    clips = [each(generator=torch.Generator().manual_seed(0), **SHORT_RUN) for each in (loaded, placed)]
    assert torch.equal(clips[0].frames, clips[1].frames)
    assert torch.equal(clips[0].audio, clips[1].audio)


def test_what_is_not_large_is_copied_and_the_rest_takes_half(converted, golden):
    folder, lines = converted
    for name in ("audio_dit", "text_encoder", "video_vae", "audio_vae", "scheduler", "tokenizer"):
        for file in (golden / "checkpoint" / name).iterdir():
            assert (folder / name / file.name).read_bytes() == file.read_bytes()
        assert f"{name}: as it was" in lines
    before, after = inspect_checkpoint(golden / "checkpoint"), inspect_checkpoint(folder)
    assert after.parameters == before.parameters
    for name in LAYERS:
        layers = [
            m for m in MOVAPipeline.from_pretrained(folder).components[name].modules() if type(m) is Fp8Linear
        ]
        saved = sum(layer.weight.numel() - layer.weight_scale.nbytes for layer in layers)
        width = 2 if before.contents[name].dtypes == ("BF16",) else 4
        large = sum(layer.weight.numel() for layer in layers)
        assert before.contents[name].size - after.contents[name].size == saved + (width - 2) * large


def test_a_sharded_checkpoint_keeps_its_shards_and_has_every_scale_in_its_index(
    checkpoint_copy, tmp_path, fresh
):
    shard(checkpoint_copy / "video_dit")
    convert(str(checkpoint_copy), tmp_path / "small", lambda line: None)
    (index,) = (tmp_path / "small" / "video_dit").glob("*.index.json")
    content = json.loads(index.read_text())
    assert len(set(content["weight_map"].values())) == 3
    assert "blocks.0.ffn.0.weight_scale" in content["weight_map"]
    placed = fresh(torch.bfloat16)
    place(placed, Placement("cpu", "bfloat16", fp8=True))
    assert_same_bits(MOVAPipeline.from_pretrained(tmp_path / "small", torch_dtype=torch.bfloat16), placed)


def test_it_knows_itself_as_fp8_and_what_the_device_makes_of_it_is_said(converted, golden):
    folder, _ = converted
    card = {"name": "a card", "vram": GIB, "ram": GIB, "cores": 2, "has_bfloat16": True}
    for device, capability, words in (
        ("cpu", None, "widened as they are used, which is slower"),
        ("mps", None, "rounded to fp8, which saves nothing here"),
        ("cuda", (8, 6), "widened as they are used, which is slower"),
        ("cuda", (8, 9), "with fp8 products"),
    ):
        machine = Machine(device=device, capability=capability, **card)
        chosen = inspect_checkpoint(folder).place(machine, 2**20, fp8=None)
        assert chosen.fp8
        assert words in chosen.why
    assert "fp8" not in inspect_checkpoint(golden / "checkpoint").place(machine, 2**20).why


def test_the_card_and_the_digests_belong_to_the_files(converted):
    folder, _ = converted
    card = (folder / "README.md").read_text()
    assert "# checkpoint in fp8" in card
    assert "base_model" not in card  # it was a folder, not a repo
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert len(done.stdout.splitlines()) == len(files) - 1


def test_a_card_of_a_repo_names_it_and_keeps_its_licence(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# MOVA\n")
    text = conversion.card("OpenMOSS-Team/MOVA-360p", tmp_path, "72.3 GiB", "43.3 GiB")
    assert "base_model: OpenMOSS-Team/MOVA-360p\nbase_model_relation: quantized\n" in text
    assert "license: apache-2.0" in text
    assert "43.3 GiB instead of 72.3 GiB" in text


@pytest.mark.parametrize("name", ["video_dit", "dual_tower_bridge", "text_encoder"])
def test_a_folder_that_was_cut_off_is_refused(converted, tmp_path, name):
    folder, _ = converted
    shutil.copytree(folder, tmp_path / "cut")
    weights = next((tmp_path / "cut" / name).glob("*.safetensors"))
    os.truncate(weights, weights.stat().st_size - 100)
    with pytest.raises(UserError, match=rf"{name}.* cannot be read .* delete it and download it again"):
        MOVAPipeline.from_pretrained(tmp_path / "cut")


def test_a_missing_scale_and_codes_of_another_type_are_refused(converted, tmp_path):
    folder, _ = converted
    shutil.copytree(folder, tmp_path / "broken")
    weights = next((tmp_path / "broken" / "video_dit").glob("*.safetensors"))
    key, held = "blocks.0.ffn.0.weight", load_file(weights)
    for broken, complaint in (
        ({name: t for name, t in held.items() if name != f"{key}_scale"}, f"{key}_scale is missing"),
        (held | {key: held[key].bfloat16()}, f"{key} is torch.bfloat16, expected torch.float8_e4m3fn"),
    ):
        save_file(broken, weights)
        with pytest.raises(UserError, match=complaint):
            MOVAPipeline.from_pretrained(tmp_path / "broken")


def test_a_conversion_that_is_stopped_leaves_nothing(golden, tmp_path):
    def stop(line):
        if line.startswith("video_dit_2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(golden / "checkpoint"), tmp_path / "small", stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_conversion_leaves_is_no_checkpoint(golden, tmp_path):
    """Without the index, which is written last, also if the clean-up never ran."""
    left = tmp_path / "left"

    def stop(line):
        part = next(tmp_path.glob(".mova-*"))
        if line.startswith("tokenizer"):
            part.rename(left)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(golden / "checkpoint"), tmp_path / "small", stop)
    with pytest.raises(UserError, match=r"model_index\.json cannot be read"):
        MOVAPipeline.from_pretrained(left)


def test_what_cannot_be_converted_is_refused_before_a_file_is_written(
    converted, golden, tmp_path, monkeypatch
):
    folder, _ = converted
    for model, out, sentence in (
        (golden / "checkpoint", folder, "exists; choose the name of a new folder"),
        (folder, tmp_path / "again", "is in fp8 already"),
    ):
        with pytest.raises(UserError, match=sentence):
            convert(str(model), out, lambda line: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(BackendError, match=r"its disk has 0\.0 MiB free"):
        convert(str(golden / "checkpoint"), tmp_path / "full", lambda line: None)
    assert list(tmp_path.iterdir()) == []
