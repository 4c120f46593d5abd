"""Whole faces: eyes and a mouth as the world draws them, where they belong, frame by frame.

Open and closed eyes, with and without glasses, and mouths of several shapes are drawn in the face's own skin
and compared with the frames by normalised correlation, at the place of the head and a sway around it. Without
that place (a clip from a white frame) the head is searched first.

Of 24 true faces all are whole, after pocket's autoencoder 22 (closed lips blur); with an eye in place of the
nose none, with the mouth painted over 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from recipes.pocket.world.canvas import Colour
from recipes.pocket.world.face import SHAPES, draw_eyes, draw_mouth
from recipes.pocket.world.person import EYE_HEIGHT, IRISES, MOUTH_HEIGHT, SKINS, Person

SIZES = {"man": (40.0, 42.5, 45.0), "woman": (40.0, 42.5, 45.0), "child": (36.0, 38.0, 40.0)}
EYES, MOUTH = (0.56, 0.22, 0.22), (0.46, 0.12, 0.34)  # of half a head: to each side, above, below
MOUTHS = ("m", "ə", "ɑː", "uː", "s", "ɔː")  # noqa: RUF001 (IPA)
SWAY, STRIDE = 5, 2  # pixels that a head may have moved; from place to place of a search
EYE_LIKENESS, MOUTH_LIKENESS = 0.6, 0.5  # least correlations
WHOLE_SHARE = 0.75  # of the frames, at least, have eyes and a mouth
EVERY = 3  # frames from one that is looked at to the next


@dataclass(frozen=True)
class Place:
    """A head: "man", "woman" or "child", half its size, and its middle, in pixels."""

    kind: str
    size: float
    x: float
    y: float


@dataclass(frozen=True)
class FaceSighting:
    """Correlations of the worse eye and of the mouth in each frame that was looked at: float [F]."""

    place: Place
    eyes: np.ndarray
    mouth: np.ndarray

    @property
    def whole_share(self) -> float:
        """Share of the frames that have eyes and a mouth."""
        return float(((self.eyes >= EYE_LIKENESS) & (self.mouth >= MOUTH_LIKENESS)).mean())

    @property
    def is_whole(self) -> bool:
        return self.whole_share >= WHOLE_SHARE


def find_face(frames: np.ndarray, place: Place | None = None) -> FaceSighting:
    """Look for eyes and a mouth in frames uint8 [F, H, W, 3], at `place` or wherever a head is likeliest."""
    pictures = _soft(frames[EVERY::EVERY].astype(np.float32))  # without the first, which may have been given
    place = place or _search(pictures[len(pictures) // 2])
    eyes, mouth = _boxes(place)
    skin = _nearest_skin(_median(pictures, _box(place, 0.6, 0.1, 0.1, EYE_HEIGHT[place.kind] + 0.35)))
    under = _median(pictures, mouth)  # skin or a beard
    middle = (eyes[1] + eyes[3]) // 2
    sides = (*eyes[:3], middle), (eyes[0], middle, *eyes[2:])
    each = [_eye_templates(place, side, skin) for side in sides]
    lips = _mouth_templates(place, mouth, skin, under)
    return FaceSighting(
        place,
        np.array([min(map(partial(_likeness, picture), each, sides)) for picture in pictures]),
        np.array([_likeness(picture, lips, mouth) for picture in pictures]),
    )


Box = tuple[int, int, int, int]  # top, left, bottom, right


def _box(place: Place, aside: float, above: float, below: float, middle: float) -> Box:
    """The pixels around `middle`, all in units of half a head."""
    s, y = place.size, place.y + middle * place.size
    return round(y - above * s), round(place.x - aside * s), round(y + below * s), round(place.x + aside * s)


def _boxes(place: Place) -> tuple[Box, Box]:
    return _box(place, *EYES, EYE_HEIGHT[place.kind]), _box(place, *MOUTH, MOUTH_HEIGHT[place.kind])


def _median(pictures: np.ndarray, box: Box) -> np.ndarray:
    top, left, bottom, right = box
    part = pictures[:, max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
    return np.median(part.reshape(-1, 3), 0)


def _nearest_skin(colour: np.ndarray) -> Colour:
    return min(SKINS, key=lambda skin: np.abs(np.array(skin) - colour).sum())


def _person(place: Place, skin: Colour, glasses: bool = False) -> Person:
    return Person(place.kind, skin, "brown", "", "", "", IRISES[0], glasses, "", place.size)


def _eye_templates(place: Place, box: Box, skin: Colour) -> np.ndarray:
    """Both eyes, open, half and closed, with and without glasses: [N, h, w, 3]."""
    blink, raised = np.array([0.0, 0.5, 1.0]), np.zeros(3)
    x, y = _grid(box, place.x, place.y, 3)
    drawn = []
    for glasses in (False, True):
        frames = _plain(skin, x.shape)
        person = _person(place, skin, glasses)
        draw_eyes(frames, person, x / place.size, y / place.size, blink, raised, 0.0)
        drawn += [*frames.transpose(1, 2, 3, 0)]
    return _normalised(_soft(np.stack(drawn)))


def _mouth_templates(place: Place, box: Box, skin: Colour, under: np.ndarray) -> np.ndarray:
    """Mouths of several shapes: [N, h, w, 3]."""
    shapes = np.array([SHAPES[name] for name in MOUTHS], np.float32)
    y0 = place.y + MOUTH_HEIGHT[place.kind] * place.size
    x, y = _grid(box, place.x, y0, len(shapes), fine=True)
    frames = _plain(tuple(under), (*y.shape[:2], x.shape[2] // 2))
    draw_mouth(frames, _person(place, skin), x, y, shapes)
    return _normalised(_soft(frames.transpose(1, 2, 3, 0)))


def _grid(box: Box, x: float, y: float, count: int, fine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pixels from (x, y): [count, h, w], with `fine` twice as many across."""
    top, left, bottom, right = box
    step = 0.5 if fine else 1.0
    across = np.arange(left, right, step, dtype=np.float32) + step / 2 - x
    down = np.arange(top, bottom, dtype=np.float32) + 0.5 - y
    shape = (count, len(down), len(across))
    return np.broadcast_to(across, shape).copy(), np.broadcast_to(down[:, None], shape).copy()


def _plain(colour: Iterable[float], shape: tuple[int, ...]) -> np.ndarray:
    """One colour: float32 [3, ...]."""
    return np.stack([np.full(shape, value, np.float32) for value in colour])


def _soft(pictures: np.ndarray) -> np.ndarray:
    """Pictures [..., h, w, 3] as blurred as an autoencoder leaves lips that are closed."""
    for axis in (-3, -2):
        edges = [(1, 1) if axis == each - pictures.ndim else (0, 0) for each in range(pictures.ndim)]
        padded = np.pad(pictures, edges, mode="edge")
        length = pictures.shape[axis]
        before, at, after = (padded.take(range(first, first + length), axis) for first in range(3))
        pictures = (before + 2 * at + after) / 4
    return pictures


def _normalised(patches: np.ndarray) -> np.ndarray:
    """Patches [..., h, w, 3] without the mean of each channel, of length 1."""
    centred = patches - patches.mean((-3, -2), keepdims=True)
    return centred / np.sqrt(np.square(centred).sum((-3, -2, -1), keepdims=True) + 1e-6)


def _likeness(picture: np.ndarray, templates: np.ndarray, box: Box, sway: int = SWAY) -> float:
    """The best correlation of any template with a patch of `picture` around `box`."""
    top, left, bottom, right = box
    padded = np.pad(picture, ((sway, sway), (sway, sway), (0, 0)), mode="edge")
    area = padded[max(top, 0) : bottom + 2 * sway, max(left, 0) : right + 2 * sway]
    height, width = templates.shape[1:3]
    if area.shape[0] < height or area.shape[1] < width:
        return 0.0
    patches = np.lib.stride_tricks.sliding_window_view(area, (height, width), axis=(0, 1))
    patches = _normalised(patches.transpose(0, 1, 3, 4, 2)).reshape(-1, templates[0].size)
    return float((patches @ templates.reshape(len(templates), -1).T).max())


def _search(picture: np.ndarray) -> Place:
    """The head whose eyes are likest, anywhere in the picture [H, W, 3]."""
    height, width = picture.shape[:2]
    best = (-1.0, Place("man", 42.5, width / 2, height / 2))
    for kind, sizes in SIZES.items():
        for size, skin in product(sizes, SKINS[::2]):
            place = Place(kind, size, width / 2, height / 2)
            box = _boxes(place)[0]
            templates = _eye_templates(place, box, skin)[::3]  # open
            patches = np.lib.stride_tricks.sliding_window_view(picture, templates.shape[1:3], axis=(0, 1))
            patches = _normalised(patches[::STRIDE, ::STRIDE].transpose(0, 1, 3, 4, 2))
            found = np.einsum("yxhwc,nhwc->yxn", patches, templates).max(-1)
            row, column = np.unravel_index(found.argmax(), found.shape)
            x, y = place.x + column * STRIDE - box[1], place.y + row * STRIDE - box[0]
            best = max(best, (float(found.max()), Place(kind, size, x, y)), key=lambda each: each[0])
    return best[1]
