"""The cache holds what the encoders make of each window, goes on where it stopped, substitutes no clip."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_trainer.decode import read_frames, read_sound, reader_of
from lora_trainer.latent_cache import build_cache, read_index
from lora_trainer.manifest import DatasetItem
from lora_trainer.measurements import to_loudness
from lora_trainer.windows import plan_windows
from mova.errors import UserError
from mova.metrics.health import loudness
from tests.lora_trainer.clips import make_clip
from tests.media.test_streams import write

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def own(settings, tmp_path, clips):
    """Settings with a cache and clips of the test's own."""
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    return lambda **changes: settings(data__path=str(folder), data__cache=str(tmp_path / "cache"), **changes)


def build(config):
    return build_cache(config, CPU, torch.float32)


def files(config):
    return {path.name: path.stat().st_mtime_ns for path in config.cache.glob("*.safetensors")}


def test_cached_tensors_are_what_the_encoders_make_of_the_window(parts, pipeline):
    config, cache, _ = parts()
    entry = next(entry for entry in cache.windows if entry.name == "b.mp4@0.375")
    tensors = cache.latents(entry)
    window = next(w for w in plan_windows(config) if w.name == entry.name)
    pixels = torch.from_numpy(read_frames(window.item, 0.375 + np.arange(9) / 24, 32, 64)).float() / 127.5 - 1
    frames = pixels.permute(3, 0, 1, 2)[None]
    posterior = pipeline.video_vae.encode(frames).latent_dist
    expected = pipeline.normalise_latents(posterior.mode())[0]
    assert torch.allclose(tensors["video_latents"], expected, atol=1e-5)
    assert not torch.allclose(tensors["video_latents"], pipeline.normalise_latents(posterior.sample())[0])
    condition = pipeline.encode_first_frame(frames[:, :, 0], 9)[0]
    assert torch.allclose(tensors["condition"], condition, atol=1e-5)
    assert tensors["condition"].shape[0] + tensors["video_latents"].shape[0] == 36
    samples = int(3200 * 9 / 24)
    wave = torch.from_numpy(read_sound(window.item, 0.375, samples, 3200))[None, None]
    assert torch.allclose(tensors["audio_latents"], pipeline.audio_vae.encode(wave).mode()[0], atol=1e-5)
    assert torch.allclose(cache.text(entry.caption), pipeline.encode_prompt(entry.caption)[0], atol=1e-6)
    assert torch.allclose(cache.text(""), pipeline.encode_prompt("")[0], atol=1e-6)


def test_a_second_run_encodes_nothing_and_other_settings_other_files(own):
    first = build(own())
    made = files(own())
    assert build(own()) == first == read_index(own())
    assert files(own()) == made
    build(own(data__loudness=-20))
    louder = set(files(own())) - set(made)
    assert len(louder) == len(first.windows)
    build(own(data__caption_prefix="sks, "))
    assert all(name.startswith("text-") for name in set(files(own())) - set(made) - louder)


def test_a_changed_clip_is_encoded_again_and_a_changed_caption_only_as_text(own, tmp_path):
    build(own())
    made = set(files(own()))
    (tmp_path / "clips" / "a.txt").write_text("Something new.")
    build(own())
    assert [name[:5] for name in set(files(own())) - made] == ["text-"]
    made = set(files(own()))
    (tmp_path / "clips" / "a.mp4").unlink()
    make_clip(tmp_path / "clips" / "a.mp4", 0.75, 24, (0.3,), None)
    cache = build(own())
    assert len(set(files(own())) - made) == 2
    assert len(cache.windows) == 6


def test_an_interrupted_run_goes_on_and_damage_is_mended(own):
    config = own()

    class StoppedError(Exception):
        pass

    def kill(what, done, _):
        if (what, done) == ("clips", 2):
            raise StoppedError

    with pytest.raises(StoppedError):
        build_cache(config, CPU, torch.float32, kill)
    kept = files(config)
    with pytest.raises(UserError, match="holds no cache"):
        read_index(config)
    cache = build(config)
    assert kept.items() <= files(config).items()

    path = config.cache / cache.windows[0].file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged; run"):
        cache.latents(cache.windows[0])
    path.with_name(cache.windows[1].file).write_bytes(content[:100])
    with pytest.raises(UserError, match="cannot be read"):
        cache.latents(cache.windows[1])
    build(config)
    assert cache.latents(cache.windows[0]) and cache.latents(cache.windows[1])


def test_a_clip_that_fails_is_an_error_with_its_name_and_the_others_are_kept(own, tmp_path):
    clip = tmp_path / "clips" / "b.mp4"
    content = clip.read_bytes()

    def damage(what, done, _):
        if (what, done) == ("clips", 2):  # the first window of b; the clips have been looked over
            clip.write_bytes(content[:2000])

    with pytest.raises(UserError, match=r"2 of 6 windows cannot be encoded:\n- b\.mp4"):
        build_cache(own(), CPU, torch.float32, damage)
    assert sorted(name[0] for name in files(own()) if not name.startswith("text")) == ["a", "a", "c", "c"]
    clip.write_bytes(content)
    assert len(build(own()).windows) == 6


def test_a_clip_deleted_between_planning_and_encoding_is_named(own, tmp_path):
    def delete(what, done, _):
        if (what, done) == ("clips", 0):
            (tmp_path / "clips" / "b.mp4").unlink(missing_ok=True)

    with pytest.raises(UserError, match=r"b\.mp4 cannot be read .* was it moved or deleted"):
        build_cache(own(), CPU, torch.float32, delete)


def test_a_caption_over_512_tokens_is_refused_and_not_cut(own, tmp_path):
    (tmp_path / "clips" / "a.txt").write_text("lamp " * 900)
    with pytest.raises(UserError, match="over 512 tokens; shorten it"):
        build(own())


def test_loudness_is_brought_to_the_target(own):
    tone = 0.01 * np.sin(np.arange(48000) / 48000 * 2 * np.pi * 997).astype(np.float32)
    assert loudness(to_loudness(tone, 48000, -23)[None], 48000) == pytest.approx(-23, abs=0.05)
    spiky = np.concatenate([tone, [0.9]]).astype(np.float32)
    assert np.abs(to_loudness(spiky, 48000, -10)).max() <= 0.97 + 1e-6
    assert not to_loudness(np.zeros(100, np.float32), 48000, -23).any()


def test_windows_of_clips_that_were_read_otherwise_before_are_made_again_and_others_kept(tmp_path, clips):
    assert reader_of(DatasetItem("a.mp4", clips / "a.mp4", "")) == {}
    assert reader_of(DatasetItem("a.mp4", clips / "a.mp4", "", audio=tmp_path / "a.wav")) == {}
    assert reader_of(DatasetItem("a.mp4", clips / "a.mp4", "", audio=tmp_path / "a.mp3")) == {"reader": 2}
    assert reader_of(write(tmp_path / "a.ts")) == {"reader": 2}
    hdr = {"x264-params": "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"}
    assert reader_of(write(tmp_path / "a.mov", options=hdr)) == {"reader": 2}


def test_a_full_disk_while_tensors_are_written_is_a_sentence_and_leaves_nothing(tmp_path):
    code = f"""
import resource, torch
from pathlib import Path
from lora_trainer.latent_cache import write_tensors
from mova.errors import BackendError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_tensors(Path({str(tmp_path)!r}) / "text.safetensors", {{"text": torch.zeros(10_000)}}, {{}})
except BackendError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "text.safetensors cannot be written (File too large); free some space there" in done.stdout
    assert not list(tmp_path.iterdir())
