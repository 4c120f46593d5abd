"""The enhancer that is shipped, by the product's own path, and the stage that trains it."""

import json

import pytest
import torch
from safetensors import safe_open

from mova.prompting.enhancer import Enhancer, EnhanceRequest, EnhanceResult
from mova.prompting.local import POCKET_ENHANCER, LocalWriter, pocket_writer
from mova.prompting.plan import PromptPlan
from recipes.pocket.__main__ import main
from recipes.pocket.enhancer.check import Verdict, judge, summary
from recipes.pocket.enhancer.ideas import OUTSIDE, Idea, draw_idea
from recipes.pocket.enhancer.tokens import MAX_CHARACTERS, encode, load_tokenizer
from recipes.pocket.enhancer.train import EnhancerRecipe, train_enhancer
from recipes.pocket.enhancer.typed import read_typed

KEPT = (
    ("red ball falls", "ball", {"colour": "red"}),
    ("blue metal ball drops", "ball", {"colour": "blue", "material": "metal"}),
    (
        "a green glass ball bounces three times",
        "ball",
        {"colour": "green", "material": "glass", "bounces": 3},
    ),
    ("metal sphere drops", "ball", {"material": "metal"}),
    (
        "Yellow rubber ball is tossed up",
        "ball",
        {"colour": "yellow", "material": "rubber", "start": "tossed"},
    ),
    ("a purple ball made of wood falls to the left", "ball", {"colour": "purple", "material": "wood"}),
    ("ball falls", "ball", {}),
    ("orange wooden ball, pink wall", "ball", {"colour": "orange", "material": "wood", "wall": "pink"}),
    ("a burgundy metal ball", "ball", {"colour": "burgundy", "material": "metal"}),
    ('girl says "hello"', "face", {"person": "child"}),
    ("girl says hello", "face", {"person": "child", "words": "hello"}),
    ('a man: "yes"', "face", {"person": "man"}),
    ('a woman says "Zwölf Boxkämpfer jagen Viktor"', "face", {"person": "woman"}),
    ('a man with glasses says "one" and then "two"', "face", {"person": "man", "glasses": True}),
    ("lady in a red shirt says “你好”", "face", {"person": "woman", "clothes": "red"}),
    ('"wow"', "face", {}),
    ("play C E G", "piano", {"notes": "CEG"}),
    ("toy piano plays E D C D E E", "piano", {"notes": "EDCDEE"}),
    ("a red piano plays C, C, G, G", "piano", {"notes": "CCGG", "body": "red"}),
    ("twinkle-like melody C C G", "piano", {"notes": "CCG"}),
    ("twinkle twinkle on the piano", "piano", {"notes": "CCGGAA"}),
    ("toy piano", "piano", {}),
)
FOREIGN = ("a dragon flies", "a man plays guitar", "red ball rolls down the stairs", 'a cat says "hello"')


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Enhancer(pocket_writer())
    torch.set_num_threads(threads)


def enhance(enhancer: Enhancer, idea: str) -> EnhanceResult:
    return enhancer.enhance(EnhanceRequest(idea, seed=0))


@pytest.mark.parametrize(("text", "family", "fixed"), KEPT)
def test_colour_material_words_and_notes_are_kept(enhancer, text, family, fixed):
    (verdict,) = judge(enhancer, [read_typed(text, family, fixed)])
    assert verdict.passes, verdict.fault()
    plan = verdict.result.plan
    assert plan.first_frame
    assert plan.progression
    assert plan.audio.startswith("The audio shows")
    assert PromptPlan.parse(verdict.result.text) == plan


@pytest.mark.parametrize("text", FOREIGN)
def test_ideas_outside_the_world_get_the_template_and_a_kind_word(enhancer, text):
    result = enhance(enhancer, text)
    assert result.route == "template"
    assert text in result.text
    assert not result.failure
    assert "connect a server" in result.notes[0]


def test_a_long_idea_is_outside_the_world(enhancer):
    assert enhance(enhancer, "red ball falls " * (MAX_CHARACTERS // 15 + 1)).route == "template"


def test_the_same_idea_gives_the_same_prompt(enhancer):
    assert enhance(enhancer, "ball bounces").text == enhance(enhancer, "ball  bounces ").text


def test_it_is_loaded_by_transformers_alone_and_takes_four_megabytes():
    files = list(POCKET_ENHANCER.iterdir())
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".jinja"}
    with safe_open(POCKET_ENHANCER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_tokens_spell_ideas_and_prompts_without_loss():
    tokenizer = load_tokenizer(POCKET_ENHANCER / "tokenizer.json")
    for idea in (draw_idea(seed) for seed in range(150)):
        _, answer = encode(tokenizer, idea)
        assert tokenizer.decode(answer, skip_special_tokens=True) == idea.target
        assert answer[-1] == tokenizer.eos_token_id
    assert len(encode(tokenizer, Idea("x" * 999, "", OUTSIDE))[0]) == 3


def test_training_resumes_and_writes_a_model_that_the_product_runs(tmp_path):
    recipe = EnhancerRecipe(width=32, layers=1, heads=1, hidden=32, ideas=4, pool=2)
    load_tokenizer(POCKET_ENHANCER / "tokenizer.json").backend_tokenizer.save(
        str(tmp_path / "tokenizer.json")
    )
    train_enhancer(tmp_path, 0.01, recipe, score_ideas=4)
    first = torch.load(tmp_path / "training.pt", weights_only=True)
    shares = train_enhancer(tmp_path, 0.02, recipe, score_ideas=4)
    second = torch.load(tmp_path / "training.pt", weights_only=True)
    assert second["step"] > first["step"] > 0
    assert second["seconds"] > first["seconds"] > 0
    assert all(0 <= share <= 1 for share in shares.values())
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text("utf-8").splitlines()]
    assert {"idea", "family", "lost", "answer"} == set(answers[0])
    result = Enhancer(LocalWriter(str(tmp_path / "model"), instructed=False)).enhance(
        EnhanceRequest("red ball")
    )
    assert "red ball" in result.text


def test_figures_are_shares_of_what_applies():
    plan = PromptPlan.parse("A red ball.")
    good = Verdict(
        Idea("red ball", "", "ball", {"colour": "red"}), EnhanceResult(plan.render(), plan, "answer")
    )
    handed_back = Verdict(Idea("dragon", "", OUTSIDE), EnhanceResult("a dragon", plan, "template"))
    lines = summary([good, handed_back])
    assert lines[0].startswith("ball: 1 ideas, by the model 100.0%, colour 0.0%, rules 100.0%, passes 0.0%")
    assert lines[0].endswith("answer 100.0%")
    assert lines[1].startswith("outside: 1 ideas, by the model 0.0%")
    assert "passes 100.0%" in lines[1]


def test_the_command_measures(caplog):
    with caplog.at_level("INFO"):
        main(["evaluate-enhancer", "--count", "8", "--faults", "0", "--no-typed"])
    assert "held-out ideas of the world pass" in caplog.text
