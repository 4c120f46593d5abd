"""The trained parts put together: a checkpoint in the released layout, weights in bfloat16."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast

from mova.models.audio_vae import AudioVAE
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler
from pocket.models import BOUNDARY_RATIO, SHIFT
from pocket.tower_run import Model

SHARD_SIZE = "9MB"  # a Space keeps files up to 10 MB without LFS


def assemble(out: Path) -> MOVAPipeline:
    """The pipeline of the averaged weights in `out`."""
    codecs = out / "codecs"
    model = Model()
    model.load_named(torch.load(out / "towers.pt", map_location="cpu", weights_only=True)["average"])
    return MOVAPipeline(
        video_dit=model.video_dit,
        video_dit_2=model.video_dit_2,
        audio_dit=model.audio_dit,
        dual_tower_bridge=model.dual_tower_bridge,
        video_vae=AutoencoderKLWan.from_pretrained(codecs / "video_vae"),
        audio_vae=AudioVAE.from_pretrained(codecs / "audio_vae"),
        text_encoder=model.text_encoder,
        tokenizer=PreTrainedTokenizerFast.from_pretrained(codecs / "tokenizer"),
        scheduler=PairScheduler(num_train_timesteps=1000, shift=SHIFT),
        boundary_ratio=BOUNDARY_RATIO,
    )


def export(out: Path, folder: Path) -> None:
    """Write the checkpoint. Raises UserError if `folder` holds one already."""
    pipeline = assemble(out).to(dtype=torch.bfloat16)
    for vae in (pipeline.video_vae, pipeline.audio_vae):
        vae.register_to_config(_name_or_path=None)  # a folder of the machine that trained it
    pipeline.save_pretrained(folder, max_shard_size=SHARD_SIZE)
