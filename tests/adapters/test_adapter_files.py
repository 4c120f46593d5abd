import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mova.adapters import files
from mova.adapters.files import Adapter, AdapterMetadata, LoraUpdate, write_adapter
from mova.adapters.sources import read_adapter
from mova.errors import BackendError, UserError
from tests.disk import files_of_at_most
from tests.tiny import dual_tower

Q, K = "video_dit.blocks.0.self_attn.q", "video_dit.blocks.0.self_attn.k"
CARD = AdapterMetadata(
    "OpenMOSS-Team/MOVA-360p", ("a zorp", "条纹"), {"steps": 300, "audio_weight": 0.2, "clips": ["a"]}
)


def lora(rank=3, alpha=6.0, rslora=False, size=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LoraUpdate(
        torch.randn(rank, size, generator=generator),
        torch.randn(size, rank, generator=generator),
        alpha,
        rslora,
    )


def assert_equal(found, expected):
    assert found.layers.keys() == expected.layers.keys()
    for key, each in expected.layers.items():
        other = found.layers[key]
        assert torch.equal(other.down, each.down)
        assert torch.equal(other.up, each.up)
        assert (other.alpha, other.rslora) == (each.alpha, each.rslora)
    assert found.metadata == expected.metadata


@pytest.mark.parametrize("rslora", [False, True])
def test_what_is_written_is_read_again_with_ranks_alphas_and_card(tmp_path, rslora):
    layers = {
        Q: lora(5, 5.0, rslora),
        K: lora(3, 7.5, rslora),
        "audio_dit.blocks.1.ffn.2": lora(2, 1.0, seed=1),
        "dual_tower_bridge.audio_to_video_conditioners.0.inner.o": lora(1, 16.0, rslora),
    }
    adapter = Adapter(layers, CARD)
    write_adapter(tmp_path / "a.safetensors", adapter)
    assert_equal(read_adapter(tmp_path / "a.safetensors"), adapter)


def test_the_header_is_peft_config_by_tower_and_a_card(tmp_path):
    write_adapter(tmp_path / "a.safetensors", Adapter({Q: lora(8, 4.0), K: lora(2, 4.0)}, CARD))
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["lora_adapter_metadata"]) == {
        "video_dit.r": 8,
        "video_dit.lora_alpha": 4.0,
        "video_dit.use_rslora": False,
        "video_dit.target_modules": ["blocks.0.self_attn.k", "blocks.0.self_attn.q"],
        "video_dit.rank_pattern": {"blocks.0.self_attn.k": 2},
        "video_dit.alpha_pattern": {},
    }
    assert json.loads(header["mova_adapter"]) == {
        "version": 1,
        "base_model": "OpenMOSS-Team/MOVA-360p",
        "trigger_words": ["a zorp", "条纹"],
        "recipe": CARD.recipe,
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_diffusers_own_loader_reads_our_file_with_its_scale(tmp_path, rslora):
    first, second = lora(3, 6.0, rslora), lora(2, 1.0, rslora, seed=1)
    write_adapter(tmp_path / "a.safetensors", Adapter({Q: first, K: second}))
    tower = dual_tower().video_dit
    weights = {name: getattr(tower.blocks[0].self_attn, name).weight.clone() for name in "qk"}
    tower.load_lora_adapter(tmp_path, weight_name="a.safetensors", prefix="video_dit", adapter_name="theirs")
    tower.fuse_lora()
    for name, each in (("q", first), ("k", second)):
        layer = getattr(tower.blocks[0].self_attn, name)
        expected = weights[name] + each.scale * each.up @ each.down
        assert torch.allclose(layer.weight, expected, atol=1e-5)


@pytest.mark.parametrize("rank", [4, 16])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_any_rank_is_read_as_it_was_written(tmp_path, rank, rslora):
    alphas = {Q: 12.0, K: 5.0}
    layers = {
        key: LoraUpdate(torch.randn(rank, 24), torch.randn(24, rank), alpha, rslora)
        for key, alpha in alphas.items()
    }
    write_adapter(tmp_path / "a.safetensors", Adapter(layers, CARD))
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert adapter.layers.keys() == layers.keys()
    for key, each in adapter.layers.items():
        assert torch.equal(each.down, layers[key].down) and torch.equal(each.up, layers[key].up)
        assert each.rank == rank
        assert each.scale == pytest.approx(alphas[key] / (rank**0.5 if rslora else rank))


def test_an_empty_adapter_is_not_written(tmp_path):
    with pytest.raises(UserError, match="saved nothing"):
        write_adapter(tmp_path / "a.safetensors", Adapter({}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (LoraUpdate(torch.full((2, 4), torch.nan), torch.zeros(4, 2), 1.0), "NaN"),
        (LoraUpdate(torch.zeros(2, 4), torch.full((4, 2), torch.inf), 1.0), "infinite"),
        (LoraUpdate(torch.zeros(2, 4), torch.zeros(4, 3), 1.0), "ranks 2 and 3"),
        (LoraUpdate(torch.zeros(0, 4), torch.zeros(4, 0), 1.0), "rank 0"),
        (LoraUpdate(torch.zeros(300, 4), torch.zeros(4, 300), 1.0), "rank 300; 1 to 256"),
        (LoraUpdate(torch.zeros(2, 4, 1), torch.zeros(4, 2), 1.0), "not a matrix"),
        (LoraUpdate(torch.tensor(1.0), torch.tensor(1.0), 1.0), "not a matrix"),
        (LoraUpdate(torch.zeros(2, 4, dtype=torch.int8), torch.zeros(4, 2), 1.0), "not a matrix of floats"),
        (LoraUpdate(torch.zeros(2, 4), torch.zeros(4, 2), 0.0), "alpha 0.0"),
        (LoraUpdate(torch.zeros(2, 4), torch.zeros(4, 2), float("nan")), "alpha nan"),
        (LoraUpdate(torch.zeros(2, 4), torch.zeros(4, 2), 1e30), "alpha 1e"),
    ],
)
def test_a_broken_adapter_is_not_written_and_not_read(tmp_path, broken, sentence):
    with pytest.raises(UserError, match=sentence):
        write_adapter(tmp_path / "a.safetensors", Adapter({Q: broken}))
    tensors = {
        f"{Q}.lora_A.weight": broken.down,
        f"{Q}.lora_B.weight": broken.up,
        f"{Q}.alpha": torch.tensor(broken.alpha, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=sentence):
        read_adapter(tmp_path / "b.safetensors")


def header_of(tmp_path, **header):
    each = lora()
    path = tmp_path / "a.safetensors"
    save_file({f"{Q}.lora_A.weight": each.down, f"{Q}.lora_B.weight": each.up}, path, metadata=header)
    return path


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"mova_adapter": "{"}, "mova_adapter is not JSON"),
        ({"mova_adapter": "[]"}, "is not a JSON object"),
        ({"mova_adapter": "[" * 5000}, "is not JSON"),
        ({"mova_adapter": '{"version": 2}'}, "is of version 2, this toolkit reads 1; update it"),
        ({"mova_adapter": '{"version": 1, "trigger_words": [1]}'}, "malformed"),
        ({"mova_adapter": '{"version": 1, "recipe": []}'}, "malformed"),
        ({"mova_adapter": " " * (2**20 + 1)}, "characters, up to 1048576"),
        ({"lora_adapter_metadata": "x"}, "lora_adapter_metadata is not JSON"),
        ({"lora_adapter_metadata": '{"video_dit.lora_alpha": "x"}'}, "alpha 'x' is not a number"),
        ({"lora_adapter_metadata": '{"video_dit.r": 16, "video_dit.lora_alpha": 16}'}, "its header says 16"),
        ({"lora_adapter_metadata": '{"video_dit.use_dora": true, "video_dit.lora_alpha": 1}'}, "DoRA"),
        ({"alpha": "strong"}, "alpha 'strong' is not a number"),
    ],
)
def test_a_header_that_cannot_be_right_is_refused(tmp_path, header, sentence):
    with pytest.raises(UserError, match=sentence):
        read_adapter(header_of(tmp_path, **header))


def test_files_that_are_too_much_are_refused_unread(tmp_path, monkeypatch):
    path = header_of(tmp_path)
    huge = tmp_path / "huge.safetensors"
    with huge.open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)  # a hole: takes no space
    with pytest.raises(UserError, match="over 4 GiB"):
        read_adapter(huge)
    monkeypatch.setattr(files, "MAX_TENSORS", 1)
    with pytest.raises(UserError, match="holds 2 tensors, too many"):
        read_adapter(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        b"\x80\x04.",
        b"PK\x03\x04",
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "lora_weights.pt"])
def test_damaged_files_are_refused_by_name(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_adapter(tmp_path / name)


@pytest.mark.parametrize(
    "content", [[], {1: 2}, {"lora_state_dict": 3}, {"lora_state_dict": {}}, torch.zeros(2)]
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "lora_weights.pt")
    with pytest.raises(UserError, match=r"lora_weights\.pt"):
        read_adapter(tmp_path)


def test_a_state_dict_with_other_things_in_it_is_refused(tmp_path):
    torch.save({f"{Q}.lora_A.weight": "x", f"{Q}.lora_B.weight": 3}, tmp_path / "lora_weights.pt")
    torch.save({"alpha": 8}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match="is not a tensor"):
        read_adapter(tmp_path)


def test_a_file_is_whole_or_not_there_and_not_replaced_unasked(tmp_path):
    path = tmp_path / "a.safetensors"
    with files_of_at_most(1000), pytest.raises(BackendError, match="cannot be written"):
        write_adapter(path, Adapter({Q: lora()}))
    assert list(tmp_path.iterdir()) == []
    write_adapter(path, Adapter({Q: lora()}))
    with pytest.raises(UserError, match="exists"):
        write_adapter(path, Adapter({K: lora()}))
    assert f"{Q}.lora_A.weight" in load_file(path)
    write_adapter(path, Adapter({K: lora()}), overwrite=True)
    assert f"{K}.lora_A.weight" in load_file(path)
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        write_adapter(tmp_path / "a.pt", Adapter({Q: lora()}))


def test_a_sparse_matrix_of_a_pickle_is_refused(tmp_path):
    each = lora()
    tensors = {f"{Q}.lora_A.weight": each.down.to_sparse(), f"{Q}.lora_B.weight": each.up}
    torch.save(tensors, tmp_path / "lora_weights.pt")
    torch.save({"alpha": 8}, tmp_path / "lora_config.pt")
    with pytest.raises(UserError, match="not a matrix"):
        read_adapter(tmp_path)


def test_the_norm_is_that_of_the_product():
    each = lora(3, 5.0)
    assert each.norm() == pytest.approx((each.scale * each.up @ each.down).norm().item(), rel=1e-5)
