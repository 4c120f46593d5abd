"""Rules on words: the person's own are kept, none are invented, and there are not too many."""

import re
from collections.abc import Iterator
from functools import lru_cache

from mova.prompting.brief import Brief, Violation
from mova.prompting.cleaning import clean_prompt
from mova.prompting.edits import assemble, capitalised, cut, cut_all, hide_quotes, prose_of, sentence_at, tidy
from mova.prompting.plan import SHOWN_TEXT, SPEECH_VERB, Line, PromptPlan
from mova.prompting.quotes import FILLER, Quote, blank, find_quotes, locate
from mova.prompting.templates import load_words
from mova.prompting.words import WORD, content_words, count_words, language_of, sentences

DOUBLE_MARKS = re.compile('["“”„«»‹›「」『』＂]')
MAX_INVENTED = 8  # a text with more is not worth mending
CAMERA = r"camera|lens|shot|view|frame|framing|镜头"
CAMERA_CLAUSE = re.compile(
    rf",?\s*(?:\b(?:as|while|and|with)\s+)?\b(?:the|a)\s+(?:\w+\s+)?(?:camera|shot|view|"
    rf"lens)\s[^,.;!?\n{FILLER}]*"
)


def quotes(text: str, brief: Brief) -> Iterator[Violation]:
    places = locate(text, brief.quotes)
    found = [place for place in places if place is not None]
    if found != sorted(found):
        yield Violation("quotes", "error", "the quoted words are not in the order of the idea")
    for index, place in enumerate(places):
        if place is None:
            quote = brief.quotes[index]
            message = f"the words {quote.raw} are missing; keep them letter for letter"
            yield Violation("quotes", "error", message, None, _with_line(text, brief, index, places))
            return


def _with_line(text: str, brief: Brief, index: int, places: list[int | None]) -> str | None:
    """`text` with the missing quote as a line of dialogue, where that keeps all quotes in order."""
    plan = PromptPlan.parse(text)
    lines = [line.render() for line in plan.dialogue]
    narrative = f"{plan.first_frame}\n{plan.progression}"
    wanted = [clean_prompt(quote.text) for quote in brief.quotes]
    spoken = [clean_prompt(line.text) for line in plan.dialogue]
    later = [i for i in range(index + 1, len(places)) if places[i] is not None]
    if any(brief.quotes[i].raw in narrative for i in later):
        return None
    position = min((spoken.index(wanted[i]) for i in later if wanted[i] in spoken), default=len(lines))
    lines.insert(position, spoken_line(brief, index).render())
    return assemble(plan.first_frame, plan.progression, lines, plan.audio, plan.no_subtitles)


def spoken_line(brief: Brief, index: int) -> Line:
    """The quote at `index` as a line of whoever the idea lets say it."""
    quote = brief.quotes[index]
    text = " ".join(quote.text.split())
    start = brief.quotes[index - 1].end if index else 0
    clause = re.split(r"[.!?;\n。！？；]", brief.idea[start : quote.start])[-1]
    lead = f"{capitalised(' '.join(clause.split()).strip(' ,'))} "
    for candidate in (lead, "A voice says, "):
        raw = f"{candidate}{quote.opening}{text}{quote.closing}"
        parsed = PromptPlan.parse(raw).dialogue
        if len(parsed) == 1 and parsed[0].text == text:
            return parsed[0]
    return Line("A voice says, ", " ".join(DOUBLE_MARKS.sub("”", text).split()), "「」")


def invented_dialogue(text: str, brief: Brief) -> Iterator[Violation]:
    """Quotes that are not the person's. Text that is read in a given picture may be quoted."""
    masked = hide_quotes(text, brief.quotes)
    said = _words(brief.prose)  # words that the idea has without quote marks, as in: girl says hello
    masked = blank(masked, [q for q in find_quotes(masked) if q.closed and _words(q.text) in said])
    invented = tuple(quote for quote in find_quotes(masked) if quote.closed)
    for quote in invented:
        read = brief.has_image and not SPEECH_VERB.search(masked[max(0, quote.start - 60) : quote.start])
        if not read:
            message = (
                f"the words {quote.raw[:60].replace(FILLER, '…')} are nobody's; say nothing that was not "
                "given"
            )
            fix = _without(text, masked, invented, quote) if len(invented) <= MAX_INVENTED else None
            yield Violation("invented_dialogue", "error", message, (quote.start, quote.end), fix)
            return
    if invented:
        return
    stray = [match.span() for match in DOUBLE_MARKS.finditer(masked) if match[0] not in brief.taken.text]
    if stray:
        yield Violation(
            "invented_dialogue", "error", "a quote mark without a pair", stray[0], cut_all(text, stray)
        )


def _words(text: str) -> str:
    return f" {' '.join(WORD.findall(text.lower()))} "


def _without(text: str, masked: str, invented: tuple[Quote, ...], quote: Quote) -> str:
    blanked = blank(masked, invented, keep_stops=True)
    start, end = sentence_at(blanked, quote.start)
    around = masked[start : quote.start] + masked[quote.end : end]
    speaks = SPEECH_VERB.search(around) or not around.strip(" .,")
    if speaks and not SHOWN_TEXT.search(around) and FILLER not in masked[start:end]:
        return cut(text, start, end)
    inner = text[quote.start + len(quote.opening) : quote.end - len(quote.closing)]
    return tidy(text[: quote.start] + inner + text[quote.end :])


def unrelated(text: str, brief: Brief) -> Iterator[Violation]:
    asked = content_words(brief.taken.text)
    plan = PromptPlan.parse(text)
    told = f"{plan.first_frame} {plan.progression} {' '.join(line.text for line in plan.dialogue)}"
    if len(asked) >= 4 and language_of(brief.taken.text) == "English" and not asked & content_words(told):
        yield Violation(
            "unrelated", "error", "has nothing in common with the idea; describe the idea's own scene"
        )


def stillness(text: str, brief: Brief) -> Iterator[Violation]:
    prose = prose_of(text)
    for entry in load_words("stillness"):
        word, arrow, by = (part.strip() for part in entry.partition("->"))
        for match in _word(word).finditer(prose):
            if word in brief.prose:
                break
            message = f'"{match[0]}" makes pictures freeze; say what moves'
            if not arrow:
                yield Violation("stillness", "warning", message, match.span())
                continue
            fix = cut(text, *match.span(), by)
            start = max(0, match.start() - 4)
            fix = fix[:start] + _article(fix[start:])
            yield Violation("stillness", "error", message, match.span(), fix)


def _article(text: str) -> str:
    """The article right at the start put right for the word that now follows it."""
    return re.sub(
        r"^(\W*)([Aa])n?( +)(\w)",
        lambda m: f"{m[1]}{m[2]}{'n' * (m[4].lower() in 'aeiou')}{m[3]}{m[4]}",
        text,
    )


def camera(text: str, brief: Brief) -> Iterator[Violation]:
    if re.search(
        r"\b(?:camera|zoom|dolly|tracking|handheld|pan|pans|tilt|drone|slow.motion|time.?lapse)|镜头|"
        r"运镜|跟拍|推近|拉远",
        brief.prose,
    ):
        return
    prose = prose_of(text)
    for entry in load_words("camera"):
        word = entry.rstrip("*")
        for match in _word(word, stem=entry.endswith("*")).finditer(prose):
            start, end = sentence_at(prose, match.start())
            clause = next((c for c in CAMERA_CLAUSE.finditer(prose, start, end) if _inside(match, c)), None)
            near = re.search(rf"\b(?:{CAMERA})\b[^,;]{{0,40}}$|镜头", prose[start : match.start()])
            if not entry.endswith("*") and not near:
                continue
            fix = None
            if FILLER not in prose[start:end] and re.match(
                r"\s*(?:the |a )?(?:slow |smooth )?(?:camera|shot|lens|view)\b", prose[start:end]
            ):
                fix = cut(text, start, end)
            elif clause:
                fix = cut(text, *clause.span())
            yield Violation("camera", "error", f'nobody asked for "{match[0]}"', match.span(), fix)
            return


def length(text: str, brief: Brief) -> Iterator[Violation]:
    words = _length(text)
    limit = max(brief.max_words, 60 + sum(count_words(quote.text) for quote in brief.quotes))
    if words > limit:
        message = f"{words} words; {limit} is the most that is of use"
        yield Violation("length", "error", message, None, _shortened(text, brief))


def tokens(text: str, brief: Brief) -> Iterator[Violation]:
    if brief.meter is None:
        return
    lost = brief.meter.cut(text)
    if not lost:
        return
    count = brief.meter.count(text)
    message = f'{count} tokens of {brief.meter.max_tokens}; the model would not see the end: "{lost[:80]}..."'
    start = _start_of_last(text, sum(not character.isspace() for character in lost))
    yield Violation("tokens", "error", message, (start, len(text)), _shortened(text, brief))


def _length(text: str) -> int:
    """Words; what has no spaces between words counts by its letters, 12 to a word at most."""
    return max(count_words(text), len(text) // 12)


def _shortened(text: str, brief: Brief) -> str | None:
    """`text` without its last sentence that can go: what happens first, then the opening, then the sound."""
    if brief.own_words:
        return None
    plan = PromptPlan.parse(text)
    parts = {"progression": plan.progression, "first_frame": plan.first_frame, "audio": plan.audio}
    for name, part in parts.items():
        masked = blank(part)
        free = [span for span in _sentences(masked)[1:] if FILLER not in masked[slice(*span)]]
        if free:
            start, end = free[-1]
            parts[name] = "\n".join(line for line in (part[:start] + part[end:]).splitlines() if line.strip())
            lines = [line.render() for line in plan.dialogue]
            return assemble(**parts, lines=lines, no_subtitles=plan.no_subtitles)
    return None


def _sentences(text: str) -> list[tuple[int, int]]:
    spans, offset = [], 0
    for line in text.splitlines(keepends=True):
        spans += [(offset + start, offset + end) for start, end in sentences(line)]
        offset += len(line)
    return spans


def _start_of_last(text: str, letters: int) -> int:
    """Where the last `letters` characters that are no space begin."""
    position = len(text)
    while letters and position:
        position -= 1
        letters -= not text[position].isspace()
    return position


def _inside(match: re.Match, clause: re.Match) -> bool:
    return clause.start() <= match.start() and match.end() <= clause.end()


@lru_cache(maxsize=512)
def _word(word: str, stem: bool = False) -> re.Pattern:
    if not word.isascii():
        return re.compile(re.escape(word))
    return re.compile(rf"\b{re.escape(word)}{'' if stem else chr(92) + 'b'}")
