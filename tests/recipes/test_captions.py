"""Captions are parsed by the reader below, which knows nothing of how they were written."""

import hashlib
import re

import numpy as np
import pytest

from mova.prompting.plan import PromptPlan
from recipes.pocket.captions import CaptionMix, describe, write_caption
from recipes.pocket.world.clip import Scene
from recipes.pocket.world.render import make_scene

TIMES = {
    "once": 1,
    "twice": 2,
    "three times": 3,
    "four times": 4,
    "five times": 5,
    "six times": 6,
    "seven times": 7,
}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
COLOURS = "red|orange|yellow|green|blue|purple"
MATERIAL = {"wooden": "wood", "wood": "wood", "rubber": "rubber", "metal": "metal", "glass": "glass"}
SOUNDS = {
    "rubber": "thud|thump|bump",
    "wood": "knock|tock",
    "metal": "ring|clang|chime",
    "glass": "clink|tap",
}


def _every_text(rng: np.random.Generator, family: str, scene: Scene) -> list[str]:
    parts = describe(rng, family, scene)
    return [parts.full(True), parts.sentence, parts.label]


@pytest.fixture(scope="module")
def balls() -> list[Scene]:
    return [make_scene(seed, "ball") for seed in range(16)]


@pytest.fixture(scope="module")
def pianos() -> list[Scene]:
    return [make_scene(seed, "piano") for seed in range(10)]


@pytest.fixture(scope="module")
def faces(speech) -> list[Scene]:
    return [make_scene(seed, "face", speech=speech) for seed in range(10)]


def test_ball_captions_name_its_colour_material_count_and_direction(balls):
    rng = np.random.default_rng(0)
    for scene in balls * 4:
        a, count = scene.attributes, len(scene.events.impacts)
        for text in _every_text(rng, "ball", scene):
            found = re.findall(rf"\b({COLOURS}) (?:(\w+) ball|ball (?:of|made of) (\w+))", text)
            assert found
            for colour, before, after in found:
                assert (colour, MATERIAL[before or after]) == (a["colour"], a["material"])
            for times in re.findall(r"\b(once|twice|\w+ times)\b", text):
                assert TIMES[times] == count
            for number, sounds in re.findall(r"audio shows (\w+) ([\w ]+)", text):
                assert NUMBERS[number] == count
                assert re.search(SOUNDS[a["material"]], sounds)
            for seconds in re.findall(r"about ([\d.]+) seconds", text):
                assert float(seconds) == pytest.approx(scene.events.impacts[0].seconds, abs=0.051)
            for side in re.findall(r"(?:drifting|moving|travelling) (?:to the )?(left|right)", text):
                assert side == a["direction"]
            assert ("rises" in text or "toss" in text or "flies" in text) <= (a["start"] == "tossed")
            assert not re.search(r"\b[Aa] orange", text)


def test_piano_captions_name_its_notes_in_order_count_light_and_body(pianos):
    rng = np.random.default_rng(0)
    for scene in pianos * 4:
        a = scene.attributes
        for text in _every_text(rng, "piano", scene):
            runs = re.findall(r"\b[A-G](?:(?:, | |-| and )[A-G]\b)+", text)
            assert runs
            for run in runs:
                assert tuple(re.findall(r"[A-G]", run)) == tuple(note.name for note in scene.events.notes)
            for number in re.findall(r"\b(three|four|five|six) (?:clear |notes)", text):
                assert NUMBERS[number] == len(scene.events.notes)
            for light in re.findall(rf"(?:glow|lights up|lit) ({COLOURS})\b", text):
                assert light == a["light"]
            if "rainbow" in text:
                assert a["light"] == "rainbow"
            for body in re.findall(r"(\w+) toy piano\b(?! tones)", text):
                if body not in ("a", "tinkling"):
                    assert body == a["body"]


def test_face_captions_quote_the_words_and_describe_the_speaker(faces):
    rng = np.random.default_rng(0)
    for scene in faces * 4:
        a = scene.attributes
        for text in _every_text(rng, "face", scene):
            quotes = re.findall(r'"([^"]+)"', text)
            assert len(quotes) == 1
            assert tuple(re.findall(r"[a-z]+", quotes[0].lower())) == tuple(
                w.text for w in scene.events.words
            )
            prose = text.replace(f'"{quotes[0]}"', "").lower()
            assert set(re.findall(r"\b(man|woman|child)\b", prose)) <= {a["person"]}
            for hair in re.findall(r"\b(black|brown|blond|ginger|grey) (?:hair|pigtails)", prose):
                assert hair == a["hair"]
            for clothes in re.findall(r"(\w+) (?:t-shirt|striped sweater|hoodie|shirt with)", prose):
                assert clothes == a["clothes"]
            for pace in re.findall(r"\b(calm|brisk)\b", prose):
                assert pace == a["pace"]
            assert ("glasses" in prose) <= bool(a["glasses"])


def test_full_captions_follow_the_order_of_movas_prompts(faces, balls, pianos):
    rng = np.random.default_rng(0)
    for family, scenes, count in (("face", faces, 4), ("ball", balls, 3), ("piano", pianos, 3)):
        for scene in scenes:
            paragraphs = describe(rng, family, scene).full(True).split("\n\n")
            assert len(paragraphs) == count
            assert paragraphs[-1].startswith("The audio shows")
            assert paragraphs[-1].endswith("This video has no subtitles.")
            assert ('"' in paragraphs[-2]) == (family == "face")


def test_full_captions_read_back_as_the_plan_they_were_written_from(faces, balls, pianos):
    rng = np.random.default_rng(0)
    for family, scenes in (("face", faces), ("ball", balls), ("piano", pianos)):
        for scene in scenes * 3:
            parts = describe(rng, family, scene)
            for no_subtitles in (True, False):
                plan = PromptPlan.parse(parts.full(no_subtitles))
                assert plan == parts.plan(no_subtitles)
                assert (plan.first_frame, plan.progression) == (parts.first_frame, parts.progression)
                assert "\n".join(line.render() for line in plan.dialogue) == parts.dialogue
                assert plan.audio == parts.audio
                assert plan.no_subtitles == no_subtitles


def test_captions_of_a_seed_never_change(faces, balls, pianos):
    """A model is trained on them: other words for the same seed would be other data."""
    rng = np.random.default_rng(0)
    known = {"face": "9dd128f8e451dab8", "ball": "e39f12caa51c7648", "piano": "832eca8e088a23d8"}
    for (family, digest), scenes in zip(known.items(), (faces, balls, pianos), strict=True):
        texts = [write_caption(rng, family, scene, CaptionMix()) for scene in scenes * 20]
        assert hashlib.sha256("|".join(texts).encode()).hexdigest()[:16] == digest


def test_a_scene_has_many_paraphrases(balls):
    rng = np.random.default_rng(0)
    assert len({describe(rng, "ball", balls[0]).full(True) for _ in range(200)}) > 150


def test_kinds_of_captions_come_in_the_asked_proportions(balls):
    rng = np.random.default_rng(0)
    mix = CaptionMix(full=0.5, sentence=0.2, label=0.2, empty=0.1)
    texts = [write_caption(rng, "ball", balls[0], mix) for _ in range(1000)]
    assert 0.07 < np.mean([text == "" for text in texts]) < 0.13
    assert 0.45 < np.mean(["The audio shows" in text for text in texts]) < 0.55


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="expected 1"):
        CaptionMix(full=0.9)
