"""Seams between given and made material: frames and samples, after decoding."""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mova.tracks import Span, runs

BLEND_FRAMES = 12
STILL, MOVED = 4.0, 12.0  # levels of 255: a place that changes less is still, one that changes more is not
FADE_SECONDS = 0.008  # of sound, from what was given to what is made


def put_back_frames(given: Tensor, decoded: Tensor, made: np.ndarray) -> Tensor:
    """`given` [B, 3, F, H, W] outside the frames that are `made` [F], `decoded` in them, in [-1, 1].

    The autoencoder loses detail (31 dB in pocket), and the picture would jump at the seam. So the given frame
    at the seam fades into the made ones where the picture stands still; where it moves, that would leave a
    ghost. With pocket's autoencoder and true clips (6 a family, three spans) the step at the seam falls from
    3.1 levels to 0.6 for faces (true clips 0.6), from 4.0 to 1.1 for pianos (1.2), from 2.6 to 0.8 for balls
    (0.8), and the made frames are nearer to the true ones.
    """
    result = given.clone()
    for start, end in runs(made):
        piece = decoded[:, :, start:end]
        length = min(BLEND_FRAMES, end - start)
        fade = [(1 + math.cos(math.pi * (i + 1) / (length + 1))) / 2 for i in range(length)]
        weights = given.new_tensor(fade).view(-1, 1, 1)
        blended = piece.clone()
        for seam, near, weight in (
            (start - 1, slice(0, length), weights),
            (end, slice(end - start - length, None), weights.flip(0)),
        ):
            if 0 <= seam < len(made):
                share = weight * _stillness(piece[:, :, near], decoded[:, :, seam : seam + 1])
                blended[:, :, near] += share * (given[:, :, seam : seam + 1] - piece[:, :, near])
        result[:, :, start:end] = blended
    return result


def _stillness(frames: Tensor, seam: Tensor) -> Tensor:
    """[B, 1, f, H, W]: 1 where `frames` [B, 3, f, H, W] show what `seam` [B, 3, 1, H, W] does, else 0."""
    change = (frames - seam).abs().mean(dim=1) * 127.5
    change = F.avg_pool2d(change, 3, stride=1, padding=1)
    return ((MOVED - change) / (MOVED - STILL)).clamp(0, 1)[:, None]


def put_back_sound(given: Tensor, decoded: Tensor, spans: Sequence[Span], sample_rate: int) -> Tensor:
    """`given` [B, 1, S] outside the spans, `decoded` in them, faded over at their ends, inside."""
    result, total = given.clone(), given.shape[-1]
    for first, last in spans:
        start, end = round(first * sample_rate), min(round(last * sample_rate), total)
        share = given.new_ones(end - start)
        length = min(round(FADE_SECONDS * sample_rate), (end - start) // 2)
        rise = given.new_tensor([(i + 1) / (length + 1) for i in range(length)])
        if start > 0:
            share[:length] = rise
        if end < total:
            share[end - start - length :] = rise.flip(0)
        result[..., start:end] = share * decoded[..., start:end] + (1 - share) * given[..., start:end]
    return result
