"""Models of some 100,000 weights, made in seconds: one knows a text by heart, one sees."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<|turn|>", "<image>"]


def make_tokenizer(texts: list[str], template: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, min_frequency=1, special_tokens=SPECIAL, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=template,
    )


def make_text_model(folder: Path, answer: str) -> Path:
    """A Llama whose template drops the messages and which answers everything with `answer`."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer([answer], "<|turn|>")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    ids = torch.tensor([[3, *tokenizer(answer, add_special_tokens=False).input_ids, 2]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on shared cores a second thread makes steps this small 30 times slower
    for _ in range(400):
        loss = model(ids, labels=ids).loss
        if loss.item() < 0.003:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SEEING_TEMPLATE = (
    "{% for message in messages %}<|turn|>{% if message['content'] is string %}{{ message['content'][:40] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ part['text'][:40] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "<|turn|>"
)


def make_seeing_model(folder: Path) -> Path:
    """A LLaVA with random weights: it says nonsense that depends on the picture."""
    torch.manual_seed(1)
    tokenizer = make_tokenizer(["a red ball falls on a blue floor"], SEEING_TEMPLATE)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=16)
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    size = {"shortest_edge": 32}
    images = CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.chat_template = SEEING_TEMPLATE
    processor.save_pretrained(folder)
    return folder
