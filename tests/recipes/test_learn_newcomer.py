from collections import Counter

import pytest
import torch

from benchmarks.learn_concept import CLAIMS, OLD_SKILLS, report_text
from benchmarks.roundtrip_audio import CodedEars, clip_of
from lora_trainer.latent_cache import Encoders
from mova.catalog import POCKET
from recipes.pocket.evaluation.evaluate import FIRST_SEED
from recipes.pocket.evaluation.measure import Expectation
from recipes.pocket.evaluation.roundtrip import code_sound
from recipes.pocket.world.clip import FAMILIES, NEWCOMERS


def test_ears_tell_newcomers_from_the_world_through_pockets_autoencoder(speech):
    codec = Encoders(POCKET, {"audio_vae": ""}, torch.device("cpu"), torch.float32)
    ears = CodedEars(codec, speech)
    heard = {}
    for kind in (*NEWCOMERS, *FAMILIES):
        heard[kind] = Counter()
        for seed in (FIRST_SEED, FIRST_SEED + 1):
            clip = clip_of(kind, seed, speech)
            sound = code_sound(codec, clip.waveform[None])[0]
            heard[kind].update(each for _, each in ears.hear(sound))
            if kind in NEWCOMERS:
                figures = ears.judge(clip.frames, sound, Expectation.of(clip, speech))
                assert figures.get("word", True) and figures.get("voice", True)
    for kind in NEWCOMERS:
        assert set(heard[kind]) == {kind}
        assert not any(heard[family][kind] for family in FAMILIES)


@pytest.fixture
def report():
    """Figures of a run in which everything is as it should be."""
    shown, hidden = (dict.fromkeys(CLAIMS["cube"], value) for value in (1.0, 0.0))
    old = {family: {bar.key: 0.6 for bar in OLD_SKILLS if bar.family == family} for family in FAMILIES}
    detectors = {"true": shown, "others": hidden, "coded": shown, "others, coded": hidden}
    cube = {"without": hidden, "with": shown, "strength_0_is_base": True, "seconds": {"train": 1.0}}
    return {
        "detectors": {"cube": {name: dict(scores) for name, scores in detectors.items()}},
        "kinds": {"cube": cube | {"without": dict(hidden), "with": dict(shown)}},
        "old": {name: {family: dict(old[family]) for family in FAMILIES} for name in ("without", "cube")},
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
        (report["old"]["cube"]["face"], "words", 0.5),  # an old skill is lost
        (heard["others"], "honks", 0.3),  # the detector hears honks anywhere
        (heard["others, coded"], "honks", 0.3),
        (heard["coded"], "honks", 0.5),  # the autoencoder cannot say it
        (cube, "strength_0_is_base", False),
    ):
        before, where[key] = where[key], value
        assert not report_text(report)[1], (key, value)
        where[key] = before
    assert report_text(report)[1]
