"""Writing by any OpenAI-compatible server: the plain part of the API that all of them accept.

Optional fields are sent first and left out for good once a server objects to them.
"""

import base64
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from mova.errors import BackendError
from mova.net import own_client, public_client
from mova.openai_client import (
    Endpoint,
    IsCancelled,
    OnText,
    detail_of,
    explain,
    ignore_text,
    never_cancelled,
    run_until,
)
from mova.prompting.writers import WriterAnswer, WriterRequest

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

MAX_CHARACTERS = 60_000  # of an answer; reasoning included
MAX_ATTEMPTS = 7
# Field of the request, and what a server that objects to it writes.
OPTIONAL = {
    "max_completion_tokens": ("max_completion_tokens",),
    "chat_template_kwargs": (
        "chat_template_kwargs",
        "enable_thinking",
        "extra_body",
        "extra fields",
        "unrecognized",
    ),
    "seed": ("seed",),
    "temperature": ("temperature",),
    "stream": ("stream",),
    "system": ("system role", "system message", "role 'system'", 'role "system"'),
    "image": ("image", "vision", "multimodal", "multi-modal", "mmproj", "content type", "must be a string"),
}
WITHOUT_IMAGE = "the model did not take the first frame; only the words were used"


class Delta(BaseModel):
    content: str | None = None


class Choice(BaseModel):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class Reply(BaseModel):
    """What is read of a reply or of a piece of one; servers add what they like."""

    model: str | None = None
    choices: list[Choice] | None = None


class EndpointWriter:
    """A server as a writer. Safe to be used by several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._left_out: frozenset[str] = frozenset()

    @property
    def identity(self) -> str:
        return f"endpoint {self.endpoint.shown} {self.endpoint.model} {self.sees}"

    @property
    def sees(self) -> bool:
        return self.endpoint.sees

    def write(
        self, ask: WriterRequest, on_text: OnText = ignore_text, cancelled: IsCancelled = never_cancelled
    ) -> WriterAnswer:
        """Answer `ask`, streaming. Raises BackendError with a sentence for every failure, and Cancelled."""
        started = time.monotonic()
        answer = self._run(
            lambda client, report: self._answer(client, ask, report), on_text, cancelled, bool(ask.image)
        )
        log.info("%s answered in %.1f s", self.endpoint.shown, time.monotonic() - started)
        return answer

    def list_models(self) -> list[str]:
        """The names of the models the server offers. Raises BackendError."""
        return self._run(lambda client, _: _list_models(client), ignore_text, never_cancelled, False)

    def probe(self) -> WriterAnswer:
        """A one-word conversation, to see whether address, key and model are right. Raises BackendError."""
        ask = WriterRequest((("user", "Reply with the single word: ready"),), max_tokens=16, temperature=0.0)
        return self.write(ask)

    def _run(
        self,
        work: Callable[["OpenAI", OnText], Any],
        on_text: OnText,
        cancelled: IsCancelled,
        had_image: bool,
    ) -> Any:  # noqa: ANN401 - whatever the work gives
        import httpx
        import openai

        client = connect(self.endpoint)
        try:
            return run_until(
                lambda report: work(client, report), on_text, cancelled, self.endpoint.timeout, client.close
            )
        except (
            openai.OpenAIError,
            httpx.HTTPError,
            TimeoutError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            raise explain(error, self.endpoint, self.endpoint.model, had_image) from None
        finally:
            client.close()

    def _answer(self, client: "OpenAI", ask: WriterRequest, on_text: OnText) -> WriterAnswer:
        import openai

        model = self.endpoint.model or next(iter(_list_models(client)), "")
        if not model:
            raise BackendError(f"{self.endpoint.shown} lists no models; name the model to use")
        for _ in range(MAX_ATTEMPTS):
            left_out = self._left_out
            try:
                answer = self._call(client, model, ask, left_out, on_text)
            except (
                openai.BadRequestError,
                openai.UnprocessableEntityError,
                openai.InternalServerError,
            ) as error:
                objection = objected(error, left_out, ask)
                if objection is None:
                    raise
                self._left_out = left_out | objection
                continue
            if answer.text or not answer.is_complete or "stream" in left_out:
                return answer
            whole = self._call(client, model, ask, left_out | {"stream"}, on_text)
            if whole.text:  # a server that answers whole although asked to stream
                self._left_out = left_out | {"stream"}
            return whole
        raise BackendError(f"{self.endpoint.shown} objects to every form of the request; try another server")

    def _call(
        self, client: "OpenAI", model: str, ask: WriterRequest, left_out: frozenset[str], on_text: OnText
    ) -> WriterAnswer:
        fields = request_fields(model, ask, left_out)
        notes = (WITHOUT_IMAGE,) if ask.image and "image" in left_out else ()
        if not fields["stream"]:
            reply = Reply.model_validate(client.chat.completions.create(**fields), from_attributes=True)
            choice = reply.choices[0] if reply.choices else Choice()
            text = (choice.message or Delta()).content or ""
            return WriterAnswer(
                text[:MAX_CHARACTERS], reply.model or model, choice.finish_reason != "length", notes
            )
        text, reason, name = "", None, model
        with client.chat.completions.create(**fields) as stream:
            for piece in stream:
                reply = Reply.model_validate(piece, from_attributes=True)
                name = reply.model or name
                for choice in (reply.choices or [])[:1]:
                    text += (choice.delta or Delta()).content or ""
                    reason = choice.finish_reason or reason
                on_text(text)
                if len(text) > MAX_CHARACTERS:
                    reason = "length"
                    break
        return WriterAnswer(text, name, reason != "length", notes)


def connect(endpoint: Endpoint) -> "OpenAI":
    """The openai client for `endpoint`, with its key, to its address and nowhere else."""
    from openai import OpenAI

    seconds = endpoint.timeout
    http_client = public_client(endpoint.pinned, seconds) if endpoint.pinned else own_client(seconds)
    return OpenAI(
        api_key=endpoint.api_key or "none",
        base_url=endpoint.base_url,
        timeout=seconds,
        max_retries=2,
        http_client=http_client,
    )


def request_fields(model: str, ask: WriterRequest, left_out: frozenset[str]) -> dict[str, Any]:
    """The request without the optional fields of `left_out`."""
    limit = "max_completion_tokens" if "max_completion_tokens" in left_out else "max_tokens"
    fields: dict[str, Any] = {"model": model, "messages": _messages(ask, left_out), limit: ask.max_tokens}
    if "temperature" not in left_out:
        fields["temperature"] = ask.temperature
    if "seed" not in left_out:
        fields["seed"] = ask.seed
    if "chat_template_kwargs" not in left_out:
        fields["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
    fields["stream"] = "stream" not in left_out
    return fields


def objected(error: Exception, left_out: frozenset[str], ask: WriterRequest) -> frozenset[str] | None:
    """What to leave out after this refusal, or None if there is nothing left that could be the cause."""
    said = detail_of(error, "").lower()
    candidates = {name: signs for name, signs in OPTIONAL.items() if name not in left_out}
    if not ask.image:
        candidates.pop("image", None)
    if error.status_code < 500:
        for name, signs in candidates.items():
            if any(sign in said for sign in signs):
                return frozenset([name])
        unknown = frozenset(candidates) & {"chat_template_kwargs", "seed"}
        if unknown:
            return unknown
    return frozenset(["image"]) if "image" in candidates else None


def _messages(ask: WriterRequest, left_out: frozenset[str]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in ask.messages]
    if "system" in left_out and messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
        messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
    if ask.image and "image" not in left_out:
        first = next(message for message in messages if message["role"] == "user")
        url = f"data:image/jpeg;base64,{base64.b64encode(ask.image).decode()}"
        first["content"] = [
            {"type": "text", "text": first["content"]},
            {"type": "image_url", "image_url": {"url": url}},
        ]
    return messages


class ModelName(BaseModel):
    id: str


class ModelList(BaseModel):
    data: list[ModelName] | None = None


def _list_models(client: "OpenAI") -> list[str]:
    try:
        listed = ModelList.model_validate(client.models.list(), from_attributes=True)
    except ValidationError:
        return []
    return [model.id for model in listed.data or []]
