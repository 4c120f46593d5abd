"""Teach the audio tower and the text encoder alone, as the paper does before the towers meet.

A second of sound is 50 tokens, that of a clip's picture 700: what words sound like is learnt here, many clips
a step. The bridge and the video towers join in `pocket.train_towers`.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mova.models.audio_dit import AudioDiT
from mova.models.audio_vae import AudioVAE
from mova.scheduler import PairScheduler
from pocket.models import SHIFT
from pocket.sounds import Sounds, encode_sounds
from pocket.tower_run import Captions, TowerRun, embed, noised
from pocket.training import Budget, Log, Ranks

logger = logging.getLogger("pocket")
TRAINED = ("audio_dit.", "text_encoder.")


def train_audio_tower(
    out: Path, minutes: float, batch: int, learning_rate: float, decay: float, compiled: bool
) -> None:
    """Train for so many minutes on `out/sounds.safetensors`, from `out/towers.pt` if it is there."""
    ranks = Ranks.join()
    device = ranks.device
    run = TowerRun(out / "towers.pt", ranks, compiled)
    sounds = Sounds.load(out / "sounds.safetensors")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "codecs" / "tokenizer")
    latents = encode_sounds(
        AudioVAE.from_pretrained(out / "codecs" / "audio_vae").to(device), sounds.waveforms
    )
    captions = Captions(sounds.captions, tokenizer, device)
    log = Log(out / "audio_tower.jsonl", ranks)
    log.write(sounds=len(latents), ranks=ranks.size)
    budget = Budget(minutes, decay, ranks)
    for scale in budget.steps():
        rows = torch.randint(len(latents), (batch,), device=device)
        sigma = PairScheduler.shifted(torch.rand(batch, device=device), SHIFT)
        sound, target = noised(latents[rows], sigma)
        text = embed(run.model.text_encoder, captions.draw(rows))
        loss = (velocity(run.model.audio_dit, sound, sigma * 1000, text) - target).square().mean()
        loss.backward()
        norm = run.update(run.gradients(lambda name: name.startswith(TRAINED)), learning_rate * scale)
        if budget.is_save_due():
            run.save()
        if run.step % 200 == 0:
            log.write(step=run.step, loss=loss.item(), norm=norm.item(), steps_a_second=budget.steps_a_second)
    if ranks.is_first:
        run.save()
    ranks.leave()


def velocity(tower: AudioDiT, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """The audio half of `DualTower.forward` without its bridge."""
    x, grid = tower.embed_patches(latents)
    time, modulation = tower.embed_time(timestep)
    text, rotary = tower.text_embedding(text.to(x.dtype)), tower.rotary(grid, latents.device)
    for block in tower.blocks:
        x = block(x, text, modulation, rotary)
    return tower.unpatchify(tower.head(x, time), grid)
