"""Prompt writers offered by the page: a server, a model here, pocket's word lists, or the template."""

from dataclasses import dataclass, fields

from demo import html
from demo.service import DemoService
from mova.catalog import SMALL_MODEL
from mova.errors import UserError
from mova.openai_client import Endpoint, IsCancelled, OnText, visitor_endpoint
from mova.prompting.endpoint import EndpointWriter
from mova.prompting.enhancer import POCKET_LISTS, Enhancer, EnhanceResult
from mova.prompting.local import LOCAL_MODELS, LocalWriter, answer_locally
from mova.prompting.writers import AnswerCache, Writer, WriterAnswer, WriterRequest

BUILT_IN, POCKET, SERVER, HERE = "template", "pocket", "server", "local"
ROUTES = {
    "answer": "Written by {model}.",
    "repaired": "Written by {model}, with fixes.",
    "asked again": "Written by {model}, on the second try.",
    "template": "Written from a template.",
    "own text": "Your own text.",
}


@dataclass(frozen=True)
class WriterChoice:
    """A visitor's choice of writer. The key is the visitor's, and goes to `base_url` only."""

    kind: str
    base_url: str = ""
    model: str = ""
    api_key: str = ""
    local_model: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):  # an untouched field of the page is sent as null
            object.__setattr__(self, field.name, getattr(self, field.name) or "")


def offered_writers(service: DemoService) -> list[tuple[str, str]]:
    """(label, kind) of the writers on offer here, the default first."""
    choices, is_configured = [], service.settings.llm is not None
    if is_configured:
        choices.append(("My server", SERVER))
    if service.model_name == SMALL_MODEL:  # its word lists are those of the pocket model's world
        choices.append(("Built-in writer", POCKET))
    choices.append(("Template", BUILT_IN))
    if not is_configured:
        choices.append(("My server", SERVER))
    if not service.settings.is_public:
        choices.append(("Local LLM", HERE))
    return choices


def local_models() -> list[tuple[str, str]]:
    """(label, repo id) of models known to work."""
    return [(f"{m.repo_id} ({m.gigabytes:g} GB; {m.remark})", m.repo_id) for m in LOCAL_MODELS]


def endpoint_of(service: DemoService, choice: WriterChoice) -> Endpoint:
    """The server to ask. Raises UserError if it may not be called."""
    settings = service.settings
    return visitor_endpoint(
        choice.base_url, choice.model, choice.api_key, settings.llm, is_public_page=settings.is_public
    )


def open_enhancer(service: DemoService, choice: WriterChoice) -> Enhancer:
    """The enhancer with the chosen writer. Raises UserError if that writer is not on offer."""
    return Enhancer(open_writer(service, choice), cache=AnswerCache(), reads_pocket=choice.kind == POCKET)


def open_writer(service: DemoService, choice: WriterChoice) -> Writer | None:
    if choice.kind in (BUILT_IN, POCKET):
        return None
    if choice.kind == SERVER:
        return EndpointWriter(endpoint_of(service, choice))
    if choice.kind == HERE and not service.settings.is_public:
        if not choice.local_model.strip():
            raise UserError("choose a model, or give a repo id")
        return LocalWriter(choice.local_model.strip(), answer=answer_in(service))
    raise UserError(f"{choice.kind!r} is not a writer of this page; choose another")


def answer_in(service: DemoService) -> object:
    """Answer in the text process, so that the page stays light."""

    def answer(source: str, ask: WriterRequest, on_text: OnText, cancelled: IsCancelled) -> WriterAnswer:
        del on_text, cancelled  # these stay on this side: an answer of a small model takes seconds
        return service.text_worker.call(answer_locally, source, ask)

    return answer


def writer_name(model: str) -> str:
    """The writer as visitors may see it: a folder of this machine only by its name."""
    return model.rstrip("/").rpartition("/")[2]


def describe_result(result: EnhanceResult) -> str:
    """Notes on how a prompt was written, as HTML."""
    model = "the built-in writer" if result.model == POCKET_LISTS else writer_name(result.model)
    text = ROUTES[result.route].format(model=model or "the model")
    notes = html.note(result.failure, "warning") + html.note(text)
    if result.repairs:
        notes += html.note(f"Fixed: {'; '.join(repair.message for repair in result.repairs)}.")
    # Where the template wrote what pocket cannot draw, the first note says so, as `not_kept` does.
    is_said = result.not_kept and result.route == "template"
    return notes + html.notes((f"{note}." for note in result.notes[1 if is_said else 0 :]), "warning")
