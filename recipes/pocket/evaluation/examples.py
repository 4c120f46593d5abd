"""The page's examples: first frames and prompts of unseen seeds, and a model's clips of them."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mova.backends.local import LocalBackend
from mova.catalog import STANDARD, find_model
from mova.request import GenerationRequest
from recipes.pocket.captions import CaptionMix
from recipes.pocket.world.render import render
from recipes.pocket.world.speech import DEFAULT_FOLDER

logger = logging.getLogger("pocket")
NOISE_SEED = 8


FULL, SENTENCE = CaptionMix(1, 0, 0, 0), CaptionMix(0, 1, 0, 0)


@dataclass(frozen=True)
class Subject:
    """One example. Training never draws its seed; without an image the prompt is the only input."""

    id: str
    group: str
    title: str
    family: str
    seed: int
    mix: CaptionMix = FULL
    with_image: bool = True
    noise: int = NOISE_SEED


# The faces' noise is that of twelve seeds whose eyes smear least, seen and by `faces.find_face`.
SUBJECTS = (
    Subject("face-1", "Speech", 'Man says "moon"', "face", 2_000_022, noise=6),
    Subject("face-2", "Speech", 'Child says "banana, moon"', "face", 2_100_004, SENTENCE, noise=10),
    Subject("ball-1", "Sound effects", "Metal ball rings", "ball", 2_000_003),
    Subject("ball-2", "Sound effects", "Wooden ball knocks", "ball", 2_000_002),
    Subject("piano-1", "Music", "Piano plays Twinkle", "piano", 2_000_010),
    Subject("piano-2", "Music", "Piano, no picture", "piano", 2_000_035, SENTENCE, with_image=False),
)


def make_examples(model: str, out: Path, speech: Path = DEFAULT_FOLDER) -> None:
    """Write first frames, clips and `examples.json`, the list that the page reads, into `out`."""
    known, backend, rows = find_model(model), LocalBackend(model, "cpu"), []
    out.mkdir(parents=True, exist_ok=True)
    for subject in SUBJECTS:
        scene = render(subject.seed, subject.family, "train", speech, subject.mix)
        row = {"id": subject.id, "family": subject.group, "title": subject.title, "prompt": scene.caption}
        row |= {"model": known.name, "seed": subject.noise, "clip": f"{subject.id}.mp4"}
        image = out / f"{subject.id}.png" if subject.with_image else None
        if image:
            Image.fromarray(scene.frames[0]).save(image, optimize=True)
            row["image"] = image.name
        settings = known.defaults(known.preset(STANDARD))
        request = GenerationRequest(scene.caption, image, seed=subject.noise, **settings)
        result = backend.generate(request, out / row["clip"], overwrite=True)
        logger.info("%s: %.1f s", row["clip"], result.seconds["generate"])
        rows.append(row)
    (out / "examples.json").write_text(
        json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
