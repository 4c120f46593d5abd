import shutil

import pytest
import torch
from safetensors.torch import save_file

from mova.adapters import sources
from mova.adapters.files import Adapter, AdapterMetadata, LoraUpdate, write_adapter
from mova.adapters.sources import expert_in_name, read_adapter
from mova.errors import UserError
from tests.hub_server import running_hub

MODULE = "blocks.0.self_attn.q"


def part(tower, words=()):
    return Adapter(
        {f"{tower}.{MODULE}": LoraUpdate(torch.ones(2, 4), torch.ones(4, 2), 2.0)},
        AdapterMetadata(trigger_words=words),
    )


@pytest.fixture
def repo(tmp_path):
    folder = tmp_path / "repo"
    folder.mkdir()
    with running_hub(folder) as server:
        yield folder, {"endpoint": server.url, "cache_dir": tmp_path / "cache"}, server


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("wan2.2_i2v_A14b_high_noise_lora_rank64_lightx2v_4step", "high"),
        ("Wan2.2-Lightning_I2V-A14B-4steps-lora_LOW_fp16", "low"),
        ("Wan22_A14B_T2V_HIGH_Lightning_4steps_lora_250928_rank128_fp16", "high"),
        ("style-highnoise", "high"),
        ("low_noise_model", "low"),
        ("voice-audio", "audio"),
        ("slow_highlands", None),
        ("follower", None),
        ("high_and_low", None),
        ("pytorch_lora_weights", None),
    ],
)
def test_the_expert_is_read_off_a_word_of_the_name(tmp_path, name, expert):
    assert expert_in_name(tmp_path / f"{name}.safetensors") == expert


def test_files_of_a_folder_that_belong_together_are_one_adapter(tmp_path):
    write_adapter(tmp_path / "a-high.safetensors", part("video_dit", ("zorp",)))
    write_adapter(tmp_path / "a-low.safetensors", part("video_dit_2", ("zorp", "blue")))
    adapter = read_adapter(tmp_path)
    assert adapter.layers.keys() == {f"video_dit.{MODULE}", f"video_dit_2.{MODULE}"}
    assert adapter.metadata.trigger_words == ("zorp", "blue")


def test_a_folder_of_several_adapters_asks_which(tmp_path):
    for step in (100, 200):
        write_adapter(tmp_path / f"step-{step}.safetensors", part("video_dit"))
    with pytest.raises(UserError, match=r"several adapters \(step-100.safetensors, step-200.safetensors\)"):
        read_adapter(tmp_path)
    assert read_adapter(tmp_path / "step-100.safetensors")


def test_two_files_with_one_layer_are_refused(tmp_path):
    write_adapter(tmp_path / "a-high.safetensors", part("video_dit"))
    write_adapter(tmp_path / "a-low.safetensors", part("video_dit"))
    with pytest.raises(UserError, match=f"has two files with video_dit.{MODULE}"):
        read_adapter(tmp_path)


def test_a_repo_of_one_adapter_is_fetched_and_only_its_file(repo):
    folder, options, server = repo
    write_adapter(folder / "lora.safetensors", part("audio_dit"))
    (folder / "clip.mp4").write_bytes(bytes(1000))
    adapter = read_adapter("org/tiny", **options)
    assert adapter.layers.keys() == {f"audio_dit.{MODULE}"}
    assert "clip.mp4" not in server.served


def test_a_repo_of_several_adapters_asks_for_a_file_and_takes_its_name(repo):
    folder, options, _ = repo
    for name in ("a", "deep/b"):
        write_adapter(folder / f"{name}.safetensors", part("audio_dit", (name,)))
    with pytest.raises(UserError, match=r"several adapters \(a.safetensors, deep/b.safetensors\)"):
        read_adapter("org/tiny", **options)
    assert read_adapter("org/tiny/deep/b.safetensors", **options).metadata.trigger_words == ("deep/b",)
    with pytest.raises(
        UserError, match=r"has no file c.safetensors; it has a.safetensors, deep/b.safetensors"
    ):
        read_adapter("org/tiny/c.safetensors", **options)


def test_pickles_are_not_fetched_from_the_hub(repo, golden):
    folder, options, server = repo
    shutil.copytree(golden / "lora_upstream_accelerate", folder, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"holds no \.safetensors file; other formats are pickles"):
        read_adapter("org/tiny", **options)
    assert server.served == {}


def test_a_file_that_is_too_large_is_refused_before_it_is_fetched(repo, monkeypatch):
    folder, options, server = repo
    write_adapter(folder / "lora.safetensors", part("audio_dit"))
    monkeypatch.setattr(sources, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="too large for an adapter"):
        read_adapter("org/tiny", **options)
    assert server.served == {}


@pytest.mark.parametrize("source", ["org/absent", "org/gated"])
def test_repos_that_cannot_be_read_are_told_by_name(repo, source):
    _, options, _ = repo
    with pytest.raises(UserError, match=source):
        read_adapter(source, **options)


def test_what_is_not_there_is_no_adapter(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(b"x")
    save_file({}, tmp_path / "empty.safetensors")
    for name, sentence in (
        ("gone.safetensors", "cannot be read"),
        ("a.ckpt", "is not an adapter"),
        ("empty.safetensors", "saved nothing"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_adapter(tmp_path / name)
    with pytest.raises(UserError, match="holds neither"):
        (tmp_path / "folder").mkdir()
        read_adapter(tmp_path / "folder")
