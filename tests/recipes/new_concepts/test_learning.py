"""The trainer's defaults on the real pocket: in a dozen steps every tower learns, and the clip changes."""

import json

import pytest
import torch

from demo.train.form import TrainForm, settings_of
from lora_trainer.config import read_config
from lora_trainer.journal import ADAPTER, JOURNAL
from lora_trainer.train import open_trainer
from lora_trainer.validation import mean
from mova.catalog import find_model
from mova.pipeline import MOVAPipeline
from recipes.pocket.new_concepts.clips import render_new_concept, write_folder

MODEL = find_model("pocket")
CLIPS, STEPS, NUM_FRAMES = 4, 12, 25
# Of the base model's loss, half of the way that was measured: 0.89, 0.80 and 0.90.
FALLS_TO = {"video_dit": 0.95, "video_dit_2": 0.9, "audio_dit": 0.95}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on clips of the cube that honks."""
    folder = tmp_path_factory.mktemp("cube")
    write_folder(folder / "clips", "cube", CLIPS)
    settings = settings_of(TrainForm(steps=STEPS), MODEL, CLIPS, "cpu")
    settings["data"] |= {"path": str(folder / "clips"), "num_frames": [NUM_FRAMES]}
    settings["run"]["validate_every"] = 0
    with open_trainer(read_config(None, settings | {"output": str(folder / "run")}), resume=False) as trainer:
        trainer.run()
    return folder / "run"


def test_each_tower_knows_more_of_a_clip_that_was_kept_back(run):
    events = [json.loads(line) for line in (run / JOURNAL).read_text().splitlines()]
    base = next(event for event in events if event["event"] == "base")["held_out"]
    learnt = [event for event in events if event["event"] == "validation"][-1]["held_out"]
    falls = {tower: mean(learnt, tower) / mean(base, tower) for tower in FALLS_TO}
    assert all(falls[tower] < most for tower, most in FALLS_TO.items()), falls
    assert not [event for event in events if event["event"] == "alarm"]


def test_the_adapter_changes_the_clip_and_at_strength_0_no_bit(run):
    pipeline = MOVAPipeline.from_pretrained(MODEL.source, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    clip = render_new_concept(100, "cube")

    def latents():
        out = pipeline(
            prompt=clip.caption,
            image=clip.frames[0],
            height=MODEL.height,
            width=MODEL.width,
            num_frames=9,
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        )
        return out.frames, out.audio

    base = latents()
    pipeline.load_lora_weights(run / ADAPTER, "cube")
    changes = [(new - old).norm() / old.norm() for new, old in zip(latents(), base, strict=True)]
    assert min(changes) > 0.02, changes
    pipeline.set_adapters("cube", 0.0)
    assert all(map(torch.equal, latents(), base))
