"""Export of the trained parts as a checkpoint in the released layout, in bfloat16, and the way back."""

import json
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerFast

from mova.models.audio_vae import AudioVAE
from mova.pipeline import MOVAPipeline
from mova.scheduler import PairScheduler
from recipes.pocket.training.latents import STATISTICS
from recipes.pocket.training.models import BOUNDARY_RATIO, SHIFT
from recipes.pocket.training.run import save_state
from recipes.pocket.training.tower_run import Model

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
    assemble(out).to(dtype=torch.bfloat16).save_pretrained(folder, max_shard_size=SHARD_SIZE)
    for path in Path(folder).glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # a folder of the machine that trained it
        path.write_text(json.dumps(config, indent=2) + "\n")


def start_from(folder: Path, out: Path, reset: Collection[str] = ()) -> None:
    """Write the states from which the training stages continue, with the weights of a finished checkpoint.

    Optimizers start fresh, and so do the parts named in `reset`; with the text encoder also the layers of the
    towers that read it. Latents keep the scale that the towers know, unless the video VAE is reset.
    """
    out.mkdir(parents=True, exist_ok=True)
    pipeline = MOVAPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    for name in {"video_vae", "audio_vae"} - set(reset):
        weights = getattr(pipeline, name).state_dict()
        save_state(out / f"{name}.pt", weights=weights, average=weights, step=0, decoder_only=False)
    config = pipeline.video_vae.config
    statistics = {
        "video_mean": config.latents_mean,
        "video_std": config.latents_std,
        "audio_mean": [0.0] * pipeline.audio_dit.config.in_dim,  # the audio VAE has its own in its weights
        "audio_std": [1.0] * pipeline.audio_dit.config.in_dim,
    }
    if "video_vae" not in reset:  # else they are measured once it is trained
        (out / STATISTICS).write_text(json.dumps(statistics))
    pipeline.tokenizer.save_pretrained(out / "codecs" / "tokenizer")
    model = Model()
    for name, part in model.named_children():
        if name not in reset:
            part.load_state_dict(getattr(pipeline, name).state_dict())
    if "text_encoder" in reset:
        model.reset_text()
    weights = dict(model.named_parameters())
    save_state(out / "towers.pt", weights=weights, average=weights, step=0)
