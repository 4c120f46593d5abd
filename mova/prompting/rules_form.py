"""Rules on the form of a prompt: plain prose in blocks, nothing but the prompt, in English."""

import re
from collections.abc import Iterator

from mova.prompting.brief import Brief, Violation
from mova.prompting.edits import capitalised, cut_all, tidy
from mova.prompting.plan import AUDIO_OPENING, NO_SUBTITLES, PromptPlan
from mova.prompting.quotes import FILLER, blank, find_quotes
from mova.prompting.words import count_words, language_of, plain_text, sentences

REASONING = re.compile(r".*</(?:think|thinking|reasoning)>|<\|[^|<>\n]{1,40}\|>", re.DOTALL | re.IGNORECASE)
OPEN_REASONING = re.compile(r"\s*<(?:think|thinking|reasoning)>", re.IGNORECASE)
TAG = re.compile(r"</?[a-z][^<>\n]{0,200}>|<!--.*?-->|<!doctype[^>]*>|\{\{|\}\}", re.IGNORECASE)
LABEL = (
    r"(?:(?:the )?first frame|opening(?: frame| picture)?|progression|what happens|action|scene|"
    r"video|dialogue|speech|"
    r"spoken words|camera|style|setting)"
)
MARKS = re.compile(
    r"^[ \t]*(?:```[^\n]*|~~~[^\n]*|-{3,}|={3,}|\*{3,}|_{3,})[ \t]*$|"  # fences and rules
    r"^[ \t]*(?:#{1,6}|>+|[-*•–▪]|\(?\d{1,2}[.):])[ \t]+|"  # headings, quotations, lists
    rf"^[ \t]*[*_]*(?:block \d ?[:-] ?)?{LABEL}[*_]*[ \t]*[:：][*_]*[ \t]*|"
    r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=[\w.,!?])[*_](?!\w)|`+|"
    r"!?\[(?=[^\]\n]*\]\()|\]\([^)\n]*\)",
    re.IGNORECASE | re.MULTILINE,
)
AUDIO_LABEL = re.compile(r"^[ \t]*[*_]*(?:audio|sound)s?[*_]*[ \t]*[:：][*_]*[ \t]*(?=(\S?))", re.I | re.M)
LEADING = re.compile(
    r"\s*(?:(?:sure|certainly|of course|okay|ok|absolutely|great|understood|done)[ \t]*[,!.:][ \t]*)?"
    r"(?:here(?:'|’)?(?:s| is| are)\b[^\n:]{0,60}\b(?:prompt|version|rewrite|text|description|"
    r"caption|answer|result)s?"
    r"\b[^\n:]{0,80}[:\n]\s*)?(?:(?:final |rewritten |video |revised )*(?:prompt|output|answer|"
    r"caption)[ \t]*[:：]\s*)?"
    r"(?:i (?:have|'ve) (?:rewritten|revised)[^\n]*\n\s*)?",
    re.IGNORECASE,
)
TRAILING = re.compile(
    r"\n\s*\(?(?:note|notes|please note|let me know|i hope|feel free|would you like|word count|\d+ "
    r"words|total words|"
    r"explanation|changes made)\b[^\n]*\s*$",
    re.IGNORECASE,
)
MIN_LETTERS = 24  # of the opening and what happens, about eight words or a Chinese sentence or two
REFUSAL = re.compile(
    r"\s*(?:(?:i'?m|i am|we are|we're) (?:sorry|unable|not able)|sorry[,.]|i can(?:no|')?t\b|i won't|"
    r"as an ai\b|"
    r"i apologi[sz]e|抱歉|对不起|我无法|我不能)",
    re.IGNORECASE,
)


def reasoning(text: str, brief: Brief) -> Iterator[Violation]:
    match = REASONING.search(text)
    if match and match[0] not in brief.idea and not REASONING.search(brief.idea):
        fix = text[: match.start()] + text[match.end() :]
        yield Violation("reasoning", "error", "holds the model's reasoning", match.span(), fix.strip())
    elif OPEN_REASONING.match(text) and not OPEN_REASONING.match(brief.idea):
        message = (
            "holds nothing but unfinished reasoning; give the model more tokens or turn its thinking off"
        )
        yield Violation("reasoning", "error", message, (0, len(text)))


def plain(text: str, brief: Brief) -> Iterator[Violation]:
    if plain_text(text) != text:
        yield Violation("plain_text", "error", "holds control characters", None, plain_text(text))
        return
    masked = blank(text)
    known = brief.taken.pattern
    for pattern, what in ((TAG, "markup"), (known, "a mark that stands for no words")):
        found = [m for m in pattern.finditer(masked) if m[0] not in brief.idea and FILLER not in m[0]]
        if found:
            fix = cut_all(text, [match.span() for match in found])
            yield Violation("plain_text", "error", f"holds {what}: {found[0][0][:30]}", found[0].span(), fix)
            return


def marks(text: str, brief: Brief) -> Iterator[Violation]:
    """Lists, headings, fences, emphasis, labels. All of them go at once."""
    masked = blank(text)
    found = [
        m for m in MARKS.finditer(masked) if m[0].strip() and (brief.own_words or m[0] not in brief.idea)
    ]
    labels = [m for m in AUDIO_LABEL.finditer(masked) if not AUDIO_OPENING.match(masked, m.end())]
    labels += [m for m in AUDIO_LABEL.finditer(masked) if AUDIO_OPENING.match(masked, m.end())]
    if not found and not labels:
        return
    spans = {m.span(): "" for m in found}
    for match in labels:
        spans[match.span()] = "" if AUDIO_OPENING.match(masked, match.end()) else "The audio shows "
    fixed, previous = text, len(text) + 1
    for (start, end), by in sorted(spans.items(), reverse=True):
        if end > previous:
            continue
        rest = fixed[end:]
        if by and rest[:1].isupper() and not rest[1:2].isupper():
            rest = rest[:1].lower() + rest[1:]
        fixed, previous = fixed[:start] + by + rest, start
    span = min(spans)
    yield Violation("marks", "error", "holds list marks, headings or other markup", span, tidy(fixed))


def residue(text: str, brief: Brief) -> Iterator[Violation]:
    """Sentences about the answer instead of the prompt, and quote marks around the whole."""
    lead = LEADING.match(text)
    if lead and lead[0].strip() and not brief.idea.lower().startswith(lead[0].strip().lower()):
        fix = capitalised(text[lead.end() :].strip())
        yield Violation("residue", "error", "begins with words about the answer", lead.span(), fix)
        return
    tail = TRAILING.search(text)
    if tail and tail[0].strip() not in brief.idea:
        fix = text[: tail.start()].rstrip()
        yield Violation("residue", "error", "ends with words about the answer", tail.span(), fix)
        return
    found = find_quotes(text.strip())
    whole = len(found) == 1 and found[0].end - found[0].start == len(text.strip()) and count_words(text) > 30
    if whole and found[0].raw not in {quote.raw for quote in brief.quotes}:
        inner = found[0].text.strip()
        yield Violation("residue", "error", "stands in quote marks as a whole", (0, 1), inner)


def empty(text: str, brief: Brief) -> Iterator[Violation]:  # noqa: ARG001 - rules share one signature
    if not count_words(text):
        yield Violation("empty", "error", "holds no words")


def refusal(text: str, brief: Brief) -> Iterator[Violation]:
    if REFUSAL.match(text) and not REFUSAL.match(brief.idea):
        yield Violation("refusal", "error", "refuses or apologises instead of writing", (0, len(text)))


def language(text: str, brief: Brief) -> Iterator[Violation]:  # noqa: ARG001 - rules share one signature
    plan = PromptPlan.parse(text)
    for block in (plan.first_frame, *plan.progression.splitlines(), plan.audio):
        spoken = language_of(blank(block).replace(FILLER, ""))
        if spoken != "English":
            message = (
                f"the prose is {spoken}; MOVA was trained on English prose with speech in its own language"
            )
            start = max(0, text.find(block))
            yield Violation("language", "error", message, (start, start + len(block)))
            return


def subtitles(text: str, brief: Brief) -> Iterator[Violation]:
    plan = PromptPlan.parse(text)
    count = blank(text).count(NO_SUBTITLES)
    if plan.no_subtitles == brief.no_subtitles and count == int(brief.no_subtitles):
        return
    fix = tidy(text.replace(NO_SUBTITLES, ""))
    if brief.no_subtitles:
        is_audio = AUDIO_OPENING.match(fix.splitlines()[-1] if fix else "")
        fix = f"{fix}{' ' if is_audio else chr(10) * 2}{NO_SUBTITLES}"
    wish = "must end with" if brief.no_subtitles else "must be without"
    yield Violation("subtitles", "error", f'{wish} the sentence "{NO_SUBTITLES}"', None, fix.strip())


def structure(text: str, brief: Brief) -> Iterator[Violation]:  # noqa: ARG001 - rules share one signature
    plan = PromptPlan.parse(text)
    narrative = blank(f"{plan.first_frame} {plan.progression}".strip())
    if not plan.first_frame:
        yield Violation("structure", "error", "lacks the opening picture; begin with what is seen first")
    elif not plan.progression and len(sentences(narrative)) < 2:
        yield Violation("structure", "error", "lacks what happens; go on from the opening picture")
    elif sum(character.isalpha() for character in narrative) < MIN_LETTERS:
        yield Violation("structure", "error", "says too little to make a scene; describe it")
