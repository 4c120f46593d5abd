"""From an idea to a prompt: ask, check, repair, ask again, and fall back, so that there always is one.

The ladder: pocket's word lists, for that model alone; the fields that the model answers with; the same
repaired by code; one more question that names the problems; the template, which needs no model; the person's
own text.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from mova.errors import BackendError, UserError
from mova.openai_client import IsCancelled, OnText, ignore_text, never_cancelled
from mova.prompting.plan import SCHEMA, PromptPlan, read_draft, read_fields
from mova.prompting.pocket import PocketReading, read_idea
from mova.prompting.prompt_files import load_template
from mova.prompting.rules import (
    CLIP_SECONDS,
    MAX_WORDS,
    CheckedPrompt,
    PromptRequirements,
    Violation,
    check,
    repair,
)
from mova.prompting.template import write_template
from mova.prompting.writers import AnswerCache, Writer, WriterAnswer, WriterRequest, prose_in
from mova.text import WORD, TokenMeter, language_of, plain_text

ROUTE = Literal["answer", "repaired", "asked again", "template", "own text"]
MAX_IDEA = 60_000
MAX_ANSWER = 8_000
MAX_DESCRIPTION = 4_000
MAX_COMPARISONS = 2_000_000
IMAGE_SIDE = 1024
ATTACHED = "You see it attached."
TRUNCATED = (
    "the answer was cut off at {limit} tokens; allow it more tokens, or choose a model that thinks less "
    "before it writes"
)
POCKET_LISTS = "pocket's word lists"
OUTSIDE = "the idea lies outside pocket's world"
NOT_KEPT = "pocket's world lacks a part of the idea ({reasons})"
UNSEEN = "the first frame may show what pocket's word lists lack"
TEMPLATE_WROTE = (
    "{why}, so the template wrote the prompt around your words; for more, connect a server or choose a "
    "larger local model"
)

# What the word lists add to an idea of pocket's world, by family and version, where it leaves that open.
VERSIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "face": (
        (),
        ("peach wall", "smiling", "wearing a red T-shirt", "curly hair"),
        ("lavender wall", "wearing a purple hoodie", "with glasses", "with black hair"),
    ),
    "ball": (
        (),
        ("lavender wall", "tossed up", "on a white tile floor", "bounces twice"),
        ("mint green wall", "drifting left", "on a slate floor", "bounces four times"),
    ),
    "piano": ((), ("lavender wall", "slowly", "blue keys"), ("peach wall", "quickly", "green keys")),
}


@dataclass(frozen=True)
class EnhanceRequest:
    """An idea and what its prompt must live up to.

    `image` is the first frame; `first_frame` says in words what it shows, for models that see nothing.
    A `seed` of None is replaced by a random one, reported in the result. For each `version` word lists and
    the template fill in differently what the idea leaves open.
    """

    idea: str
    image: Path | None = None
    first_frame: str = ""
    seconds: float = CLIP_SECONDS
    no_subtitles: bool = True
    max_words: int = MAX_WORDS
    max_tokens: int = 1024
    temperature: float = 0.6
    seed: int | None = None
    version: int = 0


@dataclass(frozen=True)
class EnhanceResult:
    """A prompt, how it was come by, and what is to be known about it.

    `added` are the spans of `text` that are not the idea's own words. `repairs` were made; `violations`
    remain. `failure` says why a model's answer was not used, empty if it was. `notes` say what was done
    without. `not_kept` names what of the idea pocket cannot draw, each with its reason; `is_outside` is True
    where that is all of it.
    """

    text: str
    plan: PromptPlan
    route: ROUTE
    added: tuple[tuple[int, int], ...] = ()
    violations: tuple[Violation, ...] = ()
    repairs: tuple[Violation, ...] = ()
    failure: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    model: str = ""
    seed: int = 0
    not_kept: tuple[str, ...] = ()
    is_outside: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Attempt:
    """The outcome of asking the writer: a prompt by some route, or the reason for none."""

    checked: CheckedPrompt | None = None
    route: ROUTE = "template"
    failure: str = ""
    notes: tuple[str, ...] = ()
    model: str = ""
    not_kept: tuple[str, ...] = ()
    is_outside: bool = False


@dataclass
class Enhancer:
    """Turns ideas into prompts with `writer`, or by the template alone if there is none.

    `describer` is a model that sees, for first frames where `writer` does not. With a `meter` prompts are
    held to the text encoder's tokens. With `reads_pocket` an idea of the pocket model's world is written by
    word lists, before `writer` is asked.
    """

    writer: Writer | None = None
    describer: Writer | None = None
    meter: TokenMeter | None = None
    cache: AnswerCache = field(default_factory=AnswerCache)
    reads_pocket: bool = False

    def enhance(
        self,
        request: EnhanceRequest,
        on_text: OnText = ignore_text,
        cancelled: IsCancelled = never_cancelled,
    ) -> EnhanceResult:
        """The prompt for `request`. `on_text` gets drafts as they are written.

        A server that fails leads to the template and a `failure` in the result, not to an exception.

        Raises:
            UserError: the idea is empty (and there is no image) or too long, or the image cannot be read.
            Cancelled: `cancelled` became true.
        """
        started = time.monotonic()
        brief = self.brief(request)
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        request = replace(request, seed=seed)
        attempt = read_for_pocket(brief, request.version) if self.reads_pocket else Attempt()
        if attempt.checked is None and self.writer is not None:
            try:
                attempt = self._ask_writer(request, brief, on_text, cancelled)
            except BackendError as error:
                attempt = Attempt(failure=str(error))
        route, checked = attempt.route, attempt.checked
        if checked is None:
            route, checked = fall_back(brief, request.version)
        return EnhanceResult(
            text=checked.text,
            plan=PromptPlan.parse(checked.text),
            route=route,
            added=added_spans(brief.idea, checked.text),
            violations=checked.violations,
            repairs=checked.repairs,
            failure=attempt.failure,
            notes=(*attempt.notes, *remarks_on_language(brief, checked)),
            seconds=round(time.monotonic() - started, 3),
            model=attempt.model,
            seed=seed,
            not_kept=attempt.not_kept,
            is_outside=attempt.is_outside,
        )

    def candidates(
        self, request: EnhanceRequest, count: int, cancelled: IsCancelled = never_cancelled
    ) -> Iterator[EnhanceResult]:
        """Up to `count` different prompts, each as soon as it is there, from consecutive seeds.

        There are fewer where more would be the same, and after an answer of a model that could not be used.
        """
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        seen: set[str] = set()
        for offset in range(count):
            asked = replace(request, seed=seed + offset, version=offset)
            result = self.enhance(asked, cancelled=cancelled)
            if result.text not in seen:
                seen.add(result.text)
                yield result
            if result.failure:
                return

    def brief(self, request: EnhanceRequest) -> PromptRequirements:
        """The requirements that the prompt for `request` is checked against."""
        idea = plain_text(request.idea).strip()
        if not idea and request.image is None:
            raise UserError("the idea is empty; say in a few words what is seen and heard")
        if len(idea) > MAX_IDEA:
            raise UserError(f"the idea has {len(idea)} characters; give up to {MAX_IDEA}")
        return PromptRequirements(
            idea,
            seconds=request.seconds,
            has_image=request.image is not None or bool(request.first_frame),
            no_subtitles=request.no_subtitles,
            max_words=request.max_words,
            meter=self.meter,
        )

    def _ask_writer(
        self, request: EnhanceRequest, brief: PromptRequirements, on_text: OnText, cancelled: IsCancelled
    ) -> Attempt:
        """A usable prompt, or why there is none, after one or two questions."""

        def draft(text: str) -> None:
            on_text(read_draft(text).text(brief.masked, no_subtitles=False))

        ask = self.ask(request, brief, cancelled)
        routes: tuple[ROUTE, ...] = ("answer", "asked again")
        for route in routes:
            answer = self.cache.write(self.writer, ask, draft, cancelled)
            checked = check_answer(answer, brief)
            if checked.is_good and answer.is_complete:
                was_repaired = route == "answer" and checked.repairs
                return Attempt(checked, "repaired" if was_repaired else route, "", answer.notes, answer.model)
            problems = problems_in(checked, answer)
            ask = ask_again(ask, answer, problems)
        reason = "; ".join(problems[:3]) if answer.is_complete else TRUNCATED.format(limit=ask.max_tokens)
        failure = f"the model's answer could not be used: {reason}"
        return Attempt(failure=failure, notes=answer.notes, model=answer.model)

    def ask(
        self, request: EnhanceRequest, brief: PromptRequirements, cancelled: IsCancelled = never_cancelled
    ) -> WriterRequest:
        """The first question for `request`: instructions, the idea without its quotes, the first frame."""
        image = read_image(request.image) if request.image else None
        shown = request.first_frame
        if image and not shown and not self.writer.sees and self.describer is not None:
            shown = describe_first_frame(self.describer, image, self.cache, cancelled)
        values = {
            "idea": brief.masked.text or "Continue the picture in the most natural way.",
            "seconds": f"{request.seconds:.0f}",
            "max_words": request.max_words,
        }
        is_shown = image is not None and self.writer.sees
        if shown or is_shown:
            seen = f"It shows: {' '.join(shown.split())}" if shown else ATTACHED
            values["first_frame"] = seen
        template = load_template("rewrite_with_image" if "first_frame" in values else "rewrite_without_image")
        system, user = template.fill(**values)
        return WriterRequest(
            (("system", system), ("user", user)),
            image if is_shown else None,
            template.digest,
            request.max_tokens,
            request.temperature,
            request.seed or 0,
            SCHEMA,
        )


def check_answer(answer: WriterAnswer, brief: PromptRequirements) -> CheckedPrompt:
    """The prompt in an answer with the quotes put back, repaired and checked."""
    try:
        text = read_fields(plain_text(answer.text)).text(brief.masked, brief.no_subtitles)
    except ValueError as error:
        return CheckedPrompt("", (), (Violation("fields", "error", str(error)),))
    return repair(text[:MAX_ANSWER].strip(), brief)


def problems_in(checked: CheckedPrompt, answer: WriterAnswer) -> list[str]:
    """The reasons not to use the answer, in words for its writer."""
    problems = [violation.message for violation in checked.violations if violation.severity == "error"]
    return problems if answer.is_complete else [*problems, "it was cut off before its end; be shorter"]


def ask_again(ask: WriterRequest, answer: WriterAnswer, problems: list[str]) -> WriterRequest:
    listed = "\n".join(f"- {problem}" for problem in problems)
    _, user = load_template("ask_again").fill(problems=listed)
    return replace(ask, messages=(*ask.messages, ("assistant", answer.text[:MAX_ANSWER]), ("user", user)))


def read_for_pocket(brief: PromptRequirements, version: int) -> Attempt:
    """The prompt that pocket's word lists write, or none and a note on why the template writes instead.

    Where pocket can draw a part of the idea, that part is the second version; in the others the template
    writes it all.
    """
    reading = read_version(brief.idea, version)
    not_kept, is_outside = reading.not_kept, reading.belongs == "not"
    if brief.has_image:
        why, not_kept, is_outside = UNSEEN, (), False
    elif is_outside:
        why = OUTSIDE
    elif reading.belongs == "partly" and version != 1:
        why = NOT_KEPT.format(reasons="; ".join(not_kept))
    else:
        checked = repair(reading.prompt, brief)
        if checked.is_good or not_kept:
            route = "repaired" if checked.repairs else "answer"
            return Attempt(checked, route, model=POCKET_LISTS, not_kept=not_kept)
        why = NOT_KEPT.format(reasons=next(v.message for v in checked.violations if v.severity == "error"))
    return Attempt(notes=(TEMPLATE_WROTE.format(why=why),), not_kept=not_kept, is_outside=is_outside)


def read_version(idea: str, version: int) -> PocketReading:
    """The reading of `idea`, with what it leaves open filled in by phrases of VERSIONS as far as they fit."""
    reading = read_idea(idea)
    phrases = VERSIONS.get(reading.family, ((),)) if reading.belongs == "whole" else ((),)
    for phrase in phrases[version % len(phrases)]:
        other = read_idea(f"{phrase}. {idea}")
        if other.belongs == "whole" and set(reading.kept) < set(other.kept):
            reading, idea = other, f"{phrase}. {idea}"
    return reading


def remarks_on_language(brief: PromptRequirements, checked: CheckedPrompt) -> Iterator[str]:
    """What became of an idea that is not English."""
    language = language_of(brief.masked.text)
    if language == "English":
        return
    if not any(violation.rule == "language" for violation in checked.violations):
        yield f"The idea is {language}: the prompt says it in English, and spoken words stay as they are"
    else:
        yield (
            f"The idea is {language}, and the model was trained on English prompts: write it in English, or "
            "choose a language model as the writer"
        )


def fall_back(brief: PromptRequirements, version: int) -> tuple[ROUTE, CheckedPrompt]:
    """The template's prompt, or the own text where the template breaks rules that the text keeps."""
    own = brief.as_own_words()
    made = repair(write_template(own, version), own)
    problems = {violation.rule for violation in made.violations if violation.severity == "error"}
    plain = check(brief.idea, own)
    if not brief.idea or problems <= {violation.rule for violation in plain if violation.severity == "error"}:
        return "template", made
    return "own text", CheckedPrompt(brief.idea, (), tuple(plain))


def added_spans(idea: str, text: str) -> tuple[tuple[int, int], ...]:
    """The spans of `text` whose words the idea does not have in this order."""
    words = list(WORD.finditer(text))
    own = [match[0].lower() for match in WORD.finditer(idea)]
    if (
        len(own) * len(words) > MAX_COMPARISONS
    ):  # the comparison takes seconds; long ideas are the person's own text
        known = set(own)
        return tuple(match.span() for match in words if match[0].lower() not in known)
    matcher = SequenceMatcher(None, own, [match[0].lower() for match in words], autojunk=False)
    return tuple(
        (words[start].start(), words[end - 1].end())
        for kind, _, _, start, end in matcher.get_opcodes()
        if kind in ("insert", "replace") and end > start
    )


def read_image(path: Path) -> bytes:
    """The image as a JPEG that servers take: at most IMAGE_SIDE pixels in a side."""
    from PIL import Image

    from mova.media.images import open_image

    image = open_image(path)
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def describe_first_frame(
    describer: Writer, image: bytes, cache: AnswerCache, cancelled: IsCancelled = never_cancelled
) -> str:
    """The content of `image` (JPEG) in the words of a model that sees. Raises BackendError, Cancelled."""
    system, user = load_template("describe_first_frame").fill()
    ask = WriterRequest((("system", system), ("user", user)), image=image, max_tokens=400, temperature=0.2)
    return prose_in(cache.write(describer, ask, ignore_text, cancelled))[:MAX_DESCRIPTION]
