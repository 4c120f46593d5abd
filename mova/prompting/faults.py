"""What went wrong with a server, in a sentence with what to do. No key, and no header, is ever in it."""

import re

from mova.prompting.settings import Endpoint
from mova.prompting.words import plain_text
from mova.types import BackendError

MAX_DETAIL = 160


def explain(error: Exception, endpoint: Endpoint, model: str, had_image: bool) -> BackendError:
    """The BackendError for whatever the openai client raised."""
    import openai

    place = endpoint.shown
    detail = detail_of(error, endpoint.api_key)
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        text = f"{place} gave no answer in {endpoint.timeout:.0f} s; try again, or a smaller model"
    elif isinstance(error, openai.APIStatusError):
        text = explain_status(error, place, model, had_image, detail)
    elif isinstance(error, openai.APIConnectionError):
        text = explain_connection(error, place)
    elif isinstance(error, openai.APIError):  # an error event in the middle of a stream
        text = f"{place} broke off while answering{detail}; try again"
    else:
        text = (
            f"{place} sent what is no answer of an OpenAI-compatible server; check that its address ends "
            "in /v1"
        )
    return BackendError(text)


def explain_status(error: Exception, place: str, model: str, had_image: bool, detail: str) -> str:
    status = error.status_code
    if 300 <= status < 400:
        return f"{place} redirects elsewhere, which is not followed; give the address it leads to"
    if status in (401, 403):
        return f"{place} refused the key; check that it is right and may use {model or 'the model'}"
    if status == 404 or (
        status in (400, 422) and re.search(r"model\b.*(?:not|unknown|pinned|exist)", detail, re.I)
    ):
        return (
            f"{place} does not serve {model!r} (or nothing under this address){detail}; check model and "
            "address"
        )
    if status == 429:
        wait = error.response.headers.get("retry-after", "")
        when = f"in {wait} s" if wait.isdigit() else "later"
        return f"{place} accepts no more requests for now (rate limit or spent credit); try again {when}"
    if status in (400, 413, 422) and re.search(r"context|too long|too large|maximum.*token", detail, re.I):
        return (
            f"{place} cannot take a question this long{detail}; shorten the idea or allow the model more "
            "context"
        )
    if had_image and status in (400, 413, 415, 422, 500, 501):
        return (
            f"{place} could not take the first frame{detail}; choose a model that sees, or go without "
            "the image"
        )
    if status >= 500:
        return f"{place} failed ({status}){detail}; try again, and look into the server's log"
    return f"{place} did not accept the request ({status}){detail}"


def explain_connection(error: Exception, place: str) -> str:
    causes, cause = [], error
    while cause is not None and len(causes) < 8:
        causes.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "TooLarge" in causes:
        return f"{place} sent more than an answer may have; use another server"
    if "SSLCertVerificationError" in causes or "SSLError" in causes:
        return f"{place} has no valid certificate, or does not speak https; check the address"
    if "gaierror" in causes:
        return f"the host of {place} is not known to the name service; check the spelling of the address"
    if "RemoteProtocolError" in causes or "ReadError" in causes:
        return f"{place} hung up before its answer was whole; try again, and look into the server's log"
    return f"nothing answers at {place}; check the address, and that the server is running"


def detail_of(error: Exception, api_key: str) -> str:
    """What the server said, short and plain, as ": ..." to be put into a sentence; nothing near the key."""
    return detail_of_body(getattr(error, "body", None), api_key)


def detail_of_body(body: object, api_key: str) -> str:
    """As `detail_of`, of the body of an answer: JSON already read, or text."""
    said = body.get("message") or body.get("error") or body.get("detail") if isinstance(body, dict) else body
    if isinstance(said, list) and said:  # a list of fields that were refused, as FastAPI sends it
        said = said[0]
    if isinstance(said, dict):
        place = said.get("loc")
        field = f"{place[-1]}: " if isinstance(place, list) and place else ""
        said = said.get("message") or (said.get("msg") and f"{field}{said['msg']}")
    if not isinstance(said, str) or "<html" in said.lower():
        return ""
    words = [word for word in plain_text(said).split() if not _near_key(word, api_key)]
    text = " ".join(words)[:MAX_DETAIL].rstrip(" .")
    return f": {text}" if text else ""


def _near_key(word: str, api_key: str) -> bool:
    """Whether `word` shows part of the key; servers like to quote its first and last letters."""
    if re.search(r"\b(?:sk|hf|gsk|key)[-_]\w", word) or "***" in word:
        return True
    return len(api_key) >= 8 and (api_key[:6] in word or api_key[-4:] in word)
