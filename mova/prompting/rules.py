"""The rules of a prompt: what each looks for, and the repair where code can make one.

A rule is a function of the text and the requirements that yields violations; RULES has them all, in the order
in which they are asked and their repairs applied.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

from mova.prompting.plan import (
    AUDIO_OPENING,
    NO_SUBTITLES,
    SHOWN_TEXT,
    SPEECH_VERB,
    DialogueLine,
    PromptPlan,
    assemble,
    capitalised,
    cut,
    cut_all,
    hide_quotes,
    prose_of,
    sentence_at,
    tidy,
)
from mova.prompting.prompt_files import load_words
from mova.prompting.quotes import FILLER, MaskedText, Quote, blank, find_quotes, locate, mask_quotes
from mova.prompting.speakers import Voice, voice_in
from mova.text import (
    CJK,
    WORD,
    TokenMeter,
    clean_prompt,
    content_words,
    count_words,
    language_of,
    plain_text,
    sentences,
    speech_seconds,
)

CLIP_SECONDS = 193 / 24
MAX_WORDS = 250


@dataclass(frozen=True)
class Violation:
    """One broken rule. `span` is where in the text; `fix` is the whole text repaired, or None.

    An "error" keeps a text from being used as it is; a "warning" is for the person to judge. `missing` are
    words of the idea that the text lacks; `add_missing` adds them.
    """

    rule: str
    severity: Literal["error", "warning"]
    message: str
    span: tuple[int, int] | None = None
    fix: str | None = field(default=None, repr=False)
    missing: str = ""


@dataclass(frozen=True)
class PromptRequirements:
    """The idea a prompt is written for, and the limits it must keep.

    `own_words` marks a text that holds the person's own prose: it is never shortened. Without a `meter`
    tokens are not counted.
    """

    idea: str
    seconds: float = CLIP_SECONDS
    has_image: bool = False
    no_subtitles: bool = True
    max_words: int = MAX_WORDS
    meter: TokenMeter | None = None
    own_words: bool = False
    masked: MaskedText = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "masked", mask_quotes(self.idea))

    @property
    def quotes(self) -> tuple:
        return self.masked.quotes

    @property
    def prose(self) -> str:
        """The idea without its quoted words, in lower case: what has been asked for."""
        return self.masked.text.lower()

    def as_own_words(self) -> "PromptRequirements":
        return replace(self, own_words=True)


@lru_cache(maxsize=1024)
def _pattern(word: str, stem: bool = False) -> re.Pattern[str]:
    """`word` standing by itself, or with `stem` its beginning; scripts without spaces have no word ends."""
    if not word.isascii():
        return re.compile(re.escape(word))
    return re.compile(rf"\b{re.escape(word)}" + ("" if stem else r"\b"))


# --- Form: plain text in MOVA's blocks ---

TAG = re.compile(r"</?[a-z][^<>\n]{0,200}>|<!--.*?-->|<!doctype[^>]*>|\{\{|\}\}", re.IGNORECASE)
LABEL = (
    r"(?:(?:the )?first frame|opening(?: frame| picture)?|progression|what happens|action|scene|video|"
    r"dialogue|speech|spoken words|camera|style|setting)"
)
MARKS = re.compile(
    r"^[ \t]*(?:```[^\n]*|~~~[^\n]*|-{3,}|={3,}|\*{3,}|_{3,})[ \t]*$|"  # fences and lines
    r"^[ \t]*(?:#{1,6}|>+|[-*•–▪]|\(?\d{1,2}[.):])[ \t]+|"  # headings, quotations, lists
    rf"^[ \t]*[*_]*(?:block \d ?[:-] ?)?{LABEL}[*_]*[ \t]*[:：][*_]*[ \t]*|"
    r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=[\w.,!?])[*_](?!\w)|`+|"
    r"!?\[(?=[^\]\n]*\]\()|\]\([^)\n]*\)",
    re.IGNORECASE | re.MULTILINE,
)
CJK_WORDS = re.compile(rf"{CJK.pattern}+")
MIN_LETTERS = 24  # of the opening and what happens, about eight words or a Chinese sentence or two
AUDIO: dict[Voice, str] = {
    "person": "The audio shows the spoken words, close and clear and in step with the lips, over the quiet "
    "natural sound of the place.",
    "voice": "The audio shows the spoken words, close and clear, over the quiet natural sound of the place.",
    "": "The audio shows the natural sounds of what is seen, each in step with its movement.",
}


def plain(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    if plain_text(text) != text:
        yield Violation("plain_text", "error", "holds control characters", None, plain_text(text))
        return
    masked = blank(text)
    known = brief.masked.pattern
    for pattern, what in ((TAG, "markup"), (known, "a mark that stands for no words")):
        found = [m for m in pattern.finditer(masked) if m[0] not in brief.idea and FILLER not in m[0]]
        if found:
            fix = cut_all(text, [match.span() for match in found])
            yield Violation("plain_text", "error", f"holds {what}: {found[0][0][:30]}", found[0].span(), fix)
            return


def marks(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    """Lists, headings, fences, emphasis, labels. All of them go at once."""
    found = [
        match.span()
        for match in MARKS.finditer(blank(text))
        if match[0].strip() and (brief.own_words or match[0] not in brief.idea)
    ]
    if found:
        message = "holds list marks, headings or other markup"
        yield Violation("marks", "error", message, found[0], cut_all(text, found))


def empty(text: str, brief: PromptRequirements) -> Iterator[Violation]:  # noqa: ARG001 - rules share one signature
    if not count_words(text):
        yield Violation("empty", "error", "holds no words")


def language(text: str, brief: PromptRequirements) -> Iterator[Violation]:  # noqa: ARG001 - rules share one signature
    plan = PromptPlan.parse(text)
    for block in (plan.first_frame, *plan.progression.splitlines(), plan.audio):
        spoken = language_of(blank(block).replace(FILLER, ""))
        if spoken != "English":
            message = f"the prose is {spoken}; write English prose, and only speech in its own language"
            start = max(0, text.find(block))
            yield Violation("language", "error", message, (start, start + len(block)))
            return
    if found := CJK_WORDS.search(blank(text)):
        message = f"{found[0]} stands in the English prose; write it in English"
        yield Violation("language", "warning", message, found.span())


def subtitles(text: str, brief: PromptRequirements) -> Iterator[Violation]:
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


def structure(text: str, brief: PromptRequirements) -> Iterator[Violation]:  # noqa: ARG001 - rules share one signature
    plan = PromptPlan.parse(text)
    narrative = blank(f"{plan.first_frame} {plan.progression}".strip())
    if not plan.first_frame:
        yield Violation("structure", "error", "lacks the opening picture; begin with what is seen first")
    elif not plan.progression and len(sentences(narrative)) < 2:
        yield Violation("structure", "error", "lacks what happens; continue from the opening picture")
    elif sum(character.isalpha() for character in narrative) < MIN_LETTERS:
        yield Violation("structure", "error", "says too little to make a scene; describe it")


def audio_last(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    body = text.replace(NO_SUBTITLES, "")
    blocks = [block.strip() for block in body.splitlines() if block.strip()]
    early = [block for block in blocks[:-1] if AUDIO_OPENING.match(block)]
    if not early and blocks and AUDIO_OPENING.match(blocks[-1]):
        return
    ending = f" {NO_SUBTITLES}" if PromptPlan.parse(text).no_subtitles else ""
    if early:
        rest = [block for block in blocks if block not in early]
        last = rest.pop() if rest and AUDIO_OPENING.match(rest[-1]) else ""
        sound = " ".join([*early, last]).strip()
        start = text.find(early[0])
        message = "the sound stands before other blocks; write all of it in one block at the end"
        fix = "\n\n".join([*rest, sound]) + ending
        yield Violation("audio_last", "error", message, (start, start + len(early[0])), fix)
        return
    message = 'no sound at the end; add a block that begins with "The audio shows"'
    fix = "\n\n".join([*blocks, default_audio(brief)]) + ending
    yield Violation("audio_last", "error", message, None, fix if blocks else None)


def default_audio(brief: PromptRequirements) -> str:
    """A sound block that invents nothing."""
    return AUDIO[voice_in(brief.idea, brief.quotes)]


# --- The idea: its quoted words, and what it names ---

DOUBLE_MARKS = re.compile('["“”„«»‹›「」『』＂]')
MAX_INVENTED = 8  # a text with more is not worth repairing
LISTS = ("colours", "materials")
OF_A_PERSON = ("hair", "beard", "moustache", "eye")  # who has them shows them in a colour
JOINTS = r"(?:a|an|the|with|and|or|in|on|of|wearing|wears|has|is|are)\b"  # behind one a new thing begins
PLACE = re.compile(r"\b(?:floor|ground|wall|background|backdrop)\b|地|墙|背景")
BACKDROP = re.compile(r"\b(?:\w+ ){1,2}(?:floor|ground|wall|background|backdrop)\b|\bwall is \w+")
NOTE_GAP = r"(?:\s*(?:[,、–-]|\.{2,3})\s*|\s+)(?:(?:and|then)\s+)?"
NOTES = re.compile(rf"(?<![A-Za-z0-9_'’])[A-G](?:{NOTE_GAP}[A-G])+(?![A-Za-z0-9_'’#♯♭])")
PLAYED = re.compile(r"\b(?:notes?|keys?|pianos?|keyboard|melody|tune|plays?|playing)\b", re.IGNORECASE)
FEW_NOTES = 3  # fewer are taken for notes only where something is played
SAID = re.compile(r"\b(?:says?|saying)(?: the words?)?:? +([^<>:,.;!?\n]{1,60}?) *[.!?]*$", re.IGNORECASE)
REPORTED = re.compile(r"(?:that|nothing|something|anything|it|to|how|what|why)\b", re.IGNORECASE)
LAST = 120  # characters of an idea in which such words end it
FEW_WORDS = 4  # more after a verb of speaking report what is said


def quotes(text: str, brief: PromptRequirements) -> Iterator[Violation]:
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


def _with_line(text: str, brief: PromptRequirements, index: int, places: list[int | None]) -> str | None:
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


def spoken_line(brief: PromptRequirements, index: int) -> DialogueLine:
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
    return DialogueLine("A voice says, ", " ".join(DOUBLE_MARKS.sub("”", text).split()), "「」")


def invented_dialogue(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    """Quotes that are not the person's. Text that is read in a given picture may be quoted."""
    masked = hide_quotes(text, brief.quotes)
    said = _words(brief.prose)  # words that the idea has without quote marks, as in: girl says hello
    masked = blank(masked, [q for q in find_quotes(masked) if q.closed and _words(q.text) in said])
    invented = tuple(quote for quote in find_quotes(masked) if quote.closed)
    for quote in invented:
        read = brief.has_image and not SPEECH_VERB.search(masked[max(0, quote.start - 60) : quote.start])
        if not read:
            words = quote.raw[:60].replace(FILLER, "…")
            message = f"the words {words} are nobody's; quote only words that were given"
            fix = _without(text, masked, invented, quote) if len(invented) <= MAX_INVENTED else None
            yield Violation("invented_dialogue", "error", message, (quote.start, quote.end), fix)
            return
    if invented:
        return
    stray = [match.span() for match in DOUBLE_MARKS.finditer(masked) if match[0] not in brief.masked.text]
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


def unrelated(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    asked = content_words(brief.masked.text)
    plan = PromptPlan.parse(text)
    prompt = f"{plan.first_frame} {plan.progression} {' '.join(line.text for line in plan.dialogue)}"
    if len(asked) >= 4 and language_of(brief.masked.text) == "English" and not asked & content_words(prompt):
        yield Violation(
            "unrelated", "error", "has nothing in common with the idea; describe the idea's own scene"
        )


def named(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    things = dict(_coloured(brief.prose))
    for words in lost_names(text, brief):
        yield _lost("named", words, f"{words} {things[words]}" if words in things else words)


def lost_names(text: str, brief: PromptRequirements) -> list[str]:
    """The colours and materials of the idea that `text` lacks, and colours that left what they were of.

    Words about a backdrop that nobody asked for say nothing of the ball before it.
    """
    asked: dict[tuple[str, ...], str] = {}
    for match in _any_name(*LISTS).finditer(brief.prose):
        asked.setdefault(_group_of(*LISTS)[match[0]], match[0])
    if not asked:
        return []
    prose = prose_of(text)
    if not PLACE.search(brief.prose):
        prose = BACKDROP.sub(" ", prose)
    lost = [said for group, said in asked.items() if not any(_pattern(word).search(prose) for word in group)]
    return lost + [
        f"{colour} {thing}"
        for colour, thing in _coloured(brief.prose)
        if colour not in lost and not _keeps_colour(prose, colour, thing)
    ]


def _coloured(prose: str) -> Iterator[tuple[str, str]]:
    """Each colour that stands before a thing, with the word for it."""
    colour = _any_name("colours").pattern
    for match in re.finditer(rf"({colour})[\s-]+(?!{JOINTS}|(?:{colour}))([^\W\d_]+)", prose):
        yield match[1], match[2]


def _keeps_colour(prose: str, colour: str, thing: str) -> bool:
    """False if `prose` has the thing in other colours alone, or, of a person, in none."""
    stem = re.sub(r"(?:ed|s)$", "", thing)
    name = _any_name("colours").pattern
    between = rf"(?:[\s,-]+(?:and\s+)?(?:{name})|[\s,-]+(?!{JOINTS})[^\W\d_]+){{0,2}}?"
    shared = r"(?:[\s-]+hair and (?:an? )?)" if stem in OF_A_PERSON else r"(?!)"  # "grey hair and a beard"
    before = rf"({name})(?=(?:{between}[\s-]+|{shared}){re.escape(stem)})"
    pattern = rf"{before}|{re.escape(stem)}\w* (?:is|are|turns?) ({name})"
    found = {_group_of("colours")[match[1] or match[2]] for match in re.finditer(pattern, prose)}
    return _group_of("colours")[colour] in found or not (found or stem in OF_A_PERSON)


@lru_cache
def _group_of(*lists: str) -> dict[str, tuple[str, ...]]:
    """The words for the same colour or material as each word of these lists."""
    groups = [tuple(word.strip() for word in line.split(",")) for name in lists for line in load_words(name)]
    return {word: group for group in groups for word in group}


@lru_cache
def _any_name(*lists: str) -> re.Pattern[str]:
    words = sorted(_group_of(*lists), key=len, reverse=True)
    return re.compile("|".join(_pattern(word).pattern for word in words))


def notes(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    idea = brief.masked.text
    written = {_letters(match[0]) for match in NOTES.finditer(text)}
    for match in NOTES.finditer(idea):
        played = _letters(match[0])
        if (len(played) >= FEW_NOTES or PLAYED.search(idea)) and played not in written:
            message = f"the notes {match[0]} are missing; keep them in their order"
            yield Violation("notes", "error", message, missing=f"the notes {match[0]}")


def _letters(run: str) -> str:
    return "".join(re.findall("[A-G]", run))


def unquoted_speech(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    """Words said at the end of an idea without quote marks, as in: girl says hello."""
    said = SAID.search(brief.idea[-LAST:]) if not brief.quotes else None
    if said is None or REPORTED.match(said[1]) or len(said[1].split()) > FEW_WORDS or CJK.search(said[1]):
        return
    words = content_words(said[1])
    if not words <= content_words(text):
        yield _lost("bare_words", said[1])


def _lost(rule: str, words: str, missing: str = "") -> Violation:
    message = f'the idea says "{words}" and the prompt does not; keep it'
    return Violation(rule, "error", message, missing=missing or words)


def add_missing(text: str, found: Violation, brief: PromptRequirements) -> str:
    """`text` with the words that `found` misses, in a sentence of their own behind what happens.

    Unlike a fix this is not made without being asked: a writer that is asked again puts them in their place.
    """
    plan = PromptPlan.parse(text)
    lines = [line.render() for line in plan.dialogue]
    progression = plan.progression
    if found.rule == "bare_words":
        lead = re.split(r"[.!?;\n]", SAID.sub("", brief.idea))[-1].strip(" ,:")
        lines.append(f'{capitalised(lead) or "A voice"} says, "{found.missing}"')
    elif found.rule == "notes":
        progression += f" It plays {found.missing}."
    else:
        adjective, _, noun = found.missing.rpartition(" ")
        has_noun = bool(adjective) and re.search(rf"\b{re.escape(noun)}\b", prose_of(text))
        progression += f" The {noun} is {adjective}." if has_noun else f" It shows {_shown(found.missing)}."
    return assemble(plan.first_frame, progression.strip(), lines, plan.audio, plan.no_subtitles)


def _shown(words: str) -> str:
    """ "grey beard" as something that is shown: "a grey beard", "the colour grey"."""
    if " " not in words:
        return f"something of {words}" if words in _materials() else f"the colour {words}"
    return words if words.endswith("s") else _article(f"a {words}")


@lru_cache
def _materials() -> frozenset[str]:
    return frozenset(word.strip() for line in load_words("materials") for word in line.split(","))


# --- Additions: what nobody asked for ---

CAMERA = r"camera|lens|shot|view|frame|framing|镜头"
CAMERA_CLAUSE = re.compile(
    rf",?\s*(?:\b(?:as|while|and|with)\s+)?\b(?:the|a)\s+(?:\w+\s+)?(?:camera|shot|view|lens)\s"
    rf"[^,.;!?\n{FILLER}]*"
)
CAMERA_SENTENCE = re.compile(r"\s*(?:the |a )?(?:slow |smooth )?(?:camera|shot|lens|view)\b")
CAMERA_ASKED = re.compile(
    r"\b(?:camera|zoom|dolly|tracking|handheld|pan|pans|tilt|drone|slow.motion|time.?lapse)|镜头|运镜|跟拍|推近|拉远"
)
NEGATED = re.compile(r"\b(?:no|without|free of|any)\s+(?:\w+\s+){0,3}$")


def camera(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    if CAMERA_ASKED.search(brief.prose):
        return
    prose = prose_of(text)
    for entry in load_words("camera"):
        is_stem = entry.endswith("*")
        for match in _pattern(entry.rstrip("*"), is_stem).finditer(prose):
            start, end = sentence_at(prose, match.start())
            near = re.search(rf"\b(?:{CAMERA})\b[^,;]{{0,40}}$|镜头", prose[start : match.start()])
            if not is_stem and not near:
                continue
            clauses = CAMERA_CLAUSE.finditer(prose, start, end)
            clause = next((c for c in clauses if c.start() <= match.start() and match.end() <= c.end()), None)
            fix = None
            if FILLER not in prose[start:end] and CAMERA_SENTENCE.match(prose[start:end]):
                fix = cut(text, start, end)
            elif clause:
                fix = cut(text, *clause.span())
            yield Violation("camera", "error", f'nobody asked for "{match[0]}"', match.span(), fix)
            return


def stillness(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    prose = prose_of(text)
    for entry in load_words("stillness"):
        word, arrow, by = (part.strip() for part in entry.partition("->"))
        for match in _pattern(word).finditer(prose):
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
    """`text` with the article at its start as the word after it needs it."""
    return re.sub(
        r"^(\W*)([Aa])n?( +)(\w)",
        lambda m: f"{m[1]}{m[2]}{'n' * (m[4].lower() in 'aeiou')}{m[3]}{m[4]}",
        text,
    )


def sounds(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    prose = prose_of(text)
    for group in load_words("sounds"):
        patterns = [_pattern(word.strip()) for word in group.split(",")]
        if any(pattern.search(brief.prose) for pattern in patterns):
            continue
        match = next((found for pattern in patterns if (found := pattern.search(prose))), None)
        if match is None or NEGATED.search(prose[: match.start()]):
            continue
        start, end = sentence_at(prose, match.start())
        fix = cut(text, start, end)
        keeps_sound = AUDIO_OPENING.match(PromptPlan.parse(fix).audio) is not None
        message = f'"{match[0]}" was not asked for'
        yield Violation("sounds", "warning", message, match.span(), fix if keeps_sound else None)


# --- Limits: of the clip and of the text encoder ---


def speech(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    quotes = find_quotes(text)
    words = " ".join(quote.text for quote in quotes)
    if speech_seconds(words) <= brief.seconds:
        return
    needed = speech_seconds(words)
    how = "cannot be said" if speech_seconds(words, fastest=True) > brief.seconds else "will sound hurried"
    message = f"the spoken words take about {needed:.0f} s and {how} in {brief.seconds:.1f} s; shorten them"
    yield Violation("speech", "warning", message, (quotes[0].start, quotes[-1].end))


def length(text: str, brief: PromptRequirements) -> Iterator[Violation]:
    words = _length(text)
    limit = max(brief.max_words, 60 + sum(count_words(quote.text) for quote in brief.quotes))
    if words > limit:
        message = f"{words} words; up to {limit} are of use"
        yield Violation("length", "error", message, None, _shortened(text, brief))


def tokens(text: str, brief: PromptRequirements) -> Iterator[Violation]:
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


def _shortened(text: str, brief: PromptRequirements) -> str | None:
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
    """The position of the last `letters` characters, not counting spaces."""
    position = len(text)
    while letters and position:
        position -= 1
        letters -= not text[position].isspace()
    return position


# --- All rules ---

Rule = Callable[[str, PromptRequirements], Iterator[Violation]]
RULES: dict[str, Rule] = {
    # What hides the text itself comes first: the later rules then read the prompt alone.
    "plain_text": plain,
    "marks": marks,
    "empty": empty,
    "language": language,
    "quotes": quotes,
    "invented_dialogue": invented_dialogue,
    "unrelated": unrelated,
    "named": named,
    "notes": notes,
    "bare_words": unquoted_speech,
    "camera": camera,
    "stillness": stillness,
    "audio_last": audio_last,
    "subtitles": subtitles,
    "structure": structure,
    "sounds": sounds,
    "speech": speech,
    "length": length,
    "tokens": tokens,
}
MAX_REPAIRS = 40


@dataclass(frozen=True)
class CheckedPrompt:
    """A text after its repairs: the violations that were repaired and those that remain."""

    text: str
    repairs: tuple[Violation, ...]
    violations: tuple[Violation, ...]

    @property
    def is_good(self) -> bool:
        return not any(violation.severity == "error" for violation in self.violations)


def check(text: str, brief: PromptRequirements) -> list[Violation]:
    """All violations of `text`, by the order of RULES."""
    return [violation for rule in RULES.values() for violation in rule(text, brief)]


def repair(text: str, brief: PromptRequirements) -> CheckedPrompt:
    """`text` with every error repaired that code can repair. Warnings are left to the person."""
    repairs: list[Violation] = []
    seen = {text}
    while len(repairs) < MAX_REPAIRS and (found := _first_repairable(text, brief, seen)):
        repairs.append(found)
        text = found.fix
        seen.add(text)
    return CheckedPrompt(text, tuple(repairs), tuple(check(text, brief)))


def _first_repairable(text: str, brief: PromptRequirements, seen: set[str]) -> Violation | None:
    found = (violation for rule in RULES.values() for violation in rule(text, brief))
    return next((v for v in found if v.severity == "error" and v.fix is not None and v.fix not in seen), None)
