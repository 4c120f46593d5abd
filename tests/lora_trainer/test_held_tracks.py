"""Training with a track held: what is drawn, what is learnt, what is measured, sampled and recorded."""

import json
from itertools import product

import numpy as np
import pytest
import torch

from lora_trainer.__main__ import main
from lora_trainer.batch_sampler import expert_at
from lora_trainer.checkpoint import check_same_run
from lora_trainer.config import EXPERTS, Objective, read_config
from lora_trainer.decode import read_sound
from lora_trainer.manifest import DatasetItem
from lora_trainer.objective import draw, hold_chances, losses, sample_generator, training_sigmas
from lora_trainer.overfit import overfit, overfit_config
from lora_trainer.train import Trainer, check_settings
from lora_trainer.validation import MAX_WINDOWS, held_in_measurements, make_samples, run_sample
from mova.adapters.sources import read_adapter
from mova.errors import UserError
from mova.media.clips import read_clip, read_settings
from mova.scheduler import PairScheduler
from tests.lora_trainer.conftest import run_steps
from tests.lora_trainer.test_objective import plain_losses

SHAPES = (torch.Size([2, 1, 2, 2]), torch.Size([2, 3]))
DUBBING = {"preset": "dubbing", "objective__high_share": "natural"}
NEEDED = {"model": "360p", "output": "runs/a", "data.path": "clips"}


def drawn(count, objective=None, **options):
    sigmas = training_sigmas(PairScheduler(num_train_timesteps=1000, shift=5.0))
    objective = objective or Objective()
    return [
        draw(SHAPES, range(358, 1000), sigmas, objective, sample_generator(0, n), **options)
        for n in range(count)
    ]


def test_holding_changes_no_other_draw():
    for free, held in zip(drawn(100), drawn(100, hold=(0.3, 0.3)), strict=True):
        assert torch.equal(free.video_noise, held.video_noise)
        assert torch.equal(free.audio_noise, held.audio_noise)
        assert (free.drop_text, free.drop_bridge) == (held.drop_text, held.drop_bridge)
        assert held.video_sigma in (0, free.video_sigma)
        if held.video_sigma > 0:
            assert held.audio_sigma in (0, free.audio_sigma)


def test_a_sample_holds_one_track_at_most_as_often_as_its_chance_says():
    pairs = np.array([(each.video_sigma, each.audio_sigma) for each in drawn(2000, hold=(0.3, 0.2))])
    assert (pairs == 0).mean(axis=0) == pytest.approx([0.3, 0.2], abs=0.03)
    assert not (pairs == 0).all(axis=1).any()


def test_the_sound_of_a_held_picture_has_the_timesteps_of_the_whole_schedule():
    sounds = np.array([each.audio_sigma for each in drawn(1000, hold=(1, 0))])
    high = 0.358  # of the schedule; these rows are the low-noise expert's
    assert (sounds > 0.9).mean() == pytest.approx(high, abs=0.04)
    assert sounds.min() < 0.1
    pictures = np.array([each.video_sigma for each in drawn(1000, hold=(0, 1))])
    assert pictures.min() > 0 and pictures.max() < 0.9


@pytest.mark.parametrize(
    ("video", "audio", "share"),
    [(0.1, 0.1, "natural"), (0.3, 0.7, "natural"), (1, 0, "natural"), (0, 1, 0.5), (0.5, 0.2, 0.5)],
)
def test_over_all_samples_the_held_ones_are_the_shares_of_the_settings(video, audio, share):
    objective = Objective(hold_video=video, hold_audio=audio, high_share=share)
    high = objective.high_noise_share(0.358)
    (no, high_audio), (low_video, low_audio) = (hold_chances(objective, name, high) for name in EXPERTS)
    assert no == 0  # a held picture has timestep 0
    assert (1 - high) * low_video == pytest.approx(video)
    assert high * high_audio + (1 - high) * low_audio == pytest.approx(audio)
    assert low_video + low_audio <= 1 + 1e-9  # each sample holds one at most
    if share == "natural":  # samples with a made picture keep the schedule's timesteps
        assert high == pytest.approx(0.358 * (1 - video))


@pytest.mark.parametrize(("held", "expert"), [("video", "video_dit_2"), *product(["audio"], EXPERTS)])
def test_a_held_track_is_given_clean_at_timestep_0_and_only_the_other_is_learnt(
    engine, pipeline, held, expert
):
    """Loss and gradients equal a plain, separate computation with the loss of the made track alone."""
    ours = engine(data__held_out=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in ours.lora.weights.values():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 8)
    ours.lora.publish()
    ours.pipeline.residency.activate(expert)
    batch = ours.load(ours.sampler.batch(0))
    shapes = batch.video_latents.shape[1:], batch.audio_latents.shape[1:]
    hold = (float(held == "video"), float(held == "audio"))
    each = draw(shapes, ours.rows[expert], ours.sigmas, Objective(), generator, hold)
    heads = {"video": ours.pipeline.dual_tower.video_dit.head, "audio": ours.pipeline.audio_dit.head}
    for head in heads.values():
        head.requires_grad_(True)
    given = []
    ours.pipeline.dual_tower.register_forward_pre_hook(lambda _, arguments: given.extend(arguments))
    video, audio = losses(ours.pipeline.dual_tower, batch, [each], 1000)
    (video + audio).sum().backward()
    ours.lora.collect()

    noisy_video, noisy_audio, video_timestep, audio_timestep = given[:4]
    assert [float(video_timestep) == 0, float(audio_timestep) == 0] == [held == "video", held == "audio"]
    channels = batch.video_latents.shape[1]
    assert torch.equal(noisy_video[:, :channels], batch.video_latents) == (held == "video")
    assert torch.equal(noisy_audio, batch.audio_latents) == (held == "audio")
    for track, head in heads.items():
        assert all((p.grad == 0).all() == (track == held) for p in head.parameters()), track

    weights = {key: w.detach().clone().requires_grad_() for key, w in ours.lora.weights.items()}
    plain = plain_losses(pipeline, expert, weights, batch, each)
    made, mine = (plain[1], audio) if held == "video" else (plain[0], video)
    made.backward()
    assert mine.item() == pytest.approx(made.item(), rel=1e-5)
    assert (video if held == "video" else audio).item() == 0
    for key, weight in weights.items():
        if weight.grad is not None:
            assert torch.allclose(ours.lora.weights[key].grad, weight.grad, rtol=1e-3, atol=1e-6), key


def test_a_dubbing_run_holds_every_picture_and_uses_the_low_noise_expert_alone(engine):
    trained = engine(**DUBBING)
    assert {expert_at(step, trained.high_share, 1) for step in range(20)} == {"video_dit_2"}
    batch = trained.load(trained.sampler.batch(0))
    assert all(
        each.video_sigma == 0 < each.audio_sigma for n in range(20) for each in trained._draw(batch, n)
    )
    record = run_steps(trained, 1)
    assert record["video_loss"] == 0 < record["audio_loss"]
    assert set(record["gradient_norms"]) == {"audio_dit", "dual_tower_bridge"}
    assert all(value > 0 for value in record["update_norms"].values())


@pytest.mark.parametrize("changes", [DUBBING, {"objective__hold_audio": 1.0}])
def test_a_clip_without_sound_holds_nothing(engine, changes):
    trained = engine(**changes)
    batch = trained.load(trained.sampler.batch(0))
    assert 0 in (trained._draw(batch, 0)[0].video_sigma, trained._draw(batch, 0)[0].audio_sigma)
    batch.has_sound.zero_()
    assert all(each.video_sigma > 0 < each.audio_sigma for n in range(9) for each in trained._draw(batch, n))


def test_measurements_cover_what_a_run_holds():
    assert held_in_measurements(Objective()) == (None,)
    assert held_in_measurements(Objective(hold_video=0.1, hold_audio=0.2)) == (None, "video", "audio")
    assert held_in_measurements(Objective(hold_video=1, high_share="natural")) == ("video",)


def test_a_run_that_holds_at_times_is_also_measured_with_the_track_held(engine):
    plain = engine().measure()["training"]
    figures = engine(objective__hold_video=0.2, objective__hold_audio=0.2).measure()["training"]
    assert {name: figures.pop(name) for name in plain} == plain  # as without
    assert figures.keys() == {"audio_dit_video_held", "video_dit_audio_held", "video_dit_2_audio_held"}
    assert len(figures["audio_dit_video_held"]) == 5 == len(plain["audio_dit"])
    assert figures["audio_dit_video_held"] != plain["audio_dit"]
    assert figures["video_dit_audio_held"].keys() == plain["video_dit"].keys()
    assert figures["video_dit_audio_held"] != plain["video_dit"]


def test_a_run_that_always_holds_is_measured_so_under_the_towers_own_names(engine):
    partly = engine(objective__hold_video=0.2).measure()["training"]
    dubbing = engine(**DUBBING)
    assert dubbing.measure()["training"] == {"audio_dit": partly["audio_dit_video_held"]}
    assert {fixed.expert for fixed in dubbing.measured["training"]} == {"video_dit_2"}
    assert len(dubbing.measured["training"]) <= 5 * MAX_WINDOWS


def test_overfit_judges_a_dubbing_run_with_the_picture_held(parts):
    config, cache, pipeline = parts(**DUBBING, data__num_frames=[17])
    config = overfit_config(config, 12)
    cache = type(cache)(cache.folder, cache.windows[:1], cache.texts)
    verdicts = overfit(config, cache, pipeline)
    assert [each.tower for each in verdicts] == ["audio_dit", "dual_tower_bridge"]
    assert verdicts[0].learnt
    assert verdicts[1].before > 0


def test_a_sample_with_a_held_sound_or_picture_leaves_it_bit_for_bit(parts, clips, tmp_path):
    given = [{"audio": str(clips / "a.mp4")}, {"prompt": "a lamp", "video": str(clips / "b.mp4")}]
    config, cache, pipeline = parts(
        samples__clips=given, samples__num_inference_steps=2, samples__guidance_scale=1
    )
    pipeline.residency.settle()
    dubbed, lamp = config.samples.clips
    out = run_sample(config, cache, pipeline, dubbed, "np")
    shape = pipeline.clip_shape(32, 64, 9, 24.0)
    item = DatasetItem("a.mp4", clips / "a.mp4", "", audio=clips / "a.mp4")
    sound = read_sound(item, 0.0, shape.num_samples, shape.sample_rate)
    assert np.abs(sound).max() > 0.1
    assert np.array_equal(out.audio[0, 0].numpy(), sound)
    first, second = (run_sample(config, cache, pipeline, each, "np") for each in (dubbed, lamp))
    frames = (second.frames[0] * 255).round().astype("uint8")
    assert not np.array_equal((first.frames[0] * 255).round(), frames)
    again = run_sample(config, cache, pipeline, lamp.model_copy(update={"seed": 7}), "np")
    assert np.array_equal((again.frames[0] * 255).round().astype("uint8"), frames)
    assert not torch.equal(again.audio, second.audio)

    paths = list(make_samples(config, cache, pipeline, 0))
    settings = [read_settings(path) for path in paths]
    assert settings[0]["audio"] == "a.mp4" and len(settings[0]["audio_sha256"]) == 64
    assert settings[1]["video"] == "b.mp4" and "audio" not in settings[1]
    assert [read_clip(path).frames.shape for path in paths] == [(9, 32, 64, 3)] * 2


def test_a_sample_is_as_long_as_its_picture_up_to_the_samples_length(parts, clips):
    for frames, expected in ((9, 9), (49, 17)):  # the clip has 18 frames at 24 a second
        config, cache, pipeline = parts(
            samples__clips=[{"video": str(clips / "a.mp4")}],
            samples__num_frames=frames,
            samples__num_inference_steps=1,
            samples__guidance_scale=1,
        )
        pipeline.residency.settle()
        out = run_sample(config, cache, pipeline, config.samples.clips[0], "latent")
        assert 4 * out.frames.shape[2] - 3 == expected


def test_tracks_of_samples_that_cannot_be_read_are_refused_by_name(settings, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    for key, path in (("video", "nowhere.mp4"), ("audio", "nowhere.wav"), ("audio", tmp_path / "text.wav")):
        config = settings(samples__clips=[{"prompt": "a", key: str(path)}])
        with pytest.raises(UserError, match=rf"samples\.clips\.0\.{key}: "):
            check_settings(config, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.hold_video": 0.6, "objective.hold_audio": 0.5}, "together 1 at most"),
        ({"objective.hold_video": 1.5}, "objective.hold_video"),
        ({"objective.hold_video": -0.1}, "objective.hold_video"),
        ({"preset": "look", "objective.hold_video": 0.1}, "set audio_weight above 0"),
        ({"preset": "sound_only", "objective.hold_audio": 0.1}, "set video_weight above 0"),
        ({"preset": "motion", "objective.hold_video": 0.1}, "high_share=1 leaves too few samples"),
        ({"objective.hold_video": 1}, "video_dit would never run with objective.hold_video 1"),
        ({"preset": "dubbing", "towers.video_dit.train": True}, "set towers.video_dit.train to false"),
        ({"preset": "dubbing", "data.without_sound": "mute"}, "set data.without_sound to refuse"),
        ({"preset": "lip_sync", "data.without_sound": "mute"}, "set data.without_sound to refuse"),
        ({"samples.clips": [{"prompt": "", "seed": 1}]}, "prompt is empty"),
        ({"samples.clips": [{"video": "a.mp4", "audio": "a.wav"}]}, "nothing is left to make"),
        ({"samples.clips": [{"prompt": "a", "audio": ""}]}, r"samples\.clips\.0\.audio"),
    ],
)
def test_what_cannot_be_held_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        read_config(None, NEEDED | changes)


def test_runs_from_before_tracks_could_be_held_resume():
    now = read_config(None, NEEDED).model_dump(mode="json")
    before = json.loads(json.dumps(now))
    for key in ("hold_video", "hold_audio"):
        del before["objective"][key]
    check_same_run(before, now)
    holding = read_config(None, NEEDED | {"objective.hold_audio": 0.1}).model_dump(mode="json")
    with pytest.raises(UserError, match=r"objective\.hold_audio: 0\.0 then, 0\.1 now"):
        check_same_run(before, holding)


def test_an_adapter_says_what_its_training_held(parts, capsys):
    path = Trainer(*parts(**DUBBING, run__steps=1, run__accumulation=1)).run()
    assert read_adapter(str(path)).metadata.recipe["objective"]["hold_video"] == 1
    assert main(["adapter", "info", str(path)]) == 0
    assert "held in training: picture 100%\n" in capsys.readouterr().out
