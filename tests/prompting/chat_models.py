"""Imitations of chat models: one scene made of the idea's own words, answered with the habits of real ones.

A model asked for JSON answers in JSON, any other question in blocks of prose, with the same content and the
counterpart of its habit.
"""

import json
import re
from dataclasses import dataclass, field

from mova.prompting.writers import WriterAnswer, WriterRequest

MARK = re.compile(r"<Q+\d+>")
IDEA = re.compile(r"<idea>\n(.*)\n</idea>", re.DOTALL)
LIGHT = "In soft morning light the picture opens on"
SOUND = "the natural sounds of the place, close and in step with every movement"
APOLOGY = "I'm sorry, but I can't help with that."


@dataclass(frozen=True)
class Scene:
    first_frame: str
    progression: str
    dialogue: tuple[tuple[str, str, str], ...]
    audio: str

    @classmethod
    def of(cls, idea: str) -> "Scene":
        """What an able model makes of an idea: all its words in English, and each of its marks once."""
        text = MARK.sub(" ", idea)
        words = [word for word in re.findall(r"[^\W_][^\s<>*#{}]*", text) if word.isascii()][:60]
        told = " ".join(words) or "the scene of the idea"
        return cls(
            f"{LIGHT} {told}.",
            "Everything in it moves with real weight, and the light changes over it as it goes by.",
            tuple(("The speaker", "says", mark) for mark in MARK.findall(idea)),
            f"The audio shows {SOUND}.",
        )

    def fields(self) -> dict:
        lines = [dict(zip(("speaker", "verb", "words"), line, strict=True)) for line in self.dialogue]
        return {
            "first_frame": self.first_frame,
            "progression": self.progression,
            "dialogue": lines,
            "audio": self.audio,
        }

    def blocks(self) -> list[str]:
        lines = "\n".join(f"{speaker} {verb}, {words}" for speaker, verb, words in self.dialogue)
        return [block for block in (self.first_frame, self.progression, lines, self.audio) if block]


def careful(scene: Scene, in_json: bool, is_first: bool) -> str:
    del is_first
    return json.dumps(scene.fields()) if in_json else "\n\n".join(scene.blocks())


def fenced(scene: Scene, in_json: bool, is_first: bool) -> str:
    if in_json:
        return f"```json\n{json.dumps(scene.fields(), indent=2)}\n```"
    first, then, *rest = scene.blocks()
    return "\n\n".join(["```text", f"**First frame:** {first}", f"**Progression:** {then}", *rest, "```"])


def talkative(scene: Scene, in_json: bool, is_first: bool) -> str:
    answer = careful(scene, in_json, is_first)
    return f"Sure! Here is the prompt you asked for:\n\n{answer}\n\nLet me know if you would like changes!"


def thinking(scene: Scene, in_json: bool, is_first: bool) -> str:
    thought = f"The marks are {' '.join(line[2] for line in scene.dialogue)}; maybe {{a draft}} first."
    return f"<think>\n{thought}\n</think>\n{careful(scene, in_json, is_first)}"


def loose(scene: Scene, in_json: bool, is_first: bool) -> str:
    """Right in content and free in form."""
    del is_first
    if not in_json:
        *rest, audio = scene.blocks()
        return "\n\n".join(["# Prompt", audio, *(f"- {block}" for block in rest)])
    spoken = [{"speaker": speaker, "words": f'"{words}"'} for speaker, _, words in scene.dialogue]
    audio = scene.audio.removeprefix("The audio shows ")
    changes = {"progression": [scene.progression], "dialogue": spoken or None, "audio": audio}
    return json.dumps({"prompt": {"title": "A scene", **scene.fields(), **changes, "mood": 3}})


def inventive(scene: Scene, in_json: bool, is_first: bool) -> str:
    """A camera move, a stillness word, a line of its own, and the last mark forgotten."""
    lines = (*scene.dialogue[:-1], ("The speaker", "says", '"What a day!"'))
    told = scene.first_frame.replace("the picture", "the static picture", 1)
    then = f"{scene.progression} The camera slowly pans across the view."
    return careful(Scene(told, then, lines, scene.audio), in_json, is_first)


def broken_at_first(scene: Scene, in_json: bool, is_first: bool) -> str:
    if not is_first:
        return careful(scene, in_json, is_first)
    if in_json:
        return careful(scene, in_json, is_first).replace('", "', "', '", 1)
    return f'"{" ".join(scene.blocks()[:1])}'


def mistyped_at_first(scene: Scene, in_json: bool, is_first: bool) -> str:
    if not is_first or not in_json:
        return careful(scene, in_json, is_first)
    return json.dumps(scene.fields() | {"first_frame": {"subject": "somebody"}, "audio": 7})


def refusing(scene: Scene, in_json: bool, is_first: bool) -> str:
    del scene, in_json, is_first
    return APOLOGY


HABITS = (
    *(careful, fenced, talkative, thinking, loose, inventive, broken_at_first, mistyped_at_first, refusing),
)


def answer_of(habit: object, messages: list[dict[str, str]]) -> str:
    """What the model with this habit answers to `messages` of the API."""
    texts = [message["content"] for message in messages]
    idea = IDEA.search("\n".join(texts))
    asked_again = sum(message["role"] == "user" for message in messages) > 1
    return habit(Scene.of(idea[1] if idea else ""), "JSON" in texts[0], not asked_again)


@dataclass
class ImitatedWriter:
    """A model of one of HABITS in this process."""

    habit: object
    sees: bool = False
    asked: list[WriterRequest] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.habit.__name__

    def write(self, ask: WriterRequest, on_text: object, cancelled: object) -> WriterAnswer:
        del on_text, cancelled
        self.asked.append(ask)
        messages = [{"role": role, "content": text} for role, text in ask.messages]
        return WriterAnswer(answer_of(self.habit, messages), self.identity)
