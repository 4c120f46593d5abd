"""Who writes prompts for the page: a server, a model here, or word lists alone."""

import os
from dataclasses import dataclass, fields
from functools import lru_cache

from demo.service import DemoService
from mova.catalog import SMALL_MODEL
from mova.errors import UserError
from mova.openai_client import Endpoint, IsCancelled, OnText, endpoint_from_environment, visitor_endpoint
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import Enhancer
from mova.prompting.local import LOCAL_MODELS, LocalWriter, answer_locally
from mova.prompting.writers import AnswerCache, Writer, WriterAnswer, WriterRequest

BUILT_IN, POCKET, SERVER, HERE = "template", "pocket", "server", "local"


@dataclass(frozen=True)
class WriterChoice:
    """What a person chose on the page. The key is theirs, and goes to `base_url` only."""

    kind: str
    base_url: str = ""
    model: str = ""
    api_key: str = ""
    local_model: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):  # an untouched field of the page is sent as null
            object.__setattr__(self, field.name, getattr(self, field.name) or "")


def offered_writers(studio: DemoService) -> list[tuple[str, str]]:
    """(label, kind) of the writers that can be chosen here, the one to start with first."""
    choices = []
    if configured_endpoint() is not None:
        choices.append(("The configured server", SERVER))
    if studio.model_name == SMALL_MODEL:  # its word lists are those of the pocket model's world
        choices.append(("Built-in writer", POCKET))
    choices.append(("Built-in, without a model", BUILT_IN))
    if configured_endpoint() is None:
        choices.append(("A server of yours", SERVER))
    if not studio.settings.is_public:
        choices.append(("A language model, here", HERE))
    return choices


def local_models() -> list[tuple[str, str]]:
    """(label, repo id) of models that are known to do."""
    return [(f"{m.repo_id} ({m.gigabytes:g} GB; {m.remark})", m.repo_id) for m in LOCAL_MODELS]


@lru_cache(maxsize=1)
def configured_endpoint() -> Endpoint | None:
    return endpoint_from_environment(os.environ)


def endpoint_of(studio: DemoService, choice: WriterChoice) -> Endpoint:
    """The server to ask. Raises UserError if it may not be called."""
    return visitor_endpoint(
        choice.base_url, choice.model, choice.api_key, configured_endpoint(), studio.settings.is_public
    )


def open_enhancer(studio: DemoService, choice: WriterChoice) -> Enhancer:
    """An enhancer that writes as chosen. Raises UserError if that cannot be."""
    return Enhancer(open_writer(studio, choice), cache=AnswerCache(), reads_pocket=choice.kind == POCKET)


def open_writer(studio: DemoService, choice: WriterChoice) -> Writer | None:
    if choice.kind in (BUILT_IN, POCKET):
        return None
    if choice.kind == SERVER:
        return EndpointWriter(endpoint_of(studio, choice))
    if choice.kind == HERE and not studio.settings.is_public:
        if not choice.local_model.strip():
            raise UserError("choose a model, or give the repo id of one")
        return LocalWriter(choice.local_model.strip(), answer=answer_in(studio))
    raise UserError(f"{choice.kind!r} cannot write here; choose another")


def answer_in(studio: DemoService) -> object:
    """Answers in a process of its own, so that the page stays light."""

    def answer(source: str, ask: WriterRequest, on_text: OnText, cancelled: IsCancelled) -> WriterAnswer:
        del on_text, cancelled  # these stay on this side: an answer of a small model takes seconds
        return studio.text_worker.call(answer_locally, source, ask)

    return answer
