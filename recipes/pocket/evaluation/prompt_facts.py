"""Judge prompts written for ideas: whether each states the facts of its idea, and agrees with itself."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from mova.prompting.enhancer import EnhanceResult
from mova.prompting.plan import NO_SUBTITLES
from mova.text import WORD
from recipes.pocket import captions
from recipes.pocket.captions import CaptionParts

OUTSIDE = "outside"
BY_WRITER = ("answer", "repaired", "asked again")
COLOURED_BALL = re.compile(
    r"(\w+) (?:(rubber|wooden|metal|glass) ball|ball (?:of|made of) (rubber|wood|metal|glass))\b"
)
PEOPLE = re.compile(r"\b(man|woman|child)\b")
NOTES = re.compile(r"\b[A-G]\b(?:(?:, | |-| and )[A-G]\b)*")
PLACEHOLDER = re.compile(r"<Q\d+>")
QUOTED = re.compile(r'"([^"\n]*)"')


@dataclass(frozen=True)
class Idea:
    """An idea as its writer typed it, and the facts that its prompt must state.

    `quotes` are its spoken words with their marks; `words` those that it has bare. The family of an idea that
    pocket's world cannot show is OUTSIDE.
    """

    text: str
    family: str
    facts: dict[str, object] = field(default_factory=dict)
    quotes: tuple[str, ...] = ()
    words: str = ""
    adjective: str = ""


def read_ideas(path: Path) -> dict[str, list[Idea]]:
    """The sets of ideas of a JSON file by name."""
    sets = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: [Idea(**{**idea, "quotes": tuple(idea.get("quotes", ()))}) for idea in ideas]
        for name, ideas in sets.items()
    }


def lost_facts(idea: Idea, result: EnhanceResult) -> list[str]:
    """The reasons why `result` does not pass: facts that the writer's own prompt lacks, and broken rules."""
    text = result.text if result.route in BY_WRITER else ""
    for index, quote in enumerate(idea.quotes):
        text = text.replace(quote, f"<Q{index + 1}>", 1)
    facts = facts_kept(idea, text)
    return [name for name, is_kept in facts.items() if not is_kept] + broken_rules(result)


def is_handed_over(idea: Idea, result: EnhanceResult) -> bool:
    """True if the template took over, broke no rule, and has every word of the idea."""
    own = set(WORD.findall(idea.text.lower()))
    is_whole = own <= set(WORD.findall(result.text.lower()))
    return result.route not in BY_WRITER and is_whole and not broken_rules(result)


def broken_rules(result: EnhanceResult) -> list[str]:
    return [found.rule for found in result.violations if found.severity == "error"]


def facts_kept(idea: Idea, answer: str) -> dict[str, bool]:
    """Each thing that the idea fixes, and whether the answer, its placeholders in it, states it."""
    if idea.family == OUTSIDE:
        return {"handed back": not answer}
    wanted = wanted_facts(idea)
    parts = split_prompt(answer, bool(idea.quotes or idea.words))
    if parts is None:
        return {**dict.fromkeys(wanted, False), "structure": False}
    stated = {name: states(parts, idea.family, name, value) for name, value in wanted.items()}
    stated["quotes"] = keeps_quotes(answer, len(idea.quotes))
    stated["coherent"] = agrees_with_itself(parts, idea.family)
    if idea.adjective:
        stated["adjective"] = idea.adjective in parts.first_frame
    return stated


def split_prompt(prompt: str, has_dialogue: bool) -> CaptionParts | None:
    """The parts of a full prompt, or None if it has others."""
    blocks = prompt.split("\n\n")
    ending = f" {NO_SUBTITLES}"
    if len(blocks) != 3 + has_dialogue or not blocks[-1].endswith(ending) or "\n\n\n" in prompt:
        return None
    dialogue = blocks[2] if has_dialogue else ""
    return CaptionParts(blocks[0], blocks[1], dialogue, blocks[-1].removesuffix(ending), "", "")


def states(parts: CaptionParts, family: str, name: str, value: object) -> bool:
    """True if the prompt says that the attribute `name` is `value`, wherever it speaks of it."""
    readers = {"ball": _states_of_ball, "face": _states_of_face, "piano": _states_of_piano}
    if name == "wall":
        return bool(re.search(rf"\ban? {value} wall\b|wall is {value}\.", parts.first_frame))
    return readers[family](parts, name, value)


def _states_of_ball(parts: CaptionParts, name: str, value: object) -> bool:
    match name:
        case "colour" | "material":
            return {str(value)} == _ball_looks(parts)[name == "material"]
        case "bounces":
            times = re.findall(rf"\b({'|'.join(captions.COUNTS.values())})\b", parts.progression)
            return set(times) == {captions.COUNTS[int(str(value))]}
        case "direction":
            return any(words in parts.progression for words in captions.DRIFT[str(value)])
        case "start":
            rose = any(words in parts.progression for words in captions.START["tossed"])
            return rose == (value == "tossed")
        case "height":
            return bool(re.search(rf"{captions.HEIGHT[str(value)]} (?:above|over)\b", parts.first_frame))
        case _:  # floor; of several names one is enough
            names = value if isinstance(value, list) else (value,)
            return any(f"{captions.FLOOR[str(floor)]} floor" in parts.first_frame for floor in names)


def _states_of_face(parts: CaptionParts, name: str, value: object) -> bool:
    match name:
        case "person":
            return _people(parts) == {str(value)}
        case "hair":
            return any(form.format(hair=value) in parts.first_frame for form in captions.HAIR.values())
        case "style":
            form = re.escape(captions.HAIR[str(value)]).replace(r"\{hair\}", r"\w+")
            return bool(re.search(form, parts.first_frame))
        case "clothes":
            return bool(re.search(rf"(?:wearing|in) an? {value} ", parts.first_frame))
        case "pitch" | "pace":
            return bool(re.search(rf"\b{value}\b", parts.audio))
        case "words":
            return QUOTED.findall(parts.dialogue) == [value]
        case "glasses":
            return "glasses" in parts.first_frame
        case _:  # beard, garment
            return str(value) in parts.first_frame


def _states_of_piano(parts: CaptionParts, name: str, value: object) -> bool:
    match name:
        case "notes":
            runs = _runs(parts)
            return bool(runs) and all(run == value for run in runs)
        case "light":
            lit = re.findall(
                r"(?:glows?|lights up|each lit) (in rainbow|in the colours|\w+)", parts.progression
            )
            return bool(lit) and all(("rainbow" if word.startswith("in ") else word) == value for word in lit)
        case "body":
            return f"{value} toy piano" in parts.first_frame
        case "pace":
            return bool(re.search(rf"\b{captions.PACE[str(value)]}\b", parts.audio))
        case _:  # tune
            return str(value) in parts.progression


def agrees_with_itself(parts: CaptionParts, family: str) -> bool:
    """True if what is said twice is said alike: counts, sounds, notes, the speaker."""
    if family == "ball":
        times = re.search(rf"\b({'|'.join(captions.COUNTS.values())})\b", parts.progression)
        count = next((n for n, words in captions.COUNTS.items() if times and words == times[1]), 0)
        materials = _ball_looks(parts)[1]
        sounds = captions.IMPACT.get(next(iter(materials)), ()) if len(materials) == 1 else ()
        heard = parts.audio.removeprefix("The audio shows ")
        plural = "s" if count > 1 else ""
        wanted = [f"{captions.NUMBERS.get(count, '?')} {sound}{plural}" for sound in sounds]
        return any(re.match(rf"{words}\b", heard) for words in wanted)
    if family == "piano":
        runs = _runs(parts)
        if not runs or any(run != runs[0] for run in runs):
            return False
        return bool(re.search(rf"\b{captions.NUMBERS.get(len(runs[0]), '?')}\b", parts.audio))
    worn = re.findall(r"in the (\w+) (?:T-shirt|striped sweater|hoodie|shirt with)", parts.dialogue)
    haired = re.findall(
        r"\b(?:man|woman|child) with ([^<\"]+?) (?:says|asks|shouts|whispers)", parts.dialogue
    )
    return (
        len(_people(parts)) == 1
        and all(f"{colour} " in parts.first_frame for colour in worn)
        and all(hair in parts.first_frame for hair in haired)
    )


def keeps_quotes(prompt: str, quotes: int) -> bool:
    """True if the placeholders are there once each and in order, and no others."""
    return PLACEHOLDER.findall(prompt) == [f"<Q{index + 1}>" for index in range(quotes)]


def wanted_facts(idea: Idea) -> dict[str, object]:
    """The facts as `states` takes them, with unquoted words among them."""
    notes = {"notes": tuple(idea.facts["notes"])} if "notes" in idea.facts else {}
    return {**idea.facts, **notes} | ({"words": idea.words} if idea.words else {})


def _people(parts: CaptionParts) -> set[str]:
    prose = f"{parts.first_frame} {parts.progression} {parts.dialogue} {parts.audio}"
    return set(PEOPLE.findall(QUOTED.sub("", prose)))


def _ball_looks(parts: CaptionParts) -> tuple[set[str], set[str]]:
    found = COLOURED_BALL.findall(f"{parts.first_frame} {parts.progression}")
    materials = {(before or after).replace("wooden", "wood") for _, before, after in found}
    return {colour for colour, _, _ in found}, materials


def _runs(parts: CaptionParts) -> list[tuple[str, ...]]:
    return [tuple(re.findall("[A-G]", run)) for run in NOTES.findall(f"{parts.progression} {parts.audio}")]
