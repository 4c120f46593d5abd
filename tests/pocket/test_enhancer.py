"""The enhancer that is shipped, and the stage that trains it."""

import shutil

import pytest
import torch
from pocket.muon import orthogonalize
from safetensors import safe_open

from mova.prompting.enhancer import Enhancer as ProductEnhancer
from mova.prompting.enhancer import EnhanceRequest
from mova.prompting.local import pocket_writer
from mova.prompting.plan import PromptPlan
from pocket.__main__ import ENHANCER, main
from pocket.enhancer.check import Enhancer, Verdict, read_typed, summary
from pocket.enhancer.ideas import OUTSIDE, Idea, draw_idea
from pocket.enhancer.tokens import MAX_CHARACTERS, encode, make_tokenizer
from pocket.enhancer.train import EnhancerRecipe, train_enhancer
from pocket.enhancer.typed import TypedIdea

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
    ("a purple ball made of wood falls to the left", "ball", {"colour": "purple", "direction": "left"}),
    ("ball falls", "ball", {}),
    ("orange wooden ball, pink wall", "ball", {"colour": "orange", "material": "wood"}),
    ('girl says "hello"', "face", {"person": "child"}),
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
FOREIGN = ("a dragon flies", "a man plays guitar", "red ball rolls down the stairs", "a castle at night")


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    torch.set_num_threads(1)
    return Enhancer(ENHANCER)


@pytest.mark.parametrize(("text", "family", "fixed"), KEPT)
def test_colour_material_words_and_notes_are_kept(enhancer, text, family, fixed):
    idea = read_typed(TypedIdea(text, family, fixed))
    verdict = Verdict(idea, enhancer.write(idea.text))
    assert verdict.passes, verdict.fault()


@pytest.mark.parametrize("text", FOREIGN)
def test_ideas_outside_the_world_are_handed_back(enhancer, text):
    assert enhancer.write(text) == ""


def test_a_long_text_is_handed_back(enhancer):
    assert enhancer.write("red ball falls " * (MAX_CHARACTERS // 15 + 1)) == ""


def test_the_same_idea_gives_the_same_prompt(enhancer):
    assert enhancer.write("ball bounces") == enhancer.write("ball  bounces ")


def test_the_product_uses_its_answer_as_it_is():
    result = ProductEnhancer(pocket_writer(ENHANCER.resolve())).enhance(EnhanceRequest('boy says "Grüße!"'))
    assert result.route == "answer"
    assert [line.text for line in result.plan.dialogue] == ["Grüße!"]
    assert not result.violations


def test_the_product_falls_back_where_it_answers_nothing():
    result = ProductEnhancer(pocket_writer(ENHANCER.resolve())).enhance(EnhanceRequest("a dragon flies"))
    assert result.route == "template"
    assert "dragon flies" in result.text


def test_it_takes_four_megabytes_at_most():
    assert sum(path.stat().st_size for path in ENHANCER.iterdir()) <= 4_000_000
    with safe_open(ENHANCER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118


def test_tokens_spell_ideas_and_prompts_without_loss():
    tokenizer = make_tokenizer(ENHANCER / "tokenizer.json")
    ideas = [draw_idea(seed) for seed in range(150)]
    for idea in ideas:
        _, answer = encode(tokenizer, idea)
        assert tokenizer.decode(answer, skip_special_tokens=True) == idea.target
        assert answer[-1] == tokenizer.eos_token_id
    assert len(encode(tokenizer, Idea("x" * 999, "", OUTSIDE))[0]) == 3


def test_training_resumes_and_writes_a_model_that_loads(tmp_path):
    recipe = EnhancerRecipe(width=32, layers=1, heads=1, hidden=32, tokens=512, pool=32)
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    shutil.copy(ENHANCER / "tokenizer.json", work)
    train_enhancer(out, work, 0.01, recipe)
    first = torch.load(work / "training.pt", weights_only=True)["state"]
    train_enhancer(out, work, 0.02, recipe)
    second = torch.load(work / "training.pt", weights_only=True)["state"]
    assert second["step"] > first["step"] > 0
    assert second["seed"] >= first["seed"] > 0
    assert isinstance(Enhancer(out).write("red ball falls"), str)
    with pytest.raises(ValueError, match="--work"):
        train_enhancer(out, work, 0.02, EnhancerRecipe(width=64))


def test_figures_are_shares_of_what_applies():
    good = Verdict(Idea("red ball", "", "ball", {"colour": "red"}), "A red ball.")
    lines = summary([good, Verdict(Idea("dragon", "", OUTSIDE), "")])
    assert lines[0].startswith("ball: 1 ideas, answered 100.0%, colour 0.0%, all 0.0%")
    assert lines[-1] == "outside the world: 1 ideas, 100.0% handed back"


def test_the_command_measures(caplog):
    with caplog.at_level("INFO"):
        main(["evaluate-enhancer", "--count", "12", "--faults", "0"])
    assert "held-out ideas of the world pass" in caplog.text


def test_orthogonal_steps_have_singular_values_near_one():
    torch.manual_seed(0)
    for rows, columns in ((8, 8), (16, 6), (6, 16)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(3, rows, columns)))
        assert values.min() > 0.4
        assert values.max() < 1.3


def test_prompts_are_plans(enhancer):
    plan = PromptPlan.parse(enhancer.write("red ball falls"))
    assert plan.first_frame
    assert plan.progression
    assert plan.audio.startswith("The audio shows")
