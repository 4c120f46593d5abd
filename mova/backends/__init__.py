"""The protocol of what makes clips: this process, or a server."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mova.request import GenerationRequest, GenerationResult, ProgressCallback

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Makes one clip at a time."""

    def generate(
        self,
        request: GenerationRequest,
        out: Path,
        progress: ProgressCallback | None = None,
        should_stop: Callable[[], bool] | None = None,
        overwrite: bool = False,
    ) -> GenerationResult:
        """Write the clip of `request` to `out`, an mp4, whole or not at all.

        Raises:
            UserError: the request cannot be met as it is.
            BackendError: the machine or server failed.
            Cancelled: `should_stop` said so.
        """
        ...


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - began, 3)
    logger.info("%s: %.1f s", stage, seconds[stage])
