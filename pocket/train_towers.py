"""Train the towers, the bridge and the text encoder by flow matching, the paper's recipe scaled down.

Each rank trains one video expert for a step, on its own side of the boundary; the audio tower, the bridge and
the text encoder learn from all. Weights are bfloat16 as they are shipped, with float32 masters.
"""

import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mova.models.dual_tower import DualTower
from mova.scheduler import PairScheduler
from mova.shapes import MAX_PROMPT_TOKENS
from pocket.clip import FRAME_RATE
from pocket.latents import Encoder, Shard, one_line
from pocket.models import (
    BOUNDARY_RATIO,
    SHIFT,
    build_audio_dit,
    build_bridge,
    build_text_encoder,
    build_video_dit,
)
from pocket.muon import Muon
from pocket.training import Average, Budget, Log, Ranks, save_state

logger = logging.getLogger("pocket")
EXPERTS = ("video_dit", "video_dit_2")
HIGH_SHARE = 0.4  # of the steps; under shift 5 sigmas above 0.9 are 36 % of all
TEXT_DROPOUT = 0.1
WHITE_SHARE = 0.12  # clips whose first frame is hidden: text alone is asked for with a white one
BRIDGE_DROPOUT = 0.1
SAME_TIME_SHARE = 0.5  # of the steps draw one sigma for both; generation always does
AUDIO_WEIGHT = 1.0
CLIP = 1.0  # of the gradients' total norm


class Model(nn.Module):
    """Everything that learns in this stage."""

    def __init__(self) -> None:
        super().__init__()
        self.video_dit, self.video_dit_2 = build_video_dit(), build_video_dit()
        self.audio_dit, self.dual_tower_bridge = build_audio_dit(), build_bridge()
        self.text_encoder = build_text_encoder()
        self.reset()

    def reset(self) -> None:
        """Outputs, bridges and gates start at zero: each tower begins as if the others were not there."""
        for dit in (self.video_dit, self.video_dit_2, self.audio_dit):
            nn.init.zeros_(dit.head.head.weight)
            nn.init.zeros_(dit.head.head.bias)
            nn.init.zeros_(dit.time_projection[1].weight)
            nn.init.zeros_(dit.time_projection[1].bias)
            for block in dit.blocks:
                nn.init.zeros_(block.cross_attn.o.weight)
        for part in (
            *self.dual_tower_bridge.audio_to_video_conditioners,
            *self.dual_tower_bridge.video_to_audio_conditioners,
        ):
            nn.init.zeros_(part.inner.o.weight)

    def load_named(self, weights: dict[str, Tensor]) -> None:
        """Load weights by the names of `named_parameters`; the text encoder's embedding has a second name."""
        missing, unexpected = self.load_state_dict(weights, strict=False)
        if unexpected or set(missing) - {"text_encoder.encoder.embed_tokens.weight"}:
            raise ValueError(f"the stored towers are of another shape: {missing[:3]} {unexpected[:3]}")


@dataclass
class Clips:
    """A rank's share of the encoded clips, on its device."""

    video: Tensor
    condition: Tensor
    audio: Tensor
    tokens: Tensor  # int16 [N, 512], 0 behind the end
    empty: Tensor  # int16 [512]
    white: Tensor  # [16, T, h, w], the condition of a white first frame

    @classmethod
    def load(cls, out: Path, ranks: Ranks) -> "Clips":
        paths = sorted((out / "latents").glob("*.safetensors"))[ranks.rank :: ranks.size]
        shards = [Shard.load(path) for path in paths]
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "codecs" / "tokenizer")

        def tokenized(texts: list[str]) -> Tensor:
            ids = tokenizer(
                texts,
                padding="max_length",
                max_length=MAX_PROMPT_TOKENS,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            return ids.to(ranks.device, torch.int16)

        captions = [one_line(text) for shard in shards for text in shard.captions]
        encoder = Encoder(out / "codecs", ranks.device)
        latent_frames, height, width = shards[0].video.shape[2:]
        white = torch.ones(1, 3, height * 8, width * 8, device=ranks.device)
        return cls(
            *(
                torch.cat([getattr(shard, name) for shard in shards]).to(ranks.device)
                for name in ("video", "condition", "audio")
            ),
            tokenized(captions),
            tokenized([""])[0],
            encoder.condition(white, 4 * latent_frames - 3)[0].to(torch.bfloat16),
        )

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Video, condition (with mask, [B, 20, T, h, w]), audio and tokens, with the dropouts."""
        device = self.video.device
        rows = torch.randint(len(self.video), (batch,), device=device)
        condition = self.condition[rows]
        hidden = torch.rand(batch, device=device) < WHITE_SHARE
        condition = torch.where(hidden[:, None, None, None, None], self.white, condition)
        mask = torch.zeros_like(condition[:, :4])
        mask[:, :, 0] = 1
        tokens = self.tokens[rows]
        silent = torch.rand(batch, device=device) < TEXT_DROPOUT
        tokens = torch.where(silent[:, None], self.empty, tokens)
        return self.video[rows], torch.cat((mask, condition), dim=1), self.audio[rows], tokens.long()


def draw_sigmas(batch: int, expert: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sigmas [B] of video, on the expert's side of the boundary, and audio."""
    edge = BOUNDARY_RATIO / (SHIFT - (SHIFT - 1) * BOUNDARY_RATIO)  # where the shifted sigma is the boundary
    low, high = ((edge, 1.0), (0.0, edge))[expert]
    base = torch.rand(batch, device=device) * (high - low) + low
    other = torch.where(
        torch.rand(batch, device=device) < SAME_TIME_SHARE, base, torch.rand(batch, device=device)
    )
    return PairScheduler.shifted(base, SHIFT), PairScheduler.shifted(other, SHIFT)


def losses(
    tower: DualTower,
    text_encoder: nn.Module,
    drawn: tuple[Tensor, Tensor, Tensor, Tensor],
    sigmas: tuple[Tensor, Tensor],
    use_bridge: bool,
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of the velocities of video and audio."""
    video, condition, audio, tokens = drawn
    text = embed(text_encoder, tokens)
    clean, noised, targets = (video.float(), audio.float()), [], []
    for sample, sigma in zip(clean, sigmas, strict=True):
        noise = torch.randn_like(sample)
        level = sigma.view(-1, *[1] * (sample.ndim - 1))
        noised.append(PairScheduler.add_noise(sample, noise, level))
        targets.append(PairScheduler.target(sample, noise))
    velocities = tower(
        torch.cat((noised[0], condition.float()), dim=1),
        noised[1],
        sigmas[0] * 1000,
        sigmas[1] * 1000,
        text,
        float(FRAME_RATE),
        use_bridge,
    )
    return tuple((v - t).square().mean() for v, t in zip(velocities, targets, strict=True))


def embed(text_encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Text [B, 512, D], zero behind the end; only as much is computed as the longest caption needs."""
    mask = tokens != 0
    longest = min(MAX_PROMPT_TOKENS, 32 * -(-int(mask.sum(dim=1).max()) // 32))
    ids, mask = tokens[:, :longest], mask[:, :longest]
    hidden = text_encoder(ids, attention_mask=mask.long()).last_hidden_state * mask[..., None]
    return nn.functional.pad(hidden, (0, 0, 0, MAX_PROMPT_TOKENS - longest))


def train_towers(
    out: Path, minutes: float, batch: int, learning_rate: float, decay: float, compiled: bool
) -> None:
    """Train for so many minutes on `out/latents`, from `out/towers.pt` if it is there."""
    ranks = Ranks.join()
    device = ranks.device
    torch.manual_seed(0)
    model = Model()
    path = out / "towers.pt"
    held = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}
    if held:
        model.load_named(held["weights"])
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model.to(device)
    masters = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    model.to(dtype)
    optimizer = Muon(masters)
    average = Average(masters)
    step = held.get("step", 0)
    if held:
        optimizer.load_state_dict(held["optimizer"])
        average.resume(held["average"], step)
    torch.manual_seed(1000 * (step + 1) + ranks.rank)
    choices = random.Random(step)  # the same on every rank
    clips = Clips.load(out, ranks)
    towers = [DualTower(getattr(model, name), model.audio_dit, model.dual_tower_bridge) for name in EXPERTS]
    if compiled:
        compile_layers(model)
    log = Log(out / "towers.jsonl", ranks)
    log.write(clips=len(clips.video), ranks=ranks.size)

    def save() -> None:
        save_state(
            path, weights=masters, average=average.weights, optimizer=optimizer.state_dict(), step=step
        )

    budget = Budget(minutes, decay, ranks)
    for scale in budget.steps():
        offset = choices.random()
        experts = [int((offset + rank / ranks.size) % 1 >= HIGH_SHARE) for rank in range(ranks.size)]
        expert = experts[ranks.rank]
        use_bridge = choices.random() >= BRIDGE_DROPOUT
        drawn, sigmas = clips.draw(batch), draw_sigmas(batch, expert, device)
        video_loss, audio_loss = losses(towers[expert], model.text_encoder, drawn, sigmas, use_bridge)
        (video_loss + AUDIO_WEIGHT * audio_loss).backward()
        gradients = averaged_gradients(model, experts, ranks)
        norm = torch.nn.utils.get_total_norm(gradients.values())
        torch._foreach_mul_(list(gradients.values()), (CLIP / norm).clamp(max=1.0))
        optimizer.step(gradients, learning_rate * scale)
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), list(masters.values()))
        model.zero_grad(set_to_none=True)
        average.update(masters)
        step += 1
        if ranks.is_first and budget.is_save_due():
            save()
        if step % 100 == 0:
            log.write(
                step=step,
                expert=expert,
                video=video_loss.item(),
                audio=audio_loss.item(),
                norm=norm.item(),
                steps_a_second=budget.steps_a_second,
            )
    if ranks.is_first:
        save()
    ranks.leave()


def averaged_gradients(model: Model, experts: list[int], ranks: Ranks) -> dict[str, Tensor]:
    """Mean gradients by name, float32: a video expert's over the ranks that trained it in this step."""
    names, gradients = [], []
    for name, parameter in model.named_parameters():
        tower = name.partition(".")[0]
        if tower in EXPERTS and EXPERTS.index(tower) not in experts:
            continue
        names.append(name)
        gradients.append(
            torch.zeros_like(parameter, dtype=torch.float32)
            if parameter.grad is None
            else parameter.grad.float()
        )
    ranks.average(gradients)
    for name, gradient in zip(names, gradients, strict=True):
        tower = name.partition(".")[0]
        if tower in EXPERTS:
            gradient *= ranks.size / experts.count(EXPERTS.index(tower))
    return dict(zip(names, gradients, strict=True))


def compile_layers(model: Model) -> None:
    bridge = model.dual_tower_bridge
    for layers in (
        model.video_dit.blocks,
        model.video_dit_2.blocks,
        model.audio_dit.blocks,
        bridge.audio_to_video_conditioners,
        bridge.video_to_audio_conditioners,
    ):
        for layer in layers:
            layer.compile(dynamic=False)
