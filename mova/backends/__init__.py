"""Who makes the clip: this process, or a server. Callers know only the protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mova.request import GenerationRequest, GenerationResult, ProgressCallback


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
