"""Trials of an installation on its device: attention, a joint forward, picture and sound, a clip."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mova
from mova import catalog
from mova.cli.findings import BROKEN, GOOD, SLOW, Finding
from mova.kernels import INSTALL_FLASH_4, choose_kernels
from mova.machine import Machine

if TYPE_CHECKING:
    import torch

    from mova.models.dual_tower import DualTower

EXAMPLE = Path(mova.__file__).parents[1] / "assets" / "examples" / "ball-1.png"
# Of results against float32 on the CPU; rounding takes 1e-6 and 1e-2 of them.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.1}
# dB of what pocket's encoders and decoders return; measured on a CPU: 35.8 and 16.1.
MIN_PICTURE_PSNR, MIN_SOUND_SNR = 25.0, 8.0


def try_attention(machine: Machine) -> Finding:
    """Each backend of torch's, alone, against float32 on the CPU, and the kernel that the video would use."""
    import torch
    from torch.nn.attention import sdpa_kernel

    from mova.models.attention import obstacle
    from mova.models.dual_tower import ATTENTION_ORDER

    dtype = getattr(torch, machine.dtype)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 64, 128, generator=generator) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    q, k, v = (each.to(machine.device, dtype) for each in (q, k, v))
    works, wrong = [], []
    for backend in ATTENTION_ORDER:
        name = backend.name.removesuffix("_ATTENTION").lower()
        try:
            with sdpa_kernel([backend]):
                result = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        except RuntimeError:  # not built, or not for this device
            continue
        (works if relative_error(result, expected) < TOLERANCES[machine.dtype] else wrong).append(name)
    chosen = choose_kernels(machine, machine.dtype)
    problem = obstacle(chosen.video, q.device, dtype, q.shape[-1])
    used = f"torch ({chosen.video} {problem})" if problem else chosen
    text = f"{', '.join(works) or 'none'} of torch in {machine.dtype}; used: {used}"
    if wrong or not works:
        text += f"; wrong results: {', '.join(wrong)}" if wrong else ""
        return Finding("attention", BROKEN, text, "install another version of torch, or update the driver")
    if machine.is_gpu and "cudnn" not in works:
        advice = "a torch of the card's CUDA version with cuDNN takes a quarter off every step"
        return Finding("attention", SLOW, text, advice)
    if problem:
        return Finding("attention", SLOW, text, f"install it again: {INSTALL_FLASH_4}")
    return Finding("attention", GOOD, text)


def try_forward(machine: Machine) -> Finding:
    """A small random model against float32 on the CPU: the kernels of this device, in its dtype."""
    import torch

    device, dtype = machine.device, machine.dtype
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        tower, latents = small_tower(), (torch.randn(1, 36, 3, 8, 8), torch.randn(1, 6, 25))
        text = torch.randn(1, 512, 64)
        expected = run_tower(tower, latents, text)
        found = run_tower(tower.to(device, getattr(torch, dtype)), latents, text)
    error = max(relative_error(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    words = f"{dtype} on {machine.name}, {error:.0e} off float32 on the CPU"
    if not error < TOLERANCES[dtype]:
        advice = "update torch and the driver; a card that computes wrong may be too hot or damaged"
        return Finding("joint forward", BROKEN, words, advice)
    return Finding("joint forward", GOOD, words)


def small_tower() -> "DualTower":
    """Two layers with heads as wide as the released model's, of random weights."""
    from mova.models.bridge import Bridge
    from mova.models.dit import AudioDiT, VideoDiT
    from mova.models.dual_tower import DualTower

    common: dict[str, Any] = {"text_dim": 64, "freq_dim": 64, "eps": 1e-6, "num_layers": 2}
    video = VideoDiT(dim=256, in_dim=36, ffn_dim=256, out_dim=16, patch_size=[1, 2, 2], num_heads=2, **common)
    audio = AudioDiT(dim=128, in_dim=6, ffn_dim=128, out_dim=6, patch_size=[1], num_heads=1, **common)
    bridge = Bridge(
        visual_layers=2,
        audio_layers=2,
        visual_hidden_dim=256,
        audio_hidden_dim=128,
        audio_fps=50.0,
        head_dim=128,
    )
    return DualTower(video, audio, bridge).eval()


def run_tower(
    tower: "DualTower", latents: "tuple[torch.Tensor, torch.Tensor]", text: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    weight = tower.video_dit.head.head.weight
    video, audio = (each.to(weight.device, weight.dtype) for each in latents)
    time = video.new_tensor([500.0]).float()
    return tower(video, audio, time, time, text.to(weight.device), 24.0)


def try_coding(machine: Machine) -> Finding:
    """An example picture and a tone through pocket's encoders and decoders and back."""
    import torch

    from mova.checkpoint import load_components
    from mova.media.images import load_first_frame
    from mova.models import video_vae

    device, dtype = machine.device, getattr(torch, machine.dtype)
    networks = load_components(catalog.POCKET, ("video_vae", "audio_vae"), dtype)
    video, audio = (network.to(device) for network in networks.values())
    picture = torch.tensor(load_first_frame(EXAMPLE, 128, 224)).permute(2, 0, 1) / 127.5 - 1
    frames = picture[None, :, None].repeat(1, 1, 5, 1, 1)  # [1, 3, 5, H, W]
    time = torch.arange(audio.config.sample_rate) / audio.config.sample_rate
    tone = (0.5 * torch.sin(2 * torch.pi * 440 * time) * torch.exp(-3 * time))[None, None]  # [1, 1, S]
    with torch.no_grad():
        shown = video_vae.decode(video, video_vae.encode(video, frames.to(device, dtype)))
        heard = audio.decode(audio.encode(tone.to(device)).mode())[..., : tone.shape[-1]]
    # The peak of a picture in [-1, 1] is 2.
    psnr = decibels(4 / (shown.float().cpu() - frames).square().mean().item())
    snr = decibels(1 / relative_error(heard, tone) ** 2)
    text = f"coded and back by pocket: picture {psnr:.0f} dB PSNR, sound {snr:.0f} dB"
    if not (psnr >= MIN_PICTURE_PSNR and snr >= MIN_SOUND_SNR):
        advice = "update torch and the driver, or make clips with --dtype float32"
        return Finding("picture and sound", BROKEN, text, advice)
    return Finding("picture and sound", GOOD, text)


def try_clip() -> Finding:
    """A flash with a beep, written and read: both must be where they were, at the same moment."""
    import numpy as np

    from mova.media.clips import read_clip, read_settings, write_mp4

    count, rate, sample_rate, at = 24, 24, 48000, 12
    frames = np.zeros((count, 64, 96, 3), np.uint8)
    frames[at] = 255
    start = at * sample_rate // rate
    wave = np.zeros(count * sample_rate // rate, np.float32)
    wave[start : start + 2000] = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2000) / sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames, wave, rate, sample_rate, {"prompt": "a flash"})
        clip, settings = read_clip(path), read_settings(path)
    flash = clip.frames.mean(axis=(1, 2, 3)).argmax() / clip.frame_rate
    beep = int((np.abs(clip.waveform[0]) > 0.1).argmax()) / clip.sample_rate
    apart = (beep - flash) * 1000
    kept = clip.frames.shape == frames.shape and clip.waveform.size == wave.size and settings["prompt"]
    text = f"{len(clip.frames)} frames written and read, sound {apart:+.1f} ms from the picture"
    if not kept or flash * rate != at or abs(apart) > 500 / rate:
        return Finding("clip", BROKEN, text, "install PyAV again: pip install --force-reinstall av")
    return Finding("clip", GOOD, text)


def relative_error(ours: "torch.Tensor", reference: "torch.Tensor") -> float:
    return ((ours.float().cpu() - reference).norm() / reference.norm()).item()


def decibels(ratio: float) -> float:
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else math.nan
