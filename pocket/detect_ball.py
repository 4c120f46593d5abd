"""What a ball clip shows and sounds like: where the ball is, when it hits, its colour and its material.

Only the first frame's layout is known; everything else is looked for, so that generated clips are judged by
what they show.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pocket.ball_look import BALL_COLOURS, MATERIALS, draw_ball
from pocket.clip import SAMPLE_RATE, Impact
from pocket.hearing import band_levels, onsets
from pocket.sound import impact_sound

REACH_UP, REACH_ACROSS = 24, 5  # pixels a ball may move in a frame
FAINT, STRONG = (
    10.0,
    60.0,
)  # of 255: a pixel that differs so much from the empty room is a bit, is surely, ball
DEEPEST_SHADE = 0.4  # of the empty room's light: so dark a shadow is still no ball
NEAR_FLOOR = 12.0  # pixels above the lowest place that still count as touching; a smeared ball turns early
FALL = 0.9  # pixels in the frame before: a ball that fell has hit, one that lies has not
FLIGHT = 1.5  # pixels from the highest place since the last hit; the world's lowest flight is 1.9
QUIET_HIT = 0.07  # a late bounce's rise in the sound beside the strongest one's
HIT_COLUMNS = 36  # of 4 ms: how long a hit's spectrum is looked at
TEMPLATES_EACH = 24


@dataclass(frozen=True)
class BallSighting:
    path: np.ndarray  # float [F, 2]: x and y of the centre, pixels
    impact_frames: np.ndarray  # int [N]
    colour: str


def see_ball(frames: np.ndarray, layout: dict[str, float]) -> BallSighting:
    """Frames uint8 [F, H, W, 3]; layout as in `pocket.clip.Clip`."""
    radius = layout["radius"]
    pictures = frames.astype(np.float32)
    room = _empty_room(pictures[0], layout["x"], layout["y"], radius)
    path = _track(_presence(pictures, room), layout["x"], layout["y"], radius)
    return BallSighting(path, hit_frames(path[:, 1]), _colour(pictures, path, radius))


def hit_frames(y: np.ndarray) -> np.ndarray:
    """Frames in which a ball that flew is at its lowest, near the lowest place of all: int [N]."""
    lowest = np.percentile(y, 97)
    fell = np.diff(y, prepend=y[0]) > FALL
    rises_next = np.diff(y, append=np.inf) < 0.5  # after the last frame nobody knows
    near = y > lowest - NEAR_FLOOR
    hits: list[int] = []
    for frame in np.flatnonzero(fell & rises_next & near):
        since = hits[-1] if hits else 0
        if y[frame] - y[since:frame].min() > FLIGHT:
            hits.append(int(frame))
    return np.array(hits, int)


def _empty_room(first: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """The first frame [H, W, 3] without its ball: across it, the wall between its left and right edges."""
    room = first.copy()
    reach = radius + 3
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, first.shape[1] - 1)
    rows = slice(max(int(y - reach), 0), min(int(y + reach) + 1, first.shape[0]))
    share = np.linspace(0, 1, right - left)[:, None]
    before, after = first[rows, max(left - 1, 0), None], first[rows, right, None]
    room[rows, left:right] = before * (1 - share) + after * share
    return room


def _presence(pictures: np.ndarray, room: np.ndarray) -> np.ndarray:
    """How surely each pixel is ball [F, H, W]: how far it is from the empty room, lit or in shadow.

    A shadow that counted as ball would pull a ball that lies up and down as the two melt together.
    """
    light = (pictures * room).sum(-1) / (room * room).sum(-1)
    shaded = np.clip(light, DEEPEST_SHADE, 1)[..., None] * room
    return np.clip((np.abs(pictures - shaded).max(-1) - FAINT) / (STRONG - FAINT), 0, 1)


def _track(presence: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Centres [F, 2]: in each frame the disc, near the last one, that is full and has empty surroundings."""
    matches = _disc_matches(presence, radius)
    height, width = presence.shape[1:]
    path = np.empty((len(presence), 2))
    for index, match in enumerate(matches):
        rows = np.arange(max(int(y) - REACH_UP, 0), min(int(y) + REACH_UP + 1, height))
        columns = np.arange(max(int(x) - REACH_ACROSS, 0), min(int(x) + REACH_ACROSS + 1, width))
        area = match[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        weight = np.clip(area - 0.85 * area.max(), 0, None) ** 2 + 1e-9
        y = float((weight.sum(1) * (rows + 0.5)).sum() / weight.sum())
        x = float((weight.sum(0) * (columns + 0.5)).sum() / weight.sum())
        path[index] = x, y
    return path


def _disc_matches(presence: np.ndarray, radius: float) -> np.ndarray:
    """Presence [F, H, W] correlated with a disc of ones in a ring of minus ones of the same sum."""
    height, width = presence.shape[1:]
    y = (np.arange(height) + height // 2) % height - height // 2
    x = (np.arange(width) + width // 2) % width - width // 2
    distance = np.hypot(y[:, None], x)
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    ring = np.clip(radius * 1.35 + 0.5 - distance, 0, 1) - disc
    kernel = disc / disc.sum() - ring / ring.sum()
    spectrum = np.fft.rfft2(presence) * np.fft.rfft2(kernel.astype(np.float32))
    return np.fft.irfft2(spectrum, (height, width))


def _colour(pictures: np.ndarray, path: np.ndarray, radius: float) -> str:
    """The colour that most frames after the first look like; the first one was given, not made."""
    votes = [
        _name_colour(_inside(picture, *place, radius))
        for picture, place in zip(pictures[4::3], path[4::3], strict=True)
    ]
    return max(BALL_COLOURS, key=votes.count)


def _inside(picture: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Pixels [N, 3] of the ball, without its edge."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[
        max(int(y - radius), 0) : min(int(y + radius) + 1, height),
        max(int(x - radius), 0) : min(int(x + radius) + 1, width),
    ]
    inside = np.hypot(rows + 0.5 - y, columns + 0.5 - x) < 0.8 * radius
    return picture[rows[inside], columns[inside]]


def _name_colour(pixels: np.ndarray) -> str:
    names, references = _colour_references()
    return names[int(np.argmin(np.abs(references - _tint(pixels)).sum(1)))]


def _tint(pixels: np.ndarray) -> np.ndarray:
    """What is left of a colour without its brightness: means of saturated pixels, [3] that sum to 0."""
    saturation = pixels.max(1) - pixels.min(1)
    weight = saturation**2 + 1
    mean = (pixels * weight[:, None]).sum(0) / weight.sum()
    centred = mean - mean.mean()
    return centred / (np.linalg.norm(centred) + 20)


@lru_cache(maxsize=1)
def _colour_references() -> tuple[list[str], np.ndarray]:
    """The tint of every colour in every material before a grey and a cream wall."""
    names, tints = [], []
    for material in MATERIALS:
        for colour in BALL_COLOURS:
            for wall in ((150, 150, 150), (235, 215, 185), (160, 190, 215)):
                frame = np.ones((3, 1, 48, 48), np.float32) * np.array(wall, np.float32)[:, None, None, None]
                centre = np.array([[24.0, 24.0]])
                draw_ball(frame, material, colour, 14.0, centre, np.ones(1), np.zeros(1))
                names.append(colour)
                tints.append(_tint(_inside(frame[:, 0].transpose(1, 2, 0), 24, 24, 14.0)))
    return names, np.stack(tints)


def hear_hits(waveform: np.ndarray) -> np.ndarray:
    """Seconds of every hit heard, float [N]."""
    return onsets(waveform, QUIET_HIT)


def hear_material(waveform: np.ndarray) -> str | None:
    """The material whose hits sound most like these; None where nothing is heard."""
    feature = _hit_spectrum(waveform, hear_hits(waveform))
    if feature is None:
        return None
    names, templates = _material_templates()
    return names[int(np.argmin(np.abs(templates - feature).mean(1)))]


def _hit_spectrum(waveform: np.ndarray, hits: np.ndarray) -> np.ndarray | None:
    """How the loudest hit sounds and dies away: decibels in bands, just after it and later, flattened."""
    if not len(hits):
        return None
    levels = band_levels(waveform, bands=20)
    spans = [levels[int(hit * SAMPLE_RATE / 64) :][:HIT_COLUMNS] for hit in hits]
    loudest = max(spans, key=lambda span: span[:8].max())
    loudest = np.pad(loudest, ((0, HIT_COLUMNS - len(loudest)), (0, 0)), mode="edge")
    parts = [part.mean(0) for part in (loudest[1:6], loudest[6:16], loudest[16:])]
    feature = np.concatenate(parts)
    return np.clip(feature - feature.max(), -40, 0)


@lru_cache(maxsize=1)
def _material_templates() -> tuple[list[str], np.ndarray]:
    """Hits of every material by balls of all sizes."""
    rng = np.random.default_rng(0)
    names, features = [], []
    for material in MATERIALS:
        for index in range(TEMPLATES_EACH):
            speed = float(rng.uniform(200, 400))
            impact = (Impact(0.5, speed, 12), Impact(0.9, 0.5 * speed, 21))
            sound = impact_sound(rng, material, impact, 11.5 + 4.5 * index / (TEMPLATES_EACH - 1))
            names.append(material)
            features.append(_hit_spectrum(sound, np.array([0.5])))
    return names, np.stack(features)
