from collections import Counter

import pytest
import torch

from benchmarks.learn_concept import CLAIMS, RETAINED_SKILLS, report_text
from benchmarks.roundtrip_audio import RoundTripListener, clip_of
from lora_trainer.latent_cache import Encoders
from mova.catalog import POCKET
from recipes.pocket.evaluation.evaluate import FIRST_SEED
from recipes.pocket.evaluation.measure import Expectation
from recipes.pocket.evaluation.roundtrip import round_trip_sound
from recipes.pocket.world.clip import FAMILIES, NEW_CONCEPTS


def test_new_concepts_are_heard_apart_from_the_world_through_pockets_autoencoder(speech):
    codec = Encoders(POCKET, {"audio_vae": ""}, torch.device("cpu"), torch.float32)
    listener = RoundTripListener(codec, speech)
    heard = {}
    for kind in (*NEW_CONCEPTS, *FAMILIES):
        heard[kind] = Counter()
        for seed in (FIRST_SEED, FIRST_SEED + 1):
            clip = clip_of(kind, seed, speech)
            sound = round_trip_sound(codec, clip.waveform[None])[0]
            heard[kind].update(each for _, each in listener.detect(sound))
            if kind in NEW_CONCEPTS:
                figures = listener.measure(clip.frames, sound, Expectation.of(clip, speech))
                assert figures.get("word", True) and figures.get("voice", True)
    for kind in NEW_CONCEPTS:
        assert set(heard[kind]) == {kind}
        assert not any(heard[family][kind] for family in FAMILIES)


@pytest.fixture
def report():
    """Figures of a run in which everything is as it should be."""
    shown, hidden = (dict.fromkeys(CLAIMS["cube"], value) for value in (1.0, 0.0))
    retained = {
        family: {bar.key: 0.6 for bar in RETAINED_SKILLS if bar.family == family} for family in FAMILIES
    }
    detectors = {"true": shown, "others": hidden, "round trip": shown, "others, round trip": hidden}
    cube = {"without": hidden, "with": shown, "strength_0_is_base": True, "seconds": {"train": 1.0}}
    return {
        "detectors": {"cube": {name: dict(scores) for name, scores in detectors.items()}},
        "kinds": {"cube": cube | {"without": dict(hidden), "with": dict(shown)}},
        "retained": {
            name: {family: dict(retained[family]) for family in FAMILIES} for name in ("without", "cube")
        },
        "seconds": {"detectors": 1.0},
    }


def test_claims_are_reached_only_where_every_figure_is_good(report):
    text, reached = report_text(report)
    assert reached
    assert "missed" not in text
    cube, heard = report["kinds"]["cube"], report["detectors"]["cube"]
    for where, key, value in (
        (cube["without"], "cube", 0.5),  # seen without the adapter as well
        (cube["with"], "honks", 0.5),
        (report["retained"]["cube"]["face"], "words", 0.5),  # a skill is lost
        (heard["others"], "honks", 0.3),  # the detector hears honks anywhere
        (heard["others, round trip"], "honks", 0.3),
        (heard["round trip"], "honks", 0.5),  # the autoencoder cannot say it
        (cube, "strength_0_is_base", False),
    ):
        before, where[key] = where[key], value
        assert not report_text(report)[1], (key, value)
        where[key] = before
    assert report_text(report)[1]


def test_beside_a_few_step_adapter_a_tenth_may_be_lost(report):
    few = report["kinds"]["cube"]["few steps"] = dict.fromkeys(CLAIMS["cube"], 0.9)
    assert report_text(report)[1]
    few["honks"] = 0.89
    assert not report_text(report)[1]
