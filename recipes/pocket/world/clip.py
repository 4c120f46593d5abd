"""Sizes and clocks of the world, and the clip with its true events.

Frame i shows the world at the middle of its interval, and the sound of that interval is samples i * 16000 /
24 to (i + 1) * 16000 / 24. So an event at time t belongs to frame floor(t * 24), whose picture is the nearest
to it.
"""

from dataclasses import dataclass

import numpy as np

HEIGHT, WIDTH = 128, 224
FRAME_RATE = 24
NUM_FRAMES = 49
SAMPLE_RATE = 16000
NUM_SAMPLES = int(SAMPLE_RATE * NUM_FRAMES / FRAME_RATE)
SECONDS = NUM_FRAMES / FRAME_RATE
FRAME_TIMES = (np.arange(NUM_FRAMES) + 0.5) / FRAME_RATE  # seconds, middle of each frame's interval

FAMILIES = ("face", "ball", "piano")
SPLITS = ("train", "heldout")
NEW_CONCEPTS = ("character", "cube")  # never part of the model's training


def frame_of(seconds: float) -> int:
    """The frame whose interval holds this moment; a moment on a boundary belongs to the frame it opens."""
    return int(seconds * FRAME_RATE + 1e-6)


@dataclass(frozen=True)
class Impact:
    seconds: float
    speed: float  # pixels/s when it hits the floor
    frame: int


@dataclass(frozen=True)
class Note:
    seconds: float  # onset
    release: float  # seconds
    name: str
    key: int  # index from the left
    frame: int


@dataclass(frozen=True)
class Phoneme:
    start: float  # seconds
    end: float
    name: str  # IPA


@dataclass(frozen=True)
class Word:
    start: float  # seconds
    end: float
    text: str


@dataclass(frozen=True)
class Events:
    """The truth of one clip; only the fields of its family are filled."""

    impacts: tuple[Impact, ...] = ()
    notes: tuple[Note, ...] = ()
    words: tuple[Word, ...] = ()
    phonemes: tuple[Phoneme, ...] = ()
    mouth_opening: np.ndarray | None = None  # float32 [F], 0 closed .. 1 wide
    ball_path: np.ndarray | None = None  # float32 [F, 2], x and y of the centre in pixels
    key_depth: np.ndarray | None = None  # float32 [F, keys], 0 up .. 1 down


Attributes = dict[str, str | int | bool | tuple[str, ...]]


NO_PICTURES = np.empty((0, HEIGHT, WIDTH, 3), np.uint8)


@dataclass(frozen=True)
class Scene:
    """A rendered clip before anyone has described it."""

    frames: np.ndarray  # uint8 [F, H, W, 3]; F is 0 where only the sound was requested
    waveform: np.ndarray  # float32 [S]
    events: Events
    attributes: Attributes
    layout: dict[str, float]


@dataclass(frozen=True)
class Clip:
    frames: np.ndarray  # uint8 [F, H, W, 3]
    waveform: np.ndarray  # float32 [S], in [-1, 1]
    caption: str
    family: str
    events: Events
    attributes: Attributes  # what a caption may speak of
    layout: dict[str, float]  # pixels in frame 0: places for the detectors, also in a generated clip
