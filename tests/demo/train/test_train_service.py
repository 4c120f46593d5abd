"""What the train tab can do, without a page: who may train, what follows from a form, where adapters go."""

import os
from dataclasses import replace

import numpy as np
import pytest

from demo.train import html
from demo.train.form import TrainForm, has_examples, settings_of
from lora_trainer.config import merge, read_config
from lora_trainer.jobs.runs import LOG, RunInfo, RunRegistry, TrainingRun
from lora_trainer.journal import ADAPTER
from lora_trainer.manifest import read_items
from mova.catalog import ModelSpec, find_model
from mova.errors import UserError
from mova.media.clips import write_mp4
from tests.lora_trainer.clips import SAMPLE_RATE, picture, wave

RUN = {"output": "run", "data": {"path": "clips"}}


@pytest.fixture
def finished(service, clips):
    """A finished run of `owner`, named `name`, whose adapter has `content`."""

    def finished(owner, name="lamp", content=b"weights"):
        about = RunInfo(name, "tiny", "A lamp.", 3, 4, "", False, 0.0)
        run = RunRegistry(service.registry.root).create(owner, about, {}, read_items(str(clips)))
        (run.folder / ADAPTER).write_bytes(content)
        return run

    return finished


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SPACES_ZERO_GPU": "1", "SPACE_ID": "anna/mova"}, "ZeroGPU lends a GPU for minutes"),
        ({"MOVA_PUBLIC": "1"}, "Strangers visit this page"),
        ({"MOVA_BACKEND": "remote", "MOVA_REMOTE_URL": "http://gpu:3000"}, "an engine elsewhere"),
    ],
    ids=["zerogpu", "public", "remote"],
)
def test_where_nothing_is_trained_it_says_where_instead(open_train_service, environment, sentence):
    why = open_train_service(**environment).why_not("anna")
    assert sentence in why
    assert "python -m lora_trainer train" in why


def test_a_spaces_own_gpu_trains_for_its_owner_alone(open_train_service):
    service = open_train_service(SPACE_ID="Anna/mova")
    owner, stranger = (service.demo.visitors.issue() for _ in range(2))
    assert service.admit(owner, "anna") == ""
    assert service.owner(owner)
    assert "sign in as such" in service.admit(stranger, "bert")
    for call in (lambda: service.owner(stranger), lambda: service.owner("made up")):
        with pytest.raises(UserError):
            call()
    assert service.admit(owner, "")  # signed out
    with pytest.raises(UserError, match="trains for Anna alone"):
        service.owner(owner)


def test_visitors_have_clips_runs_and_adapters_of_their_own(service, finished, clips):
    one, two = (service.owner(service.demo.visitors.issue()) for _ in range(2))
    service.clips(one).add(sorted(clips.iterdir()))
    assert len(service.clips(one).items()) == 3
    assert service.clips(two).items() == []
    service.use(one, finished(one))
    assert [path.name for path in service.demo.adapters_folder(one).iterdir()] == ["lamp.safetensors"]
    assert not service.demo.adapters_folder(two).exists()


def test_an_adapter_is_offered_once_and_never_replaces_another(service, finished):
    visitor = service.demo.visitors.issue()
    owner = service.owner(visitor)
    first, other = finished(owner), finished(owner, content=b"others")
    assert [service.use(owner, run) for run in (first, other, first, other)] == ["lamp", "lamp-2"] * 2
    assert sorted(service.demo.trained_adapters(visitor)) == ["lamp", "lamp-2"]
    assert service.download(other).name == "lamp.safetensors"
    assert service.download(other).read_bytes() == b"others"


def test_clips_that_cannot_be_learnt_from_do_not_start(service, clips):
    owner = service.owner(service.demo.visitors.issue())
    with pytest.raises(UserError, match="add clips first"):
        service.start(owner, TrainForm())
    assert service.cost(owner, TrainForm()) is None
    service.clips(owner).add([clips / "a.mp4"])
    with pytest.raises(UserError, match=r"add captions to: a\.mp4"):
        service.start(owner, TrainForm())
    assert service.registry.runs(owner) == []


@pytest.mark.parametrize("preset", ["look_and_voice", "look", "voice", "motion", "sound_only"])
@pytest.mark.parametrize("name", ["360p", "tiny"])
def test_every_form_is_a_config(golden, preset, name):
    model = find_model("360p")
    if name == "tiny":
        model = ModelSpec("tiny", str(golden / "checkpoint"), 32, 64, 17)
    simple = TrainForm("x", preset, "A lamp.", trigger="sks", rank=8, seconds=0.7)
    settings = settings_of(simple, model, 12, "cpu")
    config = read_config(None, merge(settings, RUN))
    assert config.data.held_out == 2
    assert config.data.num_frames[0] == 17
    assert {tower.rank for tower in config.towers.trained().values()} == {8}
    assert config.run.steps == (720 if name == "tiny" else 1000)
    assert config.run.gradient_checkpointing == (name == "360p")
    assert config.samples.clips[0].prompt == "A lamp."
    assert config.data.caption_prefix == "sks "


@pytest.mark.parametrize(
    ("clips", "prompts", "count"), [(2, 0, 6), (10, 0, 20), (50, 0, 24), (3, 8, 8), (3, 30, 30)]
)
def test_twice_as_many_clips_to_keep_are_made_as_there_are_to_learn_in_bounds(clips, prompts, count):
    wishes = [f"A bell rings {number} times." for number in range(prompts)]
    simple = TrainForm(keep=True, keep_prompts="\n \n".join(wishes))
    data = settings_of(simple, find_model("pocket"), clips, "")["data"]
    assert (data["keep_count"], data["keep_prompts"]) == (count, wishes)
    assert "keep_count" not in settings_of(TrainForm(), find_model("pocket"), clips, "")["data"]
    assert has_examples(find_model("pocket")) and not has_examples(find_model("360p"))


def test_a_small_model_learns_at_the_rank_that_was_measured_unless_another_is_asked_for():
    def ranks(**given):
        towers = read_config(
            None, merge(settings_of(TrainForm(**given), find_model("pocket"), 12, "cpu"), RUN)
        ).towers
        return {name: tower.rank for name, tower in towers.trained().items()}

    assert ranks() == {"video_dit": 64, "video_dit_2": 64, "audio_dit": 32, "dual_tower_bridge": 16}
    assert set(ranks(rank=8).values()) == {8}


def test_the_cost_is_told_from_the_first_clip_on_and_leaves_out_what_cannot_be_used(service, clips, tmp_path):
    owner = service.owner(service.demo.visitors.issue())
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    service.clips(owner).add([clips / "a.mp4", tmp_path / "broken.mp4"])
    review = service.review(owner, TrainForm())
    assert (review.unusable, review.uncaptioned) == (["broken.mp4"], ["a.mp4", "broken.mp4"])
    cost = service.cost(owner, TrainForm(), unusable=review.unusable)
    told = html.cost(cost, TrainForm(), 720, None, 1, uncaptioned=1)
    assert "for 1 clip." in told and "Captions missing: 1." in told
    service.clips(owner).add([clips / "a.txt"])
    with pytest.raises(UserError, match=r"add captions to: broken\.mp4"):
        service.start(owner, TrainForm())
    service.remove(owner, "broken.mp4")
    written = service.cost(owner, TrainForm())
    assert written.seconds == pytest.approx(cost.seconds, rel=0.2)  # captions cost next to nothing


def faulty_clips(folder):
    """Clips with late sound, with a cut and channels out of phase, with a black start, and one too quiet."""
    flashes = (0.3, 0.75, 1.45, 1.9)
    frames = picture(2.4, 24, flashes)
    late = wave(2.5, [flash + 0.24 for flash in flashes], noise=0.005)
    write_mp4(folder / "late.mp4", frames, late, 24, SAMPLE_RATE, {})
    hiss = np.random.default_rng(1).normal(0, 0.1, len(late)).astype(np.float32)
    cut = frames.copy()
    cut[29:] = 255 - cut[29:]
    write_mp4(folder / "shots.mp4", cut, np.stack([hiss, -hiss]), 24, SAMPLE_RATE, {})
    dark = frames.copy()
    dark[:12] = 0
    write_mp4(folder / "dark.mp4", dark, hiss, 24, SAMPLE_RATE, {})
    write_mp4(folder / "quiet.mp4", frames, 0.1 * hiss, 24, SAMPLE_RATE, {})
    return sorted(folder.glob("*.mp4"))


def test_every_button_of_a_card_ends_the_finding_it_stands_at(service, tmp_path):
    owner, form = service.owner(service.demo.visitors.issue()), TrainForm()
    clips = service.clips(owner)
    clips.add(faulty_clips(tmp_path))
    before = {path.name: path.read_bytes() for path in clips.videos()}

    def acts(name):
        """The buttons at a clip, by the kind of their finding."""
        found = next(clip for clip in service.review(owner, form).clips if clip.name == name).findings
        return {finding.kind: html.words_of(finding)[1] for finding in found}

    for name, kind, act in (
        ("late.mp4", "sync", "shift"),
        ("dark.mp4", "black", "trim"),
        ("shots.mp4", "stereo", "one_channel"),
        ("shots.mp4", "cut", "split"),
    ):
        assert act in acts(name)[kind]
        service.fix_clip(owner, form, name, act)
        assert kind not in acts(name), name
    assert [item.name for item in clips.items()] == [
        *("dark.mp4", "late.mp4", "quiet.mp4", "shots-2.mp4", "shots.mp4")
    ]
    assert "cut" not in acts("shots-2.mp4") and "duplicate" not in acts("shots-2.mp4")
    assert "even_volume" in acts("quiet.mp4")["loudness"]
    form = replace(form, even_volume=True)
    assert "loudness" not in acts("quiet.mp4")
    service.fix_clip(owner, form, "quiet.mp4", "picture_only")
    assert [item.is_silent for item in clips.items()] == [False, False, True, False, False]
    service.fix_clip(owner, form, "dark.mp4", "reset")
    assert "black" in acts("dark.mp4")
    assert {name: (clips.folder / name).read_bytes() for name in before} == before
    with pytest.raises(UserError, match="has changed since"):
        service.fix_clip(owner, form, "late.mp4", "shift")  # a click on a card that is no longer there


def test_the_log_names_files_from_the_runs_folder_and_no_other_folder(tmp_path):
    run = TrainingRun(tmp_path / "runs" / "x" / "y", RunInfo("lamp", "tiny", "", 1, 20, "cpu", False, 0.0))
    run.folder.mkdir(parents=True)
    saved, clip = run.folder / "checkpoints" / "step-20", tmp_path / "training" / "x" / "lamp.mp4"
    (run.folder / LOG).write_text(
        f'step 3/20\n{clip} is read\nsaved {saved}\nFile "{html.__file__}", line 1\n'
    )
    said = html.log(run)
    assert said == 'step 3/20\nlamp.mp4 is read\nsaved checkpoints/step-20\nFile "html.py", line 1'


def test_a_finding_is_said_without_words_of_the_command_line():
    assert html.visible("it is too short: set data.num_frames lower") == "it is too short."
    assert html.visible("see /srv/page/outputs/clip.mp4, it is damaged") == "see clip.mp4, it is damaged"
    assert html.visible("5 clips are here") == "5 clips are here"


def test_clips_to_keep_count_in_the_cost_and_need_prompts_where_there_are_no_examples(service, clips):
    owner = service.owner(service.demo.visitors.issue())
    service.clips(owner).add(sorted(clips.iterdir()))
    with pytest.raises(UserError, match="comes with no examples; give prompts"):
        service.start(owner, TrainForm(keep=True))
    wishes = TrainForm(steps=20, keep=True, keep_prompts="A drum.")
    cost, without = service.cost(owner, wishes), service.cost(owner, TrainForm(steps=20))
    assert cost.seconds["regularization"] > 0 and "regularization" not in without.seconds
    assert "Keeping existing skills takes at least" in html.cost(cost, wishes, 20, None, 3)
    slow = replace(cost, seconds=cost.seconds | {"regularization": 1000.0})
    assert "About 17 min for 3 clips." in html.cost(slow, wishes, 20, 1.0, 3)  # a pace does not cover them


def test_numbers_that_cannot_be_meant_are_named(golden):
    model = find_model("360p")
    for wrong, sentence in (
        ({"steps": 0.5}, "steps=0.5 must be a whole number from 1 to 20000"),
        ({"steps": -1}, "steps=-1 must be"),
        ({"rank": 300}, "rank=300 must be a whole number from 1 to 256"),
        ({"learning_rate": -1.0}, "learning rate=-1 must be over 0"),
        ({"seconds": 99}, "max clip length=99 s must be from"),
        ({"steps": float("nan")}, "steps=nan"),
    ):
        with pytest.raises(UserError, match=sentence):
            settings_of(TrainForm(**wrong), model, 3, "")


def test_what_was_left_behind_is_swept_in_time(open_train_service, clips, tmp_path):
    service = open_train_service(MOVA_KEEP_HOURS="0.01")
    owner = service.owner(service.demo.visitors.issue())
    service.clips(owner).add([clips / "a.mp4"])
    (service.previews / owner).mkdir(parents=True)
    os.utime(service.clips(owner).folder, (1, 1))
    other = open_train_service(MOVA_KEEP_HOURS="0.01")  # the same outputs
    other.owner(other.demo.visitors.issue())
    assert not service.clips(owner).folder.exists()
    assert not (service.previews / owner).exists()
