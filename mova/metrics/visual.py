"""When something happens in the picture, without weights: curves over the frames of a clip.

What is first seen in frame i belongs to the middle of that frame's interval, (i + 0.5) / frame_rate: half a
frame is the finest that a picture can tell. A light that goes off a few frames after it went on, as suddenly,
is seen as one event in their middle.
"""

import numpy as np
from PIL import Image

THUMBNAIL_WIDTH = 56
PYRAMID_LEVELS = 3  # motion up to a fifth of the width between two frames
ITERATIONS = 2
WINDOW_RADIUS = 2  # of the flow, thumbnail pixels
STEADINESS = 20.0  # luma^2: below such contrast there is no motion to tell
PATCH_RADIUS = (3, 4)  # rows and columns around the liveliest place: a mouth, if there is one
PATCHES = 2


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Luma float32 [F, h, w] in 0..255 of frames uint8 [F, H, W, 3], averaged to THUMBNAIL_WIDTH columns."""
    height, width = frames.shape[1:3]
    columns = min(THUMBNAIL_WIDTH, width)
    size = columns, max(round(height * columns / width), 1)
    box = Image.Resampling.BOX
    small = [Image.fromarray(frame).convert("L").resize(size, box) for frame in frames]
    return np.stack([np.asarray(image, np.float32) for image in small])


def motion_change(luma: np.ndarray) -> np.ndarray:
    """How much the motion field changes at each frame [F], in pixels of the thumbnails: a bounce, a strike.

    The motion *into* a frame is compared with that *out of* it. The speed itself peaks before and after an
    impact, so it would tell the wrong moment.
    """
    if len(luma) < 3:
        return np.zeros(len(luma))
    across, down = _flow(luma)
    change = np.hypot(np.diff(across, axis=0), np.diff(down, axis=0)).mean((1, 2))
    return np.pad(change, 1).astype(np.float64)


def flash(luma: np.ndarray) -> np.ndarray:
    """How suddenly each frame [F] differs from the one before, in levels: a light, a key that lights up."""
    if len(luma) < 3:
        return np.zeros(len(luma))
    difference = np.abs(np.diff(luma, axis=0)).mean((1, 2), dtype=np.float64)
    return np.pad(np.maximum(np.diff(difference), 0), (2, 0))


def liveliest_openness(luma: np.ndarray) -> np.ndarray:
    """How far the liveliest places are from their rest in each frame: [candidates, F], in levels.

    Of a speaking face that is its mouth, as long as the head keeps its place. Rest is guessed twice: as the
    median over time and as the first frame.
    """
    activity = _box(np.abs(np.diff(luma, axis=0)).mean(0)[None], WINDOW_RADIUS)[0]
    rows, columns = PATCH_RADIUS
    curves = []
    for _ in range(PATCHES):
        y, x = np.unravel_index(activity.argmax(), activity.shape)
        patch = luma[:, max(y - rows, 0) : y + rows + 1, max(x - columns, 0) : x + columns + 1]
        curves += [np.abs(patch - rest).mean((1, 2)) for rest in (np.median(patch, axis=0), patch[0])]
        activity[max(y - 2 * rows, 0) : y + 2 * rows + 1, max(x - 2 * columns, 0) : x + 2 * columns + 1] = -1
    return np.stack(curves).astype(np.float64)


def _flow(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion from each frame to the next, across and down, [F - 1, h, w]: Lucas-Kanade, coarse to fine."""
    pyramid = [luma]
    while len(pyramid) < PYRAMID_LEVELS and min(pyramid[-1].shape[1:]) >= 8:
        pyramid.append(_halve(pyramid[-1]))
    across = down = np.zeros_like(pyramid[-1][1:])
    for level in reversed(pyramid):
        now, following = level[:-1], level[1:]
        if across.shape != now.shape:
            across, down = 2 * _double(across, now.shape), 2 * _double(down, now.shape)
        slope_y, slope_x = np.gradient(now, axis=(1, 2))
        xx = _box(slope_x * slope_x, WINDOW_RADIUS) + STEADINESS
        yy = _box(slope_y * slope_y, WINDOW_RADIUS) + STEADINESS
        xy = _box(slope_x * slope_y, WINDOW_RADIUS)
        determinant = xx * yy - xy * xy
        for _ in range(ITERATIONS):
            missing = _warp(following, across, down) - now
            x, y = _box(slope_x * missing, WINDOW_RADIUS), _box(slope_y * missing, WINDOW_RADIUS)
            across = across - (yy * x - xy * y) / determinant
            down = down - (xx * y - xy * x) / determinant
        across, down = _box(across, 1), _box(down, 1)
    return across, down


def _warp(images: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """`images` [N, h, w] read at each pixel plus its motion, bilinear, edges repeated."""
    count, height, width = images.shape
    x = np.clip(np.arange(width) + across, 0, width - 1.001)
    y = np.clip(np.arange(height)[:, None] + down, 0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    x, y = x - left, y - top
    flat, place = images.reshape(-1), (np.arange(count) * height * width)[:, None, None] + top * width + left
    upper = flat[place] * (1 - x) + flat[place + 1] * x
    lower = flat[place + width] * (1 - x) + flat[place + width + 1] * x
    return upper * (1 - y) + lower * y


def _box(images: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a square of 2 * radius + 1 around each pixel of [N, h, w], edges repeated."""
    side = 2 * radius + 1
    for axis in (1, 2):
        margin = [(0, 0)] * 3
        margin[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(images, margin, mode="edge"), axis=axis, dtype=np.float32)
        length = images.shape[axis]
        ends = np.take(total, range(side, side + length), axis)
        images = (ends - np.take(total, range(length), axis)) / side
    return images


def _halve(images: np.ndarray) -> np.ndarray:
    count, height, width = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4))


def _double(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows = np.minimum(np.arange(shape[1]) // 2, images.shape[1] - 1)
    columns = np.minimum(np.arange(shape[2]) // 2, images.shape[2] - 1)
    return images[:, rows][:, :, columns]
