"""The sizes of pocket: a MOVA of the released classes and layout with a thousandth of its weights."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from mova.models.attention import frequencies
from mova.models.audio_vae import AudioVAE, ResidualUnit
from mova.models.bridge import Bridge, Conditioner
from mova.models.dit import AudioDiT, VideoDiT
from recipes.pocket.world.clip import FRAME_RATE, SAMPLE_RATE

VIDEO_DIM, AUDIO_DIM, TEXT_DIM = 240, 192, 192
LAYERS = 6
AUDIO_CHANNELS = 32
AUDIO_RATES = [2, 4, 5, 8]  # 320 samples a latent: 50 a second, as released
VOCABULARY = 1536
BOUNDARY_RATIO = 0.9
SHIFT = 5.0
NEIGHBOURS = (-1, 1, -2, 2)  # tokens away: where the text encoder's first heads attend at initialisation
NEIGHBOUR_SCORE = 4.0  # added to their attention scores there
MOMENTS = (0, -1, 1)  # latent frames away: where the bridge's first heads attend at initialisation
HAND_PAIRS = slice(3, 11)  # channel pairs that separate those moments: periods of 20 to 290 audio latents
HANDS = {"q": 10.0, "k": 2.0}  # where inputs are 5 to 30 and 1
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def build_video_vae() -> AutoencoderKLWan:
    """Takes pixels in patches of 2x2.

    One of equal size that takes them one by one was 1.9 dB behind after 300 steps, and 2.8 times as slow on
    two cores.
    """
    return AutoencoderKLWan(
        base_dim=32,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


def build_audio_vae() -> AudioVAE:
    vae = AudioVAE(
        encoder_dim=12,
        encoder_rates=AUDIO_RATES,
        latent_dim=AUDIO_CHANNELS,
        decoder_dim=256,
        decoder_rates=AUDIO_RATES[::-1],
        sample_rate=SAMPLE_RATE,
    )
    for part in vae.modules():  # signals keep their size from end to end, residual units start as identities
        if isinstance(part, nn.Conv1d):
            nn.init.normal_(part.weight, std=(part.in_channels * part.kernel_size[0]) ** -0.5)
        elif isinstance(part, nn.ConvTranspose1d):
            nn.init.normal_(part.weight, std=(2 * part.in_channels) ** -0.5)
    for part in vae.modules():
        if isinstance(part, ResidualUnit):
            nn.init.zeros_(part.block[-1].weight)
    nn.init.constant_(vae.quant_conv.bias[AUDIO_CHANNELS:], -6.0)  # else noise hides the first latents
    return vae


def build_video_dit() -> VideoDiT:
    return VideoDiT(
        dim=VIDEO_DIM,
        in_dim=36,
        ffn_dim=576,
        out_dim=16,
        text_dim=TEXT_DIM,
        freq_dim=256,
        eps=1e-6,
        patch_size=[1, 2, 2],
        num_heads=5,
        num_layers=LAYERS,
    )


def build_audio_dit() -> AudioDiT:
    return AudioDiT(
        dim=AUDIO_DIM,
        in_dim=AUDIO_CHANNELS,
        ffn_dim=640,
        out_dim=AUDIO_CHANNELS,
        text_dim=TEXT_DIM,
        freq_dim=256,
        eps=1e-6,
        patch_size=[1],
        num_heads=4,
        num_layers=LAYERS,
    )


def build_bridge() -> Bridge:
    bridge = Bridge(
        visual_layers=LAYERS,
        audio_layers=LAYERS,
        visual_hidden_dim=VIDEO_DIM,
        audio_hidden_dim=AUDIO_DIM,
        audio_fps=50.0,
        head_dim=48,
    )
    attend_to_the_moment(bridge)
    return bridge


def attend_to_the_moment(bridge: Bridge) -> None:
    """Initialise the bridge to add nothing; its heads attend to the other modality at the same time.

    Rotary positions separate times only for queries and keys that share something. From random heads none
    did: after 13,000 steps the sound of an impact still attended to all times of the picture.
    """
    interval = bridge.interval(FRAME_RATE)
    ahead, level = [moment * interval for moment in MOMENTS], [0.0] * len(MOMENTS)
    for conditioner in (*bridge.audio_to_video_conditioners, *bridge.video_to_audio_conditioners):
        inner = conditioner.inner
        for weights in (inner.q.weight, inner.o.weight, inner.o.bias):
            nn.init.zeros_(weights)
        with torch.no_grad():
            inner.q.bias.copy_(HANDS["q"] * clock_hands(conditioner, ahead))
            inner.k.bias.copy_(HANDS["k"] * clock_hands(conditioner, level))


def clock_hands(conditioner: Conditioner, positions: list[float]) -> Tensor:
    """A vector [dim] that stands, at rotary position 0, where others stand at `positions`.

    One head for each position; the others are zero.
    """
    heads = conditioner.inner.num_heads
    width = conditioner.inner.q.out_features // heads
    hands = torch.zeros(heads, 2, width // 2)
    for head, position in enumerate(positions):
        angles = position * frequencies(width)[HAND_PAIRS]
        hands[head, :, HAND_PAIRS] = torch.stack((angles.cos(), angles.sin())).float()
    return hands.flatten()


def build_text_encoder() -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=VOCABULARY,
        d_model=TEXT_DIM,
        d_kv=32,
        d_ff=320,
        num_layers=3,
        num_heads=6,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    encoder = UMT5EncoderModel(config)
    attend_to_neighbours(encoder)
    return encoder


def attend_to_neighbours(encoder: UMT5EncoderModel) -> None:
    """Initialise heads that attend to the neighbours of each token, and one to all tokens before it.

    This encoder knows order only by relative distances, and from random heads it learnt none: after 3,200
    steps of 512 sounds two notes could change places and no other token's embedding moved by 1 %.
    """
    after = encoder.config.relative_attention_num_buckets // 2  # the first bucket of tokens that follow
    for block in encoder.encoder.block:
        table = block.layer[0].SelfAttention.relative_attention_bias.weight  # [buckets, heads]
        with torch.no_grad():
            table.zero_()
            for head, distance in enumerate(NEIGHBOURS):
                table[abs(distance) + (after if distance > 0 else 0), head] = NEIGHBOUR_SCORE
            table[after:, len(NEIGHBOURS)] = -NEIGHBOUR_SCORE


def train_tokenizer(captions: list[str], folder: Path) -> PreTrainedTokenizerFast:
    """Byte-pair encoding of the world's captions; what it never saw falls back to bytes, so any text goes."""
    before = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    draft = Tokenizer(models.BPE(unk_token=UNKNOWN))
    draft.pre_tokenizer = before
    fixed = [PAD, END, UNKNOWN, *(f"<0x{value:02X}>" for value in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(fixed) + 1, special_tokens=[UNKNOWN], show_progress=False
    )
    draft.train_from_iterator(captions, trainer)
    learnt = json.loads(draft.to_str())["model"]
    pieces = [piece for piece in sorted(learnt["vocab"], key=learnt["vocab"].get) if piece != UNKNOWN]
    vocabulary = {piece: index for index, piece in enumerate([*fixed, *pieces])}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, byte_fallback=True))
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, vocabulary[END])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, padding_side="right"
    )
    fast.save_pretrained(folder)
    return fast


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
