"""Clips with sound that show how far a run is: the same prompts and seeds each time, the base model first."""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from lora_trainer.cache import Cache
from lora_trainer.config import Config
from lora_trainer.windows import lengths, size_of
from mova.catalog import find_model
from mova.images import open_image
from mova.media import write_mp4
from mova.pipeline import MOVAPipeline

logger = logging.getLogger(__name__)


def make_samples(
    config: Config, cache: Cache, pipeline: MOVAPipeline, step: int, write: bool = True
) -> Iterator[Path]:
    """Write samples/step-000100-0.mp4 and so on for every sample, with the pipeline as it stands now.

    Without `write` they are made and forgotten, in a process whose part of the weights the writer needs.
    """
    settings, model = config.samples, find_model(config.model)
    height, width = size_of(config.data, model)
    num_frames = settings.num_frames or lengths(config.data, model)[0]
    negative = cache.text(config.texts[1])[None]
    for index, sample in enumerate(settings.clips):
        path = config.output / "samples" / f"step-{step:06d}-{index}.mp4"
        image: Image.Image | None = open_image(sample.image) if sample.image else None
        out = pipeline(
            image=image,
            prompt_embeds=cache.text(sample.prompt)[None],
            negative_prompt_embeds=negative,
            height=height,
            width=width,
            num_frames=num_frames,
            frame_rate=config.data.frame_rate,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(sample.seed),
            output_type="np" if write else "latent",
        )
        if not write:
            continue
        frames = (out.frames[0] * 255).round().astype("uint8")
        record = {"prompt": sample.prompt, "seed": sample.seed, "step": step}
        rate = pipeline.audio_vae.config.sample_rate
        write_mp4(path, frames, out.audio[0].numpy(), config.data.frame_rate, rate, record, overwrite=True)
        yield path
