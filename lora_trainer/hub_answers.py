"""What the Hub answers to who asks for jobs and repos of their own, as sentences that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from mova.hub import reason
from mova.types import BackendError, UserError

SAID = {
    401: "this sign-in has ended; sign in again. A job that runs goes on without it",
    402: "this Hugging Face account has no credit for Jobs; add some at https://huggingface.co/settings/billing",
    403: "this sign-in may not do that; sign out, sign in again and allow jobs and repos",
    404: "the Hub no longer has this job or its repo; take from here what there is",
    429: "the Hub has been asked too often; wait a minute",
}


@contextmanager
def answered() -> Iterator[None]:
    """What the Hub may answer, or not, in a sentence that says what to do."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in SAID:
            raise UserError(SAID[status]) from error
        raise BackendError(f"the Hub failed ({status}); nothing is lost, try again in a minute") from error
    except (httpx2.TransportError, LocalEntryNotFoundError) as error:
        raise BackendError(
            f"the Hub cannot be reached ({reason(error)}); nothing is lost, try again in a minute"
        ) from error
