"""Cost of a clip before the click: seconds, and on ZeroGPU quota. No torch.

The number that is shown also books the GPU. It starts from counted operations and the catalogue's rates, and
is corrected by the time that finished clips took here.
"""

import json
import math
import threading
from functools import lru_cache
from pathlib import Path

from demo.settings import Settings
from mova import hub, machine
from mova.errors import UserError
from mova.request import GenerationRequest

ZEROGPU_CARD = "RTX PRO 6000"
BOOKING_MARGIN = 1.4  # over the estimate; a task that overruns what it booked is killed
PLACEMENT_SECONDS = 30.0  # of a cold worker: 78 GB over PCIe; whether it is cold is not known beforehand
SHORTEST_BOOKING = 20
LONGEST_BOOKING = 2400  # what the platform allows anyone
HALF_CARD = 2.0  # "large" is half of the card
QUOTA_FACTOR = {"xlarge": 2.0, "large": 1.5}  # quota seconds for a second of GPU
SERIES_SECONDS = 40.0  # of all clips of a click that makes several: about half a minute
FREE_QUOTA, ANONYMOUS_BOOKING = 300, 120  # quota seconds: a free account's day, a visitor's one task


class Costs:
    """Estimates for one machine. Rates are learned from finished clips, by model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device_name = (
            ZEROGPU_CARD if settings.is_zero_gpu else ""
        )  # empty until the worker has reported it
        self.cores = self.gpus = 1
        self._correction: dict[str, float] = {}
        self._lock = threading.Lock()

    def seconds(self, request: GenerationRequest, source: str, learned: bool = True) -> float | None:
        """Seconds from the click to the clip with the model loaded, or None while that is unknown."""
        if not self.device_name:
            return None
        try:
            gpus = self.settings.gpus_for(source, self.gpus)
            time = machine.estimate_time(request, read_configs(source), self.device_name, self.cores, gpus)
        except (UserError, OSError, KeyError, ValueError):
            return None  # an estimate is a courtesy: a faulty model is reported when it runs
        seconds = time.total
        if self.settings.is_zero_gpu:
            seconds *= HALF_CARD if self.settings.zerogpu_size == "large" else 1
            seconds /= self.settings.zerogpu_speed
        with self._lock:
            return seconds * (self._correction.get(source, 1.0) if learned else 1.0)

    def learn(self, request: GenerationRequest, source: str, seconds: float) -> None:
        """Correct later estimates by the time this clip took."""
        expected = self.seconds(request, source, learned=False)
        if expected:
            with self._lock:
                old = self._correction.get(source, seconds / expected)
                self._correction[source] = math.sqrt(old * seconds / expected)

    def booked_seconds(self, request: GenerationRequest, source: str) -> int:
        """Whole seconds of GPU to ask the platform for; never raises."""
        seconds = self.seconds(request, source)
        if seconds is None:
            return 60
        booked = math.ceil(seconds * BOOKING_MARGIN + PLACEMENT_SECONDS)
        return min(max(booked, SHORTEST_BOOKING), LONGEST_BOOKING)

    def quota_seconds(self, request: GenerationRequest, source: str) -> int | None:
        """Seconds of daily quota this clip will use, about; None off ZeroGPU."""
        seconds = self.seconds(request, source)
        if not self.settings.is_zero_gpu or seconds is None:
            return None
        return math.ceil(seconds * QUOTA_FACTOR[self.settings.zerogpu_size])

    def allows(self, clips: int, request: GenerationRequest, source: str) -> bool:
        """True where so many clips are soon made, and no GPU is booked for each of them."""
        seconds = self.seconds(request, source)
        return not self.settings.is_zero_gpu and seconds is not None and clips * seconds <= SERIES_SECONDS

    def sentence(self, request: GenerationRequest, source: str, clips: int = 1) -> str:
        """The estimate for people, of so many clips."""
        seconds = self.seconds(request, source)
        if seconds is None:
            return "The engine's time is not known." if self.settings.remote else "The time is not known yet."
        text = f"About {machine.human_seconds(clips * seconds)}"
        if clips > 1:
            text += f" for {clips} clips"
        quota = self.quota_seconds(request, source)
        if quota is None:
            return f"{text} on this machine."
        text += f", about {machine.human_seconds(quota)} of your daily GPU quota."
        booked = self.booked_seconds(request, source) * QUOTA_FACTOR[self.settings.zerogpu_size]
        if booked > FREE_QUOTA:
            text += f" It must book {machine.human_seconds(booked)}; a free account has 5 min a day."
        elif booked > ANONYMOUS_BOOKING:
            text += " Sign in to Hugging Face: without an account at most 2 min can be booked."
        return text


@lru_cache(maxsize=8)
def read_configs(source: str) -> dict[str, dict]:
    """The configs of both towers, the bridge and both VAEs, by name; a repo's are downloaded, a few kB."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = hub.download(source, ["*/config.json"])
    names = ("video_dit", "audio_dit", "dual_tower_bridge", "audio_vae", "video_vae")
    return {name: json.loads((folder / name / "config.json").read_text(encoding="utf-8")) for name in names}
