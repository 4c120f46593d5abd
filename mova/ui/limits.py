"""How often strangers may make the page's owner pay for a language model."""

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from mova.types import UserError

if TYPE_CHECKING:
    import gradio as gr

WINDOW_SECONDS = 60.0
MOST_KNOWN = 10_000


class Limiter:
    """At most `most` in a minute for each caller."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, caller: str) -> None:
        """Count one. Raises UserError if it is one too many."""
        now = time.monotonic()
        with self._lock:
            if len(self._times) > MOST_KNOWN:
                self._times = {
                    key: times for key, times in self._times.items() if now - times[-1] < WINDOW_SECONDS
                }
            times = self._times.setdefault(caller, deque(maxlen=self.most))
            if len(times) == self.most and now - times[0] < WINDOW_SECONDS:
                wait = WINDOW_SECONDS - (now - times[0])
                raise UserError(f"that was {self.most} times in a minute; try again in {wait:.0f} s")
            times.append(now)


def caller_of(request: "gr.Request | None") -> str:
    """Who calls: on a Space the first hop that the proxy names, else the connection's address."""
    if request is None:
        return "nobody"
    forwarded = request.headers.get("x-forwarded-for", "").split(",")[0].strip()
    return forwarded or (request.client.host if request.client else "nobody")
