"""What callers give a pipeline, brought into the form the model takes."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mova.images import fit_image, white_frame
from mova.types import UserError

FirstFrame = Image.Image | np.ndarray | Tensor
Generators = torch.Generator | list[torch.Generator] | None


def to_pixels(image: FirstFrame | None, height: int, width: int) -> Tensor:
    """`image` as float32 [3, H, W] in [-1, 1]; PIL and uint8 [h, w, 3] are cropped to fit, None is white."""
    if isinstance(image, Tensor):
        if tuple(image.shape) != (3, height, width):
            raise UserError(f"an image tensor must be [3, {height}, {width}], not {list(image.shape)}")
        return image.float()
    if image is None:
        image = white_frame(height, width)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    pixels = np.asarray(fit_image(image.convert("RGB"), height, width), dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def spread(parts: Tensor, batch: int, what: str) -> Tensor:
    """`parts` [N, ...] as [batch, ...]: one for all, one for each prompt, or one for each clip.

    Raises:
        UserError: N does not go into the batch.
    """
    if batch % len(parts):
        raise UserError(f"{len(parts)} {what} for {batch} clips; give one, or one for each prompt")
    return parts.repeat_interleave(batch // len(parts), dim=0)


def draw_noise(
    batch: int, sizes: Sequence[tuple[int, ...]], generator: Generators, given: Sequence[Tensor | None]
) -> list[Tensor]:
    """Starting noise float32 [batch, *size] for each size: what is given, the rest drawn.

    Clip by clip and size by size in order, on the generator's device; without one, from torch's global
    generator. So a clip's noise does not depend on its neighbours when each has its own generator.
    """
    generators = generator if isinstance(generator, list) else [generator] * batch
    if len(generators) != batch:
        raise UserError(f"{len(generators)} generators for {batch} clips; give one, or one for each")
    for tensor, size in zip(given, sizes, strict=True):
        if tensor is not None and tuple(tensor.shape) != (batch, *size):
            raise UserError(f"latents of shape {tuple(tensor.shape)} were given, expected {(batch, *size)}")
    drawn = [
        [torch.randn(size, generator=each, device=each.device if each else "cpu") for size in sizes]
        for each in generators
    ]
    columns = [torch.stack(column) for column in zip(*drawn, strict=True)]
    return [new if old is None else old.float() for old, new in zip(given, columns, strict=True)]
