"""Training of the towers, the bridge and the text encoder by flow matching, the paper's recipe scaled down.

In each step a rank trains one video expert, on its side of the boundary; the audio tower, the bridge and
the text encoder learn from all ranks. Before that `train_audio_tower` trains the audio tower and the text
encoder alone.
"""

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mova.adapters.strengths import EXPERTS
from mova.models.audio_vae import AudioVAE
from mova.models.dit import AudioDiT
from mova.models.dual_tower import DualTower
from mova.sigmas import shifted
from recipes.pocket.training.latents import Encoder, Shard
from recipes.pocket.training.models import BOUNDARY_RATIO, SHIFT
from recipes.pocket.training.run import Budget, Log, Ranks
from recipes.pocket.training.sounds import Sounds, encode_sounds
from recipes.pocket.training.tower_run import Captions, TowerRun, embed, noised
from recipes.pocket.world.clip import FRAME_RATE

logger = logging.getLogger("pocket")
HIGH_SHARE = 0.4  # of the steps; under shift 5 sigmas above 0.9 are 36 % of all
WHITE_SHARE = 0.12  # clips whose first frame is hidden: a white one stands for text alone
BRIDGE_DROPOUT = 0.1
SAME_TIME_SHARE = 0.5  # of the steps draw one sigma for both; generation always does
HELD_SHARE = 0.2  # of the clips have one track clean, at sigma 0, and no loss on it: the other is made for it
AUDIO_WEIGHT = 1.0
MEASURED_CLIPS = 8  # of each rank, to see which errors of latents are seen
STILL_SHARE = 0.5  # of the video's weight that all places share equally; the rest follows motion

TRAINED = ("audio_dit.", "text_encoder.")


@dataclass
class Clips:
    """A rank's share of the encoded clips, on its device."""

    video: Tensor
    condition: Tensor
    audio: Tensor
    captions: Captions
    white: Tensor  # [16, T, h, w], the condition of a white first frame
    visibility: Tensor  # [16, 16], the same on all ranks

    @classmethod
    def load(cls, out: Path, ranks: Ranks) -> "Clips":
        paths = sorted((out / "latents").glob("*.safetensors"))[ranks.rank :: ranks.size]
        shards = [Shard.load(path) for path in paths]
        video, condition = (
            torch.cat([getattr(shard, name) for shard in shards]).to(ranks.device)
            for name in ("video", "condition")
        )
        audio_vae = AudioVAE.from_pretrained(out / "codecs" / "audio_vae").to(ranks.device)
        audio = torch.cat([encode_sounds(audio_vae, shard.waveforms) for shard in shards])
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "codecs" / "tokenizer")
        captions = Captions([text for shard in shards for text in shard.captions], tokenizer, ranks.device)
        latent_frames, height, width = video.shape[2:]
        white = torch.ones(1, 3, height * 8, width * 8, device=ranks.device)
        encoder = Encoder(out / "codecs", ranks.device)
        white = encoder.condition(white, 4 * latent_frames - 3)[0].to(torch.bfloat16)
        visibility = encoder.visibility(video[:MEASURED_CLIPS].float())
        ranks.average([visibility])
        return cls(video, condition, audio, captions, white, visibility)

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Video, condition (with mask, [B, 20, T, h, w]), audio and tokens, with the dropouts."""
        device = self.video.device
        rows = torch.randint(len(self.video), (batch,), device=device)
        condition = self.condition[rows]
        hidden = torch.rand(batch, device=device) < WHITE_SHARE
        condition = torch.where(hidden[:, None, None, None, None], self.white, condition)
        mask = torch.zeros_like(condition[:, :4])
        mask[:, :, 0] = 1
        return (
            self.video[rows],
            torch.cat((mask, condition), dim=1),
            self.audio[rows],
            self.captions.draw(rows),
        )


def draw_sigmas(batch: int, expert: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sigmas [B] of video, on the expert's side of the boundary, and audio; 0 for a track that is held."""
    edge = BOUNDARY_RATIO / (SHIFT - (SHIFT - 1) * BOUNDARY_RATIO)  # where the shifted sigma is the boundary
    low, high = ((edge, 1.0), (0.0, edge))[expert]
    base = torch.rand(batch, device=device) * (high - low) + low
    other = torch.where(
        torch.rand(batch, device=device) < SAME_TIME_SHARE, base, torch.rand(batch, device=device)
    )
    # A held picture has timestep 0, which is the low-noise expert's.
    chance = torch.rand(batch, device=device) / HELD_SHARE
    video_held, audio_held = (chance < 0.5) & (expert == 1), (chance >= 0.5) & (chance < 1)
    return (
        shifted(base, SHIFT).masked_fill(video_held, 0),
        shifted(other, SHIFT).masked_fill(audio_held, 0),
    )


def losses(
    tower: DualTower,
    text_encoder: nn.Module,
    drawn: tuple[Tensor, Tensor, Tensor, Tensor],
    sigmas: tuple[Tensor, Tensor],
    visibility: Tensor,
    use_bridge: bool,
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the velocities of video, as they are seen and weighted by place, and audio.

    However errors are measured, the mean of all that may be meant stays the best answer. A held track, at
    sigma 0, counts as without error.
    """
    video, condition, audio, tokens = drawn
    text = embed(text_encoder, tokens)
    weights = moving(video)
    (video, video_target), (audio, audio_target) = noised(video, sigmas[0]), noised(audio, sigmas[1])
    video_velocity, audio_velocity = tower(
        torch.cat((video, condition.float()), dim=1),
        audio,
        sigmas[0] * 1000,
        sigmas[1] * 1000,
        text,
        float(FRAME_RATE),
        use_bridge,
    )
    seen = torch.einsum("kc,bcthw->bkthw", visibility, video_velocity - video_target)
    video_error = (weights * seen.square().mean(dim=(1, 2))).mean(dim=(1, 2))
    audio_error = (audio_velocity - audio_target).square().mean(dim=(1, 2))
    return (video_error * (sigmas[0] > 0)).mean(), (audio_error * (sigmas[1] > 0)).mean()


def moving(video: Tensor) -> Tensor:
    """Weights [B, h, w] of the places of latents `video` [B, C, T, h, w], of mean 1 unless all is still.

    Most of a clip is wall; balls, lips and keys are a few latents wide. A place weighs the same at all times:
    weights that knew when something is there would teach a mean that leans towards it.
    """
    change = (video[:, :, 1:] - video[:, :, :1]).float().abs().mean(dim=(1, 2))
    share = change / change.mean(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    return STILL_SHARE + (1 - STILL_SHARE) * share


def train_towers(
    out: Path, *, minutes: float, batch: int, learning_rate: float, decay: float, compiled: bool
) -> None:
    """Train for so many minutes on `out/latents`, from `out/towers.pt` if it is there."""
    ranks = Ranks.join()
    run = TowerRun(out / "towers.pt", ranks, compiled)
    model = run.model
    choices = random.Random(run.step)  # the same on every rank
    clips = Clips.load(out, ranks)
    towers = [DualTower(getattr(model, name), model.audio_dit, model.dual_tower_bridge) for name in EXPERTS]
    log = Log(out / "towers.jsonl", ranks)
    log.write(clips=len(clips.video), ranks=ranks.size)
    budget = Budget(minutes, decay, ranks)
    for scale in budget.steps():
        offset = choices.random()
        experts = [int((offset + rank / ranks.size) % 1 >= HIGH_SHARE) for rank in range(ranks.size)]
        expert = experts[ranks.rank]
        use_bridge = choices.random() >= BRIDGE_DROPOUT
        drawn, sigmas = clips.draw(batch), draw_sigmas(batch, expert, ranks.device)
        video_loss, audio_loss = losses(
            towers[expert], model.text_encoder, drawn, sigmas, clips.visibility, use_bridge
        )
        (video_loss + AUDIO_WEIGHT * audio_loss).backward()
        norm = run.update(shared_gradients(run, experts), learning_rate * scale)
        if budget.is_save_due():
            run.save()
        if run.step % 100 == 0:
            log.write(
                step=run.step,
                expert=expert,
                video=video_loss.item(),
                audio=audio_loss.item(),
                norm=norm.item(),
                steps_a_second=budget.steps_a_second,
            )
    if ranks.is_first:
        run.save()
    ranks.leave()


def shared_gradients(run: TowerRun, experts: list[int]) -> dict[str, Tensor]:
    """Mean gradients by name: a video expert's over the ranks that trained it, none of one that rested."""
    ranks_of = {name: experts.count(index) for index, name in enumerate(EXPERTS)}

    def ranks_that_trained(name: str) -> int:
        return ranks_of.get(name.partition(".")[0], len(experts))

    gradients = run.gradients(lambda name: ranks_that_trained(name) > 0)
    for count in set(ranks_of.values()) - {0, len(experts)}:
        own = [gradient for name, gradient in gradients.items() if ranks_that_trained(name) == count]
        torch._foreach_mul_(own, len(experts) / count)
    return gradients


def train_audio_tower(
    out: Path, *, minutes: float, batch: int, learning_rate: float, decay: float, compiled: bool
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
        sigma = shifted(torch.rand(batch, device=device), SHIFT)
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
