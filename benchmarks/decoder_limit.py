"""Limit of the decoder of pocket's video VAE: the detail that no encoder could give it.

    python -m benchmarks.decoder_limit [--steps 100] [--window 64]

Latents of the liveliest window of a held-out clip of each family are encoded, then optimised by gradient
descent for the best decoded clip. The detail that is still missing is the decoder's loss.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from mova.catalog import POCKET
from mova.models.video_vae import decode_whole, encode_whole
from recipes.pocket.evaluation.evaluate import FIRST_SEED
from recipes.pocket.training.run import psnr, to_video
from recipes.pocket.training.vaes import cropped
from recipes.pocket.world.clip import FAMILIES
from recipes.pocket.world.render import make_scene
from recipes.pocket.world.speech import DEFAULT_FOLDER

LEARNING_RATE = 0.1  # of Adam, falling to zero


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoder_limit", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--model", type=Path, default=POCKET, help="a pocket checkpoint's folder")
    parser.add_argument("--speech", type=Path, default=DEFAULT_FOLDER, help="folder of the word bank")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--window", type=int, default=64, help="pixels, height and width")
    options = parser.parse_args()
    torch.manual_seed(0)
    vae = AutoencoderKLWan.from_pretrained(options.model / "video_vae", torch_dtype=torch.float32)
    vae.requires_grad_(False)
    sys.stdout.write("| family | encoded | searched |\n| --- | --- | --- |\n")
    for family in FAMILIES:
        frames = torch.from_numpy(make_scene(FIRST_SEED, family, "heldout", options.speech).frames)
        window = cropped(frames.permute(3, 0, 1, 2)[None], (options.window, options.window))
        encoded, searched = limits(vae, to_video(window), options.steps)
        sys.stdout.write(f"| {family} | {encoded:.1f} dB | {searched:.1f} dB |\n")
    return 0


def limits(vae: AutoencoderKLWan, video: Tensor, steps: int) -> tuple[float, float]:
    """PSNR in dB of `video` [1, 3, F, H, W] from its encoded latents, and from the best that `steps` find."""
    latents = encode_whole(vae, video).chunk(2, dim=1)[0].requires_grad_()
    optimizer = torch.optim.Adam([latents])
    scores = []
    for step in range(steps + 1):
        decoded = decode_whole(vae, latents)
        scores.append(psnr(decoded.detach().clamp(-1, 1), video))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / (steps + 1))
        optimizer.zero_grad()
        (decoded - video).square().mean().backward()
        optimizer.step()
    return scores[0], max(scores)


if __name__ == "__main__":
    sys.exit(main())
