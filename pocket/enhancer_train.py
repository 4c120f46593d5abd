"""Training of the pocket enhancer: a very small causal model that turns an idea into a prompt of the world.

A sequence is `<|idea|>` the idea `<|prompt|>` the family, the prompt, `<|end|>`; for an idea outside the
world the end follows at once. Only what comes after `<|prompt|>` is learnt.
"""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pocket.enhancer_tokens import COPY, END, IDEA, PROMPT, encode, make_tokenizer
from pocket.hand import pick, syllables
from pocket.ideas import OUTSIDE, draw_idea
from pocket.melody import KEYS
from pocket.muon import Muon

logger = logging.getLogger(__name__)

FAR_SHARE = 0.01
LOG_STEPS = 100
EXERCISE_STARTS = ("", "play ", "says ", "piano plays ", "a man: ", "girl says ", "say ", "notes ")
EXERCISE_TOKENS = 20  # of an exercise, about
Optimizers = tuple[Muon, torch.optim.AdamW]


@dataclass(frozen=True)
class EnhancerRecipe:
    width: int = 160
    layers: int = 4
    heads: int = 5
    hidden: int = 480
    max_positions: int = 512
    tokens: int = 1024  # in a batch, padding included
    pool: int = 256  # ideas from which batches of like length are cut
    matrix_rate: float = 0.02  # Muon's, for the blocks' matrices
    vector_rate: float = 3e-3  # AdamW's, for embeddings and norms
    warmup: float = 0.02  # share of the time
    first_weight: float = 6.0  # of the first token, where the family, or that there is none, is decided
    seed: int = 0


@dataclass
class State:
    step: int = 0
    seed: int = 0  # of the next idea
    seconds: float = 0.0
    share: float = 0.0  # of the time that is over


def train_enhancer(out: Path, work: Path, minutes: float, recipe: EnhancerRecipe, threads: int = 1) -> None:
    """Train for `minutes` in all, from the checkpoint in `work` if there is one; write the model to `out`."""
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(work / "tokenizer.json")
    model = LlamaForCausalLM(_config(recipe, tokenizer))
    optimizers = _optimizers(model, recipe)
    state = _restore(work, model, optimizers, recipe)
    logger.info("%.2f M parameters, from step %d", model.num_parameters() / 1e6, state.step)
    _run(model, optimizers, tokenizer, state, recipe, 60 * minutes, work)
    export(model, tokenizer, out)


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The model in plain transformers layout: bfloat16 on the disk, float32 in memory."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids, do_sample=False, max_new_tokens=320)
    model.to(torch.bfloat16).save_pretrained(out)
    config = LlamaConfig.from_pretrained(out)
    config.dtype = torch.float32
    config.save_pretrained(out)


def _run(
    model: LlamaForCausalLM,
    optimizers: Optimizers,
    tokenizer: PreTrainedTokenizerFast,
    state: State,
    recipe: EnhancerRecipe,
    seconds: float,
    work: Path,
) -> None:
    before, started = state.seconds, time.monotonic()
    saved, total, tokens = state.seconds, 0.0, 0
    model.train()
    for batch in _batches(tokenizer, state, recipe):
        state.seconds = before + time.monotonic() - started
        if state.seconds >= seconds:
            break
        state.share = state.seconds / seconds
        scale = _schedule(state.share, recipe.warmup)
        loss = _loss(model, *batch)
        model.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer, rate in zip(optimizers, (recipe.matrix_rate, recipe.vector_rate), strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
        state.step += 1
        total, tokens = total + loss.item(), tokens + batch[0].numel()
        if state.step % LOG_STEPS == 0:
            rate = tokens / (time.monotonic() - started)
            figures = state.step, state.seconds, total / LOG_STEPS, rate
            logger.info("step %d, %.0f s: loss %.4f, %.0f tokens/s", *figures)
            total = 0.0
        if state.seconds - saved > 120:
            _save(work, model, optimizers, state, recipe)
            saved = state.seconds
    _save(work, model, optimizers, state, recipe)


def _schedule(share: float, warmup: float) -> float:
    return min(share / warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))) + 0.01


def _exercise_share(share: float) -> float:
    """How many of the batches are exercises: most at the start, few in the second half."""
    return 0.7 if share < 0.1 else 0.25 if share < 0.4 else 0.05


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the tokens that have a weight; ids and weights [B, L], padded at the right."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted = weights[:, 1:] > 0
    logits = model.lm_head(hidden[wanted])  # [N, vocabulary]
    losses = F.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    kept = weights[:, 1:][wanted]
    return (losses * kept).sum() / kept.sum()


def _batches(
    tokenizer: PreTrainedTokenizerFast, state: State, recipe: EnhancerRecipe
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of new ideas. The state's seed moves on with each pool."""
    while True:
        ideas = [draw_idea(seed) for seed in range(state.seed, state.seed + recipe.pool)]
        rng = np.random.default_rng((state.seed, 11))
        pairs = sorted(
            (encode(tokenizer, idea, idea.family == OUTSIDE and rng.random() < FAR_SHARE) for idea in ideas),
            key=lambda pair: sum(map(len, pair)),
        )
        batches: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pairs:
            if (len(batches[-1]) + 1) * sum(map(len, pair)) > recipe.tokens:
                batches.append([])
            batches[-1].append(pair)
        state.seed += recipe.pool
        for index in rng.permutation(len(batches)):
            while rng.random() < _exercise_share(state.share):
                pairs = [_exercise(tokenizer, rng) for _ in range(recipe.tokens // EXERCISE_TOKENS)]
                yield _padded(pairs, tokenizer.pad_token_id, 1.0)
            yield _padded(batches[int(index)], tokenizer.pad_token_id, recipe.first_weight)


def _exercise(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A few notes or words, and the same written as prompts write them: copying is learnt here first."""
    if rng.random() < 0.5:
        notes = [KEYS[int(index)] for index in rng.integers(len(KEYS), size=int(rng.integers(1, 9)))]
        text, copy = pick(rng, (" ", " ", ", ", "-", ",", "")).join(notes), ", ".join(notes)
    else:
        text = " ".join(syllables(rng) for _ in range(int(rng.integers(1, 5))))
        copy = f'"{text}"'
    asked = tokenizer.encode(
        f"{IDEA}{pick(rng, EXERCISE_STARTS)}{text}{PROMPT}{COPY}", add_special_tokens=False
    )
    return asked, tokenizer.encode(f"{copy}{END}", add_special_tokens=False)


def _padded(
    pairs: list[tuple[list[int], list[int]]], pad: int, first_weight: float
) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(asked) + len(answer) for asked, answer in pairs)
    ids = torch.full((len(pairs), length), pad)
    weights = torch.zeros(len(pairs), length)
    for row, (asked, answer) in enumerate(pairs):
        end = len(asked) + len(answer)
        ids[row, :end] = torch.tensor(asked + answer)
        weights[row, len(asked) : end] = 1.0
        weights[row, len(asked)] = first_weight
    return ids, weights


def _config(recipe: EnhancerRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
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


def _optimizers(model: LlamaForCausalLM, recipe: EnhancerRecipe) -> Optimizers:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=recipe.vector_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return Muon(matrices, lr=recipe.matrix_rate), adam


def _save(
    work: Path, model: LlamaForCausalLM, optimizers: Optimizers, state: State, recipe: EnhancerRecipe
) -> None:
    whole = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "state": asdict(state),
        "recipe": asdict(recipe),
    }
    torch.save(whole, work / "training.pt.new")
    (work / "training.pt.new").replace(work / "training.pt")


def _restore(work: Path, model: LlamaForCausalLM, optimizers: Optimizers, recipe: EnhancerRecipe) -> State:
    path = work / "training.pt"
    if not path.exists():
        return State()
    whole = torch.load(path, weights_only=True)
    if whole["recipe"] != asdict(recipe):
        raise ValueError(f"{path} was made with {whole['recipe']}; give another --work, or remove it")
    model.load_state_dict(whole["model"])
    for optimizer, saved in zip(optimizers, whole["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return State(**whole["state"])
