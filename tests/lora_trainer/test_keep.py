"""Clips of what the model can already: an exact share of samples, never held out, made by the base model."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from lora_trainer.__main__ import main
from lora_trainer.base_model import choose_device
from lora_trainer.batch_sampler import BLOCK, BatchSampler, MixedSampler
from lora_trainer.doctor import examine, fix
from lora_trainer.doctor_report import summary
from lora_trainer.latent_cache import INDEX, CacheEntry, build_cache
from lora_trainer.manifest import read_clips
from lora_trainer.overfit import overfit_config
from lora_trainer.plan.estimate import estimate_run
from lora_trainer.plan.inputs import find_card, outline
from lora_trainer.regularization import EXAMPLES, example_wishes, make_kept, read_wishes
from lora_trainer.validation import split
from mova.catalog import find_model
from mova.errors import UserError
from mova.media.clips import read_settings
from tests.lora_trainer.clips import make_clip
from tests.lora_trainer.conftest import run_steps


@pytest.fixture(scope="session")
def old(tmp_path_factory):
    """A folder of two clips of what the model can. Do not change it."""
    folder = tmp_path_factory.mktemp("old")
    for name, flashes in (("a", (0.3,)), ("z", (0.5,))):
        make_clip(folder / f"{name}.mp4", 0.75, 24, flashes, f"Old lamp {name}.")
    return folder


@pytest.fixture
def keeping(old):
    """Changes to the settings."""
    return {"data__keep": str(old), "data__num_frames": [17], "data__caption_prefix": "lampy "}


def entry(name, kept):
    return CacheEntry(f"{name}@0", name, name, name, name, 9, 32, 64, 24.0, True, kept)


NEW = [entry(f"new{index}", kept=False) for index in range(3)]
OLD = [entry(f"keep/old{index}", kept=True) for index in range(4)]


@pytest.mark.parametrize(("share", "kept"), [(0.5, 60), (0.25, 30), (1 / 3, 40), (0.1, 12)])
def test_the_share_is_exact_over_a_run_and_every_clip_of_a_kind_comes_as_often(share, kept):
    order = MixedSampler(BatchSampler(NEW, 1, 7), BatchSampler(OLD, 1, 7), share, 7)
    batches = [order.batch(number) for number in range(12 * BLOCK)]
    assert sum(batch[0].kept for batch in batches) == kept
    for part in (NEW, OLD):
        times = Counter(batch[0].name for batch in batches if batch[0] in part)
        assert times.keys() == {each.name for each in part}
        assert max(times.values()) - min(times.values()) <= 1
    # From any number on, without what came before.
    assert [
        MixedSampler(BatchSampler(NEW, 1, 7), BatchSampler(OLD, 1, 7), share, 7).batch(n) for n in (77, 13)
    ] == [
        batches[77],
        batches[13],
    ]


def test_each_block_has_its_share_and_both_kinds_meet_both_experts():
    order = MixedSampler(BatchSampler(NEW, 1, 0), BatchSampler(OLD, 1, 0), 0.5, 0)
    flags = [order.batch(number)[0].kept for number in range(10 * BLOCK)]
    assert all(sum(flags[at : at + BLOCK]) == BLOCK // 2 for at in range(0, len(flags), BLOCK))
    assert 15 < sum(flags[::2]) < 35  # every second step is one expert's


def test_clips_to_keep_are_cached_without_the_trigger_and_measured_apart(engine, keeping):
    trained = engine(**keeping, data__held_out=2)
    kept = [each for each in trained.cache.entries if each.kept]
    assert {each.clip: each.caption for each in kept} == {
        "keep/a.mp4": "Old lamp a.",
        "keep/z.mp4": "Old lamp z.",
    }
    learnt, held_out, _ = split(trained.cache, 2)
    assert len(learnt) == 1 and len(held_out) == 2
    assert not any(each.kept for each in learnt + held_out)
    assert all(each.caption.startswith("lampy Lamp") for each in learnt + held_out)
    figures = trained.measure()
    assert {name: {m.entry.kept for m in each} for name, each in trained.measured.items()} == {
        "held_out": {False},
        "training": {False},
        "kept": {True},
    }
    assert figures["kept"].keys() == {"video_dit", "video_dit_2", "audio_dit"}


def test_clips_to_keep_are_no_reason_to_hold_back_the_last_clip(engine, keeping):
    with pytest.raises(UserError, match=r"3 clips, of which data\.held_out keeps 3 back"):
        engine(**keeping, data__held_out=3)


def test_a_run_that_keeps_goes_on_bit_for_bit_also_inside_a_step(engine, keeping):
    changes = keeping | {"run__accumulation": 3}
    whole = engine(**changes)
    record = run_steps(whole, 4)
    first = engine(**changes)
    run_steps(first, 2)
    first.micro_batch()
    resumed = engine(**changes)
    resumed.restore(first.state())
    assert run_steps(resumed, 2) == record
    weights = resumed.lora.weights
    assert all(torch.equal(weight, weights[key]) for key, weight in whole.lora.weights.items())


def test_a_run_is_not_resumed_with_another_share(engine, keeping):
    state = engine(**keeping).state()
    with pytest.raises(UserError, match=r"data\.keep_share: None then, 0\.25 now"):
        engine(**keeping, data__keep_share=0.25).restore(state)


def test_a_run_begun_before_there_was_keep_is_resumed(engine):
    state = engine().state()
    for each in state["entries"]:
        del each["kept"]
    for key in ("keep", "keep_count", "keep_prompts", "keep_share"):
        del state["config"]["data"][key]
    engine().restore(state)


def test_plan_and_doctor_count_clips_to_keep_apart(settings, keeping, clips, old, tmp_path):
    config = settings(**keeping, data__cache=str(tmp_path / "none"))
    known = outline(config)
    assert (known.clips, known.kept_windows, sum(known.windows.values())) == (3, 2, 5)
    assert (
        known.texts == outline(settings(data__num_frames=[17], data__cache=str(tmp_path / "none"))).texts + 2
    )
    assert summary(examine(config)).startswith("3 clips and 2 to keep")


def test_a_run_makes_its_own_clips_to_keep_first_counted_before_and_only_what_is_missing(settings, tmp_path):
    config = settings(
        data__keep_count=3, data__keep_prompts=["A drum.", "A bell."], data__cache=str(tmp_path / "cache")
    )
    known, without = outline(config), outline(settings(data__cache=str(tmp_path / "cache")))
    assert (known.clips, known.kept_windows, known.unmade) == (3, 3, 3)
    assert known.texts == without.texts + 2
    card = find_card(config, None)
    seconds = [estimate_run(config, card, each).seconds for each in (known, without)]
    assert seconds[0]["keeping"] > 0 and seconds[0]["validation"] > seconds[1]["validation"]
    assert "keeping" not in seconds[1]
    told = []
    cache = build_cache(config, *choose_device(config), lambda *each: told.append(each))
    assert told[:4] == [("keep", done, 3) for done in range(4)]
    kept = [(each.clip, each.caption, each.num_frames) for each in cache.entries if each.kept]
    names = [f"keep/keep-{index:04d}.mp4" for index in range(3)]
    assert kept == list(zip(names, ["A drum.", "A bell.", "A drum."], [9, 9, 9], strict=True))
    assert outline(config).cached
    first, second, _ = sorted(config.kept.glob("*.mp4"))
    (config.cache / INDEX).unlink()
    second.unlink()
    made = first.stat().st_mtime_ns
    assert (outline(config).kept_windows, outline(config).unmade) == (3, 1)
    assert (make_kept(config), make_kept(config)) == (1, 0)
    assert first.stat().st_mtime_ns == made
    assert outline(config).unmade == 0
    with pytest.raises(UserError, match="comes with no examples; give prompts"):
        outline(settings(data__keep_count=1, output=str(tmp_path / "other")))


def test_what_is_mended_and_the_self_test_are_about_the_clips_to_learn(settings, keeping, clips, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)
    shutil.copy(folder / "a.mp4", folder / "twin.mp4")
    (folder / "twin.txt").write_text("The same lamp.")
    config = settings(**keeping, data__path=str(folder))
    assert "twin.mp4: left out, it is there twice" in list(fix(examine(config), config))
    rows = (config.output / "mended" / "metadata.jsonl").read_text().splitlines()
    assert [Path(json.loads(row)["video"]).name for row in rows] == ["a.mp4", "b.mp4", "c.mp4"]
    assert overfit_config(config, 2).data.keep is None


def test_a_share_needs_clips_and_clips_are_in_one_folder_only(settings, clips, tmp_path):
    with pytest.raises(UserError, match="give one of the two"):
        settings(data__keep=str(clips), data__keep_count=2)
    with pytest.raises(UserError, match="keep_share needs keep"):
        settings(data__keep_share=0.5)
    with pytest.raises(UserError, match="less than 1"):
        settings(data__keep=str(clips), data__keep_share=1)
    with pytest.raises(UserError, match=r"data\.keep: there are no clips at .*lora_trainer keep"):
        read_clips(str(clips), str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"data\.keep: .* holds no clips"):
        read_clips(str(clips), str(tmp_path))
    with pytest.raises(UserError, match=r"keep/a\.mp4, keep/b\.mp4, keep/c\.mp4 also in data\.path"):
        read_clips(str(clips), str(clips))


@pytest.fixture
def keep(golden, tmp_path):
    """Runs the command on the tiny model; its exit code."""

    def keep(prompts, *options, out="kept"):
        command = [
            "keep",
            "--model",
            str(golden / "checkpoint"),
            "--out",
            str(tmp_path / out),
            "--device",
            "cpu",
        ]
        command += ["--size", "64x32", "--frames", "5", "--steps", "1", *options]
        if prompts is not None:
            (tmp_path / "prompts.json").write_text(json.dumps(prompts))
            command += ["--prompts", str(tmp_path / "prompts.json")]
        return main(command)

    return keep


def test_the_base_model_makes_clips_to_keep_each_with_its_seed_and_goes_on(keep, tmp_path, clips, capsys):
    prompts = ["A lamp.", {"prompt": 'A "bell" rings.'}]
    assert keep(prompts, "--count", "3", "--seed", "40") == 0
    items = read_clips(str(clips), str(tmp_path / "kept"))[3:]
    assert [item.caption for item in items] == ["A lamp.", 'A "bell" rings.', "A lamp."]
    assert [read_settings(item.video)["seed"] for item in items] == [40, 41, 42]
    first, second, third = (item.video for item in items)
    kept, made_again = first.read_bytes(), second.read_bytes()
    second.unlink()
    second.with_suffix(".txt").unlink()
    third.with_suffix(".txt").unlink()  # killed between clip and caption
    first.with_suffix(".txt").write_text("By hand.")
    capsys.readouterr()
    assert keep(prompts, "--count", "3", "--seed", "40") == 0
    assert "3 clips to keep, 1 made, 2 there already" in capsys.readouterr().out
    assert first.read_bytes() == kept and second.read_bytes() == made_again
    captions = [item.caption for item in read_clips(str(clips), str(tmp_path / "kept"))[3:]]
    assert captions == ["By hand.", 'A "bell" rings.', "A lamp."]


def test_the_command_refuses_what_it_cannot_make_before_it_makes_anything(keep, tmp_path, capsys):
    for prompts, options, sentence in (
        (["A lamp."], ["--count", "0"], "--count 0 must be from 1"),
        ([], [], "holds no prompts"),
        (["A lamp.", 7], [], "'7' is no prompt"),
        ({"prompt": "A lamp."}, [], "must be a list"),
        (["A lamp.", {"prompt": "A dog.", "image": "none.png"}], ["--count", "2"], "none.png"),
        (["A lamp."], ["--frames", "6"], "num_frames=6"),
        (None, [], "comes with no examples; give prompts"),
    ):
        assert keep(prompts, *options) == 2, sentence
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
    assert keep(["A lamp."], "--count", "1") == 0
    assert keep(["Another."], "--count", "1") == 2
    assert "made with another prompt; give an empty --out" in capsys.readouterr().err


def test_prompts_are_lines_or_the_models_own_examples(tmp_path):
    (tmp_path / "prompts.txt").write_text("A lamp.\n\n  A bell. \n")
    assert [wish.prompt for wish in read_wishes(tmp_path / "prompts.txt")] == ["A lamp.", "A bell."]
    wishes = example_wishes(find_model("pocket"))
    assert [wish.prompt for wish in wishes] == [row["prompt"] for row in json.loads(EXAMPLES.read_text())]
    assert all(wish.image is None or wish.image.is_file() for wish in wishes)
