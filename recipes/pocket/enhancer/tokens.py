"""The enhancer's vocabulary: marks, placeholders, fixed fragments of captions, byte-level BPE for the rest.

A fragment such as "faces the camera in front of " is one token: prompts become half as long to write, and no
part of them can be misspelt. Any other text is spelt by BPE, down to bytes.
"""

import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mova.prompting.plan import NO_SUBTITLES
from recipes.pocket import captions
from recipes.pocket.enhancer import vocabulary
from recipes.pocket.enhancer.ideas import Idea, draw_idea

PAD, END, IDEA, PROMPT, FAR = "<|pad|>", "<|end|>", "<|idea|>", "<|prompt|>", "<|far|>"
PLACEHOLDERS = tuple(f"<Q{index}>" for index in range(1, 9))
MAX_CHARACTERS = 300  # of an idea; a longer one is taken for one outside the world
CHAT_TEMPLATE = (
    "{%- set asked = messages | selectattr('role', 'equalto', 'user') | list | last -%}"
    "{%- set idea = asked.content.split() | join(' ') -%}"
    f"{IDEA}{{{{ idea if idea | length <= {MAX_CHARACTERS} else '{FAR}' }}}}{PROMPT}"
)
PIECES = 896  # of BPE, the bytes included
FRAGMENT_WORDS = 3
TRAINING_IDEAS = 12_000
TEMPLATES = (
    *(captions.FACE_FIRST_FRAME, captions.FACE_PROGRESSION, captions.FACE_AUDIO, captions.BALL_FIRST_FRAME),
    *(captions.BALL_PROGRESSION, captions.BALL_AUDIO, captions.PIANO_FIRST_FRAME, captions.PIANO_PROGRESSION),
    *(captions.PIANO_AUDIO, vocabulary.ONE_NOTE_PROGRESSION, vocabulary.ONE_NOTE_AUDIO, captions.RAINBOW),
    *(*captions.LOOK.values(), *captions.START.values(), *captions.DRIFT.values(), *captions.IMPACT.values()),
    tuple(captions.HAIR.values()),
    (NO_SUBTITLES,),
)


def fragments() -> list[str]:
    """The fixed runs of words in captions, without an article at the end: it depends on what follows."""
    found = set()
    for template in (template for templates in TEMPLATES for template in templates):
        for piece in re.split(r"\{\w+\}", template):
            run = re.sub(r"(?<= )an? $", "", piece.lstrip())
            if len(run.split()) >= FRAGMENT_WORDS:
                found.add(run)
    return sorted(found)


def make_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `path`, learnt from ideas and their prompts if there is none yet."""
    if not path.exists():
        _learn().save(str(path))
    return load_tokenizer(path)


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(path), eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, idea: Idea) -> tuple[list[int], list[int]]:
    """Tokens of the idea as the chat template frames it, and of what shall follow."""
    text = " ".join(idea.text.split())
    text = text if len(text) <= MAX_CHARACTERS else FAR
    asked = tokenizer.encode(f"{IDEA}{text}{PROMPT}", add_special_tokens=False)
    return asked, tokenizer.encode(f"{idea.target}{END}", add_special_tokens=False)


def _learn() -> Tokenizer:
    """A space belongs to the word before it: words at the end of an idea are spelt alike between quote marks.

    Letters that may be notes stand alone, also in a row of capitals.
    """
    marks = [PAD, END, IDEA, PROMPT, FAR]
    whole = [*PLACEHOLDERS, "\n\n", *fragments()]
    raw = Tokenizer(models.BPE())
    note = pre_tokenizers.Split(Regex(r"[A-Z](?=[A-Z])|\b[A-Gb-g]\b"), "isolated")
    words = pre_tokenizers.Split(Regex(r"[\w']+ ?|[^\w\s]+ ?|\s+"), "isolated")
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([note, words, spelling])
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    known = re.compile("|".join(re.escape(text) for text in sorted(whole, key=len, reverse=True)))
    ideas = (draw_idea(seed) for seed in range(TRAINING_IDEAS))
    raw.train_from_iterator(
        (part for idea in ideas for part in (idea.text, known.sub("\n", idea.target))), trainer
    )
    raw.add_special_tokens(marks)
    raw.add_tokens([AddedToken(text, normalized=False) for text in whole])
    return raw
