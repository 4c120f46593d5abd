"""Writing by a model in this process: a folder or a Hub repo id, loaded by transformers at the first use."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mova.errors import BackendError, UserError
from mova.openai_client import IsCancelled, OnText, ignore_text, never_cancelled, raise_if_cancelled
from mova.prompting.writers import WriterAnswer, WriterRequest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

log = logging.getLogger(__name__)

TOP_P = 0.9


@dataclass(frozen=True)
class LocalModel:
    """A model worth trying, with what it takes."""

    repo_id: str
    gigabytes: float
    licence: str
    sees: bool
    remark: str


LOCAL_MODELS = (
    LocalModel(
        "Qwen/Qwen3-VL-2B-Instruct", 4.3, "Apache-2.0", True, "sees; light enough for a short ZeroGPU call"
    ),
    LocalModel("Qwen/Qwen3-VL-4B-Instruct", 8.9, "Apache-2.0", True, "sees; the choice for quality"),
    LocalModel("Qwen/Qwen3-VL-8B-Instruct", 17.5, "Apache-2.0", True, "sees; for cards with 24 GB"),
    LocalModel("google/gemma-4-E2B-it", 10.3, "Apache-2.0", True, "sees; many languages"),
    LocalModel("Qwen/Qwen3-0.6B", 1.2, "Apache-2.0", False, "text only; runs on a CPU"),
    LocalModel("Qwen/Qwen3-1.7B", 3.4, "Apache-2.0", False, "text only; a CPU takes minutes"),
)

Answering = Callable[[str, WriterRequest, OnText, IsCancelled], WriterAnswer]


@dataclass(frozen=True)
class Loaded:
    """A model on the CPU or wherever it was last used; `processor` is None for a model of text alone."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    processor: "ProcessorMixin | None"


def answer_locally(
    source: str, ask: WriterRequest, on_text: OnText = ignore_text, cancelled: IsCancelled = never_cancelled
) -> WriterAnswer:
    """The answer of the model `source` to `ask`, on the GPU if there is one.

    A module-level function whose arguments and result can be pickled (leave the callbacks out), so that it
    can be given to ZeroGPU as it is: `LocalWriter(source, answer=lambda s, a, *_:
    spaces.GPU(answer_locally)(s, a))`.

    Raises:
        UserError: there is no such model.
        BackendError: it cannot be loaded or does not fit.
        Cancelled: `cancelled` became true.
    """
    import torch

    raise_if_cancelled(cancelled)
    loaded = load_model(source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        loaded.model.to(device)
        inputs = _encode(loaded, ask).to(device)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(ask.seed)
            watcher = _watcher(loaded.tokenizer, on_text, cancelled)
            output = loaded.model.generate(
                **inputs, **_sampling(ask), max_new_tokens=ask.max_tokens, streamer=watcher
            )
    except torch.OutOfMemoryError as error:
        raise BackendError(
            f"{source} does not fit on the GPU; choose a smaller model, or an endpoint"
        ) from error
    new = output[0, inputs["input_ids"].shape[1] :]
    ends = loaded.model.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends])
    is_complete = bool(len(new)) and (int(new[-1]) in stops or len(new) < ask.max_tokens)
    return WriterAnswer(loaded.tokenizer.decode(new, skip_special_tokens=True), source, is_complete)


class LocalWriter:
    """A local model as a writer. Nothing is loaded before it is asked."""

    def __init__(self, source: str, answer: Answering = answer_locally) -> None:
        self.source = source
        self._answer = answer

    @property
    def identity(self) -> str:
        path = Path(self.source)
        stamp = max((f.stat().st_mtime_ns for f in path.iterdir()), default=0) if path.is_dir() else 0
        return f"local {self.source} {stamp}"

    @property
    def sees(self) -> bool:
        return can_see(self.source)

    def write(
        self, ask: WriterRequest, on_text: OnText = ignore_text, cancelled: IsCancelled = never_cancelled
    ) -> WriterAnswer:
        """Answer `ask`. Raises as `answer_locally`."""
        started = time.monotonic()
        answer = self._answer(self.source, ask, on_text, cancelled)
        log.info("%s answered in %.1f s", self.source, time.monotonic() - started)
        return answer


@lru_cache(maxsize=8)
def can_see(source: str) -> bool:
    """True if the model takes images. Reads its config only. Raises UserError if there is none."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    try:
        return AutoConfig.from_pretrained(source).model_type in SEEING
    except (OSError, ValueError) as error:
        raise UserError(f"{source} cannot be loaded as a model; give a folder or a Hub repo id") from error


@lru_cache(maxsize=1)
def load_model(source: str) -> Loaded:
    """The model, in the precision it was saved in. The one loaded before is dropped."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    sees = can_see(source)
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    started = time.monotonic()
    try:
        processor = AutoProcessor.from_pretrained(source) if sees else None
        tokenizer = processor.tokenizer if processor else AutoTokenizer.from_pretrained(source)
        model = kind.from_pretrained(source, dtype="auto", use_safetensors=True).eval()
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise BackendError(f"{source} cannot be loaded ({reason}); choose another model") from error
    log.info("%s loaded in %.1f s", source, time.monotonic() - started)
    return Loaded(model, tokenizer, processor)


def _encode(loaded: Loaded, ask: WriterRequest) -> Any:  # noqa: ANN401 - BatchEncoding or BatchFeature
    from jinja2 import TemplateError

    coder = loaded.processor or loaded.tokenizer
    messages = [_message(loaded, role, text) for role, text in ask.messages]
    if ask.image and loaded.processor:
        from PIL import Image

        first = next(message for message in messages if message["role"] == "user")
        first["content"].insert(0, {"type": "image", "image": Image.open(BytesIO(ask.image)).convert("RGB")})
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    try:
        return coder.apply_chat_template(messages, **options, enable_thinking=False)
    except TemplateError:  # some models know no system role
        return coder.apply_chat_template(_folded(messages), **options, enable_thinking=False)


def _message(loaded: Loaded, role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}] if loaded.processor else text}


def _folded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    system, user, *rest = messages
    content = user["content"]
    if isinstance(content, list):
        return [{**user, "content": [*system["content"], *content]}, *rest]
    return [{**user, "content": f"{system['content']}\n\n{content}"}, *rest]


def _sampling(ask: WriterRequest) -> dict[str, Any]:
    if ask.temperature <= 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": ask.temperature, "top_p": TOP_P}


def _watcher(tokenizer: "PreTrainedTokenizerBase", on_text: OnText, cancelled: IsCancelled) -> Any:  # noqa: ANN401
    """A streamer that reports the text so far and ends the generation when it is cancelled."""
    from transformers.generation.streamers import BaseStreamer

    class Watcher(BaseStreamer):
        def __init__(self) -> None:
            self.ids: list[int] | None = None  # None until the question, which comes first, has passed

        def put(self, value: "torch.Tensor") -> None:
            raise_if_cancelled(cancelled)
            if self.ids is None:
                self.ids = []
                return
            self.ids += value.flatten().tolist()
            on_text(tokenizer.decode(self.ids, skip_special_tokens=True))

        def end(self) -> None:
            pass

    return Watcher()
