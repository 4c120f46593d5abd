"""Writing by any OpenAI-compatible server: the plain part of the API that all of them accept.

Optional fields are sent first and left out for good once a server objects to them.
"""

import base64
import logging
import re
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from mova.errors import BackendError
from mova.openai_client import (
    Endpoint,
    IsCancelled,
    OnText,
    ReplyError,
    body_of,
    call,
    detail_of,
    ignore_text,
    never_cancelled,
)
from mova.prompting.writers import WriterAnswer, WriterRequest

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

MAX_CHARACTERS = 60_000  # of an answer; reasoning included
MAX_ATTEMPTS = 8
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
    "response_format": ("response_format", "json_schema", "json schema", "structured output", "grammar"),
    "seed": ("seed",),
    "temperature": ("temperature",),
    "stream": ("stream",),
    "system": ("system role", "system message", "role 'system'", 'role "system"'),
    "image": ("image", "vision", "multimodal", "multi-modal", "mmproj", "content type", "must be a string"),
}
WITHOUT_IMAGE = "the model did not take the first frame; only the words were used"
FOUND = "the server answered under {address}; give that address"
# Models of a server that cannot hold a conversation, by what their names and types have in common.
NO_CHAT = re.compile(
    r"embed|rerank|moderation|whisper|transcri|\btts\b|speech|dall-e|image|diffusion|flux|clip\b|"
    r"\b(?:bge|gte|e5|minilm|colbert)\b|guard",
    re.IGNORECASE,
)


class Delta(BaseModel):
    content: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        return self.content or self.refusal or ""


class Choice(BaseModel):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    error: Any = None


class Reply(BaseModel):
    """The part of a reply, or of a piece of one, that is read; servers add what they like."""

    model: str | None = None
    choices: list[Choice] | None = None


class EndpointWriter:
    """A server as a writer. Safe to be used by several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._left_out: frozenset[str] = frozenset()

    @property
    def identity(self) -> str:
        return f"endpoint {self.endpoint.redacted} {self.endpoint.model} {self.sees}"

    @property
    def sees(self) -> bool:
        return self.endpoint.sees

    def write(
        self, ask: WriterRequest, on_text: OnText = ignore_text, cancelled: IsCancelled = never_cancelled
    ) -> WriterAnswer:
        """Answer `ask`, streaming. Raises BackendError with a sentence for every failure, and Cancelled."""
        started = time.monotonic()
        endpoint = self.endpoint
        if not endpoint.model:
            endpoint = call(endpoint, with_listed_model, cancelled=cancelled)
        answer, used = call(endpoint, partial(self._answer, ask), on_text, cancelled, bool(ask.image))
        log.info("%s answered in %.1f s", used.redacted, time.monotonic() - started)
        if used.base_url != self.endpoint.base_url:
            answer = replace(answer, notes=(*answer.notes, FOUND.format(address=used.redacted)))
        return answer

    def probe(self) -> WriterAnswer:
        """A one-word conversation, to see whether address, key and model are right. Raises BackendError."""
        ask = WriterRequest((("user", "Reply with the single word: ready"),), max_tokens=16, temperature=0.0)
        return self.write(ask)

    def _answer(
        self, ask: WriterRequest, client: "OpenAI", endpoint: Endpoint, on_text: OnText
    ) -> tuple[WriterAnswer, Endpoint]:
        import openai

        model = endpoint.model
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
                return answer, endpoint
            whole = self._call(client, model, ask, left_out | {"stream"}, on_text)
            if whole.text:  # a server that answers whole although asked to stream
                self._left_out = left_out | {"stream"}
            return whole, endpoint
        raise BackendError(f"{endpoint.redacted} objects to every form of the request; try another server")

    def _call(
        self, client: "OpenAI", model: str, ask: WriterRequest, left_out: frozenset[str], on_text: OnText
    ) -> WriterAnswer:
        fields = request_fields(model, ask, left_out)
        notes = (WITHOUT_IMAGE,) if ask.image and "image" in left_out else ()
        if not fields["stream"]:
            body = body_of(client.chat.completions.create(**fields))
            reply = Reply.model_validate(body)
            if reply.choices is None:
                raise ReplyError(body)
            choice = first_choice(reply)
            text = (choice.message or Delta()).text
            is_complete = choice.finish_reason != "length"
            return WriterAnswer(text[:MAX_CHARACTERS], reply.model or model, is_complete, notes)
        text, reason, name = "", None, model
        with client.chat.completions.create(**fields) as stream:
            for piece in stream:
                body = body_of(piece)
                reply = Reply.model_validate(body)
                name = reply.model or name
                choice = first_choice(reply)
                text += (choice.delta or Delta()).text
                reason = choice.finish_reason or reason
                on_text(text)
                if len(text) > MAX_CHARACTERS:
                    reason = "length"
                    break
        return WriterAnswer(text, name, reason != "length", notes)


def first_choice(reply: Reply) -> Choice:
    """The answer of `reply`, empty if it holds none. Raises ReplyError for an error in its place."""
    choice = reply.choices[0] if reply.choices else Choice()
    if choice.error:
        raise ReplyError({"error": choice.error})
    return choice


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
    if ask.schema and "response_format" not in left_out:
        named = {"name": "prompt", "strict": True, "schema": ask.schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": named}
    fields["stream"] = "stream" not in left_out
    return fields


def objected(error: Exception, left_out: frozenset[str], ask: WriterRequest) -> frozenset[str] | None:
    """The fields to leave out after this refusal, or None if none is left that could be the cause."""
    said = detail_of(error, "").lower()
    candidates = {name: signs for name, signs in OPTIONAL.items() if name not in left_out}
    if not ask.image:
        candidates.pop("image", None)
    if not ask.schema:
        candidates.pop("response_format", None)
    for name, signs in candidates.items():
        if any(sign in said for sign in signs) and (error.status_code < 500 or name == "response_format"):
            return frozenset([name])
    unknown = frozenset(candidates) & {"chat_template_kwargs", "response_format", "seed"}
    if unknown and error.status_code < 500:
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


class ListedModel(BaseModel):
    id: str
    type: str | None = None


class ModelList(BaseModel):
    data: list[ListedModel] | None


def with_listed_model(client: "OpenAI", endpoint: Endpoint, on_text: OnText = ignore_text) -> Endpoint:
    """`endpoint` with the first model that the server lists, one for conversations if there is any.

    Raises:
        BackendError: the server lists no models.
        ReplyError: what it sent is not a list.
    """
    del on_text
    body = body_of(client.get("/models", cast_to=object))
    try:
        listed = ModelList.model_validate({"data": body} if isinstance(body, list) else body)
    except ValueError:
        raise ReplyError(body) from None
    models = listed.data or []
    for_chat = [model for model in models if not NO_CHAT.search(f"{model.id} {model.type or ''}")]
    if not models:
        raise BackendError(f"{endpoint.redacted} lists no models; name the model to use")
    return replace(endpoint, model=(for_chat or models)[0].id)
