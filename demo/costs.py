"""What a clip will cost, said before the click: seconds, and on ZeroGPU quota. No torch.

The same number that is shown books the GPU. It starts from counted operations and the catalogue's rates, and
from then on from what the last clip really took here.
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
FREE_QUOTA, ANONYMOUS_BOOKING = 300, 120  # quota seconds: a free account's day, a visitor's one task


class Costs:
    """Estimates for one machine. Rates are learned from finished clips, by model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device_name = ZEROGPU_CARD if settings.is_zero_gpu else ""  # empty until the worker has told
        self.cores = 1
        self._correction: dict[str, float] = {}
        self._lock = threading.Lock()

    def seconds(self, request: GenerationRequest, source: str, learned: bool = True) -> float | None:
        """Seconds from the click to the clip with the model loaded, or None where that cannot be told yet."""
        if not self.device_name:
            return None
        try:
            time = machine.estimate_time(request, read_configs(source), self.device_name, self.cores)
        except (UserError, OSError, KeyError, ValueError):
            return None  # an estimate is a courtesy: what is wrong with the model is said when it runs
        seconds = time.total
        if self.settings.is_zero_gpu:
            seconds *= HALF_CARD if self.settings.zerogpu_size == "large" else 1
            seconds /= self.settings.zerogpu_speed
        with self._lock:
            return seconds * (self._correction.get(source, 1.0) if learned else 1.0)

    def learn(self, request: GenerationRequest, source: str, seconds: float) -> None:
        """Correct later estimates by what this clip took."""
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

    def sentence(self, request: GenerationRequest, source: str) -> str:
        """The estimate for people."""
        seconds = self.seconds(request, source)
        if seconds is None:
            is_remote = self.settings.backend == "remote"
            return "How long the engine takes is not known." if is_remote else "The time is not known yet."
        text = f"About {machine.human_seconds(seconds)}"
        quota = self.quota_seconds(request, source)
        if quota is None:
            return f"{text} on this machine."
        text += f", about {machine.human_seconds(quota)} of your daily GPU quota."
        asked = self.booked_seconds(request, source) * QUOTA_FACTOR[self.settings.zerogpu_size]
        if asked > FREE_QUOTA:
            text += f" It must book {machine.human_seconds(asked)}; a free account has 5 min a day."
        elif asked > ANONYMOUS_BOOKING:
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
