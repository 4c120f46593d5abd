"""Training of the pocket enhancer, on ideas that worker processes draw as it goes.

A sequence is the idea as the chat template frames it, then its prompt and the end mark; for an idea outside
the world the end follows at once. Only what comes after the idea is learnt.
"""

import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from recipes.pocket.enhancer.ideas import Idea, draw_idea
from recipes.pocket.enhancer.tokens import encode, load_tokenizer, make_tokenizer
from recipes.pocket.enhancer.typed import typed_ideas
from recipes.pocket.evaluation.prompt_facts import facts_kept

logger = logging.getLogger(__name__)

LOG_SECONDS, SAVE_SECONDS = 10, 60
MAX_TOKENS = 320
IGNORED = -100
MOMENTS = (0.9, 0.98)
Batch = tuple[np.ndarray, np.ndarray]  # tokens and labels, int16 [B, L]


@dataclass(frozen=True)
class EnhancerRecipe:
    width: int = 160
    layers: int = 6
    heads: int = 5
    hidden: int = 400
    max_positions: int = 512
    ideas: int = 512  # in a batch
    pool: int = 8  # batches drawn together and cut by length
    matrix_rate: float = 0.02  # Muon's, for the blocks' matrices
    vector_rate: float = 3e-3  # AdamW's, for embeddings and norms
    warmup: float = 0.03  # share of the time
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0


class IdeaBatches(IterableDataset):
    """Endless batches of new ideas of like length. No two workers draw the same seeds."""

    def __init__(self, tokenizer_file: Path, recipe: EnhancerRecipe, first_pool: int) -> None:
        self.tokenizer_file, self.recipe, self.first_pool = tokenizer_file, recipe, first_pool

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        tokenizer = load_tokenizer(self.tokenizer_file)
        size = self.recipe.ideas * self.recipe.pool
        for pool in count(self.first_pool + index, workers):
            ideas = (draw_idea(seed) for seed in range(pool * size, (pool + 1) * size))
            pairs = sorted((encode(tokenizer, idea) for idea in ideas), key=lambda pair: sum(map(len, pair)))
            for cut in np.random.default_rng(pool).permutation(self.recipe.pool):
                yield pad(pairs[cut * self.recipe.ideas :][: self.recipe.ideas], tokenizer.pad_token_id)


class Training:
    """The model with its optimizers and how far they are: `step`, and `seconds` of training so far."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, recipe: EnhancerRecipe, device: str) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.step, self.seconds = recipe, device, 0, 0.0
        self.model = LlamaForCausalLM(configure(tokenizer, recipe)).to(device)
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.model.named_parameters() if p.ndim != 2 or "embed" in name]
        self.optimizers = (
            torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.0),
            torch.optim.AdamW(others, lr=recipe.vector_rate, betas=MOMENTS, weight_decay=0.0),
        )

    def learn(self, batch: Batch, scale: float) -> torch.Tensor:
        """One step at `scale` times the recipe's rates. The loss, still on the device."""
        tokens, labels = (torch.from_numpy(array).to(self.device).long() for array in batch)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
            loss = self.model(input_ids=tokens, labels=labels, use_cache=False).loss
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        rates = self.recipe.matrix_rate, self.recipe.vector_rate
        for optimizer, rate in zip(self.optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
        self.step += 1
        return loss.detach()

    def save(self, path: Path) -> None:
        whole = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "recipe": asdict(self.recipe),
        }
        torch.save(whole, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def restore(self, path: Path) -> None:
        """Raises ValueError if the checkpoint was made by another recipe."""
        whole = torch.load(path, map_location=self.device, weights_only=True)
        if whole["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was made with {whole['recipe']}; give another --out, or remove it")
        self.model.load_state_dict(whole["model"])
        for optimizer, saved in zip(self.optimizers, whole["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = whole["step"], whole["seconds"]


def train_enhancer(
    out: Path,
    minutes: float,
    recipe: EnhancerRecipe,
    device: str = "cpu",
    workers: int = 1,
    score_ideas: int = 600,
) -> dict[str, float]:
    """Train for `minutes` in all, resuming from `out` if it holds a checkpoint, and write out/model.

    out/log.jsonl gets losses and, last, the score, which is returned; out/answers.jsonl what was scored.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(out / "tokenizer.json")
    training = Training(tokenizer, recipe, device)
    if (out / "training.pt").exists():
        training.restore(out / "training.pt")
    parameters = training.model.num_parameters()
    logger.info("%.2f M parameters on %s, from step %d", parameters / 1e6, device, training.step)
    batches = DataLoader(
        IdeaBatches(out / "tokenizer.json", recipe, training.step),  # no pool twice: one is several steps
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
    )
    run(training, tokenizer, batches, minutes, out)
    training.save(out / "training.pt")
    export(training.model, tokenizer, out / "model")
    return score(training.model, tokenizer, out, score_ideas)


def run(
    training: Training, tokenizer: PreTrainedTokenizerFast, batches: DataLoader, minutes: float, out: Path
) -> None:
    """Learn until the time is over, with a log and a checkpoint now and then."""
    training.model.train()
    started, losses = time.monotonic() - training.seconds, []
    logged = saved = training.seconds
    for batch in batches:
        training.seconds = time.monotonic() - started
        share = training.seconds / (60 * minutes)
        if share >= 1:
            break
        losses.append(training.learn(batch, schedule(share, training.recipe.warmup)))
        if training.seconds - logged >= LOG_SECONDS:
            mean = torch.stack(losses).mean().item()
            write_log(out, step=training.step, seconds=round(training.seconds, 1), loss=round(mean, 5))
            logged, losses = training.seconds, []
        if training.seconds - saved >= SAVE_SECONDS:
            training.save(out / "training.pt")
            export(training.model, tokenizer, out / "model")
            saved = training.seconds


def schedule(share: float, warmup: float) -> float:
    """The rate as a share of its highest: a ramp, then half a cosine down to a hundredth."""
    return min(share / warmup, 1.0) * (0.505 + 0.495 * math.cos(math.pi * share))


def configure(tokenizer: PreTrainedTokenizerFast, recipe: EnhancerRecipe) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def as_it_is(batch: Batch) -> Batch:
    """Batches cross from worker to trainer as arrays, through a pipe: no shared memory is needed."""
    return batch


def pad(pairs: Sequence[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    length = max(len(asked) + len(answer) for asked, answer in pairs)
    tokens = np.full((len(pairs), length), pad_id, np.int16)
    labels = np.full((len(pairs), length), IGNORED, np.int16)
    for row, (asked, answer) in enumerate(pairs):
        end = len(asked) + len(answer)
        tokens[row, :end] = asked + answer
        labels[row, len(asked) : end] = answer
    return tokens, labels


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The model in plain transformers layout: bfloat16 on the disk, float32 in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    copy.generation_config = GenerationConfig(**ids, do_sample=False, max_new_tokens=MAX_TOKENS)
    copy.to(torch.bfloat16).save_pretrained(folder)
    config = LlamaConfig.from_pretrained(folder)
    config.dtype = torch.float32
    config.save_pretrained(folder)


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, count: int
) -> dict[str, float]:
    """The shares of `count` held-out ideas and of the typed ones whose answers keep all their facts.

    A quick look without the product's rules; `check` is the measure.
    """
    ideas = [draw_idea(seed, "heldout") for seed in range(count)] + typed_ideas()
    groups = ["held out"] * count + ["typed"] * (len(ideas) - count)
    kept: dict[str, list[bool]] = {}
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        answers = answer_all(model, tokenizer, ideas)
        for group, idea, answer in zip(groups, ideas, answers, strict=True):
            facts = facts_kept(idea, answer)
            kept.setdefault(f"{group}, {idea.family}", []).append(all(facts.values()))
            lost = [name for name, is_kept in facts.items() if not is_kept]
            line = {"idea": idea.text, "family": idea.family, "lost": lost, "answer": answer}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    shares = {group: round(float(np.mean(good)), 4) for group, good in kept.items()}
    write_log(out, **shares)
    return shares


@torch.inference_mode()
def answer_all(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, ideas: Sequence[Idea], batch: int = 200
) -> Iterator[str]:
    """The greedy answers, batch by batch."""
    model.eval()
    for start in range(0, len(ideas), batch):
        asked = [encode(tokenizer, idea)[0] for idea in ideas[start : start + batch]]
        inputs = tokenizer.pad({"input_ids": asked}, padding_side="left", return_tensors="pt").to(
            model.device
        )
        output = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_TOKENS)
        new = output[:, inputs["input_ids"].shape[1] :]
        yield from tokenizer.batch_decode(new, skip_special_tokens=True)


def write_log(out: Path, **figures: float) -> None:
    logger.info("%s", ", ".join(f"{name} {value}" for name, value in figures.items()))
    with (out / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")
