"""A training run of the towers: weights, optimizer, weight average and checkpoint."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from mova.scheduler import PairScheduler
from mova.shapes import MAX_PROMPT_TOKENS
from recipes.pocket.training.latents import one_line
from recipes.pocket.training.models import build_audio_dit, build_bridge, build_text_encoder, build_video_dit
from recipes.pocket.training.muon import Muon, of_towers
from recipes.pocket.training.run import Average, Ranks, save_state

CLIP = 1.0  # of the gradients' total norm
TEXT_DROPOUT = 0.1
TEXT_GAIN = (
    1.5  # of queries and keys of the text at first: a word has to stand out from the 450 zeros after it
)


class Model(nn.Module):
    """Everything that learns on latents."""

    def __init__(self) -> None:
        super().__init__()
        self.video_dit, self.video_dit_2 = build_video_dit(), build_video_dit()
        self.audio_dit, self.dual_tower_bridge = build_audio_dit(), build_bridge()
        self.text_encoder = build_text_encoder()
        self.reset()

    def reset(self) -> None:
        """Outputs and gates start at zero, as the bridge does: each tower begins as if alone."""
        for dit in (self.video_dit, self.video_dit_2, self.audio_dit):
            nn.init.zeros_(dit.head.head.weight)
            nn.init.zeros_(dit.head.head.bias)
            nn.init.zeros_(dit.time_projection[1].weight)
            nn.init.zeros_(dit.time_projection[1].bias)
        self.reset_text()

    def reset_text(self) -> None:
        """Reinitialise the layers of the towers that read the text.

        The gains begin large: with those that had fallen to 0.6 the padding took 80 to 95 % of the attention,
        and no word more than 5 %.
        """
        for dit in (self.video_dit, self.video_dit_2, self.audio_dit):
            for layer in (dit.text_embedding[0], dit.text_embedding[2]):
                layer.reset_parameters()
            for attention in (block.cross_attn for block in dit.blocks):
                for layer in (attention.q, attention.k, attention.v, attention.o):
                    layer.reset_parameters()
                nn.init.zeros_(attention.o.weight)
                nn.init.constant_(attention.norm_q.weight, TEXT_GAIN)
                nn.init.constant_(attention.norm_k.weight, TEXT_GAIN)

    def load_named(self, weights: dict[str, Tensor]) -> None:
        """Load weights by the names of `named_parameters`; the text encoder's embedding has a second name."""
        missing, unexpected = self.load_state_dict(weights, strict=False)
        if unexpected or set(missing) - {"text_encoder.encoder.embed_tokens.weight"}:
            raise ValueError(
                f"the stored towers have another architecture (missing {missing[:3]}, unexpected "
                f"{unexpected[:3]}); start from a checkpoint of pocket"
            )

    def compile_layers(self) -> None:
        bridge = self.dual_tower_bridge
        for layers in (
            self.text_encoder.encoder.block,
            self.video_dit.blocks,
            self.video_dit_2.blocks,
            self.audio_dit.blocks,
            bridge.audio_to_video_conditioners,
            bridge.video_to_audio_conditioners,
        ):
            for layer in layers:
                layer.compile(dynamic=False)


class TowerRun:
    """Trains a `Model` from `path` if it is there, in bfloat16 as it is shipped, with float32 masters.

    Each run starts a new average: weights that an earlier stage left untrained must not count in it.
    """

    def __init__(self, path: Path, ranks: Ranks, compiled: bool) -> None:
        self.path, self.ranks = path, ranks
        torch.manual_seed(0)
        self.model = Model()
        stored = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}
        if stored:
            self.model.load_named(stored["weights"])
        self.model.to(ranks.device)
        self.masters = {name: p.detach().float().clone() for name, p in self.model.named_parameters()}
        self.model.to(torch.bfloat16 if ranks.device.type == "cuda" else torch.float32)
        self.gradient_buffers = {name: torch.empty_like(tensor) for name, tensor in self.masters.items()}
        self.optimizer = Muon(self.masters, of_towers)
        self.average = Average(self.masters)
        self.step = stored.get("step", 0)
        if "optimizer" in stored:
            self.optimizer.load_state_dict(stored["optimizer"])
        if compiled:
            self.model.compile_layers()
        torch.manual_seed(1000 * (self.step + 1) + ranks.rank)

    def gradients(self, is_trained: Callable[[str], bool]) -> dict[str, Tensor]:
        """Gradients of the trained parameters by name, float32, the mean of all ranks.

        A parameter that this rank did not use counts as zero. Valid until the next call.
        """
        trained = {name: p.grad for name, p in self.model.named_parameters() if is_trained(name)}
        found = {name: self.gradient_buffers[name] for name in trained}
        used = [name for name, gradient in trained.items() if gradient is not None]
        torch._foreach_copy_([found[name] for name in used], [trained[name] for name in used])
        for name in trained.keys() - used:
            found[name].zero_()
        self.ranks.average(list(found.values()))
        return found

    def update(self, gradients: dict[str, Tensor], learning_rate: float) -> Tensor:
        """Step what `gradients` names; their norm."""
        norm = nn.utils.get_total_norm(gradients.values())
        torch._foreach_mul_(list(gradients.values()), (CLIP / norm).clamp(max=1.0))
        self.optimizer.step(gradients, learning_rate)
        with torch.no_grad():
            torch._foreach_copy_(list(self.model.parameters()), list(self.masters.values()))
        self.model.zero_grad(set_to_none=True)
        self.average.update(self.masters)
        self.step += 1
        return norm

    def save(self) -> None:
        save_state(
            self.path,
            weights=self.masters,
            average=self.average.weights,
            optimizer=self.optimizer.state_dict(),
            step=self.step,
        )


class Captions:
    """Tokens of all captions on a device, as wide as the longest of them needs."""

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerFast, device: torch.device) -> None:
        ids = tokenizer(
            [one_line(text) for text in ("", *texts)],
            padding="longest",
            pad_to_multiple_of=32,
            max_length=MAX_PROMPT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        ids = ids.to(device, torch.int16)
        self.empty, self.tokens = ids[0], ids[1:]

    def draw(self, rows: Tensor) -> Tensor:
        """Tokens [B, L], some of them those of the empty caption: guidance needs a model without one."""
        silent = torch.rand(len(rows), device=rows.device) < TEXT_DROPOUT
        return torch.where(silent[:, None], self.empty, self.tokens[rows]).long()


def embed(text_encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Text [B, 512, D], zero behind the end of `tokens` [B, L], which is 0 there."""
    seen, length = tokens != 0, tokens.shape[1]
    # As it is added to the scores: made of a plain mask it has the host wait for the device.
    hiding = torch.zeros(seen.shape, dtype=text_encoder.dtype, device=tokens.device)
    hiding = hiding.masked_fill(~seen, torch.finfo(hiding.dtype).min)[:, None, None].expand(-1, 1, length, -1)
    hidden = text_encoder(tokens, attention_mask=hiding).last_hidden_state * seen[..., None]
    return nn.functional.pad(hidden, (0, 0, 0, MAX_PROMPT_TOKENS - length))


def noised(sample: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """`sample` [B, ...] with noise at `sigma` [B], and the velocity that leads from it to the noise."""
    sample = sample.float()
    noise = torch.randn_like(sample)
    level = sigma.view(-1, *[1] * (sample.ndim - 1))
    return PairScheduler.add_noise(sample, noise, level), PairScheduler.target(sample, noise)
