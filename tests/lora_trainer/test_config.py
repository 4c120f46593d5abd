"""Settings: unknown keys are refused with their names, and each layer wins over the one below."""

import pytest

from lora_trainer.config import PRESETS, RECIPES, parse_change, read_config
from mova.errors import UserError

NEEDED = {"model": "360p", "output": "runs/a", "data.path": "clips"}


def test_flags_win_over_the_file_the_file_over_the_preset(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "360p"\noutput = "runs/a"\npreset = "voice"\n'
        '[data]\npath = "clips"\nnum_frames = [49, 97]\n[towers.audio_dit]\nrank = 8\n'
    )
    config = read_config(path, {"run.steps": 7, "towers.audio_dit.alpha": 4})
    audio = config.towers.audio_dit
    assert (audio.rank, audio.alpha, audio.targets) == (8, 4.0, "attention_ffn")
    assert not config.towers.video_dit.train
    assert config.data.num_frames == (97, 49)
    assert config.run.steps == 7
    (tmp_path / "run.yaml").write_text("model: 360p\noutput: runs/a\ndata: {path: clips}\nrun: {steps: 3}\n")
    assert read_config(tmp_path / "run.yaml", {}).run.steps == 3


def test_unknown_keys_and_values_out_of_range_are_all_named(tmp_path):
    changes = NEEDED | {
        "run.stepz": 3,
        "data.num_frames": [100],
        "towers.audio_dit.rank": 0,
        "preset": "song",
    }
    with pytest.raises(UserError) as error:
        read_config(None, changes)
    for part in ("run.stepz", "there is no such setting", "97, 101", "towers.audio_dit.rank", "preset"):
        assert part in str(error.value)
    with pytest.raises(UserError, match="model: must be given"):
        read_config(None, {})


@pytest.mark.parametrize("text", ["not [toml", "model", "- 1"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text):
    for suffix in (".toml", ".yaml"):
        path = tmp_path / f"a{suffix}"
        path.write_text(text)
        with pytest.raises(UserError, match=r"a\.(toml|yaml)"):
            read_config(path, {})
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "missing.toml", {})


def test_the_recipes_are_the_papers_and_the_released_trainers():
    paper, released = (read_config(None, NEEDED | {"recipe": name}) for name in ("paper", "released"))
    assert (paper.objective.audio_weight, paper.objective.text_dropout) == (0.2, 0.2)
    assert paper.objective.audio_timestep == "independent"
    assert paper.towers.dual_tower_bridge.learning_rate_scale == 2.0
    assert (released.objective.audio_weight, released.objective.text_dropout) == (1.0, 0.0)
    assert (released.objective.audio_timestep, released.objective.high_share) == ("shared", 0.5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_preset_and_recipe_go_together(preset, recipe):
    config = read_config(None, NEEDED | {"preset": preset, "recipe": recipe})
    record = config.recipe_record()
    assert set(record["towers"]) == set(config.towers.trained())
    assert record["objective"]["audio_weight"] == config.objective.audio_weight


def test_a_preset_trains_what_its_name_says():
    trained = {name: set(read_config(None, NEEDED | {"preset": name}).towers.trained()) for name in PRESETS}
    assert trained["look"] == {"video_dit", "video_dit_2"}
    assert trained["motion"] == {"video_dit", "dual_tower_bridge"}
    assert trained["sound_only"] == {"audio_dit", "dual_tower_bridge"}
    assert len(trained["look_and_voice"]) == 4


def test_changes_are_json_or_words():
    assert parse_change("run.steps=200") == ("run.steps", 200)
    assert parse_change("data.num_frames=[49]") == ("data.num_frames", [49])
    assert parse_change("data.path=my clips=2") == ("data.path", "my clips=2")
    with pytest.raises(UserError, match="KEY=VALUE"):
        parse_change("run.steps")


def test_prodigy_refuses_rates_by_tower():
    with pytest.raises(UserError, match="prodigy finds one rate"):
        read_config(None, NEEDED | {"optimizer.name": "prodigy", "recipe": "paper"})
    assert read_config(None, NEEDED | {"optimizer.name": "prodigy"}).optimizer.rate == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.betas", [1.5, 2]),
        ("optimizer.betas", [-0.1, 0.9]),
        ("samples.num_frames", 18),
        ("samples.num_frames", 0),
        ("output", ""),
        ("output", "a\0b"),
        ("model", " "),
        ("data.path", ""),
        ("data.cache", ""),
        ("data.regularization", ""),
        ("samples.clips", [{"prompt": "a card", "image": ""}]),
        ("samples.clips", [{"prompt": "a card", "seed": 2**64}]),
        ("objective.high_share", 1),
    ],
)
def test_values_that_would_break_a_run_later_are_refused_with_their_names(key, value):
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        read_config(None, NEEDED | {key: value})
