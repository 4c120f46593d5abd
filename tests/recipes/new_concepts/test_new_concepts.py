import numpy as np
import pytest

from lora_trainer.decode import read_sound
from lora_trainer.manifest import read_items
from mova.prompting.plan import PromptPlan
from recipes.pocket.__main__ import main
from recipes.pocket.evaluation.degrade import DEGRADATIONS, degrade_frames, degrade_sound
from recipes.pocket.evaluation.recognise import recogniser
from recipes.pocket.new_concepts.clips import render_new_concept
from recipes.pocket.new_concepts.cube import COLOUR
from recipes.pocket.new_concepts.detect import (
    cube_hits,
    cube_path,
    cube_share,
    detect_honks,
    detect_pitch,
    detect_word,
    striped_share,
)
from recipes.pocket.new_concepts.puppet import PUPPET_CAST, WORD
from recipes.pocket.world.ball import BALL_COLOURS, draw_ball
from recipes.pocket.world.clip import FRAME_RATE, NEW_CONCEPTS, NUM_SAMPLES, SAMPLE_RATE
from recipes.pocket.world.face import SHAPES
from recipes.pocket.world.render import render
from recipes.pocket.world.speech import PEOPLE, VARIANTS, VOICES, WORDS, Espeak, Voice, _speak, load_bank

SEEDS = range(1_000_000, 1_000_003)
DEGRADED = (None, *DEGRADATIONS)


def degraded(clip, degradation):
    """Frames and sound, softened as an autoencoder would."""
    if degradation is None:
        return clip.frames, clip.waveform
    rng = np.random.default_rng(0)
    return degrade_frames(clip.frames, degradation, rng), degrade_sound(clip.waveform, degradation, rng)


@pytest.mark.parametrize("kind", NEW_CONCEPTS)
def test_a_clip_is_one_of_the_worlds_size_and_the_same_for_the_same_seed(speech, kind):
    clip, again, other = (render_new_concept(seed, kind, speech) for seed in (3, 3, 4))
    world = render(3, "ball")
    assert clip.frames.shape == world.frames.shape
    assert clip.waveform.shape == world.waveform.shape
    assert np.array_equal(clip.frames, again.frames)
    assert np.array_equal(clip.waveform, again.waveform)
    assert clip.caption == again.caption != other.caption
    assert not np.array_equal(clip.frames[-1], other.frames[-1])
    assert 0.2 < np.abs(clip.waveform).max() < 0.98


@pytest.mark.parametrize("kind", NEW_CONCEPTS)
def test_a_new_concept_is_not_in_the_first_frame(speech, kind):
    for seed in SEEDS:
        clip = render_new_concept(seed, kind, speech)
        assert np.array_equal(clip.frames[0], clip.frames[1])
        empty = clip.frames[:1].repeat(len(clip.frames), 0)
        assert striped_share(empty) == cube_share(cube_path(empty)) == 0
        assert (clip.frames[0] != clip.frames[-1]).any(-1).sum() > 1000


@pytest.mark.parametrize("kind", NEW_CONCEPTS)
def test_captions_are_plans_of_the_product(speech, kind):
    caption = render_new_concept(5, kind, speech).caption
    plan = PromptPlan.parse(caption)
    assert plan.render() == caption
    assert plan.no_subtitles
    assert [line.strip('."!').lower() for line in (each.text for each in plan.dialogue)] == (
        [WORD] if kind == "character" else []
    )


def test_the_new_word_and_voice_are_none_of_the_worlds(speech):
    assert WORD not in WORDS
    bank, world = load_bank(speech, PUPPET_CAST), load_bank(speech)
    spoken = [bank.word(WORD, "puppet", variant) for variant in range(VARIANTS)]
    assert all({name for _, name in each.phonemes} <= set(SHAPES) for each in spoken)
    highest = max(detect_pitch(world.word("banana", kind, VARIANTS - 1).waveform) for kind in PEOPLE)
    assert min(detect_pitch(each.waveform) for each in spoken) > highest + 50


@pytest.mark.parametrize("degradation", DEGRADED)
def test_the_character_is_seen_and_heard(speech, degradation):
    for seed in SEEDS:
        frames, waveform = degraded(render_new_concept(seed, "character", speech), degradation)
        assert striped_share(frames) == 1
        assert detect_word(waveform, speech) == (True, True)
        assert cube_share(cube_path(frames)) == 0
        assert len(detect_honks(waveform)) == 0


@pytest.mark.parametrize("degradation", DEGRADED)
def test_the_cube_and_its_honks_are_seen_and_heard_in_time(speech, degradation):
    for seed in SEEDS:
        clip = render_new_concept(seed, "cube")
        frames, waveform = degraded(clip, degradation)
        path = cube_path(frames)
        assert cube_share(path) == 1
        assert cube_hits(path).tolist() == [impact.frame for impact in clip.events.impacts]
        assert np.allclose(detect_honks(waveform), [i.seconds for i in clip.events.impacts], atol=0.012)
        assert striped_share(frames) == 0
        assert detect_word(waveform, speech) == (False, False)


@pytest.mark.parametrize("family", ["face", "ball", "piano"])
def test_the_world_neither_shows_nor_sounds_like_a_new_concept(speech, family):
    for seed in SEEDS:
        clip = render(seed, family, speech=speech)
        assert striped_share(clip.frames) < 0.5
        assert cube_share(cube_path(clip.frames)) == 0
        assert len(detect_honks(clip.waveform)) == 0
        assert detect_word(clip.waveform, speech) == (False, False)


def test_a_ball_of_the_cubes_colour_is_no_cube_and_neither_is_what_the_room_has_of_it():
    frames = np.full((3, 2, 128, 224), 200, np.float32)
    blue, path = BALL_COLOURS["blue"], np.array([[100.0, 60.0]])
    draw_ball(frames[:, 1:], "wood", blue, 20, path, np.ones(1), np.zeros(1))
    picture = frames.transpose(1, 2, 3, 0).astype(np.uint8)
    assert np.isnan(cube_path(picture)).all()
    picture[1, 40:80, 80:120] = COLOUR
    assert np.allclose(cube_path(picture)[1], [100, 60])
    picture[:, 10:60, 150:200] = COLOUR  # a large blue thing on the wall hides no cube
    assert np.allclose(cube_path(picture)[1], [100, 60])
    picture[0] = picture[1]
    assert np.isnan(cube_path(picture)).all()


def test_the_new_word_in_an_old_voice_is_the_word_but_not_the_voice(speech):
    old = VOICES["child"]
    spoken = _speak(Espeak(), WORD, Voice(old.espeak, old.tract, (), (), old.pitch_range), 76, 110)
    waveform = np.zeros(NUM_SAMPLES, np.float32)
    waveform[8000 : 8000 + len(spoken.waveform)] = spoken.waveform
    assert not detect_word(waveform, speech)[1]
    assert detect_pitch(waveform) < 395


def test_the_old_words_are_recognised_beside_the_new_one(speech):
    both = recogniser(speech)
    clip = render(SEEDS[0], "face", speech=speech)
    assert tuple(word.text for word in both.recognise(clip.waveform)) == clip.attributes["words"]


def test_honks_of_one_horn_or_of_other_pitches_are_not_heard():
    seconds = np.arange(NUM_SAMPLES) / SAMPLE_RATE
    on = ((seconds > 0.5) & (seconds < 0.8)).astype(np.float32)
    for horns, heard in (((370, 466.2), 1), ((370,), 0), ((300, 400), 0), ((523, 659), 0)):
        tones = sum(np.sin(2 * np.pi * k * h * seconds) / k**0.5 for h in horns for k in range(1, 9))
        assert len(detect_honks((0.05 * tones * on).astype(np.float32))) == heard, horns


def test_the_folder_is_what_the_trainer_reads_with_sound_in_time(tmp_path, capsys):
    main(["new-concepts", "--kind", "cube", "--count", "2", "--seed", "7", "--out", str(tmp_path)])
    items = read_items(str(tmp_path))
    assert [item.name for item in items] == ["cube_00007.mp4", "cube_00008.mp4"]
    clip = render_new_concept(7, "cube")
    assert items[0].caption == clip.caption
    sound = read_sound(items[0], 0.0, int(49 / FRAME_RATE * SAMPLE_RATE), SAMPLE_RATE).reshape(-1)
    assert np.allclose(detect_honks(sound), detect_honks(clip.waveform), atol=0.005)
    with pytest.raises(SystemExit, match="other clips"):
        main(["new-concepts", "--kind", "cube", "--count", "1", "--seed", "9", "--out", str(tmp_path)])
    capsys.readouterr()
